package oauth2

import (
	"context"
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/providertest"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

// The tokens of these tests: what looks like a JWT to whoever reads its header.
var (
	janesToken   = unsignedJWT("JWT", "jane")
	janesAccess  = unsignedJWT("application/at+jwt", "jane")
	agentsToken  = unsignedJWT("JWT", "agent")
	brokersToken = unsignedJWT("JWT", "entity-1 by the broker")
)

func unsignedJWT(typ, payload string) string {
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(`{"alg":"ES256","typ":"`+typ+`"}`)) + "." + encode([]byte(payload)) + ".c2lnbmF0dXJl"
}

// exchangeFixture is a fixture whose server knows Jane and the agents.
func exchangeFixture(t *testing.T, o authserver.Options, f with) *fixture {
	t.Helper()
	x := newFixture(t, o, f)
	x.trustAll()
	return x
}

func (f *fixture) trustAll() {
	f.server.Trust(janesToken, authserver.Bearer{Subject: "jane", Scopes: []string{"read", "write"}})
	f.server.Trust(janesAccess, authserver.Bearer{Subject: "jane"})
	f.server.Trust(agentsToken, authserver.Bearer{Subject: "agent"})
	f.server.Trust(brokersToken, authserver.Bearer{Subject: "entity-1"})
}

func jane() *provider.Party {
	return &provider.Party{Issuer: "https://idp.test", ID: "jane", Token: secret.New(janesToken), Claims: map[string]any{"sub": "jane"}, ExpiresAt: time.Now().Add(time.Hour)}
}

func agent() *provider.Party {
	return &provider.Party{Issuer: "https://idp.test", ID: "agent", Token: secret.New(agentsToken), Claims: map[string]any{"sub": "agent"}}
}

func (f *fixture) exchange(r provider.Request) (*provider.Child, error) {
	f.t.Helper()
	child, err := f.Exchange(context.Background(), r)
	f.clean(err)
	for err := range chain(err) {
		for _, sent := range []string{janesToken, janesAccess, agentsToken, brokersToken} {
			require.NotContains(f.t, err.Error(), sent)
		}
	}
	return child, err
}

func forJane(asked access.Access) provider.Request {
	return provider.Request{Access: asked, TTL: time.Hour, Subject: jane()}
}

func TestExchange(t *testing.T) {
	asked := access.Access{Scopes: access.Exactly("read"), Audiences: access.Exactly("https://api.test/")}
	for _, form := range []string{exchangeToken, exchangeJWTBearer, exchangeOnBehalfOf} {
		for _, verify := range []string{verifyResponse, verifyIntrospect, verifyJWT} {
			t.Run(form+" "+verify, func(t *testing.T) {
				f := exchangeFixture(t, authserver.Options{JWT: verify == verifyJWT}, with{"exchange": form, "verify": verify, "audience_parameter": "audience"})
				child, err := f.exchange(forJane(asked))
				require.NoError(t, err)
				require.Equal(t, typeAccessToken, child.IssuedTokenType)
				require.Equal(t, "Bearer", child.TokenType)
				require.True(t, child.Granted.Equal(asked), "%v", child.Granted.Flat())
				require.Equal(t, verify != verifyResponse, child.Confirmed[access.DimAudiences])
				issued, _ := f.server.Lookup(child.Token().Reveal())
				require.Equal(t, "jane", issued.Subject)
				require.NoError(t, f.Revoke(context.Background(), child.Handle))
				require.Empty(t, f.server.Live())
				require.Equal(t, 1, f.server.Counts().Minted)
			})
		}
	}
}

func TestExchangeIsForTheSubjectOnly(t *testing.T) {
	f := exchangeFixture(t, authserver.Options{}, with{"grant": "refresh_token", "revocation": "token"})
	parent := f.store.Parent()
	child, err := f.exchange(forJane(scopes("read")))
	require.NoError(t, err)
	require.True(t, f.server.Active(child.Token().Reveal()))
	require.Equal(t, parent, f.store.Parent(), "no refresh token was used")
	require.NotContains(t, f.server.LastRequest(authserver.EndpointToken).Body, "refresh_token=")

	_, err = f.exchange(provider.Request{Access: scopes("read")})
	requireCode(t, err, fault.InvalidRequest, "subject_token")
	_, err = f.exchange(forJane(access.Access{Scopes: access.Exactly("admin")}))
	requireCode(t, err, fault.InvalidScope)
}

func TestActors(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	signer := &providertest.Signer{URL: "https://broker.test", Token: brokersToken}
	f := exchangeFixture(t, authserver.Options{JWT: true}, with{"verify": "jwt", "signer": signer})
	r := forJane(scopes("read"))

	r.Actor = agent()
	child, err := f.exchange(r)
	require.NoError(t, err)
	issued, _ := f.server.Lookup(child.Token().Reveal())
	require.Equal(t, "agent", issued.Actor)
	require.Empty(t, signer.Signed(), "the caller's own token is enough")

	f.deps.Now = func() time.Time { return now }
	r.Actor = &provider.Party{Issuer: "https://broker.test", ID: "entity-1"}
	_, err = f.exchange(r)
	requireCode(t, err, fault.ProviderViolation, "expired") // by the clock of this test, whose token was signed all the same
	form := f.server.LastRequest(authserver.EndpointToken).Form()
	require.Equal(t, brokersToken, form.Get("actor_token"))
	require.Equal(t, typeJWT, form.Get("actor_token_type"))
	require.Len(t, signer.Signed(), 1)
	signed := signer.Signed()[0]
	require.Equal(t, provider.PurposeActor, signed.Purpose)
	require.NotEmpty(t, signed.Claims["jti"])
	delete(signed.Claims, "jti")
	require.Equal(t, map[string]any{"sub": "entity-1", "aud": f.server.URL, "iat": now.Unix(), "exp": now.Unix() + 90}, signed.Claims)

	unconfigured := exchangeFixture(t, authserver.Options{}, with{})
	_, err = unconfigured.exchange(r)
	requireCode(t, err, fault.TemporarilyUnavailable, "config issuer")
	require.Zero(t, unconfigured.server.Counts().Requests[authserver.EndpointToken])
}

func TestExchangeTraits(t *testing.T) {
	server := authserver.New(t, authserver.Options{}, registered(), authserver.Client{ID: "public", Scopes: []string{"read"}})
	all := []provider.Mode{provider.ModeMint, provider.ModeExchange, provider.ModeForward}
	for name, test := range map[string]struct {
		fields with
		modes  []provider.Mode
		actors bool
	}{
		"default":       {with{}, all, true},
		"jwt-bearer":    {with{"exchange": "jwt-bearer"}, all, false},
		"on-behalf-of":  {with{"exchange": "on-behalf-of"}, all, false},
		"refresh token": {with{"grant": "refresh_token"}, all, true},
		"issuer unknown": {
			with{"issuer": "", "token_url": server.Endpoint(authserver.EndpointToken)},
			[]provider.Mode{provider.ModeMint, provider.ModeExchange}, true,
		},
		"public client": {
			with{"exchange": "token-exchange", "auth_method": "none", "client_secret": "", "client_id": "public"},
			[]provider.Mode{provider.ModeExchange, provider.ModeForward}, true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixtureOn(t, server, test.fields)
			traits := f.Traits()
			require.Equal(t, test.modes, traits.Modes)
			require.Equal(t, test.actors, traits.Actors)
			require.False(t, traits.ActsByDefault)
			require.Equal(t, f.at.Issuer, traits.Issuer)
		})
	}
	public := newFixtureOn(t, server, with{"exchange": "token-exchange", "auth_method": "none", "client_secret": "", "client_id": "public"})
	public.trustAll()
	_, err := public.exchange(forJane(scopes("read")))
	require.NoError(t, err)
	health, err := public.Check(context.Background())
	require.NoError(t, err)
	require.Contains(t, health.Detail, "no credential to prove")
}

func TestCheckOfAClientThatOnlyExchanges(t *testing.T) {
	f := newFixture(t, authserver.Options{}, with{"exchange": "jwt-bearer"})
	f.server.Break(authserver.EndpointToken, authserver.Answer(400, "application/json", `{"error":"unauthorized_client"}`))
	health, err := f.Check(context.Background())
	require.NoError(t, err)
	require.Contains(t, health.Detail, "exchanges alone")

	mints := newFixture(t, authserver.Options{}, with{})
	mints.server.Break(authserver.EndpointToken, authserver.Answer(400, "application/json", `{"error":"unauthorized_client"}`))
	_, err = mints.Check(context.Background())
	requireCode(t, err, fault.ParentRefused, "unauthorized_client")
}

func TestParametersOfARole(t *testing.T) {
	server := authserver.New(t, authserver.Options{}, registered())
	exchange, bearer := newFixtureOn(t, server, with{}), newFixtureOn(t, server, with{"exchange": "jwt-bearer"})
	require.Len(t, Type{}.Parameters(), 3)
	require.NoError(t, exchange.CheckParameters(provider.ModeExchange, map[string]string{"requested_token_type": typeJWT, "subject_token_type": "https://types.test/x"}))
	require.NoError(t, bearer.CheckParameters(provider.ModeExchange, nil))
	require.NoError(t, exchange.CheckParameters(provider.ModeMint, nil))
	for name, test := range map[string]struct {
		p          *fixture
		mode       provider.Mode
		parameters map[string]string
		words      []string
	}{
		"a mint":               {exchange, provider.ModeMint, map[string]string{"subject_token_type": typeJWT}, []string{"mode=exchange"}},
		"another form":         {bearer, provider.ModeExchange, map[string]string{"subject_token_type": typeJWT}, []string{"exchange=jwt-bearer"}},
		"no URI":               {exchange, provider.ModeExchange, map[string]string{"actor_token_type": "jwt"}, []string{"actor_token_type", "URI"}},
		"empty":                {exchange, provider.ModeExchange, map[string]string{"actor_token_type": ""}, []string{"URI"}},
		"a space":              {exchange, provider.ModeExchange, map[string]string{"actor_token_type": "urn:a b"}, []string{"URI"}},
		"too long":             {exchange, provider.ModeExchange, map[string]string{"actor_token_type": "urn:" + strings.Repeat("a", 255)}, []string{"URI"}},
		"a refresh token asks": {exchange, provider.ModeExchange, map[string]string{"requested_token_type": typeRefreshToken}, []string{"refresh token"}},
	} {
		t.Run(name, func(t *testing.T) {
			requireCode(t, test.p.CheckParameters(test.mode, test.parameters), fault.InvalidRequest, test.words...)
		})
	}
}
