package backend

import (
	"context"
	"errors"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/downstream"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
)

// Where the provider can find its children by name, a mint is on record before it is made:
// whatever then happens to its answer, somebody looks for what came of it. Elsewhere
// there is no intent, and an issue is one write.

// intentLife is how long a mint may be under way from its intent on: the rest is for
// storage, which keeps the mint waiting between the two.
const intentLife = downstream.MintBudget + 30*time.Second

// intent is a mint that is on record. While its hold lasts nobody else has touched it.
type intent struct {
	grant *grant.Grant
	hold  *grant.Hold
}

// intend writes down that a child may come of a mint; nil where nobody could find it.
func (b *broker) intend(ctx context.Context, d *decided, id string) (*intent, error) {
	if !d.provider.Finds() || d.role.Mode == provider.ModeForward { // which mints nothing
		return nil, nil
	}
	r := d.request(id)
	where, err := d.provider.Where(r)
	if err != nil {
		return nil, err
	}
	now := b.now()
	g := expected(id, d)
	g.Where = where
	g.Class, g.IssuedAt, g.Intent = d.role.traits.Class, now, now.Add(intentLife)
	if most := d.role.traits.Life.Longest(r.TTL); most > 0 {
		g.ExpiresAt = g.Intent.Add(most) // however long nobody finds it
	}
	i := &intent{grant: g, hold: b.ledger.Hold(id)}
	if err := b.ledger.Record(ctx, g); err != nil {
		b.withdraw(ctx, i) // or the sweep finds that nothing came of it
		return nil, stored.Fault(err)
	}
	return i, nil
}

// fulfil makes the intent its grant, unless it is meant to die or somebody has looked for
// its child already. With keep the hold goes on.
func (b *broker) fulfil(ctx context.Context, i *intent, made *minted, keep bool) error {
	err := b.ledger.Rewrite(ctx, i.hold, i.grant, made.grant)
	switch {
	case errors.Is(err, grant.ErrChanged):
		return fault.New(fault.AccessDenied, "the grant was killed while it was being made: try again")
	case err != nil:
		return stored.Fault(err)
	case keep:
		made.hold = i.hold
	default:
		b.ledger.EndHold(made.grant.ID)
	}
	return nil
}

// heedNothing is for a mint that brought no child. If something may have come of it all
// the same, its intent stays until it has been looked for; without one nobody can.
func (b *broker) heedNothing(ctx context.Context, d *decided, i *intent, failed error) {
	lost := errors.Is(failed, provider.ErrAnswerLost)
	switch {
	case i == nil && lost:
		b.meters.lost.WithLabelValues(d.provider.Ref).Inc()
		b.Logger().Warn("a mint's answer was lost: if a token was minted, it lives until the provider's own expiry", "event", "answer_lost", "provider", d.provider.Ref, "role", d.role.name, "error", failed)
	case i == nil:
	case surelyNothing(failed):
		b.withdraw(context.WithoutCancel(ctx), i)
	default:
		b.ledger.EndHold(i.grant.ID)
		b.Logger().Warn("a mint's answer was lost, or none that can be used: what it has left at the provider is looked for and killed", "grant_id", i.grant.ID, "provider", d.provider.Ref, "role", d.role.name, "after", i.grant.Intent, "error", failed)
	}
}

// withdraw takes back an intent of which surely nothing has come.
func (b *broker) withdraw(ctx context.Context, i *intent) {
	if _, err := b.ledger.Withdraw(ctx, i.grant.ID); err != nil {
		b.Logger().Warn("a mint came to nothing, but that could not be recorded: its child will be looked for", "grant_id", i.grant.ID, "provider", i.grant.Provider, "error", err)
	}
}
