package backend

import (
	"context"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

// workers and rounds are how much goes on at once.
const (
	workers = 64
	rounds  = 6
)

// storm lets everything fail now and then: the token endpoint in every way in
// which a token can get lost or come back broken, revocation, and storage.
func (m *mount) storm() {
	var lost atomic.Int64
	// Like authserver.Hangup, but a request that is refused loses no token.
	hangup := authserver.Verbatim("", func(answer map[string]any) string {
		if answer["access_token"] != nil {
			lost.Add(1)
		}
		panic(http.ErrAbortHandler)
	})
	chance := func(percent int) bool { return rand.IntN(100) < percent }
	m.server.Break(authserver.EndpointToken, authserver.Choose(func() authserver.Fault {
		switch {
		case chance(5):
			return hangup
		case chance(5):
			return authserver.Cut(-1)
		case chance(5):
			return authserver.Set("scope", "read write admin")
		case chance(3):
			return authserver.Set("expires_in", -1)
		case chance(3):
			return authserver.WithStatus(500)
		case chance(3):
			return authserver.HTML()
		}
		return nil
	}))
	m.server.Break(authserver.EndpointRevoke, authserver.Choose(func() authserver.Fault {
		switch {
		case chance(15):
			return authserver.Answer(500, "text/plain", "")
		case chance(5):
			return authserver.Hangup()
		}
		return nil
	}))
	m.storage.on(func(_, _ string) error {
		if chance(3) {
			return errStorage
		}
		return nil
	})
	m.t.Cleanup(func() { m.lost = int(lost.Load()) }) // before m.end, which was registered first
}

// patient is a provider whose answers are waited for also on a busy machine, so
// that none is lost by chance.
var patient = setup{provider: map[string]any{"timeout": 60}}

// together runs f in every worker at once.
func together(f func(worker int)) {
	var wg sync.WaitGroup
	for w := range workers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			f(w)
		}()
	}
	wg.Wait()
}

// liveOn asks for creds and uses them as an agent does, whatever fails.
func (m *mount) liveOn(worker int) {
	ctx, cancel := context.Background(), context.CancelFunc(func() {})
	if worker%8 == 0 { // some have no patience
		ctx, cancel = context.WithTimeout(ctx, time.Duration(rand.IntN(20))*time.Millisecond)
	}
	defer cancel()
	l, err := m.credsBy(call{entity: []string{alice, bob, ""}[worker%3], ctx: ctx})
	if err != nil {
		return
	}
	if worker%2 == 0 {
		_, _ = m.renew(l, time.Hour)
	}
	if worker%4 != 3 {
		_ = m.revokeWith(ctx, l)
		_ = m.revoke(l)
	}
}

func TestManyAtOnceThroughAStorm(t *testing.T) {
	m := newMount(t, patient)
	m.storm()
	together(func(worker int) {
		for range rounds {
			m.liveOn(worker)
			if worker == 1 {
				_, _ = m.write("sweep", nil)
				assert.NoError(t, m.periodic(), "what a sweep cannot do is the log's")
			}
		}
	})
	require.Positive(t, m.server.Counts().Minted, "it was no storm that nothing got through")
}

func TestManyAtOnceWhileOperatorsWork(t *testing.T) {
	m := newMount(t, patient)
	m.storm()
	m.storage.on(nil)
	together(func(worker int) {
		for range rounds {
			switch worker {
			case 0:
				_, _ = m.write("providers/oauth2/p", map[string]any{"timeout": 59})
			case 1:
				_, _ = m.write("providers/oauth2/p", map[string]any{"client_secret": parentSecret})
			case 2:
				_, _ = m.write("roles/r", map[string]any{"scopes": "read,write"})
			case 3:
				_, _ = m.write("revoke/entity/"+alice, nil)
			case 4:
				_, _ = m.write("revoke/role/r", map[string]any{"freeze": true})
				_, _ = m.write("revoke/role/r", map[string]any{"freeze": false})
			case 5:
				_, _ = m.write("sweep", nil)
			case 6:
				_, _ = m.list("grants", nil)
				_, _ = m.read("metrics")
			case 7:
				_, _ = m.write("providers/oauth2/p", map[string]any{"disabled": true})
				_, _ = m.write("providers/oauth2/p", map[string]any{"disabled": false})
			case 8:
				_, _ = m.write("providers/oauth2/p/check", nil)
			case 9: // would be another account: refused while anything lives or is being minted
				_, _ = m.write("providers/oauth2/p", map[string]any{"client_id": "other", "client_secret": parentSecret})
				_, _ = m.write("providers/oauth2/p", map[string]any{"client_id": parentClient, "client_secret": parentSecret})
			case 10:
				m.b.InvalidateKey(context.Background(), "provider/oauth2/p")
				m.b.InvalidateKey(context.Background(), "frozen")
				m.b.InvalidateKey(context.Background(), freezeKey("role/r"))
			default:
				m.liveOn(worker)
			}
		}
	})
	_, err := m.write("providers/oauth2/p", map[string]any{"disabled": false})
	require.NoError(t, err)
	require.Positive(t, m.server.Counts().Minted, "somebody got something meanwhile")
}

func TestManyAtOnceWhileTheProviderIsDeletedAndWritten(t *testing.T) {
	m := newMount(t, patient)
	m.server.Break(authserver.EndpointRevoke, authserver.Choose(func() authserver.Fault {
		if rand.IntN(4) == 0 {
			return authserver.Answer(500, "text/plain", "")
		}
		return nil
	}))
	together(func(worker int) {
		for range rounds {
			switch worker {
			case 0:
				_, _ = m.delete("providers/oauth2/p", map[string]any{"force": true})
			case 1:
				_, _ = m.write("providers/oauth2/p", m.providerFields(map[string]any{"disabled": false, "timeout": 60}))
			case 2:
				_, _ = m.delete("providers/oauth2/p", nil)
			case 3:
				_, _ = m.write("sweep", nil)
			default:
				m.liveOn(worker)
			}
		}
	})
	m.waitForKills()
	m.must(m.write("providers/oauth2/p", m.providerFields(map[string]any{"disabled": false, "timeout": 60})))
	m.mustCreds(nil)
}

func TestRefreshesOfOneParentStandInAQueue(t *testing.T) {
	m := newEmptyMount(t, setup{server: authserver.Options{RotateRefresh: true}})
	parent := m.server.IssueRefreshToken(parentClient)
	m.must(m.write("providers/oauth2/p", m.providerFields(map[string]any{"grant": "refresh_token", "refresh_token": parent, "revocation": "token", "timeout": 20})))
	m.must(m.write("roles/r", map[string]any{"provider": "oauth2/p", "scopes": "read"}))
	together(func(int) {
		l, err := m.creds(nil)
		if assert.NoError(t, err, "a rotated token that is used twice ends its family") {
			assert.NoError(t, m.revoke(l))
		}
	})
	require.Equal(t, workers, m.server.Counts().Minted)
}

func TestQuotasHoldUnderPressure(t *testing.T) {
	m := newMount(t, setup{provider: patient.provider, role: map[string]any{"max_grants_per_entity": 5}})
	var got atomic.Int64
	together(func(int) {
		_, err := m.credsBy(call{entity: alice})
		if err == nil {
			got.Add(1)
			return
		}
		requireCode(t, err, "slow_down")
	})
	require.EqualValues(t, 5, got.Load())
	require.Len(t, m.server.Live(), 5)
}

func TestAFreezeStopsTheMintInFlight(t *testing.T) {
	m := newMount(t, patient)
	start := make(chan struct{})
	var frozen atomic.Bool
	go func() {
		<-start
		_, err := m.write("revoke/role/r", map[string]any{"freeze": true})
		if err == nil {
			frozen.Store(true)
		}
	}()
	together(func(worker int) {
		if worker == 20 {
			close(start)
		}
		after := frozen.Load()
		_, err := m.creds(nil)
		assert.False(t, after && err == nil, "granted after the freeze had been answered")
	})
	require.Eventually(t, frozen.Load, promptly, time.Millisecond)
	m.waitForKills()
	require.Empty(t, m.server.Live(), "the freeze's kill finds the grant, or the issue finds the freeze")
	require.Equal(t, []string{"role/r"}, m.keys("frozen", nil))
	_, err := m.do(call{op: logical.UpdateOperation, path: "revoke/role/r", data: map[string]any{"freeze": false}})
	require.NoError(t, err)
	m.mustCreds(nil)
}
