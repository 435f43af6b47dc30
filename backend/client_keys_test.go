package backend

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

// registerKeys tells the server what a read of the provider shows.
func (m *mount) registerKeys() {
	m.t.Helper()
	raw, err := json.Marshal(m.must(m.read("providers/oauth2/p")).Data["client_jwks"])
	require.NoError(m.t, err)
	m.server.SetClient(authserver.Client{ID: parentClient, JWKS: string(raw), Scopes: []string{"read", "write", "admin"}})
}

func TestAKeyIsMadeKeptAndNeverShown(t *testing.T) {
	m := newMount(t, setup{})
	m.must(m.write("providers/oauth2/p", map[string]any{"auth_method": "private_key_jwt", "client_secret": ""}))
	m.registerKeys()
	m.mustCreds(nil)
	first := m.must(m.read("providers/oauth2/p")).Data
	require.Len(t, first["private_key_sha256"], 64)
	require.NotContains(t, first, "private_key")
	require.NotContains(t, first, "client_secret_sha256")

	// A write that has nothing to do with it leaves it alone.
	m.must(m.write("providers/oauth2/p", map[string]any{"timeout": 9, "auth_method": "private_key_jwt"}))
	require.Equal(t, first["private_key_sha256"], m.must(m.read("providers/oauth2/p")).Data["private_key_sha256"])
	m.mustCreds(nil)

	// Where it is sent, and what it is good for, changes with a key that is new there.
	other := authserver.New(t, authserver.Options{})
	for field, value := range map[string]string{"assertion_audience": "https://elsewhere.test", "token_url": other.Endpoint(authserver.EndpointToken)} {
		_, err := m.write("providers/oauth2/p", map[string]any{field: value})
		requireCode(t, err, fault.InvalidRequest, "write private_key again")
	}
	m.must(m.write("providers/oauth2/p/rotate", nil))
	_, err := m.write("providers/oauth2/p", map[string]any{"assertion_audience": "https://elsewhere.test", "private_key": ""})
	requireCode(t, err, fault.InvalidRequest, "write private_key_next again")
	require.Equal(t, first["private_key_sha256"], m.must(m.read("providers/oauth2/p")).Data["private_key_sha256"], "what was refused changed nothing")
	m.mustCreds(nil)
	m.must(m.write("providers/oauth2/p", map[string]any{"assertion_audience": "https://elsewhere.test", "private_key": "", "private_key_next": ""}))
	moved := m.must(m.read("providers/oauth2/p")).Data
	require.NotEqual(t, first["private_key_sha256"], moved["private_key_sha256"])
	require.NotContains(t, moved, "private_key_next_sha256")
	require.Empty(t, other.Requests())

	// What lives can be killed by the key of the day.
	m.must(m.write("providers/oauth2/p", map[string]any{"assertion_audience": "", "private_key": ""}))
	m.registerKeys()
	m.mustCreds(nil)
}

// Assertions are made out to the issuer, too, beside another assertion_audience: with
// one of another server they would be good there, wherever they are sent.
func TestAnotherIssuerIsAnotherAudience(t *testing.T) {
	m := newMount(t, setup{})
	at := m.server.Endpoint
	m.must(m.write("providers/oauth2/p", map[string]any{
		"auth_method": "private_key_jwt", "client_secret": "", "assertion_audience": at(authserver.EndpointToken),
		"token_url": at(authserver.EndpointToken), "revocation_url": at(authserver.EndpointRevoke), "introspection_url": at(authserver.EndpointIntrospect),
	}))
	other := authserver.New(t, authserver.Options{})
	_, err := m.write("providers/oauth2/p", map[string]any{"issuer": other.URL})
	requireCode(t, err, fault.InvalidRequest, "write private_key again")
	m.must(m.write("providers/oauth2/p", map[string]any{"timeout": 9}))
}

func TestAKeyRotatesInTwoCalls(t *testing.T) {
	m := newMount(t, setup{})
	m.must(m.write("providers/oauth2/p", map[string]any{"auth_method": "private_key_jwt", "client_secret": ""}))
	m.registerKeys()
	before := m.must(m.read("providers/oauth2/p")).Data["private_key_sha256"]
	require.Contains(t, m.must(m.write("providers/oauth2/p/rotate", nil)).Data["detail"], "client_jwks")
	next := m.must(m.read("providers/oauth2/p")).Data["private_key_next_sha256"]
	m.registerKeys()
	m.start() // another node takes over in between
	m.must(m.write("providers/oauth2/p/rotate", nil))
	after := m.must(m.read("providers/oauth2/p")).Data
	require.Equal(t, next, after["private_key_sha256"])
	require.NotEqual(t, before, after["private_key_sha256"])
	require.NotContains(t, after, "private_key_next_sha256")
	m.mustCreds(nil)
	require.Equal(t, 1, len(m.server.Live()), "what the rotation had to mint is dead")
}

func TestAProofIsWantedWhereTokensAreBound(t *testing.T) {
	m := newMount(t, setup{})
	_, err := m.creds(map[string]any{"dpop_proof": "a.b.c"})
	requireCode(t, err, fault.InvalidRequest, "dpop_proof", "leave it out")
	m.must(m.write("providers/oauth2/p", map[string]any{"dpop": true}))
	_, err = m.creds(nil)
	requireCode(t, err, fault.InvalidRequest, "dpop_proof is missing", "htm=POST", "htu="+m.server.Endpoint(authserver.EndpointToken))
	_, err = m.creds(map[string]any{"dpop_proof": "a.b.c"})
	requireCode(t, err, fault.InvalidRequest, "dpop_proof")
	require.Empty(t, m.server.Live())
	require.Zero(t, m.server.Counts().Requests[authserver.EndpointToken])
}
