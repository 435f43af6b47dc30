package backend

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

// What operators see of a parent that the provider refuses, and what callers are told.

var invalidClient = authserver.Answer(401, "application/json", `{"error":"invalid_client"}`)

func (m *mount) health() string {
	m.t.Helper()
	shown := m.must(m.read("providers/oauth2/p")).Data["health"].(string)
	info := m.must(m.list("providers", nil)).Data["key_info"].(map[string]any)["oauth2/p"].(map[string]any)
	require.Equal(m.t, shown, info["health"])
	return shown
}

func TestARefusedClientIsAStateOfItsOwn(t *testing.T) {
	m := newMount(t, setup{})
	m.mustCreds(nil)
	m.server.Break(authserver.EndpointToken, invalidClient)
	before := m.tokenRequests()
	for range 7 {
		_, err := m.creds(nil)
		requireCode(t, err, fault.ParentRefused, "invalid_client")
	}
	require.Equal(t, before+2, m.tokenRequests(), "what was asked for, and a check")
	require.Equal(t, "refused", m.health())
	detail := m.must(m.read("providers/oauth2/p")).Data["health_detail"]
	require.Contains(t, detail, "invalid_client")
	require.Contains(t, detail, m.clock.Now().UTC().Format(time.RFC3339))

	m.start()
	require.Equal(t, "refused", m.health(), "remembered across a restart")
	_, err := m.creds(nil)
	requireCode(t, err, fault.ParentRefused)

	m.server.Break(authserver.EndpointToken, nil)
	_, err = m.creds(nil)
	requireCode(t, err, fault.ParentRefused, "invalid_client")
	m.clock.advance(time.Minute)
	m.mustCreds(nil) // the mended server is noticed
	require.Equal(t, "ok", m.health())
}

func TestACheckTellsOfARefusedParentAndEndsIt(t *testing.T) {
	m := newMount(t, setup{})
	m.server.Break(authserver.EndpointToken, invalidClient)
	requireCode(t, m.check(t.Context()), fault.ParentRefused, "invalid_client")
	require.Equal(t, "refused", m.health())
	_, err := m.creds(nil)
	requireCode(t, err, fault.ParentRefused)
	m.server.Break(authserver.EndpointToken, nil)
	require.NoError(t, m.check(t.Context()))
	require.Equal(t, "ok", m.health())
	m.mustCreds(nil)
}

func TestAnotherSecretEndsARefusal(t *testing.T) {
	m := newMount(t, setup{})
	m.server.SetClient(authserver.Client{ID: parentClient, Secrets: []string{nextSecret}, Scopes: []string{"read", "write"}})
	_, err := m.creds(nil)
	requireCode(t, err, fault.ParentRefused)
	m.must(m.write("providers/oauth2/p", map[string]any{"max_ttl": "1h"}))
	require.Equal(t, "refused", m.health(), "that is about something else")
	m.must(m.write("providers/oauth2/p", map[string]any{"client_secret": nextSecret}))
	m.mustCreds(nil)
	require.Equal(t, "ok", m.health())
}

// A server that calls the client invalid over one request has not refused the parent.
func TestOneRequestThatIsRefusedAsTheParentsCostsNobodyElse(t *testing.T) {
	m := newMount(t, setup{})
	odd := func(form url.Values) bool { return form.Get("scope") == "write" }
	m.server.Break(authserver.EndpointToken, authserver.If(odd, invalidClient))
	for range 3 {
		_, err := m.credsBy(call{entity: alice, data: map[string]any{"scopes": "write"}})
		requireCode(t, err, fault.TemporarilyUnavailable, "took the parent credential")
	}
	require.Equal(t, 2, m.tokenRequests(), "nor is that asked again at once")
	m.mustCreds(map[string]any{"scopes": "read"})
	require.Equal(t, "limited", m.health())
	m.clock.advance(time.Minute)
	require.Equal(t, "ok", m.health())
	require.NotContains(t, m.log.String(), "event=parent_refused")
}

// Of an answer that came once, the check finds out that it was an accident.
func TestARefusalThatCameOnceIsNone(t *testing.T) {
	m := newMount(t, setup{})
	m.server.Break(authserver.EndpointToken, authserver.Once(invalidClient))
	_, err := m.creds(nil)
	requireCode(t, err, fault.TemporarilyUnavailable, "took the parent credential")
	require.NotEqual(t, "refused", m.health())
	require.Empty(t, m.server.Live(), "what the check minted is dead")
}

// Where the check cannot tell, it is not believed of the parent.
func TestARefusalThatNobodyConfirmsIsBelievedOfItsKindAlone(t *testing.T) {
	m := newMount(t, setup{})
	m.server.Break(authserver.EndpointToken, authserver.InTurn(invalidClient, failing))
	_, err := m.credsBy(call{entity: alice, data: map[string]any{"scopes": "write"}})
	requireCode(t, err, fault.ParentRefused)
	require.NotEqual(t, "refused", m.health())
	m.server.Break(authserver.EndpointToken, nil)
	m.mustCreds(map[string]any{"scopes": "read"})
}

// The request that comes when a refused parent is due for another try may be an odd one
// itself: then the check says how the parent is.
func TestAnOddRequestDoesNotKeepAParentRefused(t *testing.T) {
	m := newMount(t, setup{})
	m.server.Break(authserver.EndpointToken, invalidClient)
	_, err := m.creds(nil)
	requireCode(t, err, fault.ParentRefused)
	odd := func(form url.Values) bool { return form.Get("scope") == "write" }
	m.server.Break(authserver.EndpointToken, authserver.If(odd, authserver.Answer(400, "application/json", `{"error":"invalid_scope"}`)))
	m.clock.advance(time.Minute)
	_, err = m.creds(map[string]any{"scopes": "write"})
	requireCode(t, err, fault.InvalidScope)
	require.Equal(t, "ok", m.health())
	m.mustCreds(map[string]any{"scopes": "read"})
}

// A refusal that could not be stored ends like any other.
func TestARefusalThatCouldNotBeStoredEndsWithASuccess(t *testing.T) {
	m := newMount(t, setup{})
	m.mustCreds(nil)
	m.server.Break(authserver.EndpointToken, invalidClient)
	m.storage.on(func(op, key string) error {
		if op == "put" && strings.HasPrefix(key, "provider/") {
			return errStorage
		}
		return nil
	})
	_, err := m.creds(nil)
	requireCode(t, err, fault.ParentRefused)
	m.storage.heal()
	m.server.Break(authserver.EndpointToken, nil)
	m.clock.advance(time.Minute)
	m.mustCreds(nil)
	m.mustCreds(nil)
	require.Equal(t, "ok", m.health())
}

func TestAnOutageIsNoRefusal(t *testing.T) {
	m := newMount(t, setup{})
	m.server.Break(authserver.EndpointToken, failing)
	_, err := m.creds(nil)
	requireCode(t, err, fault.TemporarilyUnavailable)
	require.NotEqual(t, "refused", m.health())
}
