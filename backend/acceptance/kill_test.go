package acceptance

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
)

// The kill switch: what is revoked is dead at the provider, what is frozen stays
// dead, and what could not be killed is said to live.

// requireTally compares the four counts; residual is in seconds, give or take a
// minute.
func requireTally(t *testing.T, secret *api.Secret, revoked, pending, expiryOnly int, residual float64) {
	t.Helper()
	counts := fmt.Sprint(secret.Data["revoked"], " ", secret.Data["pending"], " ", secret.Data["expiry_only"])
	require.Equal(t, fmt.Sprint(revoked, " ", pending, " ", expiryOnly), counts, "revoked, pending, expiry_only")
	if residual == 0 {
		require.Equal(t, "0", fmt.Sprint(secret.Data["residual_exposure_seconds"]))
		return
	}
	require.InDelta(t, residual, number(t, secret, "residual_exposure_seconds"), 60)
}

func number(t *testing.T, secret *api.Secret, name string) float64 {
	t.Helper()
	var value float64
	_, err := fmt.Sscan(fmt.Sprint(secret.Data[name]), &value)
	require.NoError(t, err, "%s: %v", name, secret.Data[name])
	return value
}

// addOP adds the OpenID Provider to a scene, and the role service.
func (s *scene) addOP(t *testing.T) *harness.OP {
	t.Helper()
	op := sharedOP(t)
	s.Write(t, "providers/oauth2/op", harness.Fields{
		"issuer": op.URL, "client_id": harness.OPService.ID, "client_secret": harness.OPService.Secret,
	})
	s.Write(t, "roles/service", harness.Fields{"provider": "oauth2/op", "scopes": "openid", "ttl": "4m"})
	return op
}

func TestRevokeKillsWhatIsNamedAndNothingElse(t *testing.T) {
	t.Parallel()
	s := newScene(t, harness.HydraClient{}, nil)
	op := s.addOP(t)
	s.role(t, "deploy", nil)
	s.role(t, "audit", nil)
	agents := map[string]*harness.Session{}
	for _, name := range []string{"ann", "bob"} {
		agents[name] = s.agent(t, harness.Agent{Name: name})
	}
	alive := func(role, token string) bool {
		if role == "service" {
			return op.Introspect(t, harness.OPService, token).Active
		}
		return s.hydra.Introspect(t, token).Active
	}
	for _, kill := range []struct {
		what string
		path func(held map[string]child) string
		dead []string
		// The OpenID Provider's tokens are signed, and live for five minutes.
		residual float64
	}{
		{"a grant", func(held map[string]child) string { return "revoke/grant/" + held["ann deploy"].GrantID }, []string{"ann deploy"}, 0},
		{"an entity", func(map[string]child) string { return "revoke/entity/" + agents["ann"].EntityID }, []string{"ann audit", "ann deploy", "ann service"}, 300},
		{"a role", func(map[string]child) string { return "revoke/role/deploy" }, []string{"ann deploy", "bob deploy"}, 0},
		{"a provider", func(map[string]child) string { return "revoke/provider/oauth2/op" }, []string{"ann service", "bob service"}, 300},
	} {
		t.Run(kill.what, func(t *testing.T) {
			held := map[string]child{}
			for name, agent := range agents {
				for _, role := range []string{"deploy", "audit", "service"} {
					held[name+" "+role] = read(t, s.As(agent), role)
				}
			}
			path := kill.path(held)
			requireTally(t, s.Write(t, path, nil), len(kill.dead), 0, 0, kill.residual)
			for who, c := range held {
				var name, role string
				_, _ = fmt.Sscan(who, &name, &role)
				dead := slices.Contains(kill.dead, who)
				require.Equal(t, !dead, alive(role, c.Token), who)
				require.Equal(t, dead, s.Read(t, "grants/"+c.GrantID) == nil, who)
			}
			// A second time finds nothing; the leases of the dead end without ado.
			requireTally(t, s.Write(t, path, nil), 0, 0, 0, 0)
			for _, who := range kill.dead {
				require.NoError(t, endLease(t, s.vault.Session, held[who].LeaseID))
			}
			for _, provider := range []string{"hydra", "op"} {
				s.Write(t, "revoke/provider/oauth2/"+provider, nil)
			}
		})
	}
}

func TestKillSaysWhatLivesOnAndForHowLong(t *testing.T) {
	t.Parallel()
	t.Run("a provider that does not answer", func(t *testing.T) {
		t.Parallel()
		s, w := severable(t)
		c := read(t, s.Mount, "deploy")
		w.Cut()
		for _, path := range []string{"revoke/grant/" + c.GrantID, "revoke/role/deploy"} {
			killed := s.Write(t, path, nil)
			requireTally(t, killed, 0, 1, 0, 3600)
			require.NotEmpty(t, killed.Warnings)
		}
		w.Mend()
		requireTally(t, s.Write(t, "revoke/role/deploy", nil), 1, 0, 0, 0)
		s.hydra.MustBeInactive(t, c.Token)
	})
	t.Run("a token that nothing can kill", func(t *testing.T) {
		t.Parallel()
		s := newScene(t, harness.HydraClient{}, harness.Fields{"revocation": "expiry"})
		s.role(t, "deploy", nil)
		c := read(t, s.Mount, "deploy")
		requireTally(t, s.Write(t, "revoke/role/deploy", nil), 0, 0, 1, 3600)
		s.hydra.MustBeActive(t, c.Token)
		require.NotNil(t, s.Read(t, "grants/"+c.GrantID), "it lives, so it is listed")
	})
	t.Run("a token that is verified offline", func(t *testing.T) {
		t.Parallel()
		s := newScene(t, harness.HydraClient{JWT: true}, harness.Fields{"verify": "jwt"})
		s.role(t, "deploy", nil)
		c := read(t, s.Mount, "deploy")
		require.Equal(t, true, c.Data["self_contained"])
		requireTally(t, s.Write(t, "revoke/role/deploy", nil), 1, 0, 0, 3600)
		s.hydra.MustBeInactive(t, c.Token)
	})
}

const (
	manyTokens = 1000
	// killWithin is how long it may take on a machine that has nothing else to do. On
	// another it may take as long as it took to get the tokens.
	killWithin  = 10 * time.Second
	manyWorkers = 16
)

// It is not parallel, because it measures.
func TestAThousandTokensOfOneEntityDieWithinTenSeconds(t *testing.T) {
	needsServers(t)
	s := sceneOn(t, harness.StartVault(t, harness.VaultOptions{}), sharedHydra(t), harness.HydraClient{}, harness.Fields{"verify": "response", "timeout": slowTimeout})
	op := s.addOP(t)
	s.role(t, "deploy", nil)
	agent, bystander := s.agent(t, harness.Agent{Name: "victim"}), s.agent(t, harness.Agent{Name: "bystander"})
	spared := []child{read(t, s.As(bystander), "deploy"), read(t, s.As(bystander), "service")}

	began := time.Now()
	tokens := make([]string, manyTokens)
	each(t, manyTokens, func(i int) error {
		secret, err := s.As(agent).TryRead(t, "creds/"+[]string{"deploy", "service"}[i%2])
		if err == nil {
			tokens[i] = text(secret, "access_token")
		}
		return err
	})
	issuedIn := time.Since(began)
	introspect := func(i int) bool {
		if i%2 == 1 {
			return op.Introspect(t, harness.OPService, tokens[i]).Active
		}
		return s.hydra.Introspect(t, tokens[i]).Active
	}
	count := func() int {
		active := make([]bool, manyTokens)
		each(t, manyTokens, func(i int) error {
			active[i] = introspect(i)
			return nil
		})
		return len(slices.DeleteFunc(active, func(a bool) bool { return !a }))
	}
	require.Equal(t, manyTokens, count(), "all live")

	started := time.Now()
	killed := s.Write(t, "revoke/entity/"+agent.EntityID, nil)
	took := time.Since(started)
	requireTally(t, killed, manyTokens, 0, 0, 300)
	require.Zero(t, count(), "tokens live at the servers")
	t.Logf("%d tokens of one entity over two providers dead %s after revoke/entity began, issued in %s", manyTokens, took.Round(time.Millisecond), issuedIn.Round(time.Millisecond))
	require.Less(t, took, max(killWithin, issuedIn))
	s.hydra.MustBeActive(t, spared[0].Token)
	op.MustBeActive(t, harness.OPService, spared[1].Token)
	require.Len(t, s.List(t, "grants"), len(spared))
}

// each does n things, a few at a time; all must succeed.
func each(t *testing.T, n int, do func(i int) error) {
	t.Helper()
	var group errgroup.Group
	group.SetLimit(manyWorkers)
	for i := range n {
		group.Go(func() error { return do(i) })
	}
	require.NoError(t, group.Wait())
}

// held is a mint whose answer is on its way and does not arrive before release.
type held struct {
	token   string     // as the server minted it
	release func()     // lets the answer arrive
	result  chan error // what the client is told
}

// holdMint asks for a token of the role, and returns when Hydra has minted it.
func holdMint(t *testing.T, s *scene, w *wire, as *harness.Session, role string) *held {
	t.Helper()
	h := &held{result: make(chan error, 1)}
	minted, released := make(chan string, 1), make(chan struct{})
	var once sync.Once
	h.release = func() { once.Do(func() { close(released) }) }
	t.Cleanup(h.release)
	w.Tamper(func(path string, body []byte) []byte {
		if path == "/oauth2/token" {
			minted <- text(decoded(t, body), "access_token")
			<-released
		}
		return body
	})
	go func() {
		_, err := s.As(as).TryRead(t, "creds/"+role)
		h.result <- err
	}()
	select {
	case h.token = <-minted:
	case <-time.After(patience):
		t.Fatal("nothing was minted")
	}
	w.Tamper(nil)
	s.hydra.MustBeActive(t, h.token)
	return h
}

func TestFreezeStopsAlsoTheMintInFlight(t *testing.T) {
	t.Parallel()
	for kind, path := range map[string]func(s *scene, agent *harness.Session) string{
		"entity":   func(_ *scene, agent *harness.Session) string { return "entity/" + agent.EntityID },
		"role":     func(*scene, *harness.Session) string { return "role/deploy" },
		"provider": func(*scene, *harness.Session) string { return "provider/oauth2/hydra" },
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			s, w := severable(t)
			s.Write(t, "providers/oauth2/spare", s.provider(nil))
			s.role(t, "spare", harness.Fields{"provider": "oauth2/spare"})
			agent, other := s.agent(t, harness.Agent{Name: "frozen"}), s.agent(t, harness.Agent{Name: "other"})
			what := path(s, agent)
			before, spared := read(t, s.As(agent), "deploy"), read(t, s.As(other), "spare")
			mint := holdMint(t, s, w, agent, "deploy")

			requireTally(t, s.Write(t, "revoke/"+what, harness.Fields{"freeze": true}), 1, 0, 0, 0)
			s.hydra.MustBeInactive(t, before.Token)
			_, err := s.As(agent).TryRead(t, "creds/deploy")
			refused(t, err, 403, "access_denied", "frozen")

			mint.release()
			s.requireNotHandedOut(t, <-mint.result, mint.token)
			require.Equal(t, []string{spared.GrantID}, s.List(t, "grants"))

			about := keyInfo(t, s.Mount, "frozen", what)
			since, err := time.Parse(time.RFC3339, fmt.Sprint(about["since"]))
			require.NoError(t, err)
			require.WithinDuration(t, time.Now(), since, time.Minute)
			require.Equal(t, "token", about["by"], "root has no entity")

			// Asked to kill only, the broker leaves it frozen. Others are not.
			s.Write(t, "revoke/"+what, nil)
			require.Equal(t, []string{what}, s.List(t, "frozen"))
			later := read(t, s.As(other), "spare")

			requireTally(t, s.Write(t, "revoke/"+what, harness.Fields{"freeze": false}), 0, 0, 0, 0)
			require.Empty(t, s.List(t, "frozen"))
			s.hydra.MustBeActive(t, read(t, s.As(agent), "deploy").Token)
			s.hydra.MustBeActive(t, spared.Token)
			s.hydra.MustBeActive(t, later.Token)
		})
	}
}

// requireNotHandedOut is for a mint in flight that a freeze has stopped: its token is dead, or
// where the busy server did not say so at once, in the outbox, and dead with the next sweep.
func (s *scene) requireNotHandedOut(t *testing.T, refusal error, token string) {
	t.Helper()
	refused(t, refusal, 403, "access_denied", "frozen")
	if strings.Contains(refusal.Error(), "being retried") {
		t.Log(refusal)
		s.Write(t, "sweep", nil)
	}
	s.hydra.MustBeInactive(t, token)
}

// Whoever freezes, kills and thaws in one go must not miss what was being minted.
func TestMintInFlightDoesNotSurviveAFreezeThatIsOver(t *testing.T) {
	t.Parallel()
	s, w := severable(t)
	agent := s.agent(t, harness.Agent{Name: "frozen"})
	mint := holdMint(t, s, w, agent, "deploy")
	s.Write(t, "revoke/entity/"+agent.EntityID, harness.Fields{"freeze": true})
	s.Write(t, "revoke/entity/"+agent.EntityID, harness.Fields{"freeze": false})
	mint.release()
	s.requireNotHandedOut(t, <-mint.result, mint.token)
	require.Empty(t, s.List(t, "grants"))
	s.hydra.MustBeActive(t, read(t, s.As(agent), "deploy").Token)
}

// The order of a kill is durable before the first token dies.
func TestKillOfManyGoesOnAfterACrash(t *testing.T) {
	t.Parallel()
	needsServers(t)
	vault := harness.StartVault(t, harness.VaultOptions{Storage: harness.File})
	w := newWire(t, sharedHydra(t).URL)
	s := sceneOn(t, vault, sharedHydra(t), harness.HydraClient{}, with(w.through(), harness.Fields{"timeout": slowTimeout}))
	s.role(t, "deploy", nil)
	const n = 60
	tokens := make([]string, n)
	each(t, n, func(i int) error {
		secret, err := s.TryRead(t, "creds/deploy")
		if err == nil {
			tokens[i] = text(secret, "access_token")
		}
		return err
	})
	revoking, released := make(chan struct{}, n), make(chan struct{})
	w.Tamper(func(path string, body []byte) []byte {
		if path == "/oauth2/revoke" {
			revoking <- struct{}{}
			<-released
		}
		return body
	})
	answered := make(chan error, 1)
	go func() {
		_, err := s.TryWrite(t, "revoke/role/deploy", nil)
		answered <- err
	}()
	for range 5 { // the kill is under way
		select {
		case <-revoking:
		case <-time.After(patience):
			t.Fatal("nothing is being revoked")
		}
	}
	vault.KillPlugin(t)
	w.Tamper(nil)
	close(released)
	<-answered // Vault may have asked the new plugin once more

	harness.Eventually(t, patience, "every token of the role is dead", func() error {
		if _, err := s.TryWrite(t, "sweep", nil); err != nil {
			return err // Vault is still busy with starting the plugin
		}
		living := maps.Collect(slices.All(tokens))
		maps.DeleteFunc(living, func(_ int, token string) bool { return !s.hydra.Introspect(t, token).Active })
		if len(living) > 0 {
			return fmt.Errorf("%d live", len(living))
		}
		return nil
	})
	harness.Eventually(t, patience, "the ledger is empty", func() error {
		if left := s.List(t, "grants"); len(left) > 0 {
			return fmt.Errorf("%d are left", len(left))
		}
		return nil
	})
}

// A provider's rate limit makes a kill long; it goes on after the answer.
func TestLargeKillGoesOnAfterItsAnswer(t *testing.T) {
	t.Parallel()
	s, w := severable(t)
	const n, perSecond = 90, 3
	tokens := make([]string, n)
	each(t, n, func(i int) error {
		secret, err := s.TryRead(t, "creds/deploy")
		if err == nil {
			tokens[i] = text(secret, "access_token")
		}
		return err
	})
	s.Write(t, "providers/oauth2/hydra", harness.Fields{"rate_limit": perSecond})
	started := time.Now()
	killed := s.Write(t, "revoke/role/deploy", nil)
	took := time.Since(started)
	require.Less(t, took, time.Minute)
	revoked, pending := number(t, killed, "revoked"), number(t, killed, "pending")
	require.Positive(t, revoked)
	require.Positive(t, pending)
	require.Equal(t, float64(n), revoked+pending, "so far")
	require.Contains(t, fmt.Sprint(killed.Warnings), "goes on")
	require.LessOrEqual(t, float64(w.Requests(revocation)), perSecond*(time.Since(started).Seconds()+2), "the rate limit holds")
	harness.Eventually(t, patience, "the kill is complete", func() error {
		if left := len(s.List(t, "grants")); left > 0 {
			return fmt.Errorf("%d grants are left", left)
		}
		return nil
	})
	require.Greater(t, time.Since(started), (n/perSecond-2)*time.Second, "the rate limit holds")
	for _, token := range tokens {
		s.hydra.MustBeInactive(t, token)
	}
}
