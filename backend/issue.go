package backend

import (
	"cmp"
	"context"
	"errors"
	"hash/maphash"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/decision"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/downstream"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/ending"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
)

// issue is one creds request, counted.
func (b *broker) issue(ctx context.Context, a ask) (*logical.Response, error) {
	resp, err := b.grant(ctx, a)
	if err != nil {
		role, ref := b.roleOf(ctx, a.role, err)
		b.meters.refuse(fault.CodeOf(err), ref, role)
	}
	return resp, err
}

// roleOf are the role of a request that was refused and its provider, as labels: what a
// caller makes up is none.
func (b *broker) roleOf(ctx context.Context, name string, refusal error) (role, ref string) {
	if errors.Is(refusal, errNoRole) {
		return "", ""
	}
	r, err := b.roles.compiled(ctx, name)
	if err != nil {
		return "", ""
	}
	return r.name, r.Provider
}

// grant is one creds request from top to bottom.
func (b *broker) grant(ctx context.Context, a ask) (*logical.Response, error) {
	d, err := b.decide(ctx, a)
	if err != nil {
		return nil, err
	}
	if !d.Allowed() {
		return nil, d.Refusals[0]
	}
	key, err := b.shareKey(ctx, d)
	if err != nil {
		return nil, err
	}
	if key != "" {
		return b.share(ctx, d, key)
	}
	return b.unshared(ctx, d)
}

// unshared serves a request by a child of its own.
func (b *broker) unshared(ctx context.Context, d *decided) (*logical.Response, error) {
	made, err := b.mintGrant(ctx, d, false)
	if err != nil {
		return nil, err
	}
	return b.answerChild(d, made), nil
}

// minted is a child that may be handed out, with its grant on record.
type minted struct {
	child      *provider.Child
	grant      *grant.Grant
	unverified []string
	unfit      string // why it must not be handed out, found when it came
	// hold began before the grant was on record; nil if nobody wants one.
	hold *grant.Hold
}

// mintGrant mints a child and records its grant, or leaves nothing alive. With keep the
// grant comes with a hold on it.
func (b *broker) mintGrant(ctx context.Context, d *decided, keep bool) (*minted, error) {
	t := &ticket{b: b, d: d, keep: keep}
	err := t.take(ctx)
	if err == nil {
		err = t.mint(ctx)
	}
	// From here on something that lives may be in our hands: it is put on record or killed,
	// also when the caller has hung up.
	settling := context.WithoutCancel(ctx)
	if err == nil {
		err = t.judge()
	}
	if err == nil {
		err = t.record(settling)
	}
	if err == nil && ctx.Err() != nil {
		err = hungUp()
	}
	return t.close(settling, err)
}

// ticket is one mint's way through the broker: it holds what each step has got for the
// mint, and close, which is called once whatever happens, gives all of that back.
type ticket struct {
	b    *broker
	d    *decided
	keep bool
	id   string // of the grant to be

	leaveQuota func()
	place      *downstream.Place // before the provider
	leaveDoor  func()            // of mount and provider
	unuse      func(context.Context)
	intent     *intent
	made       *minted // nil unless the provider has answered with a child
}

// take gets what a mint needs: a name, a part of the quota, a place before the provider,
// and that nobody changes the provider meanwhile. It uses up the subject token where the
// role wants that, and writes down that there may be a child.
func (t *ticket) take(ctx context.Context) error {
	b, d := t.b, t.d
	if err := t.name(); err != nil {
		return err
	}
	// A provider that is down costs nobody's quota anything, nor a write.
	k := d.kind()
	err := d.provider.MayMint(k)
	if err != nil {
		return b.spared(d.provider, err)
	}
	if t.leaveQuota, err = b.quotas.reserve(ctx, d.role, d.holder(), t.id); err != nil {
		return err
	}
	if t.place, err = d.provider.WaitMint(ctx, k); err != nil {
		return b.spared(d.provider, err)
	}
	admit := b.providers.Admit
	if d.toKill {
		admit = b.providers.AdmitToKill
	}
	if t.leaveDoor, err = admit(ctx, d.provider); err != nil {
		return err
	}
	if terms := d.role.policy.Subject; terms != nil && terms.SingleUse {
		if t.unuse, err = b.used.use(ctx, d.subject); err != nil {
			return err
		}
	}
	t.intent, err = b.intend(ctx, d, t.id)
	return err
}

// name makes the grant's id, before the mint, so that a provider can name the child by it.
func (t *ticket) name() (err error) {
	t.id, err = t.newID()
	switch {
	case errors.Is(err, grant.ErrHolder):
		return fault.New(fault.AccessDenied, "the id of this Vault entity is none, which stands for nobody, or broker, which stands for the broker itself, or cannot be a part of a storage key, so nothing could be recorded for it").Because(err)
	case err != nil:
		return fault.New(fault.TemporarilyUnavailable, "no randomness for a grant id").Because(err)
	}
	return nil
}

func (t *ticket) newID() (string, error) {
	d := t.d
	of := grant.Told{Role: d.role.name, Provider: d.provider.Ref, Parties: partiesOf(d.subject, d.actor)}
	if d.borrower != "" {
		return t.b.ledger.NewOwnID(of)
	}
	return t.b.ledger.NewID(d.caller.EntityID, of)
}

// close ends the mint, by what has become of it: err is nil for a grant that is on record
// and may be handed out.
func (t *ticket) close(ctx context.Context, err error) (*minted, error) {
	defer t.leave()
	switch {
	case err == nil:
		t.b.meters.issued.WithLabelValues(t.made.grant.Provider, t.made.grant.Role).Inc()
		return t.made, nil
	case t.made == nil:
		if t.unuse != nil && surelyNothing(err) {
			t.unuse(ctx)
		}
		t.b.heedNothing(ctx, t.d, t.intent, err)
		return nil, err
	case t.d.role.policy.Forward:
		return nil, t.letBe(ctx, err)
	default:
		return nil, t.discard(ctx, err)
	}
}

// leave gives back what take got, the last one first.
func (t *ticket) leave() {
	if t.leaveDoor != nil {
		t.leaveDoor()
	}
	if t.place != nil {
		t.place.Leave()
	}
	if t.leaveQuota != nil {
		t.leaveQuota()
	}
}

var kindSeed = maphash.MakeSeed()

// kind tells the request to the provider from others.
func (d *decided) kind() downstream.Kind {
	k := downstream.Kind{Mode: d.role.Mode, Role: d.role.name, Holder: d.holder(), Asked: d.Access.Sum(kindSeed)}
	if d.role.Mode == provider.ModeExchange && d.subject != nil {
		k.Asked ^= maphash.String(kindSeed, d.subject.Issuer) ^ maphash.String(kindSeed, d.subject.Subject)
	}
	return k
}

// spared counts a mint that was refused without asking the provider, and returns err.
func (b *broker) spared(p *downstream.Provider, err error) error {
	b.meters.spared.WithLabelValues(p.Ref).Inc()
	return err
}

// surelyNothing reports whether a mint without a child has minted nothing at all.
func surelyNothing(err error) bool {
	return !errors.Is(err, provider.ErrAnswerLost) && fault.CodeOf(err) != fault.ProviderViolation
}

// mint asks the provider, at the place that it has got for that.
func (t *ticket) mint(ctx context.Context) error {
	p := t.d.provider
	child, err := p.Mint(ctx, t.place, t.d.role.Mode, t.d.request(t.id))
	if isNothing(child) {
		if err == nil {
			err = fault.New(fault.ProviderViolation, "the provider answered without a token")
		}
		health, err := p.LookAgain(ctx, t.d.kind(), err)
		t.b.endChecked(context.WithoutCancel(ctx), p, health)
		return err
	}
	if why, keep := repeats(p.Secrets(), t.d.brought(), child); why != nil {
		if !keep {
			return why // and unrecorded
		}
		err = why
	} else if t.d.role.Mode != provider.ModeForward && p.GaveBefore(child) && diesAlone(child) {
		return errGivenBefore // neither recorded nor killed: it is another's
	}
	t.made = received(t.id, t.d, child)
	return err
}

// request is what the provider is asked for.
func (d *decided) request(id string) provider.Request {
	r := provider.Request{
		Access: d.Access, TTL: d.role.traits.Life.Within(d.Lifetime.TTL), Parameters: d.role.Parameters, GrantID: id, Identity: identity(d.caller),
		Proofs: d.ask.proofs,
	}
	// In a mint a subject token is evidence for the decision and nobody else's.
	if d.role.Mode == provider.ModeExchange || d.role.Mode == provider.ModeForward {
		r.Subject, r.Actor = party(d.subject, d.ask.subjectToken), party(d.actor, d.ask.actorToken)
	}
	return r
}

var errSubjectExpired = fault.New(fault.InvalidGrant, "the subject token expired meanwhile: get a new one")

func hungUp() error { return fault.New(fault.TemporarilyUnavailable, "the caller has hung up") }

// judge checks what came back and fixes how long it lives.
func (t *ticket) judge() error {
	d, child, g, now := t.d, t.made.child, t.made.grant, t.b.now()
	if child.ExpiresAt.IsZero() && child.Handle.Empty() {
		return fault.New(fault.ProviderViolation, "the token has no end that is known and cannot be revoked: set assumed_lifetime or verify on the provider")
	}
	if !child.ExpiresAt.IsZero() && !child.ExpiresAt.After(now) {
		return fault.New(fault.ProviderViolation, "the provider answered with a token that is already expired: check the clocks, the provider's and this one")
	}
	if why := cmp.Or(d.provider.Answer.Violation(child), t.made.unfit); why != "" {
		return fault.New(fault.ProviderViolation, "%s", why)
	}
	if d.role.RequireRevocable && child.Class == provider.ClassExpiry {
		return unrevocable(d.role.Mode)
	}
	unverified, violation := d.role.policy.Accept(d.Access, decision.Answer{Granted: child.Granted, Confirmed: child.Confirmed})
	if violation != nil {
		return violation
	}
	if d.actor != nil && !child.ActorConfirmed {
		unverified = append(unverified, "actor")
	}
	d.Lifetime = d.Lifetime.Until(now, child.ExpiresAt, "token")
	if d.Lifetime.TTL < time.Second {
		return fault.New(fault.ProviderViolation, "the provider's token lives less than a second: have the provider give longer ones")
	}
	// The mint took its time, and the lease begins only now.
	d.Lifetime = d.Lifetime.Until(now, g.Facts.SubjectExpires, "subject")
	if d.Lifetime.TTL < time.Second {
		return errSubjectExpired
	}
	g.IssuedAt, g.LeaseEnds, g.MaxLease = now, now.Add(d.Lifetime.TTL), now.Add(d.Lifetime.Max)
	t.made.unverified = slices.Concat(unverified, child.Unverified)
	return nil
}

// unrevocable is for a token that cannot be killed although the provider's others
// can: one of another client's, or no access token.
func unrevocable(mode provider.Mode) *fault.Error {
	if mode == provider.ModeForward {
		return fault.New(fault.AccessDenied, "the role wants tokens that can be revoked (require_revocable), and the provider lets nobody but the client that got this one revoke it: exchange it (mode=exchange)")
	}
	return fault.New(fault.ProviderViolation, "the role wants tokens that can be revoked (require_revocable), and this one cannot: write the role without it, or have the provider give others")
}

// record makes the grant durable, and makes sure that nothing that happened
// while the provider was minting leaves it alive by mistake.
func (t *ticket) record(ctx context.Context) error {
	b, g := t.b, t.made.grant
	if t.intent != nil {
		if err := b.fulfil(ctx, t.intent, t.made, t.keep); err != nil {
			return err
		}
		return b.stillServed(ctx, t.d, g)
	}
	if t.keep {
		t.made.hold = b.ledger.Hold(g.ID)
	}
	if err := b.ledger.Record(ctx, g); err != nil {
		return stored.Fault(err)
	}
	return b.stillServed(ctx, t.d, g)
}

// stillServed refuses a grant, which is on record, if something has come between
// since it was decided.
func (b *broker) stillServed(ctx context.Context, d *decided, g *grant.Grant) error {
	p := d.provider
	if closed, ended := b.door.State(); ended || closed && !d.toKill {
		return downstream.ErrLeaving // Vault may have looked for leases already
	}
	now, err := b.providers.MustOpen(ctx, p.Ref)
	if err != nil {
		return err
	}
	if now.Pinned.Account != p.Pinned.Account || now.Settings.Disabled {
		return fault.New(fault.AccessDenied, "the provider was changed or disabled meanwhile: try again")
	}
	// A freeze that came after the decision, even if it was thawed again: its kill
	// may have looked for this grant before it was recorded.
	frozen, err := b.freezer.CheckSince(ctx, d.unfrozenAt, basisOf(g))
	if err != nil {
		return err
	}
	if len(frozen) > 0 {
		return frozen[0]
	}
	if b.killer.PulledSince(g, d.pulls) {
		return fault.New(fault.AccessDenied, "what the token hangs on was killed while it was being made: try again")
	}
	return b.stillSigned(ctx, g)
}

// letBe is for a token of the caller's own that was not handed on: it is not killed, since
// the caller has it anyway.
func (t *ticket) letBe(ctx context.Context, why error) error {
	g := t.made.grant
	if err := t.b.ledger.Remove(ctx, g); err != nil {
		t.b.Logger().Warn("a token that was not handed on may be on record until its end, when it is revoked", "grant_id", g.ID, "error", err)
	}
	return why
}

// discard kills a token that is not handed out, and says in the refusal
// if it could not be killed at once.
func (t *ticket) discard(ctx context.Context, why error) error {
	g := t.made.grant
	if err := t.b.killer.Discard(ctx, t.d.provider, g, ending.CauseNotHandedOut); err != nil {
		var f *fault.Error
		if errors.As(why, &f) {
			state := "not dead yet, being retried"
			if summary := g.Summary(); errors.Is(err, ending.ErrReleased) {
				state = "it dies with what others hold, and nobody has it"
			} else if !summary.Revocable {
				state = "nothing can kill it, it works " + ending.LivesUntil(&summary)
			}
			return fault.New(f.Code, "%s (grant %s: %s)", f.Message, g.ID, state).Because(errors.Join(f.Cause, err))
		}
	}
	return why
}
