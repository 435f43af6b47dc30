package backend

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

// verify_connection: a parent is proven before it replaces another one, or is the first.

var proving = map[string]any{"verify_connection": true}

func TestAParentIsProvenBeforeItReplacesAnother(t *testing.T) {
	m := newMount(t, setup{provider: proving})
	require.Equal(t, "ok", m.health())
	require.Equal(t, 1, m.tokenRequests())
	require.Empty(t, m.server.Live(), "what the proof minted is dead")
	require.Empty(t, m.allGrants())
	before := m.must(m.read("providers/oauth2/p")).Data

	_, err := m.write("providers/oauth2/p", map[string]any{"client_secret": nextSecret})
	requireCode(t, err, fault.ParentRefused, "invalid_client", "nothing was written", "verify_connection=false")
	require.Equal(t, before, m.must(m.read("providers/oauth2/p")).Data)
	m.mustCreds(nil)

	m.server.SetClient(authserver.Client{ID: parentClient, Secrets: []string{nextSecret}, Scopes: []string{"read", "write"}})
	require.Nil(t, m.must(m.write("providers/oauth2/p", map[string]any{"client_secret": nextSecret})))
	require.Equal(t, "ok", m.health())
	m.mustCreds(nil)
}

func TestAFirstParentThatIsWrongIsNotStored(t *testing.T) {
	m := newEmptyMount(t, setup{})
	_, err := m.write("providers/oauth2/p", m.providerFields(map[string]any{"client_secret": nextSecret, "verify_connection": nil}))
	requireCode(t, err, fault.ParentRefused, "verify_connection=false")
	require.Empty(t, m.keys("providers", nil))
	require.NotContains(t, m.metrics(), "oauth2/p")
	require.Empty(t, m.allKeysBelow("provider/"))
}

func TestAProviderIsWrittenAhead(t *testing.T) {
	m := newEmptyMount(t, setup{})
	m.server.Break(authserver.EndpointToken, failing)
	_, err := m.write("providers/oauth2/p", m.providerFields(proving))
	requireCode(t, err, fault.TemporarilyUnavailable, "HTTP 500", "verify_connection=false")
	require.Empty(t, m.keys("providers", nil))

	m.must(m.write("providers/oauth2/p", m.providerFields(map[string]any{"verify_connection": false})))
	require.Equal(t, "unknown", m.health())
	require.Equal(t, false, m.must(m.read("providers/oauth2/p")).Data["verify_connection"])
	m.must(m.write("providers/oauth2/p", map[string]any{"client_secret": parentSecret}))
	require.Equal(t, "unknown", m.health(), "the setting stays")
	_, err = m.write("providers/oauth2/p", map[string]any{"client_secret": parentSecret, "verify_connection": true})
	requireCode(t, err, fault.TemporarilyUnavailable)
}

// Only a write that brings the current parent, or has it sent elsewhere, is proven.
func TestWhatIsNotAboutTheParentIsNotProven(t *testing.T) {
	m := newMount(t, setup{provider: proving})
	asked := m.tokenRequests()
	m.server.Break(authserver.EndpointToken, failing)
	for _, fields := range []map[string]any{
		{"disabled": true}, {"disabled": false}, {"max_ttl": "1h"}, {"rate_limit": 5}, {"timeout": 7}, {"allowed_roles": "r"},
		{"client_secret_next": nextSecret}, {"check_scopes": "read"}, {"verify_connection": true},
	} {
		require.Nil(t, m.must(m.write("providers/oauth2/p", fields)), fields)
		if fields["disabled"] != true {
			require.Equal(t, "ok", m.health(), fields)
		}
	}
	require.Equal(t, asked, m.tokenRequests())
	_, err := m.write("providers/oauth2/p", map[string]any{"client_id": "somebody-else"})
	requireCode(t, err, fault.TemporarilyUnavailable, "verify_connection=false")
}

func TestWhatCannotBeProvenYetIsUnknownAndSaysWhatToRegister(t *testing.T) {
	keyless := map[string]any{"auth_method": "private_key_jwt", "client_secret": nil, "verify_connection": nil}
	for name, c := range map[string]struct {
		setup  setup
		path   string
		fields map[string]any
		words  []string
	}{
		"a key that is made now":    {path: "oauth2/p", fields: keyless, words: []string{"private_key was made by this write", "client_jwks", "providers/oauth2/p/check"}},
		"the broker's own issuer":   {path: "oauth2/p", fields: map[string]any{"auth_method": "private_key_jwt", "assertion_signer": "broker", "client_secret": nil, "verify_connection": nil}, words: []string{"the broker's own issuer", "jwks.json"}},
		"a public client":           {path: "oauth2/p", fields: map[string]any{"auth_method": "none", "exchange": "token-exchange", "client_secret": nil, "verify_connection": nil}, words: []string{"public client"}},
		"a server that wants scope": {setup: setup{server: authserver.Options{NeedsScope: true}}, path: "oauth2/p", fields: map[string]any{"verify_connection": nil}, words: []string{"check_scopes"}},
		"jwt":                       {path: "jwt/p", words: []string{"trust the broker's own issuer", "providers/jwt/p/check"}},
	} {
		t.Run(name, func(t *testing.T) {
			m := newEmptyMount(t, c.setup)
			fields := map[string]any{}
			if c.path == "oauth2/p" {
				fields = m.providerFields(c.fields)
			}
			resp := m.must(m.write("providers/"+c.path, fields))
			require.NotNil(t, resp)
			require.Len(t, resp.Warnings, 1)
			for _, w := range append(c.words, "unknown") {
				require.Contains(t, resp.Warnings[0], w)
			}
			require.Equal(t, "unknown", m.must(m.read("providers/" + c.path)).Data["health"])
		})
	}
}

func TestAServerThatWantsAScopeIsProvenWithOne(t *testing.T) {
	m := newEmptyMount(t, setup{server: authserver.Options{NeedsScope: true}})
	require.Nil(t, m.must(m.write("providers/oauth2/p", m.providerFields(map[string]any{"verify_connection": nil, "check_scopes": "read"}))))
	require.Equal(t, "ok", m.health())
}

// refreshFields are of a parent that the server takes once.
func (m *mount) refreshFields(token string) map[string]any {
	return m.providerFields(map[string]any{"grant": "refresh_token", "refresh_token": token, "revocation": "token", "verify_connection": true})
}

func newRotatingMount(t *testing.T) *mount {
	m := newEmptyMount(t, setup{server: authserver.Options{RotateRefresh: true, WithoutIntrospection: true}})
	return m
}

func (m *mount) serves() {
	m.t.Helper()
	m.must(m.write("roles/r", map[string]any{"provider": "oauth2/p", "scopes": "read"}))
	m.mustCreds(nil)
	m.mustCreds(nil)
}

func TestAProofThatSpendsTheParentKeepsItsSuccessor(t *testing.T) {
	m := newRotatingMount(t)
	token := m.hide(m.server.IssueRefreshToken(parentClient))
	require.Nil(t, m.must(m.write("providers/oauth2/p", m.refreshFields(token))))
	require.Equal(t, "ok", m.health())
	m.serves()
	// Whoever writes the same again means what has become of it.
	m.must(m.write("providers/oauth2/p", m.refreshFields(token)))
	require.Equal(t, "ok", m.health())
	m.serves()
	m.start()
	m.must(m.write("providers/oauth2/p", m.refreshFields(token)))
	m.serves()

	another := m.hide(m.server.IssueRefreshToken(parentClient))
	m.must(m.write("providers/oauth2/p", m.refreshFields(another)))
	m.serves()
	_, err := m.delete("providers/oauth2/p", map[string]any{"force": true})
	require.NoError(t, err)
	require.Empty(t, m.allKeysBelow("successor/"))
}

// The server has answered, and the write of the provider fails, or the process ends there.
func TestASpentParentOutlivesAWriteThatIsRefused(t *testing.T) {
	for _, stored := range []bool{false, true} {
		for _, restarted := range []bool{false, true} {
			m := newRotatingMount(t)
			if stored {
				m.must(m.write("providers/oauth2/p", m.refreshFields(m.hide(m.server.IssueRefreshToken(parentClient)))))
			}
			token := m.hide(m.server.IssueRefreshToken(parentClient))
			m.storage.on(func(op, key string) error {
				if op == "put" && strings.HasPrefix(key, "provider/") {
					return errStorage
				}
				return nil
			})
			_, err := m.write("providers/oauth2/p", m.refreshFields(token))
			require.Error(t, err)
			m.storage.heal()
			if stored {
				m.serves() // the former one
			}
			if restarted {
				m.start()
			}
			m.must(m.write("providers/oauth2/p", m.refreshFields(token)))
			m.serves()
		}
	}
}

// The parent of now is proven at another place: what it serves there meanwhile goes on,
// although the write is refused.
func TestAProofOfTheParentOfNowTakesItFromNobody(t *testing.T) {
	m := newRotatingMount(t)
	token := m.hide(m.server.IssueRefreshToken(parentClient))
	m.must(m.write("providers/oauth2/p", m.refreshFields(token)))
	for range 2 {
		proven := false
		m.storage.on(func(op, key string) error {
			if op != "put" || !strings.HasPrefix(key, "provider/") {
				return nil
			}
			if !proven { // what passes the next one on
				proven = true
				return nil
			}
			return errStorage
		})
		_, err := m.write("providers/oauth2/p", m.refreshFields(token))
		require.Error(t, err)
		m.storage.heal()
		m.serves()
	}
	m.must(m.write("providers/oauth2/p", m.refreshFields(token)))
	m.serves()
}

// Whoever has a refresh token that is spent has not the one that followed it, and cannot
// have it sent anywhere.
func TestWhatFollowsASpentParentIsSentNowhereElse(t *testing.T) {
	m := newRotatingMount(t)
	token := m.hide(m.server.IssueRefreshToken(parentClient))
	m.must(m.write("providers/oauth2/p", m.refreshFields(token)))
	asked := m.tokenRequests()
	_, err := m.write("providers/oauth2/p", mergeFields(m.refreshFields(token), map[string]any{"token_url": m.server.URL + "/token?elsewhere"}))
	requireCode(t, err, fault.InvalidRequest, "spent where the provider was before")
	require.Equal(t, asked, m.tokenRequests())
	m.serves()
}

// A write that does not bring the refresh token proves what is stored when its turn comes.
func TestAProofTakesTheParentOfItsTurn(t *testing.T) {
	m := newRotatingMount(t)
	m.must(m.write("providers/oauth2/p", m.refreshFields(m.hide(m.server.IssueRefreshToken(parentClient)))))
	u, err := m.b.providers.Upkeep(t.Context(), "oauth2/p") // the proof waits behind it
	require.NoError(t, err)
	written := make(chan error)
	go func() {
		_, err := m.write("providers/oauth2/p", map[string]any{"client_secret": parentSecret})
		written <- err
	}()
	m.serves() // the parent that the write has read is spent
	u.Done()
	require.NoError(t, <-written)
	m.serves()
}

func mergeFields(all ...map[string]any) map[string]any {
	fields := map[string]any{}
	for _, f := range all {
		for name, value := range f {
			fields[name] = value
		}
	}
	return fields
}

// Whoever hangs up during the proof leaves nothing behind.
func TestACallerWhoHangsUpDuringAProof(t *testing.T) {
	m := newEmptyMount(t, setup{})
	ctx, cancel := context.WithCancel(t.Context())
	m.server.Break(authserver.EndpointToken, authserver.Before(cancel))
	_, err := m.do(call{ctx: ctx, op: logical.UpdateOperation, path: "providers/oauth2/p", data: m.providerFields(proving)})
	require.False(t, errors.Is(err, context.Canceled))
	require.Empty(t, m.server.Live())
}
