package acceptance

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault/faulttest"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
)

const (
	// patience bounds what should happen at once, on a machine that is busy.
	patience = harness.Patience
	// sweepPatience is for what the sweep of every minute does, and Vault's own retries.
	sweepPatience = 2*time.Minute + patience
	// slowTimeout is a provider's timeout in stories in which it must not be reached.
	slowTimeout = "60s"
)

// suite is what the stories share. Each server starts when first asked for.
var suite struct {
	sync.Mutex
	tb      harness.TB
	vault   *harness.Vault
	audit   *harness.Audit
	hydra   *harness.Hydra
	op      *harness.OP
	gitea   *harness.Gitea
	secrets map[string]string // value → what it is
}

func TestMain(m *testing.M) {
	flag.Parse()
	if testing.Short() {
		os.Exit(m.Run())
	}
	// Stories wait for servers more than they compute.
	parallel := false
	flag.Visit(func(f *flag.Flag) { parallel = parallel || f.Name == "test.parallel" })
	if !parallel {
		_ = flag.Set("test.parallel", "8")
	}
	code := 1
	err := harness.Run(os.Stderr, func(t harness.TB) {
		suite.tb = t
		code = m.Run()
		defer func() {
			if code != 0 {
				t.Fatalf("some stories failed: see the ends of the shared servers' logs")
			}
		}()
		if leaks := findLeaks(); len(leaks) > 0 {
			code = 1
			t.Logf("FAIL: secrets stand in the logs of the shared Vault:\n%s", strings.Join(leaks, "\n"))
		}
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// findLeaks looks for every secret of every story in the audit log and in the
// server log of the shared Vault.
func findLeaks() []string {
	if suite.vault == nil {
		return nil
	}
	var leaks []string
	for _, file := range []string{suite.audit.File, suite.vault.LogFile()} {
		content, err := os.ReadFile(file)
		if err != nil {
			return []string{err.Error()}
		}
		for value, what := range suite.secrets {
			if at := bytes.Index(content, []byte(value)); at >= 0 {
				start := max(0, at-200)
				leaks = append(leaks, fmt.Sprintf("%s: the %s after …%s", file, what, content[start:at]))
			}
		}
	}
	return leaks
}

// confidential declares a value that must never stand in a log.
func confidential(what, value string) string {
	if len(value) >= 8 { // shorter ones stand everywhere by chance
		suite.Lock()
		defer suite.Unlock()
		if suite.secrets == nil {
			suite.secrets = map[string]string{}
		}
		suite.secrets[value] = what
	}
	return value
}

// needsServers marks a story that starts real ones.
func needsServers(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("starts real servers")
	}
}

// lasting is for a server that outlives the story that needs it first: it ends with the
// suite, and if it does not start, the story has failed.
type lasting struct {
	harness.TB
	story *testing.T
}

func (l lasting) Fatalf(format string, args ...any) {
	l.story.Helper()
	l.story.Fatalf(format, args...)
}

// sharedVault is a Vault in dev mode with an audit device, for stories that leave
// it and its plugin alive.
func sharedVault(t *testing.T) *harness.Vault {
	t.Helper()
	needsServers(t)
	suite.Lock()
	defer suite.Unlock()
	if suite.vault == nil {
		tb := lasting{suite.tb, t}
		vault := harness.StartVault(tb, harness.VaultOptions{LogLevel: "debug"})
		suite.audit = vault.EnableAudit(tb)
		// Here, because two stories that log in at the same time would both try.
		require.NoError(t, vault.Client(tb).Sys().EnableAuthWithOptions("userpass", &api.EnableAuthOptions{Type: "userpass"}))
		suite.vault = vault
	}
	return suite.vault
}

// sharedHydra is a Hydra for stories that do not stop it.
func sharedHydra(t *testing.T) *harness.Hydra {
	t.Helper()
	needsServers(t)
	suite.Lock()
	defer suite.Unlock()
	if suite.hydra == nil {
		suite.hydra = harness.StartHydra(lasting{suite.tb, t}, harness.HydraOptions{})
	}
	return suite.hydra
}

// ownHydra is a Hydra for one story, which may stop it.
func ownHydra(t *testing.T) *harness.Hydra {
	t.Helper()
	needsServers(t)
	return harness.StartHydra(t, harness.HydraOptions{})
}

// sharedOP is an OpenID Provider for stories that do not stop it.
func sharedOP(t *testing.T) *harness.OP {
	t.Helper()
	needsServers(t)
	suite.Lock()
	defer suite.Unlock()
	if suite.op == nil {
		suite.op = harness.StartOP(lasting{suite.tb, t})
	}
	return suite.op
}

// sharedGitea is a Gitea for stories that do not stop it, each with a user of its own.
func sharedGitea(t *testing.T) *harness.Gitea {
	t.Helper()
	needsServers(t)
	suite.Lock()
	defer suite.Unlock()
	if suite.gitea == nil {
		suite.gitea = harness.StartGitea(lasting{suite.tb, t})
	}
	return suite.gitea
}

// apiAudience is the service that children are for.
const apiAudience = "https://api.example.com"

// scene is where most stories play: a mount of the broker, with the provider
// oauth2/hydra whose parent is a client of Hydra.
type scene struct {
	*harness.Mount
	vault  *harness.Vault
	hydra  *harness.Hydra
	client harness.Credentials
}

// newScene is a scene on the shared servers.
func newScene(t *testing.T, client harness.HydraClient, provider harness.Fields) *scene {
	t.Helper()
	return sceneOn(t, sharedVault(t), sharedHydra(t), client, provider)
}

// sceneOn makes a scene. provider adds to and replaces the usual fields.
func sceneOn(t *testing.T, vault *harness.Vault, hydra *harness.Hydra, client harness.HydraClient, provider harness.Fields) *scene {
	t.Helper()
	if client.Scopes == nil {
		client.Scopes = []string{"repo:read", "repo:write", "repo:admin"}
	}
	if client.Audiences == nil {
		client.Audiences = []string{apiAudience, "https://other.example.com"}
	}
	s := &scene{Mount: vault.Enable(t, ""), vault: vault, hydra: hydra, client: hydra.CreateClient(t, client)}
	confidential("client secret", s.client.Secret)
	s.Write(t, "providers/oauth2/hydra", s.provider(provider))
	return s
}

// provider are the fields that fit the scene's client.
func (s *scene) provider(more harness.Fields) harness.Fields {
	return with(harness.Fields{
		"issuer":             s.hydra.URL,
		"introspection_url":  s.hydra.AdminURL + "/admin/oauth2/introspect",
		"client_id":          s.client.ID,
		"client_secret":      s.client.Secret,
		"audience_parameter": "audience",
		"verify":             "introspect",
	}, more)
}

// role writes a role; more adds to and replaces the usual fields.
func (s *scene) role(t *testing.T, name string, more harness.Fields) {
	t.Helper()
	s.Write(t, "roles/"+name, with(harness.Fields{
		"provider":  "oauth2/hydra",
		"scopes":    []string{"repo:read", "repo:write"},
		"audiences": []string{apiAudience},
		"ttl":       "10m",
	}, more))
}

func with(fields, more harness.Fields) harness.Fields {
	fields = maps.Clone(fields)
	for name, value := range more {
		if value == nil {
			delete(fields, name)
			continue
		}
		fields[name] = value
	}
	return fields
}

// child is a token that was handed out.
type child struct {
	*api.Secret
	Token, GrantID string
}

// issue asks for a token by update; it must be given.
func issue(t *testing.T, m *harness.Mount, role string, fields harness.Fields) child {
	t.Helper()
	secret, err := m.TryWrite(t, "creds/"+role, fields)
	require.NoError(t, err, "creds/%s", role)
	return given(t, secret)
}

// read asks for a token by read; it must be given.
func read(t *testing.T, m *harness.Mount, role string, query ...string) child {
	t.Helper()
	secret, err := m.TryRead(t, "creds/"+role, query...)
	require.NoError(t, err, "creds/%s", role)
	return given(t, secret)
}

func given(t *testing.T, secret *api.Secret) child {
	t.Helper()
	require.NotNil(t, secret, "the answer is empty")
	require.NotEmpty(t, secret.LeaseID, "a child without a lease")
	for name, value := range secret.Data {
		require.NotNil(t, value, "%s is null", name)
	}
	c := child{Secret: secret, Token: text(secret, "access_token"), GrantID: text(secret, "grant_id")}
	require.NotEmpty(t, c.Token)
	require.NotEmpty(t, c.GrantID)
	confidential("child token", c.Token)
	return c
}

func text(secret *api.Secret, name string) string {
	value, _ := secret.Data[name].(string)
	return value
}

// list is a list of strings in an answer.
func list(secret *api.Secret, name string) []string {
	values, _ := secret.Data[name].([]any)
	all := make([]string, 0, len(values))
	for _, v := range values {
		all = append(all, fmt.Sprint(v))
	}
	return all
}

// keyInfo is what a list says of one of its keys.
func keyInfo(t *testing.T, m *harness.Mount, path, key string) map[string]any {
	t.Helper()
	info, _ := lists(t, m, path).Data["key_info"].(map[string]any)
	about, _ := info[key].(map[string]any)
	return about
}

// lists is a whole list answer.
func lists(t *testing.T, m *harness.Mount, path string) *api.Secret {
	t.Helper()
	secret, err := m.TryRead(t, path, "list=true")
	require.NoError(t, err)
	if secret == nil {
		return &api.Secret{}
	}
	return secret
}

// refused fails unless err is the broker's own refusal with that code in front, over
// HTTP with the status that the contract gives it, and says all of parts, as words of
// their own.
func refused(t *testing.T, err error, status int, code string, parts ...string) {
	t.Helper()
	require.Error(t, err)
	require.Equal(t, status, harness.StatusOf(err), "%v", err)
	said, text := harness.SaidBy(err)
	require.Equal(t, code, said, "%v", err)
	for _, part := range parts {
		require.True(t, faulttest.Says(text, part), "%q does not say %q", text, part)
	}
}

// endLease revokes a lease and reports what Vault says once that is done.
func endLease(t *testing.T, as *harness.Session, lease string) error {
	t.Helper()
	_, err := as.Client(t).Logical().Write("sys/leases/revoke", harness.Fields{"lease_id": lease, "sync": true})
	return err
}

// leaseLives asks Vault whether it still has the lease.
func leaseLives(t *testing.T, vault *harness.Vault, lease string) bool {
	t.Helper()
	_, err := vault.Client(t).Logical().Write("sys/leases/lookup", harness.Fields{"lease_id": lease})
	if err != nil {
		require.ErrorContains(t, err, "invalid lease")
	}
	return err == nil
}

// soonInactive waits until Hydra refuses the token.
func soonInactive(t *testing.T, hydra *harness.Hydra, token string) {
	t.Helper()
	inactiveWithin(t, hydra, token, patience)
}

// inactiveWithin is soonInactive for what nobody asked for.
func inactiveWithin(t *testing.T, hydra *harness.Hydra, token string, patience time.Duration) {
	t.Helper()
	harness.Eventually(t, patience, "the token is dead at the server", func() error {
		if hydra.Introspect(t, token).Active {
			return fmt.Errorf("still active")
		}
		return nil
	})
}

// activeUntil fails if Hydra refuses the token before its end. Before anybody could look
// that may have come.
func activeUntil(t *testing.T, hydra *harness.Hydra, token string, end time.Time) harness.Introspection {
	t.Helper()
	found := hydra.Introspect(t, token)
	if !found.Active {
		require.True(t, time.Now().After(end), "the token died before its time: %v", found.All)
	}
	return found
}

// sweepAway sweeps by hand until the grants are forgotten. What the sweep of every minute
// has in its hands at that moment, the one by hand leaves to it, and does not count.
func (s *scene) sweepAway(t *testing.T, grants ...child) {
	t.Helper()
	harness.Eventually(t, patience, "the grants are swept away", func() error {
		s.Write(t, "sweep", nil)
		for _, g := range grants {
			if err := s.noGrant(t, g.GrantID)(); err != nil {
				return err
			}
		}
		return nil
	})
}

// killed counts what has been killed for a cause, by the sweep or by anybody.
func (s *scene) killed(t *testing.T, cause string) float64 {
	t.Helper()
	return scrape(t, s).value("broker_grants_killed_total", "cause", cause)
}

// holderPolicy lets an agent get tokens of a mount.
func holderPolicy(m *harness.Mount) string {
	return fmt.Sprintf("path %q { capabilities = [\"read\", \"update\"] }", m.At("creds/*"))
}

// agent logs somebody in who may get tokens of the scene's mount. Names are made
// unique by the mount.
func (s *scene) agent(t *testing.T, who harness.Agent) *harness.Session {
	t.Helper()
	who.Name = s.local(who.Name)
	who.Policy += "\n" + holderPolicy(s.Mount)
	who.Groups = slices.Clone(who.Groups)
	for i := range who.Groups {
		who.Groups[i] = s.local(who.Groups[i])
	}
	session := s.vault.Login(t, who)
	confidential("Vault token", session.Token)
	return session
}

// local is a name that no other scene on the same Vault uses.
func (s *scene) local(name string) string { return name + "-of-" + s.Path }
