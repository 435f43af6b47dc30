package oauth2

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jws"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/kit"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

// agentKey is a key that only the caller holds.
func agentKey(t *testing.T) *kit.SigningKey {
	t.Helper()
	private, err := kit.GenerateKey(jwa.ES256)
	require.NoError(t, err)
	key, err := kit.NewSigningKey(private, "", "")
	require.NoError(t, err)
	return key
}

// proof is a good one for the fixture's token endpoint.
func (f *fixture) proof(key *kit.SigningKey, nonce string) string {
	f.t.Helper()
	proof, err := prove(key, f.at.Token, nonce, time.Now())
	require.NoError(f.t, err)
	return proof.compact.Reveal()
}

func (f *fixture) mintWith(proof string, asked access.Access) (*provider.Child, error) {
	f.t.Helper()
	child, err := f.Mint(context.Background(), provider.Request{
		Access: asked, TTL: time.Hour, Proofs: map[provider.ProofKind]secret.Text{provider.ProofDPoP: secret.New(proof)},
	})
	f.clean(err)
	return child, err
}

func TestAChildIsBoundToTheCallersKey(t *testing.T) {
	for name, f := range map[string]*fixture{
		"response":   newFixture(t, authserver.Options{}, with{"dpop": true}),
		"introspect": newFixture(t, authserver.Options{}, with{"dpop": true, "verify": "introspect", "confirm_revocation": true}),
		"jwt":        newFixture(t, authserver.Options{JWT: true}, with{"dpop": true, "verify": "jwt"}),
		"certified":  certified(t, mutual, with{"dpop": true, "verify": "introspect"}),
		"asserted":   keyed(t, authserver.Options{}, with{"dpop": true, "verify": "introspect"}),
	} {
		t.Run(name, func(t *testing.T) {
			f.t = t
			require.Equal(t, []provider.ProofKind{provider.ProofDPoP}, f.Traits().Proofs)
			key := agentKey(t)
			child, err := f.mintWith(f.proof(key, ""), scopes("read"))
			require.NoError(t, err)
			require.Equal(t, "DPoP", child.TokenType)
			if name == "response" {
				require.Equal(t, []string{"binding"}, child.Unverified)
			} else {
				require.Empty(t, child.Unverified)
			}
			token, _ := f.server.Lookup(child.Token().Reveal())
			require.Equal(t, map[string]string{"jkt": key.ID}, token.Confirmation)
			// Neither introspection nor revocation has anything to do with the key.
			require.NoError(t, f.Revoke(context.Background(), child.Handle))
			require.Empty(t, f.server.Live())
			for _, r := range f.server.Requests() {
				require.Equal(t, r.Path == strings.TrimPrefix(f.at.Token, f.server.URL), r.Header.Get("DPoP") != "", r.Path)
			}
		})
	}
}

func TestAProofIsUsedOnce(t *testing.T) {
	f := newFixture(t, authserver.Options{}, with{"dpop": true})
	proof := f.proof(agentKey(t), "")
	_, err := f.mintWith(proof, scopes("read"))
	require.NoError(t, err)
	_, err = f.mintWith(proof, scopes("read"))
	requireCode(t, err, fault.InvalidRequest, "invalid_dpop_proof", f.at.Token)
	require.NotErrorIs(t, err, provider.ErrAnswerLost)
}

func TestANonceIsRelayed(t *testing.T) {
	f := newFixture(t, authserver.Options{DPoPNonce: true}, with{"dpop": true, "verify": "introspect"})
	key := agentKey(t)
	child, err := f.mintWith(f.proof(key, ""), scopes("read"))
	requireCode(t, err, fault.InvalidRequest, "use_dpop_nonce", `nonce="nonce-of-`)
	require.Nil(t, child)
	require.Zero(t, f.server.Counts().Minted)
	var wanted challenge
	require.ErrorAs(t, err, &wanted)
	child, err = f.mintWith(f.proof(key, wanted.nonce), scopes("read"))
	require.NoError(t, err)
	require.Equal(t, map[string]any{"dpop_nonce": wanted.nonce}, child.Extra)

	health, err := f.Check(context.Background())
	require.NoError(t, err)
	require.Len(t, health.Children, 1)
	require.Equal(t, "DPoP", health.Children[0].TokenType)
	require.NoError(t, f.Revoke(context.Background(), health.Children[0].Handle))
}

// Some servers call a bad proof invalid_grant: no caller can so have the parent
// marked as refused, but a check, whose proof is good, can.
func TestABadProofDoesNotCostTheParent(t *testing.T) {
	refuse := authserver.Answer(400, "application/json", `{"error":"invalid_grant"}`)
	f := newFixture(t, authserver.Options{}, with{"dpop": true})
	f.server.Break(authserver.EndpointToken, refuse)
	_, err := f.mintWith(f.proof(agentKey(t), ""), scopes("read"))
	requireCode(t, err, fault.InvalidRequest, "DPoP proof", "invalid_grant")

	f = newFixture(t, authserver.Options{WithoutIntrospection: true}, with{"dpop": true, "grant": "refresh_token"})
	f.server.Break(authserver.EndpointToken, refuse)
	_, err = f.mintWith(f.proof(agentKey(t), ""), scopes("read"))
	requireCode(t, err, fault.ParentRefused, "invalid_grant")
	require.Empty(t, f.store.Parent().Refused)
	_, err = f.Check(context.Background())
	requireCode(t, err, fault.ParentRefused, "invalid_grant")
	require.NotEmpty(t, f.store.Parent().Refused)
}

// A refresh token that rotates is not used up by a server that wants a nonce.
func TestANonceIsRelayedWithARefreshToken(t *testing.T) {
	f := newFixture(t, authserver.Options{DPoPNonce: true, RotateRefresh: true}, with{"dpop": true, "grant": "refresh_token"})
	key := agentKey(t)
	_, err := f.mintWith(f.proof(key, ""), scopes("read"))
	var wanted challenge
	require.ErrorAs(t, err, &wanted)
	require.Empty(t, f.store.Parent().Refused)
	for range 2 {
		_, err = f.mintWith(f.proof(key, wanted.nonce), scopes("read"))
		require.NoError(t, err)
	}
}

func TestTheNextSecretIsTriedWithTheSameProof(t *testing.T) {
	f := newFixture(t, authserver.Options{}, with{"dpop": true, "client_secret_next": nextSecret})
	f.accept(nextSecret)
	_, err := f.mintWith(f.proof(agentKey(t), ""), scopes("read"))
	require.NoError(t, err)

	// One that remembers a proof before it looks at the client calls it used. The
	// caller's next proof is then seen with the next secret first.
	f = newFixture(t, authserver.Options{}, with{"dpop": true, "client_secret_next": nextSecret})
	f.accept(nextSecret)
	answers := []authserver.Fault{
		authserver.Answer(401, "application/json", `{"error":"invalid_client"}`),
		authserver.Answer(400, "application/json", `{"error":"invalid_dpop_proof"}`),
	}
	f.server.Break(authserver.EndpointToken, authserver.Choose(func() authserver.Fault {
		if len(answers) == 0 {
			return nil
		}
		next := answers[0]
		answers = answers[1:]
		return next
	}))
	_, err = f.mintWith(f.proof(agentKey(t), ""), scopes("read"))
	requireCode(t, err, fault.InvalidRequest, "invalid_dpop_proof")
	_, err = f.mintWith(f.proof(agentKey(t), ""), scopes("read"))
	require.NoError(t, err)
	require.Equal(t, 3, f.requests(authserver.EndpointToken))
}

func TestAnswersThatAreNotBoundAsTheyShould(t *testing.T) {
	const token = `{"access_token":"child-of-a-fault","expires_in":60,"token_type":`
	cnf := func(cnf string) authserver.Fault {
		return authserver.Answer(200, "application/json", `{"active":true,"client_id":"`+testClient+`","scope":"read","cnf":`+cnf+`}`)
	}
	for name, test := range map[string]struct {
		dpop       bool
		verify     string
		answer     string
		introspect authserver.Fault
		words      []string
	}{
		"a Bearer token for a proof":      {true, verifyResponse, token + `"Bearer"}`, nil, []string{"Bearer token although a DPoP proof"}},
		"a DPoP token for nothing":        {false, verifyResponse, token + `"DPoP"}`, nil, []string{"token_type"}},
		"no binding at all":               {true, verifyIntrospect, token + `"DPoP"}`, cnf(`null`), []string{"cnf.jkt"}},
		"another key":                     {true, verifyIntrospect, token + `"DPoP"}`, cnf(`{"jkt":"0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}`), []string{"another key"}},
		"a binding to something else":     {true, verifyIntrospect, token + `"DPoP"}`, cnf(`{"jkt":"x","kid":"y"}`), []string{"cnf"}},
		"a malformed binding":             {true, verifyIntrospect, token + `"DPoP"}`, cnf(`[]`), []string{"malformed"}},
		"a thumbprint that is none":       {true, verifyIntrospect, token + `"DPoP"}`, cnf(`{"jkt":7}`), []string{"malformed"}},
		"a Bearer token that is bound":    {false, verifyIntrospect, token + `"Bearer"}`, cnf(`{"jkt":"x"}`), []string{"nobody brought one"}},
		"a Bearer token bound to the TLS": {false, verifyIntrospect, token + `"Bearer"}`, cnf(`{"x5t#S256":"x"}`), []string{"tls_client_certificate_bound_access_tokens"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, authserver.Options{}, with{"dpop": test.dpop, "verify": test.verify})
			f.server.Break(authserver.EndpointToken, authserver.Answer(200, "application/json", test.answer))
			f.server.Break(authserver.EndpointIntrospect, test.introspect)
			child, err := f.mintWith(f.proof(agentKey(t), ""), scopes("read"))
			requireCode(t, err, fault.ProviderViolation, test.words...)
			require.Equal(t, "child-of-a-fault", child.Token().Reveal(), "it must be killed")
			require.False(t, child.Handle.Empty())
		})
	}
}

func TestNoncesAreShownOnlyIfTheyCanBe(t *testing.T) {
	f := newFixture(t, authserver.Options{}, with{"dpop": true})
	for _, header := range [][]string{{}, {""}, {"a b"}, {`a"b`}, {`a\b`}, {"é"}, {strings.Repeat("a", 257)}, {"a", "b"}, {testSecret}, {"x" + testSecret}} {
		require.Empty(t, f.nonceIn(map[string][]string{"Dpop-Nonce": header}), "%q", header)
	}
	require.Equal(t, "eyJ7S_zG.eyJH0-Z.HX4w-7v", f.nonceIn(map[string][]string{"Dpop-Nonce": {"eyJ7S_zG.eyJH0-Z.HX4w-7v"}}))
	f.server.Break(authserver.EndpointToken, authserver.Answer(400, "application/json", `{"error":"use_dpop_nonce"}`))
	_, err := f.mintWith(f.proof(agentKey(t), ""), scopes("read"))
	requireCode(t, err, fault.ProviderViolation, "use_dpop_nonce")
	f = newFixture(t, authserver.Options{}, with{})
	f.server.Break(authserver.EndpointToken, authserver.Answer(400, "application/json", `{"error":"use_dpop_nonce"}`))
	_, err = f.mint(scopes("read"))
	requireCode(t, err, fault.TemporarilyUnavailable, "dpop=true")
}

// forge makes a proof with any header and claims, signed by key.
func forge(t testing.TB, key *kit.SigningKey, header, claims map[string]any) string {
	t.Helper()
	payload, err := json.Marshal(claims)
	require.NoError(t, err)
	headers := jws.NewHeaders()
	for name, value := range header {
		require.NoError(t, headers.Set(name, value))
	}
	signed, err := jws.Sign(payload, jws.WithKey(key.Algorithm, key.Private, jws.WithProtectedHeaders(headers)))
	require.NoError(t, err)
	return string(signed)
}

func TestProofsAreJudgedBeforeTheyAreSent(t *testing.T) {
	f := newFixture(t, authserver.Options{}, with{"dpop": true})
	key, other := agentKey(t), agentKey(t)
	public, err := jwk.FromRaw(key.Private.Public())
	require.NoError(t, err)
	private, err := jwk.FromRaw(key.Private)
	require.NoError(t, err)
	made := func(header, claims map[string]any) string {
		h := map[string]any{"typ": "dpop+jwt", "jwk": public}
		c := map[string]any{"htm": "POST", "htu": f.at.Token, "iat": time.Now().Unix(), "jti": "x"}
		maps.Copy(h, header)
		maps.Copy(c, claims)
		for name, value := range c {
			if value == nil {
				delete(c, name)
			}
		}
		return forge(t, key, h, c)
	}
	good := made(nil, nil)
	parts := strings.Split(good, ".")
	swapped := func(header string) string {
		return base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + parts[1] + "." + parts[2]
	}
	otherPublic, err := jwk.FromRaw(other.Private.Public())
	require.NoError(t, err)
	for name, test := range map[string]struct {
		proof string
		want  error
	}{
		"nothing of a JWT":      {"hello", errProofShape},
		"too long":              {made(nil, map[string]any{"x": strings.Repeat("a", maxProof)}), errProofShape},
		"a line end inside":     {good + "\r\nX: y", errProofShape},
		"another typ":           {made(map[string]any{"typ": "JWT"}, nil), errProofType},
		"no typ":                {swapped(`{"alg":"ES256","jwk":` + marshal(public) + `}`), errProofType},
		"no key":                {swapped(`{"alg":"ES256","typ":"dpop+jwt"}`), errProofKey},
		"a private key":         {swapped(`{"alg":"ES256","typ":"dpop+jwt","jwk":` + marshal(private) + `}`), errProofPrivate},
		"a shared key":          {swapped(`{"alg":"HS256","typ":"dpop+jwt","jwk":{"kty":"oct","k":"AAAA"}}`), errProofPrivate},
		"an unsigned one":       {swapped(`{"alg":"none","typ":"dpop+jwt","jwk":` + marshal(public) + `}`), errProofSigned},
		"HMAC by a public key":  {swapped(`{"alg":"HS256","typ":"dpop+jwt","jwk":` + marshal(public) + `}`), errProofSigned},
		"another's key":         {swapped(`{"alg":"ES256","typ":"dpop+jwt","jwk":` + marshal(otherPublic) + `}`), errProofSigned},
		"a point off the curve": {swapped(`{"alg":"ES256","typ":"dpop+jwt","jwk":{"kty":"EC","crv":"P-256","x":"AAAA","y":"AAAA"}}`), errProofKey},
		"critical extensions":   {swapped(`{"alg":"ES256","typ":"dpop+jwt","crit":["x"],"x":1,"jwk":` + marshal(public) + `}`), errProofShape},
		"GET":                   {made(nil, map[string]any{"htm": "GET"}), errProofMethod},
		"another URL":           {made(nil, map[string]any{"htu": f.at.Revocation}), errProofURL},
		"a list of URLs":        {made(nil, map[string]any{"htu": []string{f.at.Token}}), errProofURL},
		"a query":               {made(nil, map[string]any{"htu": f.at.Token + "?a=b"}), errProofURL},
		"old":                   {made(nil, map[string]any{"iat": time.Now().Add(-2 * time.Minute).Unix()}), errProofTime},
		"of the future":         {made(nil, map[string]any{"iat": time.Now().Add(2 * time.Minute).Unix()}), errProofTime},
		"of no time":            {made(nil, map[string]any{"iat": nil}), errProofTime},
		"of a time in words":    {made(nil, map[string]any{"iat": "now"}), errProofTime},
		"without jti":           {made(nil, map[string]any{"jti": nil}), errProofID},
		"with a long jti":       {made(nil, map[string]any{"jti": strings.Repeat("a", maxJTI+1)}), errProofID},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parseProof(test.proof, f.at.Token, time.Now())
			require.ErrorIs(t, err, test.want)
			_, err = f.mintWith(test.proof, scopes("read"))
			requireCode(t, err, fault.InvalidRequest, "dpop_proof", "htm=POST", "htu="+f.at.Token)
		})
	}
	_, err = f.mint(scopes("read"))
	requireCode(t, err, fault.InvalidRequest, "dpop_proof is missing", "htm=POST", "htu="+f.at.Token)
	require.Zero(t, f.requests(authserver.EndpointToken), "nothing was sent")
	_, err = f.mintWith(good, scopes("read"))
	require.NoError(t, err)
}

// FuzzProof: whatever passes is a proof for the endpoint, fresh, signed by the one
// key that it holds, and fit for a header.
func FuzzProof(f *testing.F) {
	const endpoint = "https://as.test/token"
	now := time.Unix(1_700_000_000, 0)
	key, err := kit.NewSigningKey(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)), "", "")
	require.NoError(f, err)
	good, err := prove(key, endpoint, "nonce", now)
	require.NoError(f, err)
	f.Add(good.compact.Reveal())
	f.Add("a.b.c")
	f.Add("eyJ0eXAiOiJkcG9wK2p3dCIsImp3ayI6e319.e30.AA")
	f.Fuzz(func(t *testing.T, compact string) {
		proof, err := parseProof(compact, endpoint, now)
		if err != nil {
			if len(err.Error()) > 200 {
				t.Fatalf("a caller's text in %q", err)
			}
			return
		}
		message, err := jws.Parse([]byte(compact))
		if err != nil {
			t.Fatalf("another library cannot read it: %v", err)
		}
		header := message.Signatures()[0].ProtectedHeaders()
		if header.Type() != typeDPoP || header.JWK() == nil || header.Algorithm() == jwa.NoSignature {
			t.Fatalf("passed with the header %v", header)
		}
		if strings.ContainsAny(proof.compact.Reveal(), " \r\n") || len(compact) > maxProof || proof.thumbprint == "" {
			t.Fatalf("passed %q", compact)
		}
		if _, err := parseProof(compact, endpoint, now.Add(3*maxProofAge)); !errors.Is(err, errProofTime) {
			t.Fatal("passed for ever")
		}
	})
}
