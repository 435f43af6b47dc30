package backend

import (
	"context"
	"fmt"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
)

// killMount kills what lives before the mount and its records go.
func (b *broker) killMount(ctx context.Context) error {
	run := b.startKill(ctx, walk{
		ledger:   b.ledger,
		concerns: killable,
		holders:  func(ctx context.Context) ([]string, error) { return b.ledger.HoldersOf(ctx, killable) },
		matches: func(s *grantSummary) string {
			if s.Revocable {
				return causeMountDisabled
			}
			return ""
		},
	}.feed)
	t, complete := run.wait(ctx, killMountBudget)
	switch {
	case complete && run.failed != nil:
		return ledgerFault(run.failed)
	case complete && t.Pending == 0:
		return nil
	}
	return fault.New(fault.TemporarilyUnavailable, "the mount cannot be disabled or moved: %s", b.stillAlive(ctx))
}

func killable(c grant.Count) bool { return c.Revocable > 0 }

// namedAlive is how many live grants an error names.
const namedAlive = 5

// stillAlive names a few of the grants that live, and until when they do.
func (b *broker) stillAlive(ctx context.Context) string {
	if !b.ledger.Loaded() {
		return "the records of grants are still being read after a start: try again"
	}
	live := 0
	for _, c := range b.ledger.Totals() {
		live += c.Revocable
	}
	holders, err := b.ledger.HoldersOf(ctx, killable)
	if err != nil || live == 0 {
		return "some grants could not be killed"
	}
	named := 0
	text := fmt.Sprintf("%d grants still live at their providers:", live)
	for _, holder := range holders[:min(len(holders), namedAlive)] {
		if err := b.ledger.Walk(ctx, holder, "", func(s *grantSummary) bool {
			if s.Revocable {
				named++
				text += fmt.Sprintf(" %s at %s %s;", s.ID, s.Provider, livesUntil(s))
			}
			return named < namedAlive
		}); err != nil || named == namedAlive {
			break
		}
	}
	return text + " bring the provider back and try again, or wait until they have expired"
}

// livesUntil says in words until when a token lives if nothing kills it.
func livesUntil(s *grantSummary) string {
	if s.ExpiresAt.IsZero() {
		return "without an end that is known"
	}
	return "until " + stamp(s.ExpiresAt)
}
