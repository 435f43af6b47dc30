package ending

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/downstream"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/kills"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// world is a killer on a mount of which nothing else is there.
type world struct {
	*Killer
	t *testing.T
	// revoke is what the providers do, standing what Vault says of holders.
	revoke   func(ref string, handle secret.Text) error
	standing func(holder string) (Standing, error)

	mu     sync.Mutex
	clock  time.Time
	killed []string // "<provider> <cause>"
	died   []string // "<provider> <cause> <after>"
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{
		t: t, clock: dawn,
		revoke:   func(string, secret.Text) error { return nil },
		standing: func(string) (Standing, error) { return Standing{Known: true}, nil },
	}
	storage, now := &logical.InmemStorage{}, w.now
	w.Killer = New(Deps{
		Ledger: grant.NewLedger(storage), Storage: storage, Now: now, Logger: hclog.NewNullLogger, Meters: w, Reaper: w,
		Freezer:    NewFreezer(storage, now),
		Records:    kills.NewBook(storage, now, hclog.NewNullLogger),
		Standing:   func(_ context.Context, holder string, _ []string) (Standing, error) { return w.standing(holder) },
		CloseShare: func(string) {}, Tainted: func() bool { return false },
	})
	return w
}

func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.clock
}

// setTo moves the clock.
func (w *world) setTo(now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.clock = now
}

// Killed implements Meters.
func (w *world) Killed(ref, cause string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.killed = append(w.killed, ref+" "+cause)
}

// Expired implements Meters.
func (w *world) Expired(ref string) { w.Killed(ref, causeExpired) }

// Died implements Meters.
func (w *world) Died(ref, cause string, after time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.died = append(w.died, fmt.Sprintf("%s %s %s", ref, cause, after))
}

// UnknownHolders implements Meters.
func (w *world) UnknownHolders(int) {}

// MustOpen implements Reaper.
func (w *world) MustOpen(_ context.Context, ref string) (*downstream.Provider, error) {
	return &downstream.Provider{Ref: ref}, nil
}

// Revoke implements Reaper.
func (w *world) Revoke(_ context.Context, p *downstream.Provider, handle secret.Text) error {
	return w.revoke(p.Ref, handle)
}

// Find implements Reaper.
func (w *world) Find(context.Context, *downstream.Provider, provider.Trace) ([]provider.Found, error) {
	return nil, nil
}

// record puts a grant on record whose lease and token live for an hour.
func (w *world) record(holder, ref string) *grant.Grant {
	w.t.Helper()
	id, err := grant.NewID(holder)
	require.NoError(w.t, err)
	ends := w.now().Add(time.Hour)
	g := &grant.Grant{
		ID: id, Holder: holder, Provider: ref, Class: provider.ClassToken, Handle: secret.New("handle of " + id),
		IssuedAt: w.now(), LeaseEnds: ends, MaxLease: ends, ExpiresAt: ends.Add(time.Hour),
	}
	require.NoError(w.t, w.ledger.Record(w.t.Context(), g))
	return g
}

// left are the ids of the grants on record.
func (w *world) left(holder string) (ids []string) {
	w.t.Helper()
	require.NoError(w.t, w.ledger.Walk(w.t.Context(), holder, "", func(s *grant.Summary) bool {
		ids = append(ids, s.ID)
		return true
	}))
	return ids
}
