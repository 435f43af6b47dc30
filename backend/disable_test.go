package backend

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

// flight is a mint at the provider, whose token is there and whose answer is not.
type flight struct {
	m       *mount
	release chan struct{}
	done    chan error
}

func (m *mount) mintInFlight() *flight {
	m.t.Helper()
	worked := make(chan struct{}, 1)
	f := &flight{m: m, release: make(chan struct{}), done: make(chan error, 1)}
	m.server.Break(authserver.EndpointToken, authserver.Hold(worked, f.release))
	go func() { _, err := m.creds(nil); f.done <- err }()
	<-worked
	return f
}

// land lets the answer come, and returns what the caller got.
func (f *flight) land() error {
	f.m.server.Break(authserver.EndpointToken, nil)
	close(f.release)
	return <-f.done
}

func (m *mount) taint(tainted bool) { m.vault.change(func(v *vaultView) { v.tainted = tainted }) }

// waits fails the test if what is done does not wait for the mint in flight.
func (f *flight) waits(do func() error) (end func() error) {
	f.m.t.Helper()
	ended := make(chan error, 1)
	go func() { ended <- do() }()
	require.Eventually(f.m.t, func() bool {
		closed, _ := f.m.b.door.State()
		return closed
	}, promptly, time.Millisecond)
	select {
	case <-ended:
		require.Fail(f.m.t, "the mount was given up while a mint was in flight")
	default:
	}
	return func() error { return <-ended }
}

func (m *mount) cleanUp() error { m.b.Cleanup(context.Background()); return nil }

func TestAMountIsNotGivenUpWhileAMintIsInFlight(t *testing.T) {
	for name, run := range map[string]func(*mount) error{
		"Vault's last run":          (*mount).periodic,
		"which never came, the end": (*mount).cleanUp,
	} {
		t.Run(name, func(t *testing.T) {
			m := newMount(t, patient)
			m.mustCreds(nil)
			f := m.mintInFlight()
			m.taint(true)
			end := f.waits(func() error { return run(m) })
			_, err := m.creds(nil)
			requireCode(t, err, fault.TemporarilyUnavailable, "being disabled or moved")
			requireCode(t, f.land(), fault.TemporarilyUnavailable, "being disabled or moved")
			require.NoError(t, end())
			require.Empty(t, m.server.Live(), "what came is dead, and what lived")
			require.Empty(t, m.allGrants())
		})
	}
}

func TestALeaseKeepsTheMountWhileAMintIsInFlight(t *testing.T) {
	m := newMount(t, patient)
	l, other := m.mustCreds(nil), m.mustCreds(nil)
	f := m.mintInFlight()
	require.NoError(t, m.revoke(other), "on a mount that stays it keeps nobody")
	m.clock.advance(recentFor)
	m.taint(true)
	requireCode(t, m.revoke(l), fault.TemporarilyUnavailable, "cannot be disabled or moved", "1 at oauth2/p")
	requireCode(t, f.land(), fault.TemporarilyUnavailable, "being disabled or moved")
	require.NoError(t, m.revoke(l))
	require.Empty(t, m.server.Live())
}

func TestAMintThatOutlastsTheWaitKeepsTheMountWhereALeaseCan(t *testing.T) {
	m := newMount(t, patient)
	l := m.mustCreds(nil)
	m.b.killer.Drain = time.Millisecond
	f := m.mintInFlight()
	m.taint(true)
	require.ErrorContains(t, m.periodic(), "1 at oauth2/p")
	requireCode(t, m.revoke(l), fault.TemporarilyUnavailable, "1 at oauth2/p")
	require.Error(t, f.land())
	require.NoError(t, m.periodic())
	require.NoError(t, m.revoke(l))
	require.Empty(t, m.server.Live())
}

// The mount's records are gone by then, and storage is closed.
func TestAMintThatEndsAfterTheMountIsKilled(t *testing.T) {
	for name, revoke := range map[string]authserver.Fault{"at once": nil, "at the second try": authserver.Once(authserver.Answer(500, "text/plain", ""))} {
		t.Run(name, func(t *testing.T) {
			m := newMount(t, patient)
			m.b.killer.Drain, m.b.killer.LatePause = time.Millisecond, time.Millisecond
			f := m.mintInFlight()
			m.taint(true)
			require.NoError(t, m.cleanUp())
			require.Contains(t, m.log.String(), "tokens are still being minted")
			m.storage.fail("get", "put", "delete", "list")
			m.server.Break(authserver.EndpointRevoke, revoke)
			require.Error(t, f.land())
			require.Eventually(t, func() bool { return len(m.server.Live()) == 0 }, promptly, time.Millisecond)
		})
	}
}

func TestWhatCannotBeKilledAfterTheEndIsLoggedWithItsProviderAndEnd(t *testing.T) {
	m := newMount(t, patient)
	m.b.killer.Drain, m.b.killer.LatePause = time.Millisecond, time.Microsecond
	f := m.mintInFlight()
	m.taint(true)
	require.NoError(t, m.cleanUp())
	m.storage.fail("get", "put", "delete", "list")
	m.server.Break(authserver.EndpointRevoke, authserver.Answer(500, "text/plain", ""))
	require.Error(t, f.land())
	require.Eventually(t, func() bool {
		return logged(m.log.String(), "a token lives on", "provider=oauth2/p", `lives="until 20`)
	}, promptly, time.Millisecond)
}

// A token that has no lease cannot keep the mount, so the end tries once more.
func TestTheEndKillsWhatTheLastRunCouldNot(t *testing.T) {
	m := newMount(t, setup{})
	m.server.Break(authserver.EndpointToken, authserver.Set("scope", "read write admin"))
	m.server.Break(authserver.EndpointRevoke, authserver.Answer(500, "text/plain", ""))
	_, err := m.creds(nil)
	requireCode(t, err, fault.ProviderViolation)
	m.taint(true)
	require.Error(t, m.periodic())
	require.NoError(t, m.cleanUp())
	require.True(t, logged(m.log.String(), "a token lives on", "provider=oauth2/p", `lives="until 20`))
	m.server.Break(authserver.EndpointRevoke, nil)
	require.NoError(t, m.cleanUp())
	require.Empty(t, m.server.Live())
}

// Vault takes a run that is under way for the last one.
func TestARunDuringWhichTheMountIsDisabledIsTheLastOne(t *testing.T) {
	m := newMount(t, setup{})
	m.mustCreds(nil)
	m.storage.on(func(string, string) error { m.taint(true); return nil })
	require.NoError(t, m.periodic())
	require.Empty(t, m.server.Live())
}

func TestAMountThatWasMovedMintsAgain(t *testing.T) {
	m := newMount(t, setup{})
	m.taint(true)
	require.NoError(t, m.periodic())
	_, err := m.creds(nil)
	requireCode(t, err, fault.TemporarilyUnavailable, "being disabled or moved")
	m.taint(false)
	m.mustCreds(nil)
}

// Nobody is handed a token of a mount on which Vault may have looked for leases.
func TestASharedTokenIsNotJoinedOnAMountThatGoes(t *testing.T) {
	m := newMount(t, setup{role: map[string]any{"sharing": "entity"}})
	_, err := m.credsBy(call{entity: alice})
	require.NoError(t, err)
	m.b.door.Close(false)
	_, err = m.credsBy(call{entity: alice})
	requireCode(t, err, fault.TemporarilyUnavailable, "being disabled or moved")
}

// logged reports whether one line of the log holds all of words.
func logged(log string, words ...string) bool {
	return slices.ContainsFunc(strings.Split(log, "\n"), func(line string) bool {
		return !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) })
	})
}
