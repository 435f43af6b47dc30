package acceptance

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
)

const (
	crowdSize = 2000
	atOnce    = 256 // calls that a provider gets at the same time
	// Most of it is what the plugin protocol holds of 2,000 requests at once, whatever
	// becomes of them, about 45 KiB each.
	crowdMemory    = 160 << 20
	quickGrants    = 100
	spareGrants    = 20
	callsWhileDown = 500
	seenWhileDown  = 10
	slowedTimes    = 10
	// silentFor is how long a provider is waited for that says nothing.
	silentFor = 10 * time.Second
)

// front stands before an authorization server and keeps those waiting who ask it for a
// token, for as long as it is told to. It counts them.
type front struct {
	URL  string
	seen atomic.Int64

	held atomic.Pointer[chan struct{}] // closed when they wait no longer
}

// hold keeps everybody waiting until release.
func (f *front) hold() (release func()) {
	until := make(chan struct{})
	f.held.Store(&until)
	return sync.OnceFunc(func() {
		f.held.Store(nil)
		close(until)
	})
}

func newFront(t *testing.T, target string) *front {
	t.Helper()
	server, err := url.Parse(target)
	require.NoError(t, err)
	proxy := httputil.NewSingleHostReverseProxy(server)
	proxy.ErrorLog = silent
	f := &front{}
	near := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			f.seen.Add(1)
			if until := f.held.Load(); until != nil {
				select {
				case <-*until:
				case <-r.Context().Done():
					return
				}
			}
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(near.Close)
	f.URL = near.URL
	return f
}

// crowded is a mount with two providers: slow behind a front, and quick.
type crowded struct {
	*harness.Mount
	vault *harness.Vault
	front *front
	api   *api.Client
}

func newCrowded(t *testing.T) *crowded {
	t.Helper()
	needsServers(t)
	auth := harness.StartFastAuth(t)
	c := &crowded{vault: harness.StartVault(t, harness.VaultOptions{}), front: newFront(t, auth.URL)}
	c.Mount, c.api = c.vault.Enable(t, ""), c.vault.Client(t)
	for name, at := range map[string]string{"slow": c.front.URL, "quick": auth.URL} {
		c.Write(t, "providers/oauth2/"+name, harness.Fields{
			"token_url": at + "/token", "revocation_url": at + "/revoke",
			"client_id": harness.FastAuthClient.ID, "client_secret": harness.FastAuthClient.Secret,
		})
		c.Write(t, "roles/"+name, harness.Fields{"provider": "oauth2/" + name, "scopes": "read", "ttl": "1h"})
	}
	return c
}

// answer is what one caller got.
type answer struct {
	lease string
	err   error
	took  time.Duration
}

func (c *crowded) ask(role string) answer {
	began := time.Now()
	secret, err := c.api.Logical().Read(c.At("creds/" + role))
	a := answer{err: err, took: time.Since(began)}
	if err == nil {
		a.lease = secret.LeaseID
	}
	return a
}

// askAll lets n callers ask at once, and returns what they got when all have it.
func (c *crowded) askAll(role string, n int) (answers func() []answer) {
	all := make([]answer, n)
	var callers sync.WaitGroup
	for i := range all {
		callers.Go(func() { all[i] = c.ask(role) })
	}
	return func() []answer {
		callers.Wait()
		return all
	}
}

// gauge reads one metric of the slow provider.
func (c *crowded) gauge(t *testing.T, name string) float64 {
	t.Helper()
	return scrape(t, &scene{Mount: c.Mount, vault: c.vault}).value(name, "provider", "oauth2/slow")
}

func medianOf(t *testing.T, answers []answer) time.Duration {
	t.Helper()
	var took []time.Duration
	for _, a := range answers {
		require.NoError(t, a.err, "a grant of the provider that is well")
		took = append(took, a.took)
	}
	slices.Sort(took)
	return took[len(took)/2]
}

// What a provider that is slow, and then silent, does to 2,000 clients, to the other
// provider, to revocations and to the plugin's memory. It is not parallel: what it
// measures is this load and nothing else.
func TestASlowOrSilentProviderBringsNobodyDown(t *testing.T) {
	c := newCrowded(t)
	var leases []string
	for range spareGrants {
		a := c.ask("slow")
		require.NoError(t, a.err)
		leases = append(leases, a.lease)
	}
	c.slow(t, leases[1:])
	c.silent(t, leases[0])
	peak := c.vault.PluginPeakMemory(t)
	t.Logf("the plugin's peak memory is %.1f MiB", mib(peak))
	require.Less(t, peak, uint64(crowdMemory))
}

func (c *crowded) slow(t *testing.T, leases []string) {
	var before, during []answer
	for range quickGrants {
		before = append(before, c.ask("quick"))
	}
	c.Write(t, "providers/oauth2/slow", harness.Fields{"timeout": slowTimeout})
	release := c.front.hold()
	defer release()
	crowd := c.askAll("slow", crowdSize)
	harness.Eventually(t, patience, "500 mints wait", func() error {
		return atLeast(c.gauge(t, "broker_mints_waiting"), 500)
	})
	ended := c.endAll(leases)
	for range quickGrants {
		during = append(during, c.ask("quick"))
	}
	for _, err := range ended() {
		require.NoError(t, err, "a revocation while mints queue")
	}
	release()
	issued := 0
	for _, a := range crowd() {
		if a.err == nil {
			issued++
			continue
		}
		refused(t, a.err, http.StatusServiceUnavailable, "temporarily_unavailable")
	}
	alone, crowdedIn := medianOf(t, before), medianOf(t, during)
	t.Logf("%d clients at a provider that keeps them waiting: %d got a token, the others were told to try again; %d grants of the other provider meanwhile, median %s (%s before)",
		crowdSize, issued, len(during), crowdedIn, alone)
	require.GreaterOrEqual(t, issued, atOnce, "as many as may call at once")
	require.Less(t, crowdedIn, slowedTimes*alone)
}

func atLeast(have, want float64) error {
	if have < want {
		return fmt.Errorf("only %v", have)
	}
	return nil
}

// endAll revokes leases at once, and returns the errors when it is done.
func (c *crowded) endAll(leases []string) (errs func() []error) {
	all := make([]error, len(leases))
	var ends sync.WaitGroup
	for i, lease := range leases {
		ends.Go(func() {
			_, all[i] = c.api.Logical().Write("sys/leases/revoke", harness.Fields{"lease_id": lease, "sync": true})
		})
	}
	return func() []error {
		ends.Wait()
		return all
	}
}

func (c *crowded) silent(t *testing.T, lease string) {
	c.Write(t, "providers/oauth2/slow", harness.Fields{"timeout": silentFor.String()})
	release := c.front.hold()
	defer release()
	const callers = atOnce + 50
	before, longest := c.front.seen.Load(), time.Duration(0)
	for _, a := range c.askAll("slow", callers)() {
		refused(t, a.err, http.StatusServiceUnavailable, "temporarily_unavailable")
		longest = max(longest, a.took)
	}
	seen := c.front.seen.Load()
	for range callsWhileDown {
		refused(t, c.ask("slow").err, http.StatusServiceUnavailable, "temporarily_unavailable")
	}
	more := c.front.seen.Load() - seen
	t.Logf("a silent provider: %d callers answered within %s (its timeout is %s), and of %d calls after that it saw %d", callers, longest, silentFor, callsWhileDown, more)
	// Who waited for a place does not then wait for the provider as well.
	require.LessOrEqual(t, seen-before, int64(atOnce))
	require.LessOrEqual(t, more, int64(seenWhileDown))
	require.EqualValues(t, 1, c.gauge(t, "broker_breaker_open"))
	require.Equal(t, "unreachable", keyInfo(t, c.Mount, "providers", "oauth2/slow")["health"])
	for _, err := range c.endAll([]string{lease})() {
		require.NoError(t, err, "a revocation while mints are refused")
	}
	release()
	c.Write(t, "providers/oauth2/slow/check", nil)
	require.NoError(t, c.ask("slow").err, "a check that succeeds ends the wait")
}
