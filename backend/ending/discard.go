package ending

import (
	"context"
	"errors"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/downstream"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
)

// Discard kills a child that will not be handed out, at the provider as it was when it
// made it. It was perhaps never recorded: if it cannot be killed now it is recorded as
// doomed, and if even that fails it is kept in memory until it can be.
func (k *Killer) Discard(ctx context.Context, p *downstream.Provider, g *grant.Grant, cause string) error {
	if g.Lever != "" {
		_, ended := k.door.State()
		if !ended {
			return k.discardOn(ctx, g, cause)
		}
		if !k.tainted() && k.leaveOn(ctx, g) {
			return ErrReleased
		}
	}
	failed := k.revokeChild(ctx, p, g, downstream.SettleBudget)
	if failed != nil {
		err := k.keepDoomed(ctx, g, cause, failed)
		if _, ended := k.door.State(); ended {
			k.killLate(p, g, cause, failed)
		}
		return errors.Join(failed, err)
	}
	k.tell(g, cause)
	k.attestDiscarded(ctx, g)
	if err := k.ledger.Remove(ctx, g); err != nil {
		// The token is dead. A record of it may be there: the sweep takes it away.
		k.logger().Warn("a token that was not handed out is dead, but its record could not be deleted", "grant_id", g.ID, "error", err)
		_ = k.keepDoomed(ctx, g, cause, stored.Fault(err))
	}
	return nil
}

// KillUnrecorded kills what was minted for a provider that is not stored, where nothing
// could try again.
func (k *Killer) KillUnrecorded(ctx context.Context, p *downstream.Provider, g *grant.Grant, cause string) error {
	if g.Lever != "" && (!k.ledger.Loaded() || k.othersOn(grant.Lever{Provider: g.Provider, Name: g.Lever}, g.ID)) {
		return nil // it is others' as well, and dies with the last of them
	}
	err := k.revokeChild(ctx, p, g, downstream.SettleBudget)
	if err == nil {
		k.tell(g, cause)
	}
	return err
}

func (k *Killer) revokeChild(ctx context.Context, p *downstream.Provider, g *grant.Grant, budget time.Duration) error {
	if g.Handle.Empty() {
		return downstream.ErrNotRevocable
	}
	ctx, cancel := context.WithTimeout(ctx, budget)
	defer cancel()
	return k.reaper.Revoke(ctx, p, g.Handle)
}

// lateTries is how often a token is tried to be killed that came after the end.
const lateTries = 5

// killLate goes on trying to kill what no ledger keeps any more: the token of a mint
// that ended after Vault had given up the mount, or this process of it.
func (k *Killer) killLate(p *downstream.Provider, g *grant.Grant, cause string, failed error) {
	late := g.Summary()
	if errors.Is(failed, downstream.ErrNotRevocable) {
		k.logAbandoned(&late)
		return
	}
	k.logger().Error("a token came after the end and is not dead yet", "grant_id", g.ID, "provider", g.Provider, "lives", LivesUntil(&late), "error", failed)
	go func() {
		for try := range lateTries {
			time.Sleep(k.LatePause << try)
			err := k.revokeChild(context.Background(), p, g, killBudget)
			if err == nil {
				k.tell(g, cause)
				return
			}
			if errors.Is(err, provider.ErrCannotRevoke) {
				break
			}
		}
		k.logAbandoned(&late)
	}()
}
