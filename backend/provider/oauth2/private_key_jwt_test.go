package oauth2

import (
	"context"
	"encoding/json"
	"maps"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/kit"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/providertest"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

// keyed is a fixture whose client has a key instead of a secret, registered at the
// server as a read of the provider shows it.
func keyed(t *testing.T, o authserver.Options, f with) *fixture {
	t.Helper()
	all := with{"auth_method": authPrivateKeyJWT, "client_secret": ""}
	maps.Copy(all, f)
	fixture := newFixture(t, o, all)
	fixture.register(fixture.jwks())
	return fixture
}

// register tells the server the client's keys.
func (f *fixture) register(jwks string) {
	client := registered()
	client.Secrets, client.JWKS = nil, jwks
	f.server.SetClient(client)
}

// jwks is client_jwks as a read shows it.
func (f *fixture) jwks() string { return marshal(f.Public()[publicJWKS]) }

// reopen opens the provider anew on what is stored.
func (f *fixture) reopen() {
	f.t.Helper()
	f.setup.Secrets = map[string]string{}
	for name, value := range f.store.Parent().Secrets {
		f.setup.Secrets[name] = value.Reveal()
	}
	f.Provider = f.setup.OpenOn(f.t, f.store).(*Provider)
}

func (f *fixture) assertionClaims(e authserver.Endpoint) (map[string]any, string) {
	f.t.Helper()
	form := f.server.LastRequest(e).Form()
	require.Equal(f.t, assertionType, form.Get("client_assertion_type"))
	require.False(f.t, form.Has("client_secret"))
	token, err := jwt.ParseSigned(form.Get("client_assertion"), authserver.AssertionAlgorithms)
	require.NoError(f.t, err)
	claims := map[string]any{}
	require.NoError(f.t, token.UnsafeClaimsWithoutVerification(&claims))
	return claims, token.Headers[0].KeyID
}

func TestAssertionsAuthenticateEveryRequest(t *testing.T) {
	for _, algorithm := range []string{"", keyES256, keyRS256, keyPS256, keyEdDSA} {
		t.Run("by a key of kind "+algorithm, func(t *testing.T) {
			f := keyed(t, authserver.Options{}, with{"client_key_algorithm": algorithm, "verify": "introspect", "confirm_revocation": true})
			child := f.mustMint(scopes("read"))
			require.NoError(t, f.Revoke(context.Background(), child.Handle))
			require.Empty(t, f.server.Live())
			ids := map[any]bool{}
			for _, e := range []authserver.Endpoint{authserver.EndpointToken, authserver.EndpointIntrospect, authserver.EndpointRevoke} {
				claims, kid := f.assertionClaims(e)
				require.Equal(t, f.server.URL, claims["aud"])
				require.Equal(t, testClient, claims["iss"])
				require.Equal(t, testClient, claims["sub"])
				require.InDelta(t, 60, claims["exp"].(float64)-claims["iat"].(float64), 0)
				require.Contains(t, f.jwks(), `"kid":"`+kid+`"`)
				require.False(t, ids[claims["jti"]], "an assertion was sent twice")
				ids[claims["jti"]] = true
			}
			require.NotContains(t, f.jwks(), `"d":`)
		})
	}
}

func TestTheAssertionIsForTheAudienceOfTheOperator(t *testing.T) {
	server := authserver.New(t, authserver.Options{}, registered())
	endpoint := server.Endpoint(authserver.EndpointToken)
	for name, test := range map[string]struct {
		fields with
		want   string
	}{
		"the issuer":         {with{}, server.URL},
		"the token endpoint": {with{"issuer": "", "token_url": endpoint}, endpoint},
		"what is written":    {with{"assertion_audience": endpoint}, endpoint},
	} {
		t.Run(name, func(t *testing.T) {
			all := with{"auth_method": authPrivateKeyJWT, "client_secret": ""}
			maps.Copy(all, test.fields)
			f := newFixtureOn(t, server, all)
			f.register(f.jwks())
			f.mustMint(scopes("read"))
			claims, _ := f.assertionClaims(authserver.EndpointToken)
			require.Equal(t, test.want, claims["aud"])
			require.Contains(t, f.pinned.Destinations, "assertion for "+test.want, "changing it must demand the key anew")
		})
	}
}

func TestKeysRotateWithoutDowntime(t *testing.T) {
	f := keyed(t, authserver.Options{}, with{})
	first := f.jwks()
	health, err := f.Rotate(context.Background())
	require.NoError(t, err)
	require.Contains(t, health.Detail, "client_jwks")
	require.Zero(t, f.requests(authserver.EndpointToken))
	both := f.jwks()
	require.NotEqual(t, first, both)
	require.Len(t, f.Public()[publicJWKS].(map[string]any)["keys"], 2)
	f.reopen()
	require.JSONEq(t, both, f.jwks(), "the next key is stored")

	// Not yet registered: the next call proves nothing, and changes nothing.
	before := f.store.Parent().Secrets
	_, err = f.Rotate(context.Background())
	requireCode(t, err, fault.ParentRefused, "private_key stays", "registered")
	require.Equal(t, before, f.store.Parent().Secrets)
	f.mustMint(scopes("read"))

	// Registered, and the old one withdrawn too soon: the next one is tried.
	f.register(both)
	f.mustMint(scopes("read"))
	_, kid := f.assertionClaims(authserver.EndpointToken)
	require.Contains(t, first, kid)
	f.register(marshal(map[string]any{"keys": f.Public()[publicJWKS].(map[string]any)["keys"].([]any)[1:]}))
	f.mustMint(scopes("read"))
	health, err = f.Check(context.Background())
	require.NoError(t, err)
	require.Contains(t, health.Detail, "it took private_key_next")

	next := f.store.Parent().Secrets[fieldPrivateKeyNext]
	_, err = f.Rotate(context.Background())
	require.NoError(t, err)
	require.True(t, f.store.Parent().Secrets[fieldPrivateKey].Equal(next))
	require.NotContains(t, f.store.Parent().Secrets, fieldPrivateKeyNext)
	f.reopen()
	require.NotContains(t, f.jwks(), kid)
	sent := f.requests(authserver.EndpointToken)
	f.mustMint(scopes("read"))
	require.Equal(t, sent+1, f.requests(authserver.EndpointToken))
}

func TestPreparingThatCannotBeStored(t *testing.T) {
	f := keyed(t, authserver.Options{}, with{})
	f.store.FailSaves(context.DeadlineExceeded)
	_, err := f.Rotate(context.Background())
	requireCode(t, err, fault.TemporarilyUnavailable, "could not be stored")
	require.Len(t, f.Public()[publicJWKS].(map[string]any)["keys"], 1, "a key that is not stored must not be registered")
	f.store.FailSaves(nil)
	f.store.Write(map[string]string{fieldPrivateKey: f.store.Parent().Secrets[fieldPrivateKey].Reveal(), fieldPrivateKeyNext: f.store.Parent().Secrets[fieldPrivateKey].Reveal()})
	_, err = f.Rotate(context.Background())
	requireCode(t, err, fault.TemporarilyUnavailable, "changed meanwhile")
}

// Hydra says invalid_request of a key that it does not know.
func TestAKeyThatIsCalledAnInvalidRequest(t *testing.T) {
	f := keyed(t, authserver.Options{}, with{})
	unknown := authserver.Answer(400, "application/json", `{"error":"invalid_request"}`)
	f.server.Break(authserver.EndpointToken, unknown)
	_, err := f.mint(scopes("read"))
	requireCode(t, err, fault.InvalidRequest, "client_jwks")
	require.Equal(t, 1, f.requests(authserver.EndpointToken))
	_, err = f.Rotate(context.Background())
	require.NoError(t, err)
	_, err = f.Rotate(context.Background())
	requireCode(t, err, fault.ParentRefused, "registered")
	f.register(f.jwks())
	f.server.Break(authserver.EndpointToken, authserver.Once(unknown))
	f.mustMint(scopes("read"))
	require.Equal(t, 4, f.requests(authserver.EndpointToken))
	f.mustMint(scopes("read"))
	require.Equal(t, 5, f.requests(authserver.EndpointToken), "the one that worked goes first")
}

// An operator's own key is used as it is, and what was written is never replaced.
func TestGenerateMakesWhatIsMissingOnly(t *testing.T) {
	generate := func(fields with, secrets map[string]string, written ...string) map[string]secret.Text {
		t.Helper()
		raw, err := json.Marshal(fields)
		require.NoError(t, err)
		change := provider.Change{Config: provider.Config{Fields: raw}, Parent: provider.Parent{Secrets: providertest.Secrets(secrets)}, Written: map[string]bool{}}
		for _, name := range written {
			change.Written[name] = true
		}
		made, err := Type{}.Generate(change)
		require.NoError(t, err)
		return made
	}
	require.Empty(t, generate(with{}, nil))
	require.Empty(t, generate(with{"auth_method": authTLS}, nil))
	require.Empty(t, generate(with{"auth_method": authPrivateKeyJWT, "assertion_signer": signerBroker}, nil))
	require.Empty(t, generate(with{"auth_method": authPrivateKeyJWT}, map[string]string{fieldPrivateKey: "there"}))
	require.Empty(t, generate(with{"auth_method": authSelfSignedTLS}, map[string]string{fieldCertificate: "there"}, fieldCertificate))
	require.Len(t, generate(with{"auth_method": authPrivateKeyJWT}, nil), 1)
	require.Len(t, generate(with{"auth_method": authPrivateKeyJWT}, map[string]string{fieldPrivateKeyNext: "there"}), 1)
	made := generate(with{"auth_method": authSelfSignedTLS}, map[string]string{fieldCertificate: "of the key that was dropped"}, fieldCertificateKey)
	pair, err := parsePair(made[fieldCertificate].Reveal(), made[fieldCertificateKey].Reveal())
	require.NoError(t, err)
	require.WithinDuration(t, time.Now().Add(selfSignedLife), pair.Leaf.NotAfter, time.Hour)
	other := generate(with{"auth_method": authSelfSignedTLS}, nil)
	require.NotEqual(t, made[fieldCertificateKey].Fingerprint(), other[fieldCertificateKey].Fingerprint())
}

// brokerSigner is the broker as an issuer.
type brokerSigner struct {
	err    error
	signed []map[string]any
}

func (s *brokerSigner) Issuer(context.Context) (string, time.Duration, error) {
	return "https://broker.test", time.Hour, s.err
}

func (s *brokerSigner) Sign(_ context.Context, purpose provider.Purpose, claims map[string]any) (secret.Text, error) {
	if purpose != provider.PurposeAssertion {
		panic("a key is used for " + string(purpose))
	}
	s.signed = append(s.signed, claims)
	return secret.New("signed.by.broker"), s.err
}

func TestTheBrokerSignsAndNothingIsStored(t *testing.T) {
	server := authserver.New(t, authserver.Options{}, registered())
	signer := &brokerSigner{}
	setup := setupFor(server, with{"auth_method": authPrivateKeyJWT, "client_secret": "", "assertion_signer": signerBroker, "assertion_subject": "workload"})
	setup.Signer = signer
	opened, store := setup.Open(t)
	p := opened.(*Provider)
	require.Empty(t, store.Parent().Secrets[fieldPrivateKey].Reveal())
	require.Empty(t, p.Public())
	server.Break(authserver.EndpointToken, authserver.Answer(200, "application/json", `{"access_token":"child","token_type":"Bearer","expires_in":60}`))
	_, err := p.Mint(context.Background(), provider.Request{Access: scopes("read")})
	require.NoError(t, err)
	form := server.LastRequest(authserver.EndpointToken).Form()
	require.Equal(t, "signed.by.broker", form.Get("client_assertion"))
	require.Equal(t, testClient, form.Get("client_id"))
	claims := signer.signed[0]
	require.Equal(t, "workload", claims["sub"])
	require.Equal(t, server.URL, claims["aud"])
	require.NotContains(t, claims, "iss", "the signer is the issuer")
	require.EqualValues(t, 60, claims["exp"].(int64)-claims["iat"].(int64))

	_, err = p.Rotate(context.Background())
	requireCode(t, err, fault.InvalidRequest, "issuer/rotate")
	signer.err = fault.New(fault.TemporarilyUnavailable, "config issuer is not set")
	sent := server.Counts().Requests[authserver.EndpointToken]
	_, err = p.Mint(context.Background(), provider.Request{Access: scopes("read")})
	requireCode(t, err, fault.TemporarilyUnavailable, "config issuer")
	require.NotErrorIs(t, err, provider.ErrAnswerLost)
	require.Equal(t, sent, server.Counts().Requests[authserver.EndpointToken])
}

func TestMistakesOfClientAuthenticationAreNamed(t *testing.T) {
	server := authserver.New(t, authserver.Options{}, registered())
	key, err := kit.GenerateKey(jwa.ES256)
	require.NoError(t, err)
	good := keyPEM(t, key)
	certificate, certificateKey, err := makePair(keyES256, time.Now())
	require.NoError(t, err)
	expired, expiredKey, err := makePair(keyES256, time.Now().Add(-2*selfSignedLife))
	require.NoError(t, err)
	jwt := func(f with) with {
		f["auth_method"] = authPrivateKeyJWT
		if f["client_secret"] == nil {
			f["client_secret"] = ""
		}
		return f
	}
	tls := func(f with) with {
		f["auth_method"], f["client_secret"] = authTLS, ""
		return f
	}
	for name, test := range map[string]struct {
		fields with
		words  []string
	}{
		"a key and a secret":                 {jwt(with{"client_secret": testSecret, "private_key": good}), []string{"client_secret contradicts", "write it empty"}},
		"a key that is none":                 {jwt(with{"private_key": "hello"}), []string{"private_key must be", "PEM"}},
		"a next key that is none":            {jwt(with{"private_key": good, "private_key_next": "hello"}), []string{"private_key_next"}},
		"a secret and a key":                 {with{"private_key": good}, []string{"private_key contradicts auth_method=client_secret_basic"}},
		"the broker signs, and a key":        {jwt(with{"private_key": good, "assertion_signer": "broker"}), []string{"assertion_signer=broker", "nothing is stored"}},
		"the client's own other subject":     {jwt(with{"private_key": good, "assertion_subject": "x"}), []string{"assertion_subject", "assertion_signer=broker"}},
		"nobody signs, audience":             {with{"assertion_audience": "x"}, []string{"assertion_audience", "private_key_jwt"}},
		"nobody signs, signer":               {with{"assertion_signer": "broker"}, []string{"assertion_signer", "private_key_jwt"}},
		"somebody else signs":                {jwt(with{"private_key": good, "assertion_signer": "me"}), []string{"assertion_signer", "client, broker"}},
		"an audience with a line end":        {jwt(with{"private_key": good, "assertion_audience": "x\n"}), []string{"assertion_audience"}},
		"an algorithm for a secret":          {with{"client_key_algorithm": "ES256"}, []string{"client_key_algorithm"}},
		"an algorithm that is none":          {jwt(with{"private_key": good, "client_key_algorithm": "HS256"}), []string{"client_key_algorithm", "EdDSA"}},
		"no certificate":                     {tls(with{}), []string{"client_certificate is missing"}},
		"no key":                             {tls(with{"client_certificate": certificate.Reveal()}), []string{"client_certificate_key is missing"}},
		"another's key":                      {tls(with{"client_certificate": certificate.Reveal(), "client_certificate_key": good}), []string{"client_certificate with client_certificate_key"}},
		"a next certificate without its key": {tls(with{"client_certificate": certificate.Reveal(), "client_certificate_key": certificateKey.Reveal(), "client_certificate_next": certificate.Reveal()}), []string{"client_certificate_next"}},
		"an expired certificate":             {tls(with{"client_certificate": expired.Reveal(), "client_certificate_key": expiredKey.Reveal()}), []string{"expired"}},
		"plain http":                         {tls(with{"client_certificate": certificate.Reveal(), "client_certificate_key": certificateKey.Reveal()}), []string{"needs https"}},
		"bound tokens of nobody's":           {with{"dpop": true, "auth_method": "none", "client_secret": "", "grant": "refresh_token"}, []string{"dpop contradicts auth_method=none"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := setupFor(server, test.fields).Configure(context.Background())
			requireCode(t, err, fault.InvalidRequest, test.words...)
			for _, own := range []string{good, certificateKey.Reveal(), testSecret} {
				require.NotContains(t, err.Error(), own)
			}
		})
	}
}
