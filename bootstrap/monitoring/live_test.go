package monitoring

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/promql/parser"
	"github.com/stretchr/testify/require"

	gitlab "github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/gitlab/fake"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/transmitter"
)

// patience is longer than the minute for which a token that has expired is still on record.
const patience = 3 * time.Minute

// seldom are the queries of the dashboard that show nothing on a mount that has lived
// through life, by the fault that makes them show something.
var seldom = map[string]string{
	`broker_rotation_overdue_seconds{mount=~"$mount",provider=~"$provider"} > 0`: "a parent credential that should have been rotated on schedule, which is an hour at the least",
}

// mount is a live one that is scraped, a minute of Prometheus' time apart.
type mount struct {
	*harness.Mount
	t     *testing.T
	vault *harness.Vault
	store *Store
	at    time.Time
}

func newMount(t *testing.T) *mount {
	t.Helper()
	for variable, program := range map[string]string{"BROKER_PLUGIN": harness.PluginName, "VAULT": "vault"} {
		if os.Getenv(variable) == "" { // the harness looks in its own module
			path, err := filepath.Abs(filepath.Join("../../bin", program))
			require.NoError(t, err)
			t.Setenv(variable, path)
		}
	}
	vault := harness.StartVault(t, harness.VaultOptions{})
	store, err := OpenStore(t.TempDir(), "instance", strings.TrimPrefix(vault.Addr, "http://"), "mount", "broker")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	return &mount{Mount: vault.Enable(t, "broker"), t: t, vault: vault, store: store, at: time.Now()}
}

// read is a scrape as docs/monitoring.md configures it.
func (m *mount) read() []byte {
	m.t.Helper()
	req, err := http.NewRequestWithContext(m.t.Context(), http.MethodGet, m.vault.Addr+"/v1/broker/metrics", nil)
	require.NoError(m.t, err)
	req.Header.Set("Authorization", "Bearer "+m.vault.Token)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(m.t, err)
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	require.NoError(m.t, err)
	require.Equal(m.t, http.StatusOK, resp.StatusCode, string(text))
	return text
}

func (m *mount) scrape() {
	m.t.Helper()
	m.at = m.at.Add(time.Minute)
	require.NoError(m.t, m.store.Append(m.t.Context(), m.at, m.read()))
}

// until waits for a series to be there.
func (m *mount) until(series string, then ...func()) {
	m.t.Helper()
	m.eventually("there is "+series, func() error {
		for _, do := range then {
			do()
		}
		if !strings.Contains(string(m.read()), "\n"+series+"{") {
			return errors.New("there is none")
		}
		return nil
	})
}

// fails is a read of creds that is refused with the code.
func (m *mount) fails(as *harness.Session, code, role string, fields harness.Fields) {
	m.t.Helper()
	_, err := m.As(as).TryWrite(m.t, "creds/"+role, fields)
	got, _ := harness.SaidBy(err)
	require.Equal(m.t, code, got, "%s: %v", role, err)
}

func (m *mount) eventually(what string, is func() error) {
	m.t.Helper()
	harness.Eventually(m.t, patience, what, is)
}

// TestNoAlertOnAMountThatWasJustMade: the page says so.
func TestNoAlertOnAMountThatWasJustMade(t *testing.T) {
	m := newMount(t)
	server := authserver.New(t, authserver.Options{}, authserver.Client{ID: "broker", Secrets: []string{"secret-of-the-broker"}, Scopes: []string{"read"}})
	m.scrape()
	m.Write(t, "providers/oauth2/acme", harness.Fields{"issuer": server.URL, "client_id": "broker", "client_secret": "secret-of-the-broker"})
	m.Write(t, "sweep", nil)
	m.scrape()
	file, err := ReadRules(alertsFile)
	require.NoError(t, err)
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			found, err := m.store.At(t.Context(), r.Expr, m.at)
			require.NoError(t, err)
			require.Empty(t, found, r.Alert)
		}
	}
}

// TestEveryQueryFindsWhatItAsksFor on a mount to which everything has happened: each
// query is evaluated, each of its series exists, and each panel shows something.
func TestEveryQueryFindsWhatItAsksFor(t *testing.T) {
	m := newMount(t)
	m.live()
	file, err := ReadRules(alertsFile)
	require.NoError(t, err)
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			_, err := m.store.At(t.Context(), r.Expr, m.at)
			require.NoError(t, err)
			m.selects(r.Alert, r.Expr)
		}
	}
	d, err := ReadDashboard(dashboardFile)
	require.NoError(t, err)
	asked := map[string]bool{}
	for _, p := range d.Panels {
		for _, q := range p.Targets {
			asked[q.Expr] = true
			query := q.Query(5 * time.Minute)
			require.NotContains(t, query, "$")
			m.selects(p.Title, query)
			found, err := m.store.At(t.Context(), query, m.at)
			require.NoError(t, err)
			over, err := m.store.Over(t.Context(), query, m.at.Add(-5*time.Minute), m.at, time.Minute)
			require.NoError(t, err)
			if seldom[q.Expr] != "" {
				require.Empty(t, found, "it is not so seldom: %s", query)
				continue
			}
			require.NotEmpty(t, found, "%s shows nothing: %s", p.Title, query)
			require.NotEmpty(t, over, "%s shows nothing: %s", p.Title, query)
		}
	}
	for query := range seldom {
		require.True(t, asked[query], "nothing asks for %s", query)
	}
}

// selects wants each selector in a query to find a series by itself.
func (m *mount) selects(where, query string) {
	m.t.Helper()
	expr, err := NewParser().ParseExpr(query)
	require.NoError(m.t, err)
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		s, ok := node.(*parser.VectorSelector)
		if !ok {
			return nil
		}
		alone := *s
		alone.OriginalOffset, alone.Offset = 0, 0
		found, err := m.store.At(m.t.Context(), alone.String(), m.at)
		require.NoError(m.t, err)
		require.NotEmpty(m.t, found, "%s: no series is %s", where, alone.String())
		return nil
	})
}

// live lets everything happen to the mount that is not seldom, and scrapes meanwhile.
func (m *mount) live() {
	t := m.t
	secret := "secret-of-the-broker"
	server := authserver.New(t, authserver.Options{}, authserver.Client{ID: "broker", Secrets: []string{secret}, Scopes: []string{"read", "write"}})
	other := authserver.New(t, authserver.Options{}, authserver.Client{ID: "broker", Secrets: []string{secret}, Scopes: []string{"read"}})
	events := transmitter.New(t, transmitter.Options{Tokens: []string{"the-token-of-the-stream"}, Hold: time.Second})
	m.configure(server, other, events, secret)
	agent := m.vault.Login(t, harness.Agent{Name: "agent", Policy: `path "broker/creds/*" { capabilities = ["read", "update"] }`})
	as := m.As(agent)
	m.scrape()

	user := func(sub string) string {
		return server.SignClaims("JWT", map[string]any{"iss": server.URL, "sub": sub, "aud": "vault", "iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix()})
	}
	// People get tokens, and some do not.
	held := as.Read(t, "creds/deploy")
	as.Read(t, "creds/shared")
	as.Read(t, "creds/shared")
	as.Read(t, "creds/brief")
	as.Read(t, "creds/signed")
	as.Write(t, "creds/behalf", harness.Fields{"subject_token": user("user-1")})
	m.fails(agent, "invalid_scope", "deploy", harness.Fields{"scopes": "admin"})
	m.fails(agent, "access_denied", "others", nil)
	m.fails(agent, "invalid_grant", "behalf", harness.Fields{"subject_token": server.SignClaims("JWT", map[string]any{"iss": server.URL, "sub": "u", "aud": "another", "exp": time.Now().Add(time.Hour).Unix()})})
	as.Read(t, "creds/rare")
	m.fails(agent, "slow_down", "rare", nil)
	// The transmitter speaks, and fails.
	events.Send(transmitter.SessionRevoked(transmitter.IssSub(server.URL, "user-1")))
	events.Send(transmitter.SessionRevoked(transmitter.IssSub("https://strangers.test", "user-1")))
	m.eventually("the events are heard", func() error {
		if n := len(events.Pending()); n > 0 {
			return fmt.Errorf("%d are pending", n)
		}
		return nil
	})
	events.Break(transmitter.Answer(http.StatusServiceUnavailable, "text/plain", "later"))
	m.scrape()

	// The provider answers too much, nothing, and refuses kills.
	server.Break(authserver.EndpointToken, authserver.Set("scope", "read write admin"))
	m.fails(agent, "provider_violation", "deploy", nil)
	server.Break(authserver.EndpointRevoke, authserver.Answer(http.StatusInternalServerError, "text/plain", "no"))
	require.Error(t, m.vault.Client(t).Sys().Revoke(held.LeaseID))
	server.Break(authserver.EndpointRevoke, nil)
	server.Break(authserver.EndpointToken, authserver.Hangup())
	for range 8 { // until it is spared
		m.fails(agent, "temporarily_unavailable", "deploy", nil)
	}
	m.scrape()
	m.eventually("the outage is over", func() error {
		server.Break(authserver.EndpointToken, nil)
		_, err := as.TryRead(t, "creds/deploy")
		return err
	})
	other.Break(authserver.EndpointToken, authserver.Answer(http.StatusUnauthorized, "application/json", `{"error":"invalid_client"}`))
	m.fails(agent, "parent_refused", "elsewhere", nil)

	// Operators and the sweep kill.
	m.Write(t, "revoke/entity/"+agent.EntityID, harness.Fields{"freeze": true})
	m.until("broker_grants_expired_total", func() { m.Write(t, "sweep", nil) })
	m.until("broker_signal_polls_failed_total")
	m.Read(t, "creds/deploy") // and somebody without an entity goes on
	for range 2 {
		m.scrape()
	}
}

// configure makes providers of each kind, and roles that differ.
func (m *mount) configure(server, other *authserver.Server, events *transmitter.Server, secret string) {
	t := m.t
	m.Write(t, "config", harness.Fields{"issuer": "https://broker.test"})
	m.Write(t, "providers/oauth2/acme", harness.Fields{"issuer": server.URL, "client_id": "broker", "client_secret": secret, "timeout": "2s"})
	m.Write(t, "providers/oauth2/other", harness.Fields{"issuer": other.URL, "client_id": "broker", "client_secret": secret})
	m.Write(t, "providers/oauth2/tls", harness.Fields{"token_url": "https://tls.test/token", "client_id": "broker", "auth_method": "self_signed_tls_client_auth", "verify_connection": false})
	m.Write(t, "providers/jwt/own", harness.Fields{"revocation": "expiry"})
	lab := gitlab.New(t, time.Now)
	m.Write(t, "providers/gitlab/lab", harness.Fields{"base_url": lab.URL, "token": lab.Personal(gitlab.Maintainer, 300, "api")})
	m.Write(t, "issuers/idp", harness.Fields{"jwks_url": server.Endpoint(authserver.EndpointJWKS), "bound_issuer": server.URL, "bound_audiences": "vault"})
	m.Write(t, "signals/idp", harness.Fields{"issuer": events.URL, "token": "the-token-of-the-stream", "events": harness.Fields{"session-revoked": "kill"}})
	for name, fields := range map[string]harness.Fields{
		"deploy":    {"provider": "oauth2/acme"},
		"shared":    {"provider": "oauth2/acme", "sharing": "entity"},
		"rare":      {"provider": "oauth2/acme", "max_issue_rate": 1},
		"others":    {"provider": "oauth2/acme", "bound_entity_ids": "nobody"},
		"behalf":    {"provider": "oauth2/acme", "subject_issuers": "idp"},
		"elsewhere": {"provider": "oauth2/other"},
		"brief":     {"provider": "jwt/own", "audiences": "https://api.test", "ttl": "2s", "max_ttl": "2s"},
		"signed":    {"provider": "jwt/own", "audiences": "https://api.test"},
	} {
		all := harness.Fields{"scopes": "read", "ttl": "10m", "max_ttl": "1h"}
		for k, v := range fields {
			all[k] = v
		}
		m.Write(t, "roles/"+name, all)
	}
	require.True(t, slices.Contains(m.List(t, "signals"), "idp"))
}
