package oauth2

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

func TestReservedAudiences(t *testing.T) {
	for name, c := range map[string]struct {
		fields, data string
		destinations []string
		endpoints    []string
		names        []string
	}{
		"an issuer, whatever the method": {
			fields: `{"issuer":"https://as.test/t","client_id":"c"}`, data: `{"issuer":"https://as.test/t","token":"https://as.test/t/token","revocation":"https://as.test/t/revoke","jwks":"https://as.test/keys"}`,
			destinations: []string{"https://as.test/t/revoke", "https://as.test/t/token"},
			endpoints:    []string{"https://as.test/t/revoke", "https://as.test/t/token"}, names: []string{"https://as.test/t"},
		},
		"an audience of the operator's": {
			fields: `{"token_url":"https://as.test/token","client_id":"c","auth_method":"private_key_jwt","assertion_audience":"api://exchange"}`, data: `{"token":"https://as.test/token"}`,
			destinations: []string{"assertion for api://exchange", "https://as.test/token"},
			endpoints:    []string{"https://as.test/token"}, names: []string{"api://exchange", "https://as.test"},
		},
		"an unknown issuer": {
			fields: `{"token_url":"https://as.test:8443/realms/x//protocol/token?p=1","client_id":"c"}`, data: `{"token":"https://as.test:8443/realms/x//protocol/token?p=1"}`,
			endpoints: []string{"https://as.test:8443/realms/x//protocol/token?p=1"},
			names: []string{
				"https://as.test:8443", "https://as.test:8443/realms", "https://as.test:8443/realms/x", "https://as.test:8443/realms/x/protocol",
				"https://as.test:8443/realms/x//protocol/token?p=1",
			},
		},
		"an issuer with a token_url of another name": {
			fields: `{"issuer":"https://as.test","token_url":"https://mtls.test/token","client_id":"c"}`, data: `{"issuer":"https://as.test","token":"https://mtls.test/token","others":["https://as.test/par","https://as.test/token"]}`,
			endpoints: []string{"https://as.test/par", "https://as.test/token", "https://mtls.test/token"}, names: []string{"https://as.test"},
		},
		"fields that cannot be read": {
			fields: `[]`, data: `[]`, destinations: []string{"assertion for https://as.test", "https://as.test/token"},
			endpoints: []string{"https://as.test/token"}, names: []string{"https://as.test"},
		},
		"nothing": {},
	} {
		t.Run(name, func(t *testing.T) {
			r := Type{}.ReservedAudiences(provider.Config{
				Fields: json.RawMessage(c.fields), Pinned: provider.Pinned{Destinations: c.destinations, Data: json.RawMessage(c.data)},
			})
			require.ElementsMatch(t, c.endpoints, r.Endpoints)
			require.ElementsMatch(t, c.names, r.Names)
		})
	}
}

// A server takes as audience what its metadata calls an endpoint for clients, also
// what this client does not use, and what the operator's own word replaced.
func TestEndpointsForOtherClientsAreRemembered(t *testing.T) {
	server := authserver.New(t, authserver.Options{}, registered())
	server.Break(authserver.EndpointMetadata, authserver.Set("pushed_authorization_request_endpoint", server.URL+"/par"))
	pinned, err := setupFor(server, with{"token_url": server.URL + "/other/token"}).Configure(context.Background())
	require.NoError(t, err)
	var at endpoints
	require.NoError(t, json.Unmarshal(pinned.Data, &at))
	require.Equal(t, []string{server.URL + "/par", server.Endpoint(authserver.EndpointToken)}, at.Others)
	require.NotContains(t, pinned.Destinations, server.URL+"/par", "no secret goes there")
	server.Break(authserver.EndpointMetadata, authserver.Set("pushed_authorization_request_endpoint", 1))
	_, err = setupFor(server, with{}).Configure(context.Background())
	require.NoError(t, err, "what is malformed and not used is passed over")
}
