package backend

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/decision"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/ending"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
)

const childTokenType = "broker_child_token"

// childToken is the lease's side of a grant. The lease knows the grant's id; all
// else is in the ledger, so it can be killed whatever changed since.
func (b *broker) childToken() *framework.Secret {
	return &framework.Secret{
		Type:   childTokenType,
		Fields: b.secretFields(),
		Renew:  b.renewLease,
		Revoke: b.revokeLease,
	}
}

func grantIDOf(req *logical.Request) (string, error) {
	if req.Secret != nil {
		if id, ok := req.Secret.InternalData["grant_id"].(string); ok {
			return id, nil
		}
	}
	return "", fault.New(fault.InvalidRequest, "the lease holds no grant id, so nobody knows its token: look for it below grants/entity, and end it by revoke/grant")
}

// revokeLease runs when the lease ends, by time or by hand. Vault repeats it after an
// error; if the outbox has killed the token by then, that is a success.
func (b *broker) revokeLease(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	id, err := grantIDOf(req)
	if err != nil {
		return nil, err
	}
	if share, ok := req.Secret.InternalData["share"].(string); ok {
		err = b.endShare(ctx, id, share)
	} else {
		err = b.killer.Kill(ctx, id, ending.CauseLeaseEnded)
	}
	return nil, b.killer.MayEnd(ctx, err)
}

// renewLease judges holder and role again, over what was recorded at the issue,
// and moves the lease's end within what issue allowed. The record is read once: the hold
// on it sees to it that the end is moved of what was judged, and no kill is undone.
func (b *broker) renewLease(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	id, err := grantIDOf(req)
	if err != nil {
		return nil, err
	}
	asked := b.now()
	change := b.changeShared
	share, shared := req.Secret.InternalData["share"].(string)
	var g *grant.Grant
	if !shared { // else the hold is that of the shared token
		hold := b.ledger.Hold(id)
		defer b.ledger.EndHold(id)
		change = func(ctx context.Context, _ string, edit func(*grant.Grant) error) error {
			return b.ledger.UpdateSeen(ctx, hold, g, edit)
		}
	}
	if g, err = b.ledger.Get(ctx, id); err != nil {
		return nil, renewFault(err)
	}
	ends, err := b.judgeRenewal(ctx, g, req.Secret.Increment)
	if err != nil {
		return nil, err
	}
	if err := change(ctx, id, moveEnd(share, ends)); err != nil {
		return nil, renewFault(err)
	}
	return &logical.Response{Secret: renewed(req.Secret, g.IssuedAt, asked, b.now(), ends)}, nil
}

// moveEnd moves the end of a grant's lease, or of a share of it, unless it is to die.
func moveEnd(share string, ends time.Time) func(*grant.Grant) error {
	return func(g *grant.Grant) error {
		switch {
		case g.Doom != nil || g.Released:
			return fault.New(fault.AccessDenied, "the token of this lease is being killed: read creds again")
		case share == "":
			g.LeaseEnds = ends
		case g.HasShare(share):
			g.SetShare(share, ends)
		default:
			return grant.ErrGone
		}
		return nil
	}
}

// judgeRenewal says until when a grant's lease may be renewed.
func (b *broker) judgeRenewal(ctx context.Context, g *grant.Grant, increment time.Duration) (ends time.Time, err error) {
	role, err := b.roles.compiled(ctx, g.Role)
	if errors.Is(err, errNoRole) {
		return ends, fault.New(fault.AccessDenied, "the role of this lease does not exist any more, and its token is killed soon: read creds of another role")
	}
	if err != nil {
		return ends, err
	}
	if ends, err = b.renewedEnd(role, g, increment); err != nil {
		return ends, err
	}
	return ends, b.mayRenew(ctx, role, g, ends.Sub(b.now()))
}

// renewed is the secret whose lease ends then. Core prefers the caller's increment to our
// TTL, and heeds only the cap, so that the lease does not outlive what was recorded. It
// reckons in whole seconds: the TTL is rounded down to one, and the cap too where it
// takes something from what the caller wanted, but else up, or core would warn of a
// fraction of a second that the lease falls short. Whether it does is told by when the caller
// has asked: the record was written since.
func renewed(s *logical.Secret, issued, asked, now, ends time.Time) *logical.Secret {
	s.TTL = ends.Sub(now).Truncate(time.Second)
	since := s.IssueTime
	if since.IsZero() {
		since = issued
	}
	last := ends.Truncate(time.Second)
	if s.Increment <= ends.Sub(asked) && last.Before(ends) {
		last = last.Add(time.Second)
	}
	s.MaxTTL = last.Sub(since.Truncate(time.Second))
	return s
}

func renewFault(err error) error {
	var f *fault.Error
	switch {
	case errors.Is(err, grant.ErrGone):
		return fault.New(fault.AccessDenied, "the token of this lease is dead: read creds again")
	case errors.As(err, &f):
		return f
	default:
		return stored.Fault(err)
	}
}

// mayRenew is rule 8: who, freeze and role, over what was recorded.
func (b *broker) mayRenew(ctx context.Context, role *compiledRole, g *grant.Grant, ttl time.Duration) error {
	if role.Provider != g.Provider {
		return fault.New(fault.AccessDenied, "the role serves another provider now: read creds again")
	}
	if g.SubjectIssuer != "" && !slices.Contains(role.SubjectIssuers, g.SubjectIssuer) {
		return fault.New(fault.AccessDenied, "the role does not trust the issuer of this grant's subject any more: read creds again")
	}
	if g.ActorIssuer != "" && !slices.Contains(role.ActorIssuers, g.ActorIssuer) {
		return fault.New(fault.AccessDenied, "the role does not trust the issuer of this grant's actor any more: read creds again")
	}
	if err := b.notWithdrawn(ctx, g); err != nil {
		return err
	}
	if err := b.sameIssuer(ctx, "subject", g.SubjectIssuer, g.SubjectIssuerPrint); err != nil {
		return err
	}
	if err := b.sameIssuer(ctx, "actor", g.ActorIssuer, g.ActorIssuerPrint); err != nil {
		return err
	}
	caller, err := b.caller(ask{entityID: entityOf(g.Holder)}, role.judgedBy())
	if err != nil {
		return err
	}
	granted, err := restore(g.Access, role.policy.Levels)
	if err != nil {
		return fault.New(fault.AccessDenied, "what was granted cannot be told any more: read creds again").Because(err)
	}
	recorded := decision.Recorded{
		Access: granted, RemoteAddr: g.Facts.RemoteAddr, Claims: g.Facts.SubjectClaims, TTL: ttl,
	}
	s := b.situation(caller)
	if s.Stopped, err = b.freezer.Check(ctx, basisOf(g)); err != nil {
		return err
	}
	if err := b.reserveFor(ctx, g.Provider, &s); err != nil {
		return err
	}
	if reasons := role.policy.CheckRenewal(s, recorded); len(reasons) > 0 {
		return reasons[0]
	}
	return nil
}

// sameIssuer refuses the renewal of what rests on the tokens of an issuer that is gone, or
// whose name is another's by now. A grant of an earlier build has no fingerprint: for
// that the name must do.
func (b *broker) sameIssuer(ctx context.Context, of, name, fingerprint string) error {
	if name == "" {
		return nil
	}
	i, err := b.issuers.opened(ctx, name)
	switch {
	case errors.Is(err, stored.ErrAbsent):
		return fault.New(fault.AccessDenied, "the issuer %q of this grant's %s does not exist any more: read creds again", name, of)
	case err != nil:
		return err
	case fingerprint != "" && i.Fingerprint() != fingerprint:
		return fault.New(fault.AccessDenied, "the issuer %q of this grant's %s is another one now, or its keys come from elsewhere: read creds again", name, of)
	}
	return nil
}

// restore makes access of a record's values.
func restore(v grant.Access, levels access.Levels) (access.Access, error) {
	a := access.Access{
		Scopes: access.Exactly(v.Scopes...), Audiences: access.Exactly(v.Audiences...), Resources: access.Exactly(v.Resources...),
	}
	var err error
	if len(v.Permissions) > 0 {
		if a.Permissions, err = access.NewPermissions(levels, v.Permissions); err != nil {
			return a, err
		}
	}
	if len(v.Details) > 0 {
		a.Details, err = access.ParseDetails(v.Details)
	}
	return a, err
}

// renewedEnd is when the renewed lease ends: as far as the caller wants and the
// role, the provider, the mount and the token itself allow.
func (b *broker) renewedEnd(role *compiledRole, g *grant.Grant, increment time.Duration) (time.Time, error) {
	now := b.now()
	lifetime, refusal := role.policy.Renew(b.situation(decision.Caller{}), increment, now.Sub(g.IssuedAt))
	if refusal != nil {
		return time.Time{}, refusal
	}
	end := now.Add(lifetime)
	for _, bound := range []time.Time{g.MaxLease, g.ExpiresAt} {
		if !bound.IsZero() && end.After(bound) {
			end = bound
		}
	}
	if end.Sub(now) < time.Second {
		return time.Time{}, fault.New(fault.AccessDenied, "the token ends at %s: read creds again", end.UTC().Format(time.RFC3339))
	}
	return end, nil
}
