package ending

import (
	"context"
	"fmt"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
)

func killable(c grant.Count) bool { return c.Revocable > 0 }

// namedAlive is how many live grants an error names.
const namedAlive = 5

// stillAlive names a few of the grants that live, and until when they do.
func (k *Killer) stillAlive(ctx context.Context) string {
	if !k.ledger.Loaded() {
		return "the records of grants are still being read after a start: try again"
	}
	if newer := form.Explain(k.ledger.Newer()); newer != "" {
		return newer
	}
	live := 0
	for _, c := range k.ledger.Totals() {
		live += c.Revocable
	}
	holders, err := k.ledger.HoldersOf(ctx, killable)
	if err != nil || live == 0 {
		return "some grants could not be killed"
	}
	text := fmt.Sprintf("%d grants still live at their providers:", live)
	k.someAlive(ctx, holders[:min(len(holders), namedAlive)], namedAlive, func(s *grant.Summary) {
		text += fmt.Sprintf(" %s at %s %s;", s.ID, s.Provider, LivesUntil(s))
	})
	return text + " bring the provider back and try again, or wait until they have expired; the mount serves nobody meanwhile, and moving it away and back opens it again (vault secrets move)"
}

// someAlive calls with at most so many of what the holders have that can be killed, as
// far as it can be read.
func (k *Killer) someAlive(ctx context.Context, holders []string, most int, call func(*grant.Summary)) {
	called := 0
	for _, holder := range holders {
		err := k.ledger.Walk(ctx, holder, "", func(s *grant.Summary) bool {
			if s.Revocable {
				call(s)
				called++
			}
			return called < most
		})
		if err != nil || called == most {
			return
		}
	}
}

// LivesUntil says in words until when a token lives if nothing kills it.
func LivesUntil(s *grant.Summary) string {
	if s.ExpiresAt.IsZero() {
		return "without an end that is known"
	}
	return "until " + s.ExpiresAt.UTC().Format(time.RFC3339)
}

// maxAbandoned bounds what is logged of grants that live on.
const maxAbandoned = 1000

// logAbandoned names a token that nobody will kill any more.
func (k *Killer) logAbandoned(s *grant.Summary) {
	k.logger().Error("a token lives on", "grant_id", s.ID, "provider", s.Provider, "lives", LivesUntil(s))
}
