package oauth2

import (
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/kit"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

// thumbprinted is a client whose server finds its key by the certificate, as Entra does:
// the key that is registered there has no kid.
func thumbprinted(t *testing.T, f with) *fixture {
	t.Helper()
	certificate, key, err := makePair(keyPS256, time.Now())
	require.NoError(t, err)
	all := with{
		"auth_method": authPrivateKeyJWT, "client_secret": "", "client_key_algorithm": keyPS256,
		"private_key": key.Reveal(), "client_certificate": certificate.Reveal(),
	}
	maps.Copy(all, f)
	fixture := newFixture(t, authserver.Options{}, all)
	fixture.registerCertificates(fieldCertificate)
	return fixture
}

// registerCertificates tells the server the keys of certificates that a read shows.
func (f *fixture) registerCertificates(names ...string) {
	f.t.Helper()
	var set jose.JSONWebKeySet
	for _, name := range names {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: f.certificate(name).PublicKey})
	}
	f.register(marshal(set))
}

func (f *fixture) certificate(name string) *x509.Certificate {
	f.t.Helper()
	text, _ := f.Public()[name].(string)
	block, _ := pem.Decode([]byte(text))
	require.NotNil(f.t, block, "a read shows no %s", name)
	certificate, err := x509.ParseCertificate(block.Bytes)
	require.NoError(f.t, err)
	return certificate
}

// header is that of the last assertion.
func (f *fixture) header() map[string]any {
	f.t.Helper()
	encoded, _, _ := strings.Cut(f.server.LastRequest(authserver.EndpointToken).Form().Get("client_assertion"), ".")
	raw, err := base64.RawURLEncoding.DecodeString(encoded)
	require.NoError(f.t, err)
	header := map[string]any{}
	require.NoError(f.t, json.Unmarshal(raw, &header))
	return header
}

func namesOf(certificate *x509.Certificate) map[string]any {
	sum, sum256 := sha1.Sum(certificate.Raw), sha256.Sum256(certificate.Raw)
	return map[string]any{
		"typ": "JWT", "alg": "PS256",
		"x5t": base64.RawURLEncoding.EncodeToString(sum[:]), "x5t#S256": base64.RawURLEncoding.EncodeToString(sum256[:]),
	}
}

func TestAssertionsNameTheirCertificate(t *testing.T) {
	f := thumbprinted(t, with{})
	f.mustMint(scopes("read"))
	require.Equal(t, namesOf(f.certificate(fieldCertificate)), f.header(), "without a kid, which the server does not know")
	require.NotContains(t, marshal(f.Public()), "PRIVATE")
}

func TestAKidThatTheKeyBringsStaysBesideTheCertificate(t *testing.T) {
	certificate, key, err := makePair(keyRS256, time.Now())
	require.NoError(t, err)
	private, err := kit.ParsePEMKey(key.Reveal())
	require.NoError(t, err)
	named, err := jwk.FromRaw(private)
	require.NoError(t, err)
	require.NoError(t, named.Set("kid", "known there"))
	f := thumbprinted(t, with{"private_key": marshal(named), "client_certificate": certificate.Reveal()})
	f.register(f.jwks())
	f.mustMint(scopes("read"))
	want := namesOf(f.certificate(fieldCertificate))
	want["kid"] = "known there"
	require.Equal(t, want, f.header())
}

func TestAnRSAKeySignsAsTheServerWants(t *testing.T) {
	_, key, err := makePair(keyRS256, time.Now())
	require.NoError(t, err)
	for algorithm, want := range map[string]string{"": "RS256", keyRS256: "RS256", keyPS256: "PS256", keyES256: "RS256"} {
		f := keyed(t, authserver.Options{}, with{"private_key": key.Reveal(), "client_key_algorithm": algorithm})
		f.mustMint(scopes("read"))
		require.Equal(t, want, f.header()["alg"], "client_key_algorithm=%s", algorithm)
	}
	made := keyed(t, authserver.Options{}, with{"client_key_algorithm": keyPS256})
	made.mustMint(scopes("read"))
	require.Equal(t, "PS256", made.header()["alg"])
}

func TestCertificatesOfKeysRotateWithThem(t *testing.T) {
	f := thumbprinted(t, with{})
	before := f.certificate(fieldCertificate)
	health, err := f.Rotate(context.Background())
	require.NoError(t, err)
	require.Contains(t, health.Detail, "register client_certificate_next")
	next := f.certificate(fieldCertificateNext)
	require.NotEqual(t, before.Raw, next.Raw)
	_, err = f.Rotate(context.Background())
	requireCode(t, err, fault.ParentRefused, "private_key stays", "registered")
	f.mustMint(scopes("read"))
	f.registerCertificates(fieldCertificateNext)
	_, err = f.Rotate(context.Background())
	require.NoError(t, err)
	f.reopen()
	require.Equal(t, next.Raw, f.certificate(fieldCertificate).Raw)
	require.Nil(t, f.Public()[fieldCertificateNext])
	f.mustMint(scopes("read"))
	require.Equal(t, namesOf(next), f.header())
}

// A certificate that stayed behind would name a key that is gone.
func TestACertificateGoesWithItsKey(t *testing.T) {
	_, key, err := makePair(keyPS256, time.Now())
	require.NoError(t, err)
	f := thumbprinted(t, with{"private_key_next": key.Reveal()})
	f.register(marshal(map[string]any{"keys": f.Public()[publicJWKS].(map[string]any)["keys"].([]any)[1:]}))
	_, err = f.Rotate(context.Background())
	require.NoError(t, err)
	require.NotContains(t, f.store.Parent().Secrets, fieldCertificate)
	f.mustMint(scopes("read"))
	require.Contains(t, f.header(), "kid")
	require.NotContains(t, f.header(), "x5t")
}

func TestCertificatesThatAreNotTheKeys(t *testing.T) {
	server := authserver.New(t, authserver.Options{}, registered())
	certificate, key, err := makePair(keyES256, time.Now())
	require.NoError(t, err)
	other, _, err := makePair(keyES256, time.Now())
	require.NoError(t, err)
	old, oldKey, err := makePair(keyES256, time.Now().Add(-2*selfSignedLife))
	require.NoError(t, err)
	for name, test := range map[string]struct {
		fields with
		want   []string
	}{
		"of another key":        {with{"private_key": key.Reveal(), "client_certificate": other.Reveal()}, []string{"private_key", "not of one key"}},
		"with the key in it":    {with{"private_key": key.Reveal(), "client_certificate": certificate.Reveal() + key.Reveal()}, []string{"holds a private key"}},
		"no certificate":        {with{"private_key": key.Reveal(), "client_certificate": "MIIB"}, []string{"not PEM"}},
		"expired":               {with{"private_key": oldKey.Reveal(), "client_certificate": old.Reveal()}, []string{"client_certificate has expired"}},
		"without its key":       {with{"client_certificate": certificate.Reveal()}, []string{"private_key is missing"}},
		"the next without key":  {with{"private_key": key.Reveal(), "client_certificate_next": certificate.Reveal()}, []string{"client_certificate_next", "private_key_next"}},
		"where nothing is kept": {with{"assertion_signer": signerBroker, "client_certificate": certificate.Reveal()}, []string{"client_certificate contradicts assertion_signer=broker"}},
		"with a key of its own": {with{"private_key": key.Reveal(), "client_certificate_key": key.Reveal()}, []string{"client_certificate_key contradicts auth_method"}},
	} {
		t.Run(name, func(t *testing.T) {
			all := with{"auth_method": authPrivateKeyJWT, "client_secret": ""}
			maps.Copy(all, test.fields)
			_, err := setupFor(server, all).Configure(context.Background())
			requireCode(t, err, fault.InvalidRequest, test.want...)
		})
	}
}

func TestACertificateFitsItsKey(t *testing.T) {
	certificate, key, err := makePair(keyRS256, time.Now())
	require.NoError(t, err)
	_, other, err := makePair(keyES256, time.Now())
	require.NoError(t, err)
	_, err = parsePair(certificate.Reveal(), key.Reveal())
	require.NoError(t, err)
	for name, pair := range map[string][2]string{
		"another's key":      {certificate.Reveal(), other.Reveal()},
		"no key":             {certificate.Reveal(), ""},
		"no certificate":     {"", key.Reveal()},
		"the wrong way":      {key.Reveal(), certificate.Reveal()},
		"key beside":         {certificate.Reveal() + key.Reveal(), key.Reveal()},
		"certificate in key": {certificate.Reveal(), key.Reveal() + certificate.Reveal()},
	} {
		_, err := parsePair(pair[0], pair[1])
		require.Error(t, err, name)
	}
}
