package backend

import (
	"cmp"
	"context"
	"errors"
	"hash/maphash"
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
		b.meters.refused.WithLabelValues(string(fault.CodeOf(err))).Inc()
	}
	return resp, err
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
	return b.alone(ctx, d)
}

// alone serves a request by a child of its own.
func (b *broker) alone(ctx context.Context, d *decided) (*logical.Response, error) {
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
	// The id comes before the mint, so that a provider can name the child by it.
	id, err := grant.NewID(d.caller.EntityID)
	if errors.Is(err, grant.ErrHolder) {
		return nil, fault.New(fault.AccessDenied, "the id of this Vault entity is none, which stands for nobody, or cannot be a part of a storage key, so nothing could be recorded for it").Because(err)
	}
	if err != nil {
		return nil, fault.New(fault.TemporarilyUnavailable, "no randomness for a grant id").Because(err)
	}
	at, leave, err := b.enter(ctx, d, id)
	if err != nil {
		return nil, err
	}
	defer leave()
	intent, err := b.intend(ctx, d, id)
	if err != nil {
		return nil, err
	}
	child, err := b.mintOnce(ctx, d, id, at)
	if child == nil {
		b.heedNothing(ctx, d, intent, err)
		return nil, err
	}
	// From here on a live token is in our hands: every way out either records it
	// or kills it, also when the caller has hung up.
	alive := ctx
	ctx = context.WithoutCancel(ctx)
	made := received(id, d, child)
	if keep && intent == nil {
		made.hold = b.ledger.Hold(id)
	}
	if err == nil {
		made.unverified, err = b.judge(d, made)
	}
	if err == nil {
		err = b.record(ctx, d, made, intent, keep)
	}
	if err == nil && alive.Err() != nil {
		err = fault.New(fault.TemporarilyUnavailable, "the caller has hung up")
	}
	switch {
	case err != nil && d.role.policy.Forward:
		return nil, b.letBe(ctx, made.grant, err)
	case err != nil:
		return nil, b.discardBecause(ctx, d.provider, made.grant, err)
	}
	b.meters.issued.WithLabelValues(made.grant.Provider, made.grant.Role).Inc()
	return made, nil
}

// enter takes all the places that a mint needs, until leave: within the quota, in
// front of the provider, and against whoever wants to change it.
func (b *broker) enter(ctx context.Context, d *decided, id string) (at *downstream.Place, leave func(), err error) {
	// A provider that is down costs nobody a place in a quota, nor a write.
	k := d.kind()
	if err := d.provider.MayMint(k); err != nil {
		return nil, nil, b.spared(d.provider, err)
	}
	release, err := b.quotas.reserve(ctx, d.role, holderOf(d.caller.EntityID), id)
	if err != nil {
		return nil, nil, err
	}
	at, err = d.provider.WaitMint(ctx, k)
	if err != nil {
		release()
		return nil, nil, b.spared(d.provider, err)
	}
	depart, err := b.providers.Admit(ctx, d.provider)
	if err != nil {
		at.Leave()
		release()
		return nil, nil, err
	}
	return at, func() { depart(); at.Leave(); release() }, nil
}

var kindSeed = maphash.MakeSeed()

// kind tells the request to the provider from others.
func (d *decided) kind() downstream.Kind {
	k := downstream.Kind{Mode: d.role.Mode, Role: d.role.name, Holder: holderOf(d.caller.EntityID), Asked: d.Access.Sum(kindSeed)}
	if d.role.Mode == provider.ModeExchange && d.subject != nil {
		k.Asked ^= maphash.String(kindSeed, d.subject.Issuer) ^ maphash.String(kindSeed, d.subject.Subject)
	}
	return k
}

// spared counts a mint that its provider was not asked for, and returns err.
func (b *broker) spared(p *downstream.Provider, err error) error {
	b.meters.spared.WithLabelValues(p.Ref).Inc()
	return err
}

// mintOnce mints, and uses up the subject token where the role wants that: before
// the provider is called, and taken back only when surely nothing was minted.
func (b *broker) mintOnce(ctx context.Context, d *decided, id string, at *downstream.Place) (*provider.Child, error) {
	if d.role.policy.Subject == nil || !d.role.policy.Subject.SingleUse {
		return b.mint(ctx, d, id, at)
	}
	release, err := b.used.use(ctx, d.subject)
	if err != nil {
		return nil, err
	}
	child, err := b.mint(ctx, d, id, at)
	if child == nil && surelyNothing(err) {
		release(context.WithoutCancel(ctx))
	}
	return child, err
}

// surelyNothing reports whether a mint without a child has minted nothing at all.
func surelyNothing(err error) bool {
	return !errors.Is(err, provider.ErrAnswerLost) && fault.CodeOf(err) != fault.ProviderViolation
}

// mint asks the provider, at the place that it has got for that.
func (b *broker) mint(ctx context.Context, d *decided, id string, at *downstream.Place) (*provider.Child, error) {
	p := d.provider
	child, err := p.Mint(ctx, at, d.role.Mode, d.request(id))
	if isNothing(child) {
		child = nil
		if err == nil {
			err = fault.New(fault.ProviderViolation, "the provider answered without a token")
		}
	} else if why, keep := repeats(p.Secrets(), d.brought(), child); why != nil {
		if !keep {
			return nil, why // and unrecorded
		}
		err = why
	}
	return child, err
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

// judge checks what came back and fixes how long it lives.
func (b *broker) judge(d *decided, made *minted) ([]string, error) {
	child, g, now := made.child, made.grant, b.now()
	if child.ExpiresAt.IsZero() && child.Handle.Empty() {
		return nil, fault.New(fault.ProviderViolation, "the token has no end that is known and cannot be revoked: set assumed_lifetime or verify on the provider")
	}
	if !child.ExpiresAt.IsZero() && !child.ExpiresAt.After(now) {
		return nil, fault.New(fault.ProviderViolation, "the provider answered with a token that is already expired")
	}
	if why := cmp.Or(d.provider.Answer.Violation(child), made.unfit); why != "" {
		return nil, fault.New(fault.ProviderViolation, "%s", why)
	}
	if d.role.RequireRevocable && child.Class == provider.ClassExpiry {
		return nil, unrevocable(d.role.Mode)
	}
	unverified, violation := d.role.policy.Accept(d.Access, decision.Answer{Granted: child.Granted, Confirmed: child.Confirmed})
	if violation != nil {
		return nil, violation
	}
	if d.actor != nil && !child.ActorConfirmed {
		unverified = append(unverified, "actor")
	}
	d.Lifetime = d.Lifetime.Until(now, child.ExpiresAt, "token")
	if d.Lifetime.TTL < time.Second {
		return nil, fault.New(fault.ProviderViolation, "the provider's token lives less than a second")
	}
	// The mint took its time, and the lease begins only now.
	d.Lifetime = d.Lifetime.Until(now, g.Facts.SubjectExpires, "subject")
	if d.Lifetime.TTL < time.Second {
		return nil, errSubjectExpired
	}
	g.IssuedAt, g.LeaseEnds, g.MaxLease = now, now.Add(d.Lifetime.TTL), now.Add(d.Lifetime.Max)
	return append(unverified, child.Unverified...), nil
}

// unrevocable is for a token that cannot be killed although the provider's others
// can: one of another client's, or no access token.
func unrevocable(mode provider.Mode) *fault.Error {
	if mode == provider.ModeForward {
		return fault.New(fault.AccessDenied, "the role wants tokens that can be revoked (require_revocable), and the provider lets nobody but the client that got this one revoke it: exchange it (mode=exchange)")
	}
	return fault.New(fault.ProviderViolation, "the role wants tokens that can be revoked (require_revocable), and this one cannot")
}

// record makes the grant durable, and makes sure that nothing that happened
// while the provider was minting leaves it alive by mistake.
func (b *broker) record(ctx context.Context, d *decided, made *minted, intent *intent, keep bool) error {
	if intent != nil {
		if err := b.fulfil(ctx, intent, made, keep); err != nil {
			return err
		}
	} else if err := b.ledger.Record(ctx, made.grant); err != nil {
		return stored.Fault(err)
	}
	return b.stillServed(ctx, d, made.grant)
}

// stillServed refuses a grant, which is on record, if something has come between
// since it was decided.
func (b *broker) stillServed(ctx context.Context, d *decided, g *grant.Grant) error {
	p := d.provider
	if closed, _ := b.door.State(); closed {
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
	frozen, err := b.freezer.CheckSince(ctx, d.unfrozenAt, g.Holder, g.Role, g.Provider, g.SubjectIssuer, g.ActorIssuer)
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

// letBe leaves a token alone that was not handed on: it is the caller's own, and
// the caller has it anyway.
func (b *broker) letBe(ctx context.Context, g *grant.Grant, why error) error {
	if err := b.ledger.Remove(ctx, g); err != nil {
		b.Logger().Warn("a token that was not handed on may be on record until its end, when it is revoked", "grant_id", g.ID, "error", err)
	}
	return why
}

// discardBecause kills a token that is not handed out, and says in the refusal
// if it could not be killed at once.
func (b *broker) discardBecause(ctx context.Context, p *downstream.Provider, g *grant.Grant, why error) error {
	if err := b.killer.Discard(ctx, p, g, ending.CauseNotHandedOut); err != nil {
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
