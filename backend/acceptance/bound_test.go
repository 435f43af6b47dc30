package acceptance

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jws"
	"github.com/lestrrat-go/jwx/v2/jwt"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
)

// filesAPI is a resource of the oidc-provider (RFC 8707).
const filesAPI = "https://files.example.com/api"

// npmScene is a mount with the provider oauth2/op, whose parent is a client of an
// oidc-provider that was started with those options.
func npmScene(t *testing.T, options harness.OIDCProviderOptions, provider harness.Fields) (*harness.Mount, *harness.OIDCProvider) {
	t.Helper()
	vault := sharedVault(t)
	options.Resources = []harness.OIDCResource{{ID: filesAPI, Scopes: []string{"read", "write"}}}
	op := harness.StartOIDCProvider(t, options)
	m := vault.Enable(t, "")
	fields := with(harness.Fields{"issuer": op.URL, "audience_parameter": "resource", "verify": "introspect"}, provider)
	if op.Authority != nil {
		fields["ca_pem"] = op.Authority.PEM
	}
	m.Write(t, "providers/oauth2/op", fields)
	m.Write(t, "roles/files", harness.Fields{"provider": "oauth2/op", "scopes": "read,write", "resources": filesAPI, "ttl": "10m"})
	return m, op
}

// holderKey is a key that only the agent holds.
type holderKey struct {
	private jwk.Key
	jkt     string
}

func newHolderKey(t *testing.T) holderKey {
	t.Helper()
	raw, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	private, err := jwk.FromRaw(raw)
	require.NoError(t, err)
	sum, err := private.Thumbprint(crypto.SHA256)
	require.NoError(t, err)
	return holderKey{private: private, jkt: base64.RawURLEncoding.EncodeToString(sum)}
}

// prove makes a DPoP proof as an agent would.
func (k holderKey) prove(t *testing.T, endpoint, nonce string) string {
	t.Helper()
	builder := jwt.NewBuilder().JwtID(rand.Text()).IssuedAt(time.Now()).Claim("htm", http.MethodPost).Claim("htu", endpoint)
	if nonce != "" {
		builder = builder.Claim("nonce", nonce)
	}
	token, err := builder.Build()
	require.NoError(t, err)
	public, err := k.private.PublicKey()
	require.NoError(t, err)
	headers := jws.NewHeaders()
	require.NoError(t, headers.Set(jws.TypeKey, "dpop+jwt"))
	require.NoError(t, headers.Set(jws.JWKKey, public))
	signed, err := jwt.Sign(token, jwt.WithKey(jwa.ES256, k.private, jws.WithProtectedHeaders(headers)))
	require.NoError(t, err)
	return confidential("DPoP proof", string(signed))
}

// What an error says that an agent needs for its proof.
var (
	askedURL   = regexp.MustCompile(`htu=(\S+?)[,;\s]`)
	askedNonce = regexp.MustCompile(`nonce="([^"]+)"`)
)

func TestAChildIsBoundToTheAgentsKey(t *testing.T) {
	t.Parallel()
	client := harness.OIDCClient{ID: "broker", Secret: confidential("client secret", "secret-of-bound"), DPoPBound: true}
	m, op := npmScene(t, harness.OIDCProviderOptions{Clients: []harness.OIDCClient{client}, DPoPNonce: true},
		harness.Fields{"client_id": client.ID, "client_secret": client.Secret, "dpop": true})
	key := newHolderKey(t)

	// The agent knows nothing but what the refusals tell.
	_, err := m.TryWrite(t, "creds/files", nil)
	refused(t, err, 400, "invalid_request", "dpop_proof is missing", "htm=POST")
	endpoint := askedURL.FindStringSubmatch(err.Error())
	require.NotNil(t, endpoint, "%v", err)
	_, err = m.TryWrite(t, "creds/files", harness.Fields{"dpop_proof": key.prove(t, endpoint[1], "")})
	refused(t, err, 400, "invalid_request", "use_dpop_nonce")
	nonce := askedNonce.FindStringSubmatch(err.Error())
	require.NotNil(t, nonce, "%v", err)
	proof := key.prove(t, endpoint[1], nonce[1])
	c := issue(t, m, "files", harness.Fields{"dpop_proof": proof, "scopes": "read"})

	require.Equal(t, "DPoP", text(c.Secret, "token_type"))
	require.Equal(t, []string{"read"}, list(c.Secret, "scopes"))
	require.Equal(t, []string{filesAPI}, list(c.Secret, "resources"))
	require.NotContains(t, c.Data, "unverified")
	// What a resource server does: it holds the token's key against the proof's.
	found := op.Introspect(t, c.Token)
	require.True(t, found.Active)
	require.Equal(t, map[string]any{"jkt": key.jkt}, found.All["cnf"])
	require.Equal(t, filesAPI, found.Audience)

	_, err = m.TryWrite(t, "creds/files", harness.Fields{"dpop_proof": proof})
	refused(t, err, 400, "invalid_request", "DPoP proof", "fresh jti")
	_, err = m.TryWrite(t, "creds/files", harness.Fields{"dpop_proof": key.prove(t, op.URL+"/elsewhere", nonce[1])})
	refused(t, err, 400, "invalid_request", "htu")
	_, err = m.TryRead(t, "creds/files", "dpop_proof=any") // the query ends up in logs
	refused(t, err, 400, "invalid_request", "must be written")

	require.Equal(t, true, m.Write(t, "providers/oauth2/op/check", nil).Data["healthy"])
	require.NoError(t, endLease(t, sharedVault(t).Session, c.LeaseID))
	op.MustBeInactive(t, c.Token)
}

func TestOIDCProviderTakesTheBrokersKey(t *testing.T) {
	t.Parallel()
	raw, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(raw)
	require.NoError(t, err)
	private := confidential("private key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
	public, err := jwk.FromRaw(raw.Public())
	require.NoError(t, err)
	require.NoError(t, jwk.AssignKeyID(public)) // the thumbprint, as a read of the provider shows it
	m, op := npmScene(t, harness.OIDCProviderOptions{Clients: []harness.OIDCClient{{
		ID: "broker", AuthMethod: "private_key_jwt", JWKS: map[string]any{"keys": []any{public}},
		Extra: harness.Fields{"token_endpoint_auth_signing_alg": "ES256"},
	}}}, harness.Fields{"client_id": "broker", "auth_method": "private_key_jwt", "private_key": private})
	c := read(t, m, "files")
	op.MustBeActive(t, c.Token)
	require.NoError(t, endLease(t, sharedVault(t).Session, c.LeaseID))
	op.MustBeInactive(t, c.Token)
}

func TestClientCertificatesAreTaken(t *testing.T) {
	t.Parallel()
	own := harness.SelfSignedCertificate(t, "broker")
	for name, aliases := range map[string]bool{"at the usual endpoints": false, "at endpoints of their own": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, op := npmScene(t, harness.OIDCProviderOptions{TLS: !aliases, TLSAliases: aliases, Clients: []harness.OIDCClient{
				{ID: "own", AuthMethod: "self_signed_tls_client_auth", JWKS: own.JWKS(t)},
				{ID: "issued", AuthMethod: "tls_client_auth", SubjectURI: "spiffe://example.org/broker"},
				{ID: "bound", AuthMethod: "self_signed_tls_client_auth", JWKS: own.JWKS(t), CertBound: true},
			}}, harness.Fields{"client_id": "own", "auth_method": "self_signed_tls_client_auth", "client_certificate": own.PEM, "client_certificate_key": own.Key})
			c := read(t, m, "files")
			op.MustBeActive(t, c.Token)
			require.NoError(t, endLease(t, sharedVault(t).Session, c.LeaseID))
			op.MustBeInactive(t, c.Token)

			issued := op.Authority.ClientCertificate(t, "broker", "spiffe://example.org/broker")
			by := func(method, id string, certificate harness.Certificate) harness.Fields {
				return harness.Fields{
					"issuer": op.URL, "ca_pem": op.Authority.PEM, "audience_parameter": "resource", "verify": "introspect",
					"client_id": id, "auth_method": method, "client_certificate": certificate.PEM, "client_certificate_key": certificate.Key,
				}
			}
			m.Write(t, "providers/oauth2/issued", by("tls_client_auth", "issued", issued))
			m.Write(t, "roles/issued", harness.Fields{"provider": "oauth2/issued", "scopes": "read", "resources": filesAPI})
			op.MustBeActive(t, read(t, m, "issued").Token)
			require.Equal(t, strings.TrimSpace(issued.PEM), text(m.Read(t, "providers/oauth2/issued"), "client_certificate"))

			// A token that is bound to the broker's certificate is of no use to an agent.
			m.Write(t, "providers/oauth2/bound", by("self_signed_tls_client_auth", "bound", own))
			m.Write(t, "roles/bound", harness.Fields{"provider": "oauth2/bound", "scopes": "read", "resources": filesAPI})
			_, err := m.TryRead(t, "creds/bound")
			refused(t, err, 501, "provider_violation", "tls_client_certificate_bound_access_tokens=false")

			// Any other certificate is a stranger's.
			stranger := harness.SelfSignedCertificate(t, "broker")
			m.Write(t, "providers/oauth2/op", with(by("self_signed_tls_client_auth", "own", stranger), harness.Fields{"verify_connection": false}))
			_, err = m.TryRead(t, "creds/files")
			refused(t, err, 501, "parent_refused", "parent credential")
		})
	}
}

// The broker makes key and certificate itself; what it shows is what to register.
func TestAMadeCertificateIsShown(t *testing.T) {
	t.Parallel()
	m, op := npmScene(t, harness.OIDCProviderOptions{TLS: true, Clients: []harness.OIDCClient{{ID: "unused", Secret: "unused-secret"}}},
		harness.Fields{"client_id": "own", "auth_method": "self_signed_tls_client_auth"})
	shown := m.Read(t, "providers/oauth2/op")
	block, rest := pem.Decode([]byte(text(shown, "client_certificate")))
	require.NotNil(t, block)
	require.Empty(t, rest)
	certificate, err := x509.ParseCertificate(block.Bytes)
	require.NoError(t, err)
	require.Greater(t, time.Until(certificate.NotAfter), 9*365*24*time.Hour)
	key := shown.Data["client_jwks"].(map[string]any)["keys"].([]any)[0].(map[string]any)
	require.Equal(t, []any{base64.StdEncoding.EncodeToString(block.Bytes)}, key["x5c"])
	_, err = m.TryRead(t, "creds/files")
	refused(t, err, 501, "parent_refused", "parent credential")
	_, err = m.TryWrite(t, "providers/oauth2/op", harness.Fields{"token_url": op.URL + "/other"})
	refused(t, err, 400, "invalid_request", "again")
}

// RFC 9396 as far as the server goes: it grants the details that it is asked for,
// and its introspection says so.
func TestAuthorizationDetailsAtOIDCProvider(t *testing.T) {
	t.Parallel()
	client := harness.OIDCClient{ID: "broker", Secret: confidential("client secret", "secret-of-detailed"), DetailTypes: []string{"files"}}
	m, op := npmScene(t, harness.OIDCProviderOptions{Clients: []harness.OIDCClient{client}, DetailTypes: map[string]harness.Fields{"files": {}}},
		harness.Fields{"client_id": client.ID, "client_secret": client.Secret})
	m.Write(t, "roles/files", harness.Fields{"authorization_details": `[{"type":"files","actions":["list","read"],"locations":["` + filesAPI + `"]}]`})
	c := issue(t, m, "files", harness.Fields{"authorization_details": `[{"type":"files","actions":["read"],"locations":["` + filesAPI + `"]}]`})
	want := []any{map[string]any{"type": "files", "actions": []any{"read"}, "locations": []any{filesAPI}}}
	require.Equal(t, want, c.Data["authorization_details"])
	require.NotContains(t, c.Data, "unverified")
	require.Equal(t, want, op.Introspect(t, c.Token).All["authorization_details"])
	_, err := m.TryWrite(t, "creds/files", harness.Fields{"authorization_details": `[{"type":"files","actions":["write"]}]`})
	require.Error(t, err)
}
