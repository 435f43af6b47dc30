package acceptance

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/providertest"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
)

// What testdata/wire says of servers, shown by those that nobody here wrote.

// mailAPI is a service whose tokens are JWTs, which oidc-provider does not revoke.
const mailAPI = "https://mail.example.com"

// An oidc-provider to which there is no way but through a proxy, and whose client must
// sign by PS256. The proxy is ours; what is said behind it is not.
func TestOIDCProviderBehindAProxy(t *testing.T) {
	t.Parallel()
	vault := sharedVault(t)
	raw, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(raw)
	require.NoError(t, err)
	private := confidential("private key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
	public, err := jwk.FromRaw(raw.Public())
	require.NoError(t, err)
	require.NoError(t, jwk.AssignKeyID(public)) // the thumbprint, as a read of the provider shows it
	require.NoError(t, public.Set(jwk.AlgorithmKey, jwa.PS256))
	op := harness.StartOIDCProvider(t, harness.OIDCProviderOptions{
		TLS: true,
		Clients: []harness.OIDCClient{{
			ID: "broker", AuthMethod: "private_key_jwt", JWKS: map[string]any{"keys": []any{public}},
			Extra: harness.Fields{"token_endpoint_auth_signing_alg": "PS256"},
		}},
		Resources: []harness.OIDCResource{
			{ID: filesAPI, Scopes: []string{"read"}},
			{ID: mailAPI, Scopes: []string{"read"}, JWT: true, TTL: 10 * time.Minute},
		},
	})
	proxy := providertest.NewProxy(t, false)
	proxy.Demand("broker", confidential("proxy password", "password-of-the-proxy"))
	way := harness.Fields{"ca_pem": op.Authority.PEM, "proxy_url": proxy.URL, "proxy_username": "broker", "proxy_password": "password-of-the-proxy"}
	client := with(way, harness.Fields{
		"issuer": op.URL, "audience_parameter": "resource", "client_id": "broker",
		"auth_method": "private_key_jwt", "private_key": private, "client_key_algorithm": "PS256",
	})
	m := vault.Enable(t, "")
	m.Write(t, "issuers/op", with(way, harness.Fields{"oidc_discovery_url": op.URL, "bound_audiences": mailAPI}))
	_, err = m.TryWrite(t, "providers/oauth2/files", with(client, harness.Fields{"proxy_password": "another"}))
	refused(t, err, 503, "temporarily_unavailable", "proxy_password")

	m.Write(t, "providers/oauth2/files", with(client, harness.Fields{"verify": "introspect"}))
	m.Write(t, "roles/files", harness.Fields{"provider": "oauth2/files", "scopes": "read", "resources": filesAPI, "ttl": "5m"})
	c := read(t, m, "files")
	op.MustBeActive(t, c.Token)
	require.NoError(t, endLease(t, vault.Session, c.LeaseID))
	op.MustBeInactive(t, c.Token)

	m.Write(t, "providers/oauth2/mail", with(client, harness.Fields{"verify": "jwt", "check_scopes": "read", "check_audiences": mailAPI}))
	m.Write(t, "roles/mail", harness.Fields{"provider": "oauth2/mail", "scopes": "read", "resources": mailAPI, "ttl": "5m"})
	unrevokable(t, m)

	// An access token is a subject token, with the typ that RFC 9068 gives it, and as a file holds it.
	m.Write(t, "roles/behalf", harness.Fields{"provider": "oauth2/files", "scopes": "read", "resources": filesAPI, "ttl": "5m", "subject_issuers": "op"})
	behalf := issue(t, m, "behalf", harness.Fields{"subject_token": read(t, m, "mail").Token + "\n"})
	require.Equal(t, "broker", text(behalf.Secret, "subject"))
	for _, r := range proxy.Requests() {
		require.Equal(t, http.MethodConnect, r.Method)
	}
}

// unrevokable tells of oauth2/mail and its role: unsupported_token_type is for good, and
// the operator can say so beforehand.
func unrevokable(t *testing.T, m *harness.Mount) {
	t.Helper()
	health := m.Write(t, "providers/oauth2/mail/check", nil)
	require.Equal(t, []any{"scope:read"}, health.Data["grants"], "check_scopes is asked for")
	require.Len(t, health.Warnings, 1)
	require.Contains(t, health.Warnings[0], "unsupported_token_type")
	require.Contains(t, health.Warnings[0], "revocation=expiry")

	c := read(t, m, "mail")
	require.Equal(t, true, c.Data["self_contained"])
	require.NoError(t, endLease(t, sharedVault(t).Session, c.LeaseID), "Vault need not try again")
	m.Write(t, "sweep", nil)
	grant := m.Read(t, "grants/"+c.GrantID)
	require.Equal(t, "expiry", text(grant, "revocation"))
	require.Equal(t, false, grant.Data["pending"])
	require.EqualValues(t, "1", grant.Data["attempts"])
	require.Contains(t, grant.Data["last_error"], "unsupported_token_type")
	killed := m.Write(t, "revoke/grant/"+c.GrantID, nil)
	require.EqualValues(t, "1", killed.Data["expiry_only"])
	require.EqualValues(t, "0", killed.Data["revoked"])
	require.EqualValues(t, "0", killed.Data["pending"])

	m.Write(t, "providers/oauth2/mail", harness.Fields{"revocation": "expiry"})
	require.Empty(t, m.Write(t, "providers/oauth2/mail/check", nil).Warnings)
	require.Equal(t, "expiry", text(read(t, m, "mail").Secret, "revocation"))
}

// A scope that the parent does not have, at a server that says so and at one that grants
// what it likes.
func TestAnOddScopeDoesNotCostTheParent(t *testing.T) {
	t.Parallel()
	vault, op := sharedVault(t), sharedOP(t)
	parent := confidential("refresh token", op.RefreshToken(t, harness.OPWeb, "email"))
	m := vault.Enable(t, "")
	m.Write(t, "providers/oauth2/op", harness.Fields{
		"issuer": op.URL, "client_id": harness.OPWeb.ID, "client_secret": harness.OPWeb.Secret, "grant": "refresh_token", "refresh_token": parent,
	})
	m.Write(t, "roles/user", harness.Fields{
		"provider": "oauth2/op", "scopes": "openid,offline_access,phone", "default_scopes": "openid,offline_access", "ttl": "2m",
	})
	op.MustBeActive(t, harness.OPWeb, read(t, m, "user").Token)
	_, err := m.TryRead(t, "creds/user", "scopes=phone")
	refused(t, err, 400, "invalid_scope", "invalid_scope")
	require.Equal(t, "ok", keyInfo(t, m, "providers", "oauth2/op")["health"])
	op.MustBeActive(t, harness.OPWeb, read(t, m, "user").Token)

	s, _ := newFamily(t, vault, sharedHydra(t), nil)
	s.role(t, "odd", harness.Fields{"scopes": "moon:read", "audiences": nil})
	_, err = s.TryRead(t, "creds/odd")
	refused(t, err, 501, "provider_violation", "scope:repo:write")
	s.hydra.MustBeActive(t, read(t, s.Mount, "deploy").Token)
}

// The OP shows a token to its audience alone, so that a client which asks about those that
// it has got for others learns nothing: neither that they live nor that they are dead.
func TestIntrospectionThatIsForOthersProvesNothing(t *testing.T) {
	t.Parallel()
	op := sharedOP(t)
	s := atOP(t, op, harness.Fields{"verify": "introspect"})
	s.exchangeRole(t, "behalf", harness.Fields{"parameters": harness.Fields{"subject_token_type": "urn:ietf:params:oauth:token-type:id_token"}})
	login, _ := op.Login(t, harness.OPJWT, "email")
	confidential("subject token", login)
	_, err := s.TryWrite(t, "creds/behalf", harness.Fields{"subject_token": login, "scopes": "openid"})
	refused(t, err, 501, "provider_violation", "may the client introspect it", "audience")
	require.Empty(t, s.List(t, "grants"), "it has been killed")
}

// Vault answers a path with a slash too many by a redirect, also where it is the issuer.
func TestARedirectFromMetadataIsShownAndNotFollowed(t *testing.T) {
	t.Parallel()
	vault := sharedVault(t)
	m := vault.Enable(t, "")
	becomeIssuer(t, vault, m)
	issuer := vault.Addr + "/v1//" + m.Path
	_, err := m.TryWrite(t, "providers/oauth2/vault", harness.Fields{"issuer": issuer, "client_id": "any", "client_secret": "any"})
	refused(t, err, 400, "invalid_request", "not followed", vault.Addr)
	_, err = m.TryWrite(t, "issuers/vault", harness.Fields{"oidc_discovery_url": issuer, "bound_audiences": "any"})
	refused(t, err, 400, "invalid_request", "not followed", vault.Addr+"/v1/"+m.Path)
}
