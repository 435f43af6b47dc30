package backend

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/github/fake"
)

// githubPermissions are those of the App of newGitHubMount.
var githubPermissions = map[string]string{"contents": "write", "issues": "write", "metadata": "read"}

// newGitHubMount is an engine with the provider github/p, an App that is installed in acme,
// and the role r.
func newGitHubMount(t *testing.T) (*mount, *fake.GitHub, *fake.Installation) {
	t.Helper()
	var m *mount
	g := fake.New(t, fake.Options{Now: func() time.Time { return m.clock.Now() }}) // first, to be there at the mount's end
	m = newEmptyMount(t, setup{})
	app := g.NewApp("the-broker")
	in := g.Install(app, "organization", "acme", githubPermissions, "api", "web", "svc-a", "svc-b")
	m.hide(app.PrivateKey)
	m.must(m.write("providers/github/p", map[string]any{"base_url": g.URL, "client_id": app.ClientID, "private_key": app.PrivateKey, "organization": "acme"}))
	m.must(m.write("roles/r", map[string]any{
		"provider": "github/p", "resources": "acme/svc-*,acme/api", "permissions": map[string]any{"contents": "write", "issues": "read"}, "ttl": "10m", "max_ttl": "1h",
	}))
	return m, g, in
}

func TestGitHubFromItsConfigurationToItsEnd(t *testing.T) {
	m, g, _ := newGitHubMount(t)
	shown := m.must(m.read("providers/github/p")).Data
	require.Equal(t, "acme", shown["organization"])
	require.NotContains(t, shown, "private_key")
	require.Contains(t, m.must(m.write("providers/github/p/check", nil)).Data["detail"], "which has 4 repositories of acme")
	require.Zero(t, g.Living(), "a check leaves nothing")

	l := m.mustSession(call{data: map[string]any{"resources": "acme/api", "permissions": map[string]any{"contents": "read"}}})
	token := m.hide(l.data["access_token"].(string))
	require.True(t, g.Can(token, "acme/api", "contents", "read"))
	require.False(t, g.Can(token, "acme/web", "contents", "read"))
	require.Equal(t, "x-access-token", l.data["username"])
	require.Equal(t, "Bearer", l.data["token_type"])
	require.Equal(t, "token", l.data["revocation"])
	require.Equal(t, []string{"resource:acme/api", "permission:contents=read"}, l.data["granted"])
	require.NotContains(t, l.data, "unverified")
	require.Equal(t, 10*time.Minute, l.secret.TTL)
	_, err := m.renew(l, 20*time.Minute)
	require.NoError(t, err)
	require.NoError(t, m.revoke(l))
	require.False(t, g.Alive(token))
	require.Empty(t, m.allGrants())
}

// Who asks for nothing in particular gets what the role's patterns stand for now, and
// explain, which asks nobody, shows the patterns.
func TestPatternsAreExpandedAtIssue(t *testing.T) {
	m, g, in := newGitHubMount(t)
	l := m.mustSession(call{})
	token := m.hide(l.data["access_token"].(string))
	require.Equal(t, []string{"acme/api", "acme/svc-a", "acme/svc-b"}, l.data["resources"])
	require.True(t, g.Can(token, "acme/svc-b", "contents", "write"))
	require.False(t, g.Can(token, "acme/web", "contents", "read"))
	require.Equal(t, 1, g.Living(), "what listed the repositories is dead")
	require.Len(t, m.allGrants(), 1)
	_, err := m.renew(l, time.Minute)
	require.NoError(t, err)

	explained := m.must(m.write("roles/r/explain", nil)).Data
	require.Equal(t, true, explained["allowed"])
	require.Equal(t, []string{"acme/api", "acme/svc-*"}, explained["resources"])
	require.Contains(t, explained["granted"], "resource:acme/svc-*")

	m.must(m.write("roles/c", map[string]any{
		"provider": "github/p", "resources": "acme/svc-*", "permissions": map[string]any{"contents": "read"}, "condition": `request.resources.all(r, r != "acme/svc-b")`,
	}))
	_, err = m.session(call{path: "creds/c"})
	requireCode(t, err, fault.InvalidTarget)
	require.ErrorContains(t, err, "name the ones you need")
	m.hide(m.mustSession(call{path: "creds/c", data: map[string]any{"resources": "acme/svc-a"}}).data["access_token"].(string))

	g.Change(func() { in.Repositories = map[string]int64{"web": 7} })
	m.clock.advance(6 * time.Minute)
	_, err = m.session(call{})
	requireCode(t, err, fault.InvalidTarget)
	require.ErrorContains(t, err, "none of the installation's 1 repositories matches")
}

// What lists the repositories and cannot be killed is on record, and dies by the sweep.
func TestTheTokenThatListsIsOnRecordUntilItIsDead(t *testing.T) {
	m, g, _ := newGitHubMount(t)
	g.Before(fake.Revoke, fake.Say(http.StatusBadGateway, "Server Error"))
	l := m.mustSession(call{})
	m.hide(l.data["access_token"].(string))
	require.Eventually(t, func() bool { return len(m.allGrants()) == 2 }, time.Minute, time.Millisecond)
	g.Before(fake.Revoke, nil)
	m.clock.advance(5 * time.Minute)
	m.sweep()
	m.waitForKills()
	require.Len(t, m.allGrants(), 1)
	require.Equal(t, 1, g.Living())
}

// More than was asked for is not handed out, and dies.
func TestWhatGitHubGrantsBeyondIsNotHandedOut(t *testing.T) {
	for name, body := range map[string]string{
		"a repository": `"permissions":{"contents":"read"},"repository_selection":"selected","repositories":[{"id":5,"full_name":"acme/api"},{"id":6,"full_name":"acme/web"}]`,
		"a level":      `"permissions":{"contents":"write"},"repository_selection":"selected","repositories":[{"id":5,"full_name":"acme/api"}]`,
		"a permission": `"permissions":{"contents":"read","issues":"read"},"repository_selection":"selected","repositories":[{"id":5,"full_name":"acme/api"}]`,
		"all":          `"permissions":{"contents":"read"},"repository_selection":"all"`,
	} {
		t.Run(name, func(t *testing.T) {
			m, g, _ := newGitHubMount(t)
			m.hide("ghs_beyond1234567890")
			g.After(fake.Mint, fake.Answer(201, `{"token":"ghs_beyond1234567890","expires_at":"2099-01-01T00:00:00Z",`+body+`}`))
			_, err := m.session(call{data: map[string]any{"resources": "acme/api", "permissions": map[string]any{"contents": "read"}}})
			requireCode(t, err, fault.ProviderViolation)
			require.Equal(t, 1, g.Count(fake.Revoke)-1, "beside the check's")
			require.Empty(t, m.allGrants())
		})
	}
}

// What a role could never grant is refused when it is written.
func TestGitHubRolesAreJudgedWhenTheyAreWritten(t *testing.T) {
	m, _, _ := newGitHubMount(t)
	for word, fields := range map[string]map[string]any{
		"resources are missing":        {"permissions": map[string]any{"contents": "read"}},
		"permissions are missing":      {"resources": "acme/api"},
		"did you mean pull_requests?":  {"resources": "acme/api", "permissions": map[string]any{"pull_request": "read"}},
		"has no level admin":           {"resources": "acme/api", "permissions": map[string]any{"contents": "admin"}},
		"* crosses no /":               {"resources": "*", "permissions": map[string]any{"contents": "read"}},
		"not of acme":                  {"resources": "other/*", "permissions": map[string]any{"contents": "read"}},
		"an App has permissions":       {"resources": "acme/api", "permissions": map[string]any{"contents": "read"}, "scopes": "repo"},
		"says which installation":      {"resources": "acme/api", "permissions": map[string]any{"contents": "read"}, "parameters": map[string]any{"user": "jane"}},
		"know no \"repositories\"":     {"resources": "acme/api", "permissions": map[string]any{"contents": "read"}, "parameters": map[string]any{"repositories": "x"}},
		"the levels are read, write, ": {"resources": "acme/api", "permissions": map[string]any{"contents": "maintain"}},
	} {
		fields["provider"] = "github/p"
		_, err := m.write("roles/wrong", fields)
		requireCode(t, err, fault.InvalidRequest)
		require.ErrorContains(t, err, word)
	}
}

// Two Apps are two providers: one that is refused, or suspended, is not the other.
func TestTwoAppsAreTwoProviders(t *testing.T) {
	m, g, in := newGitHubMount(t)
	other := g.NewApp("another")
	g.Install(other, "organization", "acme", githubPermissions, "api")
	m.hide(other.PrivateKey)
	m.must(m.write("providers/github/q", map[string]any{"base_url": g.URL, "app_id": other.ID, "private_key": other.PrivateKey}))
	m.must(m.write("roles/q", map[string]any{
		"provider": "github/q", "resources": "acme/*", "permissions": map[string]any{"issues": "write"}, "parameters": map[string]any{"organization": "acme"},
	}))
	g.Change(func() { in.Suspended = true })
	_, err := m.session(call{data: map[string]any{"resources": "acme/api"}})
	requireCode(t, err, fault.ParentRefused)
	l := m.mustSession(call{path: "creds/q"})
	token := m.hide(l.data["access_token"].(string))
	require.True(t, g.Can(token, "acme/api", "issues", "write"))
	keys := m.must(m.list("providers/github", nil)).Data["key_info"].(map[string]any)
	require.Equal(t, "refused", keys["p"].(map[string]any)["health"])
	require.Equal(t, "ok", keys["q"].(map[string]any)["health"])
}

// Another key takes over without a moment in which neither works, and with no hurry.
func TestAGitHubKeyIsChangedWithoutDowntime(t *testing.T) {
	m, g, _ := newGitHubMount(t)
	app := g.Apps()[0]
	l := m.mustSession(call{data: map[string]any{"resources": "acme/api"}})
	token := m.hide(l.data["access_token"].(string))
	next := m.hide(g.NewKey(app))
	m.must(m.write("providers/github/p", map[string]any{"private_key_next": next}))
	g.DeleteKey(app)
	m.hide(m.mustSession(call{data: map[string]any{"resources": "acme/api"}}).data["access_token"].(string))
	require.Contains(t, m.must(m.write("providers/github/p/rotate", nil)).Data["detail"], "is private_key now")
	m.hide(m.mustSession(call{data: map[string]any{"resources": "acme/api"}}).data["access_token"].(string))
	require.NoError(t, m.revoke(l), "a child dies by itself, whatever the key")
	require.False(t, g.Alive(token))

	_, err := m.write("providers/github/p", map[string]any{"base_url": "https://api.github.com"})
	requireCode(t, err, fault.InvalidRequest)
}
