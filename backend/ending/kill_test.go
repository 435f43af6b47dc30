package ending

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/downstream"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/kills"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// However a grant dies, it is off the record, and its death is told once with the cause
// that was the first.
func TestEachDeathIsToldOnce(t *testing.T) {
	const ref = "oauth2/acme"
	w := newWorld(t)
	ended, discarded, refused, over := w.record("alice", ref), w.record("alice", ref), w.record("alice", ref), w.record("bob", ref)
	require.NoError(t, w.Kill(t.Context(), ended.ID, CauseLeaseEnded))
	require.NoError(t, w.Kill(t.Context(), ended.ID, CauseLeaseEnded), "Vault repeats it")
	require.NoError(t, w.Discard(t.Context(), &downstream.Provider{Ref: ref}, discarded, CauseNotHandedOut))
	w.revoke = func(string, secret.Text) error { return errors.New("not now") }
	require.Error(t, w.Kill(t.Context(), refused.ID, CauseToken))
	require.Equal(t, []string{ref + " lease_ended", ref + " not_handed_out"}, w.killed)
	require.Equal(t, []string{refused.ID}, w.left("alice"))

	w.revoke = func(string, secret.Text) error { return nil }
	run, err := w.KillAll(t.Context(), Thing{KindEntity, "alice"}, kills.Asked{})
	require.NoError(t, err)
	counts, complete := run.Wait(t.Context(), time.Minute)
	require.True(t, complete)
	require.Equal(t, 1, counts.Revoked)
	require.Equal(t, "oauth/revoke", w.killed[2][len(ref)+1:], "the first cause stands")
	require.Empty(t, w.left("alice"))

	w.setTo(over.ExpiresAt.Add(time.Hour))
	w.revoke = func(string, secret.Text) error { return errors.New("nobody asks for what has expired") }
	_, err = w.Sweep(t.Context(), true, time.Minute)
	require.NoError(t, err)
	require.Equal(t, ref+" expired", w.killed[3])
	require.Len(t, w.killed, 4)
}

// An order is done once each of its grants has been tried, and goes on in the next life
// where this one ends before.
func TestAnOrderIsDoneOnceAllWereTried(t *testing.T) {
	w := newWorld(t)
	g := w.record("alice", "oauth2/acme")
	halted, release := make(chan struct{}), make(chan struct{})
	w.revoke = func(string, secret.Text) error {
		close(halted)
		<-release
		return errors.New("not now")
	}
	run, err := w.KillAll(t.Context(), Thing{KindEntity, "alice"}, kills.Asked{By: "bob", Event: dawn.Add(-time.Hour)})
	require.NoError(t, err)
	<-halted
	ids, err := w.storage.List(t.Context(), OrderPrefix)
	require.NoError(t, err)
	require.Len(t, ids, 1, "it is durable before anything has died")
	order, err := w.orders.kept.Get(t.Context(), ids[0])
	require.NoError(t, err)
	require.Equal(t, "bob", order.Asked.By, "with on whose word")
	require.Equal(t, dawn.Add(-time.Hour), order.Asked.Event)
	require.NotEmpty(t, order.Asked.ID)
	require.NoError(t, w.resumeOrders(t.Context()), "it runs, and not twice")
	close(release)
	counts, complete := run.Wait(t.Context(), time.Minute)
	require.True(t, complete)
	require.Equal(t, 1, counts.Pending)
	require.Eventually(t, func() bool {
		orders, grants := w.UnderWay()
		return orders+grants == 0
	}, time.Minute, time.Millisecond)
	ids, err = w.storage.List(t.Context(), OrderPrefix)
	require.NoError(t, err)
	require.Empty(t, ids, "what failed is in the outbox")
	doomed, err := w.ledger.Get(t.Context(), g.ID)
	require.NoError(t, err)
	require.Equal(t, "revoke/entity", doomed.Doom.Cause)
}
