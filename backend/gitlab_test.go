package backend

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/gitlab/fake"
)

func newGitLabMount(t *testing.T) (m *mount, server *fake.Server, parent, spare string) {
	t.Helper()
	m = newEmptyMount(t, setup{})
	server, parent, spare = m.withGitLab(t)
	return m, server, parent, spare
}

// withGitLab writes gitlab/p, of an instance of its own.
func (m *mount) withGitLab(t *testing.T) (server *fake.Server, parent, spare string) {
	t.Helper()
	server = fake.New(t, m.clock.Now)
	parent, spare = m.hide(server.Personal(fake.Maintainer, 90, "api")), m.hide(server.Personal(fake.Maintainer, 60, "api"))
	m.must(m.write("providers/gitlab/p", map[string]any{"base_url": server.URL, "token": parent, "token_next": spare}))
	return server, parent, spare
}

func projectRole() map[string]any {
	return map[string]any{
		"provider": "gitlab/p", "parameters": map[string]any{"kind": "project"}, "resources": "top/**", "scopes": "read_api,read_repository",
		"permissions": map[string]any{"access_level": "developer"}, "ttl": "10m", "max_ttl": "1h",
	}
}

func TestGitLabFromItsConfigurationToItsEnd(t *testing.T) {
	m, server, _, _ := newGitLabMount(t)
	m.must(m.write("roles/r", projectRole()))
	l := m.mustSession(call{data: map[string]any{"resources": fake.Project, "scopes": "read_api", "permissions": map[string]any{"access_level": "reporter"}}})
	token := m.hide(l.data["access_token"].(string))
	require.True(t, server.Alive(token))
	require.Equal(t, int64(20), server.Get(token).Level)
	require.Equal(t, []string{"read_api"}, server.Get(token).Scopes)
	require.Equal(t, "oauth2", l.data["username"])
	require.Equal(t, "token", l.data["revocation"])
	require.Equal(t, []string{"scope:read_api", "resource:" + fake.Project, "permission:access_level=reporter"}, l.data["granted"])
	require.NotContains(t, l.data, "unverified")
	_, err := m.renew(l, 10*time.Minute)
	require.NoError(t, err)
	require.NoError(t, m.revoke(l))
	require.False(t, server.Alive(token))
	require.Zero(t, server.Active())

	_, err = m.session(call{data: map[string]any{"resources": "elsewhere/app"}})
	requireCode(t, err, fault.InvalidTarget)
	_, err = m.session(call{})
	requireCode(t, err, fault.InvalidTarget, "name the ones you need")
}

// What would rely on a bound that GitLab's tokens of that kind do not have is refused when
// the role is written.
func TestGitLabRolesThatCannotHold(t *testing.T) {
	m, _, _, _ := newGitLabMount(t)
	for name, change := range map[string]map[string]any{
		"kind":               {"parameters": map[string]any{"kind": "deploy"}},
		"scopes":             {"scopes": ""},
		"resources":          {"resources": ""},
		"permissions":        {"permissions": map[string]any{}},
		"audiences":          {"audiences": "https://gitlab.com"},
		"group/project":      {"resources": "app"},
		"none of a token":    {"resources": "top/../app,top/**"},
		"access_level alone": {"permissions": map[string]any{"access_level": "guest", "contents": "guest"}},
		"access_level":       {"permissions": map[string]any{"access_level": "root"}},
	} {
		role := projectRole()
		for field, value := range change {
			role[field] = value
		}
		_, err := m.write("roles/r", role)
		requireCode(t, err, fault.InvalidRequest, name)
	}
	personal := projectRole()
	personal["parameters"], personal["resources"] = map[string]any{"kind": "personal"}, "57"
	_, err := m.write("roles/r", personal)
	requireCode(t, err, fault.InvalidRequest, "permissions")
	delete(personal, "permissions")
	m.must(m.write("roles/r", personal))
}

// An answer that is lost leaves nothing: the token is found by its name in its project, and
// killed once its mint cannot be under way any more, though the role is gone.
func TestAnAnswerOfGitLabsThatIsLost(t *testing.T) {
	m, server, _, _ := newGitLabMount(t)
	m.must(m.write("roles/r", projectRole()))
	server.After("POST", "access_tokens", fake.HangUp)
	_, err := m.session(call{data: map[string]any{"resources": fake.Project}})
	requireCode(t, err, fault.TemporarilyUnavailable)
	require.Equal(t, 1, server.Active())
	m.must(m.delete("roles/r", nil))
	m.deadline()
	m.sweep()
	m.waitForKills()
	require.Zero(t, server.Active())
	require.Empty(t, m.allGrants())
}

// Where a project is gone, nobody can look for what was to be made there: it is on record
// as long as it could live, and no longer.
func TestAnIntentOfAProjectThatIsGoneEnds(t *testing.T) {
	m, server, _, _ := newGitLabMount(t)
	m.must(m.write("roles/r", projectRole()))
	server.After("POST", "access_tokens", fake.HangUp)
	_, err := m.session(call{data: map[string]any{"resources": fake.Project}})
	requireCode(t, err, fault.TemporarilyUnavailable)
	server.Rename(fake.Project, "top/else")
	m.deadline()
	m.sweep()
	m.waitForKills()
	require.NotEmpty(t, m.allGrants())
	m.clock.advance(3 * 24 * time.Hour)
	m.sweep()
	m.waitForKills()
	require.Empty(t, m.allGrants())
	require.Zero(t, server.Active())
}

// A parent that ends before its rotation is due is spoken of while there is time.
func TestARotationThatWouldComeTooLate(t *testing.T) {
	m, _, _, _ := newGitLabMount(t)
	m.must(m.write("providers/gitlab/p", map[string]any{"rotation_period": "1500h"}))
	checked := m.must(m.write("providers/gitlab/p/check", nil))
	require.Len(t, checked.Warnings, 1)
	require.Contains(t, checked.Warnings[0], "shorter rotation_period")
}

// The parent's end is said before it comes, and its rotation ends no child.
func TestGitLabsParentRotates(t *testing.T) {
	m, server, parent, spare := newGitLabMount(t)
	m.must(m.write("roles/r", projectRole()))
	l := m.mustSession(call{data: map[string]any{"resources": fake.Project}})
	token := m.hide(l.data["access_token"].(string))
	m.must(m.write("providers/gitlab/p", map[string]any{"rotation_period": "240h"}))
	checked := m.must(m.write("providers/gitlab/p/check", nil))
	require.Empty(t, checked.Warnings)
	require.Equal(t, server.Get(spare).Ends.Format(time.RFC3339), checked.Data["parent_expires_at"])
	m.clock.advance(35 * 24 * time.Hour)
	checked = m.must(m.write("providers/gitlab/p/check", nil))
	require.Len(t, checked.Warnings, 1)
	require.Contains(t, checked.Warnings[0], "rotation_period")

	m.periodicallyUntil(func() bool { return !server.Alive(spare) }) // which is replaced on schedule
	m.waitForKills()
	require.False(t, server.Alive(token), "and whose lease has ended long ago")
	require.True(t, server.Alive(parent))
	require.NoError(t, m.revoke(m.mustSession(call{data: map[string]any{"resources": fake.Project}})))
}

// What became of token_next is no word of the token that mints.
func TestALostSpareStopsNoMint(t *testing.T) {
	m, server, _, spare := newGitLabMount(t)
	m.must(m.write("roles/r", projectRole()))
	server.Kill(spare)
	_, err := m.write("providers/gitlab/p/check", nil)
	requireCode(t, err, fault.InvalidRequest, "token_next")
	l := m.mustSession(call{data: map[string]any{"resources": fake.Project}})
	require.NoError(t, m.revoke(l))
	require.Equal(t, "ok", m.must(m.read("providers/gitlab/p")).Data["health"])
}

func TestGitLabWantsASecondTokenForItsRotation(t *testing.T) {
	m, server, _, _ := newGitLabMount(t)
	alone := m.hide(server.Personal(fake.Maintainer, 10, "api"))
	written := m.must(m.write("providers/gitlab/alone", map[string]any{"base_url": server.URL, "token": alone}))
	require.NotNil(t, written)
	require.Contains(t, written.Warnings[0], "ends at")
	_, err := m.write("providers/gitlab/alone/rotate", nil)
	requireCode(t, err, fault.InvalidRequest, "token_next")
	_, err = m.write("providers/gitlab/alone", map[string]any{"rotation_period": "24h"})
	requireCode(t, err, fault.InvalidRequest)
	require.True(t, server.Alive(alone))
}
