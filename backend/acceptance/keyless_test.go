package acceptance

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
)

// Two servers take assertions that the broker signs as its own issuer: nothing is
// stored for them, and the keys come from Vault without a token. RFC 7523 3 has
// iss = sub = client_id, so that the client there is named as the broker's issuer.
// Hydra fetches the keys itself; oidc-provider fetches nothing from loopback, so it
// is given what stands there.
func TestServersTakeWhatTheBrokerSigns(t *testing.T) {
	t.Parallel()
	vault := sharedVault(t)
	m := vault.Enable(t, "")
	issuer := becomeIssuer(t, vault, m)
	_, published := public(t, vault, m, ".well-known/jwks.json")
	var keys map[string]any
	require.NoError(t, json.Unmarshal(published, &keys))
	keyless := harness.Fields{"client_id": issuer, "auth_method": "private_key_jwt", "assertion_signer": "broker", "verify": "introspect"}

	op := harness.StartOIDCProvider(t, harness.OIDCProviderOptions{
		Clients: []harness.OIDCClient{{ID: issuer, AuthMethod: "private_key_jwt", JWKS: keys, Extra: harness.Fields{
			"token_endpoint_auth_signing_alg": "ES256",
		}}},
		Resources: []harness.OIDCResource{{ID: filesAPI, Scopes: []string{"read"}}},
	})
	m.Write(t, "providers/oauth2/op", with(keyless, harness.Fields{"issuer": op.URL, "audience_parameter": "resource"}))
	m.Write(t, "roles/op", harness.Fields{"provider": "oauth2/op", "scopes": "read", "resources": filesAPI})

	hydra := sharedHydra(t)
	hydra.CreateClient(t, harness.HydraClient{
		ID: issuer, AuthMethod: "private_key_jwt", Scopes: []string{"repo:read"},
		Extra: map[string]any{"jwks_uri": issuer + "/.well-known/jwks.json", "token_endpoint_auth_signing_alg": "ES256"},
	})
	m.Write(t, "providers/oauth2/hydra", with(keyless, harness.Fields{
		"issuer": hydra.URL, "introspection_url": hydra.AdminURL + "/admin/oauth2/introspect", "assertion_audience": hydra.URL + "/oauth2/token",
	}))
	m.Write(t, "roles/hydra", harness.Fields{"provider": "oauth2/hydra", "scopes": "repo:read"})

	for role, server := range map[string]interface {
		MustBeActive(harness.TB, string)
		MustBeInactive(harness.TB, string)
	}{"op": op, "hydra": hydra} {
		c := read(t, m, role)
		server.MustBeActive(t, c.Token)
		shown := m.Read(t, "providers/oauth2/"+role)
		for name := range shown.Data {
			require.NotContains(t, name, "sha256", "a secret is stored")
		}
		require.Equal(t, true, m.Write(t, "providers/oauth2/"+role+"/check", nil).Data["healthy"])
		_, err := m.TryWrite(t, "providers/oauth2/"+role+"/rotate", nil)
		refused(t, err, 400, "invalid_request", "issuer/rotate")
		require.NoError(t, endLease(t, vault.Session, c.LeaseID))
		server.MustBeInactive(t, c.Token)
	}

	// An audience that nobody there wrote is no other server's business.
	m.Write(t, "providers/oauth2/op", harness.Fields{"assertion_audience": "https://elsewhere.example.com"})
	_, err := m.TryRead(t, "creds/op")
	refused(t, err, 501, "parent_refused", "invalid_client")
	_, err = m.TryWrite(t, "providers/oauth2/op", harness.Fields{"private_key": "-----BEGIN"})
	refused(t, err, 400, "invalid_request", "nothing is stored")
}
