package backend

import (
	"cmp"
	"context"
	"net/netip"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/decision"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/downstream"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/ending"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/person"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/subject"
)

// ask is one question to the decision: who wants what of which role, on whose
// behalf.
type ask struct {
	role         string
	entityID     string // "" for a caller without an entity
	remoteAddr   string
	subjectToken secret.Text
	actorToken   secret.Text
	proofs       map[provider.ProofKind]secret.Text // those that came
	request      decision.Request
	// vouched is true for an entity's own request: Vault has let its token pass.
	vouched bool
}

// decided is the decision, with what the mint, the record and the answer need of the
// request.
type decided struct {
	*decision.Decision
	role     *compiledRole
	provider *downstream.Provider
	ask      ask
	caller   decision.Caller
	subject  *subject.Token
	actor    *subject.Token
	// borrower is for whom the broker wants it for itself, by its path; "" for anybody else.
	borrower string
	// toKill is that others are to be killed by it, also at the end of the mount.
	toKill bool
	// unfrozenAt is the freezer's moment before it was asked.
	unfrozenAt uint64
	// pulls is the number of the last pull of a lever before that.
	pulls uint64
}

// decide gathers what the pure decision needs and asks it. creds and explain
// both come this way, so they cannot differ in what they see, but for an entity that
// has just been merged into another (knownFor). The error is for what kept it from
// deciding at all.
func (b *broker) decide(ctx context.Context, a ask) (*decided, error) {
	role, err := b.roles.compiled(ctx, a.role)
	if err != nil {
		return nil, err
	}
	p, err := b.providers.MustOpen(ctx, role.Provider)
	if err != nil {
		return nil, err
	}
	caller, err := b.caller(a, needed(a, role, p))
	if err != nil {
		return nil, err
	}
	if refusal := checkProofs(p, a.proofs); refusal != nil {
		return nil, refusal
	}
	s := b.situation(caller)
	moment := b.freezer.Moment()
	if err := b.parties(ctx, role, p, a, &s); err != nil {
		return nil, err
	}
	frozen, err := b.freezer.Check(ctx, ending.Basis{Holder: holderOf(caller.EntityID), Role: role.name, Provider: p.Ref, Parties: partiesOf(s.Subject.Token(), s.Actor.Token()), Ties: tiesOfTokens(s.Subject.Token(), s.Actor.Token())})
	if err != nil {
		return nil, err
	}
	ended, err := b.logoffs.check(ctx, s.Subject.Token(), s.Actor.Token())
	if err != nil {
		return nil, err
	}
	s.Stopped = append(append(stopped(p, role), frozen...), ended...)
	if s.Reserved, err = b.providers.ReservedFrom(ctx, p.Traits); err != nil {
		return nil, err
	}
	return &decided{
		Decision: role.policy.Decide(s, a.request), role: role, provider: p, ask: a, caller: caller,
		subject: s.Subject.Token(), actor: s.Actor.Token(), unfrozenAt: moment, pulls: b.killer.Pulls(),
	}, nil
}

// needed is how much of the caller the decision and the provider look at.
func needed(a ask, role *compiledRole, p *downstream.Provider) knowledge {
	switch {
	case p.Traits.NeedsGroups:
		return knownGroups
	case !a.vouched || role.policy.NeedsEntity() || p.Traits.NeedsEntity:
		return role.judgedBy()
	default:
		return knownID
	}
}

// caller is the identity behind the ask, with as much as is wanted. One that Vault
// does not know any more is denied; an error while asking is neither that nor
// allowed.
func (b *broker) caller(a ask, want knowledge) (decision.Caller, error) {
	c, gone, err := b.identify(a.entityID, want)
	if err != nil {
		return c, err
	}
	if gone {
		return c, fault.New(fault.AccessDenied, "there is no such entity: %s", cmp.Or(noEntityID(a.entityID), "log in again"))
	}
	c.RemoteAddr, _ = netip.ParseAddr(a.remoteAddr)
	return c, nil
}

func (b *broker) situation(caller decision.Caller) decision.Situation {
	s := decision.Situation{Now: b.now(), Caller: caller}
	s.MountTTL, s.MountMaxTTL = b.System().DefaultLeaseTTL(), b.System().MaxLeaseTTL()
	if s.MountTTL <= 0 { // Vault did not say: nothing is granted on that
		s.MountMaxTTL = 0
	}
	return s
}

// disabled is the reason against a provider that gives nothing to anybody.
func disabled(p *downstream.Provider) []*fault.Error {
	if !p.Settings.Disabled {
		return nil
	}
	return []*fault.Error{fault.New(fault.AccessDenied, "the provider %q is disabled: an operator can write disabled=false", p.Ref)}
}

// stopped are the reasons against that lie with the provider.
func stopped(p *downstream.Provider, role *compiledRole) []*fault.Error {
	reasons := disabled(p)
	if !p.AllowedRoles.MatchAny(role.name) {
		reasons = append(reasons, fault.New(fault.AccessDenied, "the provider %q does not serve the role %q: its allowed_roles do not cover it, and an operator can add it there", p.Ref, role.name))
	}
	return reasons
}

// partiesOf are those on whose word a grant rests, as the ledger knows them.
func partiesOf(on, actor *subject.Token) (parties []grant.Party) {
	for _, t := range []*subject.Token{on, actor} {
		if t != nil {
			parties = append(parties, grant.Party{Issuer: t.IssuerName, Iss: t.Issuer, ID: t.Subject})
		}
	}
	if on != nil {
		parties = append(parties, grant.Named(on.Claims)...)
	}
	return parties
}

// tiesOfTokens are what ties those whom the tokens are about to entities.
func tiesOfTokens(tokens ...*subject.Token) (ties []person.Tie) {
	for _, t := range tokens {
		if t != nil {
			ties = append(ties, t.Person...)
		}
	}
	return ties
}

// basisOf is what a grant rests on, as far as it can be frozen.
func basisOf(g *grant.Grant) ending.Basis {
	s := g.Summary()
	return ending.BasisOf(&s)
}

// holder is whose the grant will be, in the ledger's words.
func (d *decided) holder() string {
	if d.borrower != "" {
		return grant.OwnHolder
	}
	return holderOf(d.caller.EntityID)
}

// holderOf is the ledger's word for an entity's id, entityOf the way back.
func holderOf(entityID string) string {
	if entityID == "" {
		return grant.NoHolder
	}
	return entityID
}

func entityOf(holder string) string {
	if holder == grant.NoHolder {
		return ""
	}
	return holder
}

func remoteAddr(req *logical.Request) string {
	if req.Connection == nil {
		return ""
	}
	return req.Connection.RemoteAddr
}
