package oauth2

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"maps"
	"math/big"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/kit"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

var mutual = authserver.Options{TLS: true, MutualTLS: true}

// certified is a fixture whose client has a self-signed certificate.
func certified(t *testing.T, o authserver.Options, f with) *fixture {
	t.Helper()
	all := with{"auth_method": authSelfSignedTLS, "client_secret": ""}
	maps.Copy(all, f)
	fixture := newFixture(t, o, all)
	fixture.register(fixture.jwks())
	return fixture
}

func TestASelfSignedCertificateAuthenticates(t *testing.T) {
	f := certified(t, mutual, with{"verify": "introspect", "confirm_revocation": true})
	child := f.mustMint(scopes("read"))
	require.NoError(t, f.Revoke(context.Background(), child.Handle))
	require.Empty(t, f.server.Live())
	posts := 0
	for _, r := range f.server.Requests() {
		if r.Method == http.MethodPost {
			posts++
			require.Contains(t, r.Path, "/mtls/", "the endpoints for certificates (RFC 8705 5)")
			require.Equal(t, testClient, r.Form().Get("client_id"))
			require.Empty(t, r.Header.Get("Authorization"))
		}
	}
	require.GreaterOrEqual(t, posts, 3, "a mint, its introspection, its kill")
	require.Contains(t, f.Public()[fieldCertificate], "BEGIN CERTIFICATE")
	require.Contains(t, f.jwks(), "x5c")
	require.NotContains(t, marshal(f.Public()), "PRIVATE")

	// A stranger's certificate is that of another client.
	f.register(marshal(certified(t, mutual, with{}).Public()[publicJWKS]))
	_, err := f.mint(scopes("read"))
	requireCode(t, err, fault.ParentRefused, "parent credential", "invalid_client")
}

func TestCertificatesRotateWithoutDowntime(t *testing.T) {
	f := certified(t, mutual, with{})
	_, err := f.Rotate(context.Background())
	require.NoError(t, err)
	require.NotEqual(t, f.Public()[fieldCertificate], f.Public()[fieldCertificateNext])
	next := f.Public()[fieldCertificateNext]
	keys := f.Public()[publicJWKS].(map[string]any)["keys"].([]any)
	require.Len(t, keys, 2)
	_, err = f.Rotate(context.Background())
	requireCode(t, err, fault.ParentRefused, "client_certificate stays", "registered")
	f.mustMint(scopes("read"))
	f.register(marshal(map[string]any{"keys": keys[1:]}))
	f.mustMint(scopes("read"))
	_, err = f.Rotate(context.Background())
	require.NoError(t, err)
	require.Equal(t, next, f.Public()[fieldCertificate])
	f.reopen()
	require.Equal(t, next, f.Public()[fieldCertificate])
	require.Nil(t, f.Public()[fieldCertificateNext])
	sent := f.requests(authserver.EndpointToken)
	f.mustMint(scopes("read"))
	require.Equal(t, sent+1, f.requests(authserver.EndpointToken))
}

// authority issues client certificates.
type authority struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	PEM  string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, key: newKey[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	require.NoError(t, err)
	a.cert, err = x509.ParseCertificate(der)
	require.NoError(t, err)
	a.PEM = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return a
}

// issue makes a certificate for that name, and its key.
func (a *authority) issue(name string) (certificate, key string) {
	a.t.Helper()
	private := newKey[*ecdsa.PrivateKey](a.t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, private.Public(), a.key)
	require.NoError(a.t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), keyPEM(a.t, private)
}

func TestAnIssuedCertificateAuthenticates(t *testing.T) {
	a := newAuthority(t)
	certificate, key := a.issue("broker")
	stranger, strangersKey := newAuthority(t).issue("broker")
	other, othersKey := a.issue("somebody else")
	client := registered()
	client.Secrets, client.AuthorityPEM, client.Subject = nil, a.PEM, "CN=broker"
	server := authserver.New(t, mutual, client)
	fields := func(certificate, key string) with {
		return with{"auth_method": authTLS, "client_secret": "", "client_certificate": certificate, "client_certificate_key": key}
	}
	f := newFixtureOn(t, server, fields(certificate, key))
	f.mustMint(scopes("read"))
	require.Equal(t, map[string]any{fieldCertificate: certificate}, f.Public())
	for _, wrong := range []with{fields(stranger, strangersKey), fields(other, othersKey)} {
		_, err := newFixtureOn(t, server, wrong).mint(scopes("read"))
		requireCode(t, err, fault.ParentRefused, "parent credential")
	}

	// Only the authority can make the next one.
	_, err := f.Rotate(context.Background())
	requireCode(t, err, fault.InvalidRequest, "client_certificate_next and client_certificate_key_next")
	next := fields(stranger, strangersKey) // refused, so the next one is tried
	next["client_certificate_next"], next["client_certificate_key_next"] = certificate, key
	f = newFixtureOn(t, server, next)
	f.mustMint(scopes("read"))
	_, err = f.Rotate(context.Background())
	require.NoError(t, err)
	require.Equal(t, map[string]any{fieldCertificate: certificate}, f.Public())
}

// Keys are fetched and metadata is read without the certificate.
func TestTheCertificateIsShownToTheClientsEndpointsOnly(t *testing.T) {
	o := mutual
	o.JWT = true
	f := certified(t, o, with{"verify": "jwt"})
	f.mustMint(scopes("read"))
	require.NotZero(t, f.requests(authserver.EndpointJWKS))
	shown := f.server.Certified()
	require.Equal(t, map[string]bool{"/mtls/token": true}, shown)
}

func TestATokenBoundToTheBrokerIsOfNoUse(t *testing.T) {
	for _, verify := range []string{verifyIntrospect, verifyJWT} {
		o := mutual
		o.JWT = verify == verifyJWT
		f := certified(t, o, with{"verify": verify})
		client := registered()
		client.Secrets, client.JWKS, client.CertificateBound = nil, f.jwks(), true
		f.server.SetClient(client)
		child, err := f.mint(scopes("read"))
		requireCode(t, err, fault.ProviderViolation, "tls_client_certificate_bound_access_tokens=false")
		require.NoError(t, f.Revoke(context.Background(), child.Handle))
		require.Empty(t, f.server.Live())
	}
}

// A server that ends the handshake has not read the request: nothing is lost, and
// the next certificate is tried.
func TestAHandshakeThatIsRefused(t *testing.T) {
	f := certified(t, authserver.Options{TLS: true, MutualTLS: true, RefuseCertificates: true}, with{})
	_, err := f.Rotate(context.Background())
	require.NoError(t, err)
	child, err := f.mint(scopes("read"))
	requireCode(t, err, fault.ParentRefused, "client certificate")
	require.Nil(t, child)
	require.NotErrorIs(t, err, provider.ErrAnswerLost)
	require.Zero(t, f.requests(authserver.EndpointToken))
}

func newKey[K any](t *testing.T) func(K, error) K {
	return func(k K, err error) K { t.Helper(); require.NoError(t, err); return k }
}

func keyPEM(t *testing.T, private crypto.Signer) string {
	t.Helper()
	text, err := kit.EncodeKey(private)
	require.NoError(t, err)
	return text.Reveal()
}
