package backend

import (
	"context"
	"errors"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/downstream"
)

// maxRotations is how many parents one run begins to rotate.
const maxRotations = 8

// rotateDue begins the rotations that are due. It waits for none: core holds its state
// lock while the periodic function runs.
func (b *broker) rotateDue(ctx context.Context) {
	due, err := b.providers.RotationsDue(ctx)
	if err != nil {
		b.Logger().Warn("it is not known which parent credentials are to be rotated", "error", err)
	}
	for _, ref := range due[:min(len(due), maxRotations)] {
		go b.rotateOnSchedule(context.WithoutCancel(ctx), ref)
	}
}

// rotateOnSchedule is the rotate path with nobody there. What fails is tried again, and
// loud until it has succeeded (Overdue).
func (b *broker) rotateOnSchedule(ctx context.Context, ref string) {
	ctx, cancel := context.WithTimeout(ctx, downstream.MintBudget+downstream.SettleBudget+downstream.MaxPatience)
	defer cancel()
	u, end, err := b.providers.RotateOnSchedule(ctx, ref)
	if errors.Is(err, downstream.ErrNotDue) {
		return
	}
	if err != nil {
		b.Logger().Error("a parent credential could not be rotated on schedule: tried again", "event", "rotation_failed", "provider", ref, "error", err)
		return
	}
	defer u.Done()
	health, err := u.Rotate(ctx)
	b.endChecked(ctx, u.Provider, health)
	if err := end(err); err != nil {
		b.Logger().Error("a parent credential could not be rotated on schedule: the former one stays, tried again", "event", "rotation_failed", "provider", ref, "error", err)
	}
}
