package backend

import (
	"context"
	"strings"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/ending"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/keyring"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/kills"
)

// signers begins the names of the providers whose tokens the broker signs.
const signers = "jwt/"

func signs(ref string) bool { return strings.HasPrefix(ref, signers) }

// withdrawn reports whether the broker has signed the grant's token and takes it for its
// own no more: an emergency took its key back, or the issuer is called otherwise now.
func (b *broker) withdrawn(ctx context.Context, g *grant.Grant) (bool, error) {
	if g.KeyID == "" && !signs(g.Provider) {
		return false, nil
	}
	judge, err := b.judgeWithdrawn(ctx)
	if err != nil {
		return false, err
	}
	s := g.Summary()
	return judge(&s), nil
}

// judgeWithdrawn is withdrawn of many, by what is true now.
func (b *broker) judgeWithdrawn(ctx context.Context) (func(*grant.Summary) bool, error) {
	state, err := b.own.state(ctx)
	if err != nil {
		return nil, err
	}
	return func(s *grant.Summary) bool {
		if s.KeyID != "" {
			return s.Issuer != state.config.Issuer || !state.ring.Has(keyring.Child, s.KeyID)
		}
		if !signs(s.Provider) {
			return false
		}
		// The record does not say which key signed. A key stays in the ring until all that
		// it signed has expired. So if the grant is older than the first signature of every
		// key that is there, its own key was taken back.
		oldest, ok := state.ring.Oldest(keyring.Child)
		return !ok || s.IssuedAt.Before(oldest.ActiveFrom)
	}, nil
}

// changeOwn changes the broker's own issuer. Where withdraws finds in the change why
// tokens that were signed before are the broker's no more, their grants are killed: run
// is the kill on the word of asker, nil if there is none. The kill is ordered before the
// change is written, so that nothing stays alive because something comes between.
func (b *broker) changeOwn(ctx context.Context, asker string, edit func(*ownState) error, withdraws func(before, after *ownState) string) (before, after *ownState, run *ending.Run, err error) {
	var order *ending.Order
	before, after, err = b.own.change(ctx, func(s *ownState) error {
		was := *s
		if err := edit(s); err != nil {
			return err
		}
		cause := withdraws(&was, s)
		if cause == "" || order != nil {
			return nil
		}
		var err error
		order, err = b.killer.OrderWithdrawn(ctx, kills.Asked{By: asker, Cause: cause, Always: true})
		return err
	})
	switch {
	case order == nil:
		return before, after, nil, err
	case err != nil:
		order.Leave() // the change may be in storage all the same
		return before, after, nil, err
	}
	return before, after, order.Execute(ctx), nil
}

// notWithdrawn refuses to prolong what nobody takes any more.
func (b *broker) notWithdrawn(ctx context.Context, g *grant.Grant) error {
	withdrawn, err := b.withdrawn(ctx, g)
	if err == nil && withdrawn {
		err = fault.New(fault.AccessDenied, "the token of this lease was withdrawn by a change of the broker's issuer or an emergency rotation of its keys: read creds again")
	}
	return err
}

// stillSigned refuses to hand out a token that was withdrawn while it was made.
func (b *broker) stillSigned(ctx context.Context, g *grant.Grant) error {
	withdrawn, err := b.withdrawn(ctx, g)
	if err == nil && withdrawn {
		err = fault.New(fault.TemporarilyUnavailable, "the broker's issuer or its keys were changed meanwhile: try again")
	}
	return err
}
