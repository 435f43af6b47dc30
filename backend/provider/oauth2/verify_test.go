package oauth2

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

func targets(audiences, resources []string) access.Access {
	return access.Access{
		Scopes:    access.Exactly("read"),
		Audiences: access.Exactly(audiences...),
		Resources: access.Exactly(resources...),
	}
}

// want is what a check should have made of a child.
type want struct {
	code      fault.Code // "" for success
	words     []string
	granted   access.Access
	confirmed []access.Dimension
	life      time.Duration
}

var (
	checkedAll = []access.Dimension{access.DimScopes, access.DimAudiences, access.DimResources}
	hour       = time.Hour
)

func (f *fixture) requireChecked(asked access.Access, w want) {
	f.t.Helper()
	child, err := f.mint(asked)
	require.NotNil(f.t, child, "a token was seen in any case")
	if w.code != "" {
		requireCode(f.t, err, w.code, w.words...)
		f.server.Break(authserver.EndpointIntrospect, nil)
		require.NoError(f.t, f.Revoke(context.Background(), child.Handle))
		require.Empty(f.t, f.server.Live())
		return
	}
	require.NoError(f.t, err)
	require.True(f.t, child.Granted.Equal(w.granted), "granted %v", child.Granted.Flat())
	for _, d := range access.AllDimensions() {
		var expected bool
		for _, c := range w.confirmed {
			expected = expected || c == d
		}
		require.Equal(f.t, expected, child.Confirmed[d], d)
	}
	if w.life != 0 {
		require.WithinDuration(f.t, time.Now().Add(w.life), child.ExpiresAt, 10*time.Second)
	}
}

func TestIntrospection(t *testing.T) {
	api := targets([]string{"https://api.test/"}, nil)
	soon := func(d time.Duration) int64 { return time.Now().Add(d).Unix() }
	for name, test := range map[string]struct {
		fault authserver.Fault
		want  want
	}{
		"true to its word":        {nil, want{granted: api, confirmed: checkedAll, life: hour}},
		"ends earlier":            {authserver.Set("exp", soon(10*time.Minute)), want{granted: api, confirmed: checkedAll, life: 10 * time.Minute}},
		"ends a little later":     {authserver.Set("exp", soon(hour+time.Minute)), want{granted: api, confirmed: checkedAll, life: hour}},
		"a fraction":              {authserver.Set("exp", float64(soon(10*time.Minute))+0.5), want{granted: api, confirmed: checkedAll, life: 10 * time.Minute}},
		"ends much later":         {authserver.Set("exp", soon(2*hour)), want{code: fault.ProviderViolation, words: []string{"later"}}},
		"ends in a century":       {authserver.Set("exp", soon(100*365*24*hour)), want{code: fault.ProviderViolation}},
		"has ended":               {authserver.Set("exp", soon(-time.Second)), want{code: fault.ProviderViolation, words: []string{"expired"}}},
		"exp 0":                   {authserver.Set("exp", 0), want{code: fault.ProviderViolation}},
		"exp -1":                  {authserver.Set("exp", -1), want{code: fault.ProviderViolation}},
		"exp 10^300":              {authserver.Set("exp", 1e300), want{code: fault.ProviderViolation}},
		"exp a word":              {authserver.Set("exp", "soon"), want{code: fault.ProviderViolation}},
		"no exp":                  {authserver.Drop("exp"), want{granted: api, confirmed: checkedAll, life: hour}},
		"no scope":                {authserver.Drop("scope"), want{granted: api, confirmed: checkedAll}},
		"more scopes":             {authserver.Set("scope", "read admin"), want{granted: withScopes(api, "read", "admin"), confirmed: checkedAll}},
		"no scope left":           {authserver.Set("scope", ""), want{granted: withScopes(api), confirmed: checkedAll}},
		"a broken scope":          {authserver.Set("scope", "re\"ad"), want{code: fault.ProviderViolation, words: []string{"scope"}}},
		"aud as a string":         {authserver.Set("aud", "https://api.test/"), want{granted: api, confirmed: checkedAll}},
		"aud with the client":     {authserver.Set("aud", []string{"https://api.test/", testClient}), want{granted: api, confirmed: checkedAll}},
		"another aud too":         {authserver.Set("aud", []string{"https://api.test/", "x"}), want{granted: targets([]string{"https://api.test/", "x"}, nil), confirmed: checkedAll}},
		"another aud":             {authserver.Set("aud", "x"), want{granted: targets([]string{"x"}, nil), confirmed: checkedAll}},
		"the client alone":        {authserver.Set("aud", testClient), want{granted: targets(nil, nil), confirmed: checkedAll}},
		"no aud":                  {authserver.Drop("aud"), want{granted: api, confirmed: checkedAll[:1]}},
		"an empty aud":            {authserver.Set("aud", []string{}), want{granted: api, confirmed: checkedAll[:1]}},
		"aud 7":                   {authserver.Set("aud", 7), want{code: fault.ProviderViolation, words: []string{"audience"}}},
		"aud with a control":      {authserver.Set("aud", "a\x00b"), want{code: fault.ProviderViolation, words: []string{"audience"}}},
		"another client's":        {authserver.Set("client_id", "somebody"), want{code: fault.ProviderViolation, words: []string{"another client"}}},
		"client_id 7":             {authserver.Set("client_id", 7), want{code: fault.ProviderViolation}},
		"no client_id":            {authserver.Drop("client_id"), want{granted: api, confirmed: checkedAll}},
		"inactive":                {authserver.Set("active", false), want{code: fault.ProviderViolation, words: []string{"inactive"}}},
		"active, but as a string": {authserver.Set("active", "true"), want{code: fault.ProviderViolation, words: []string{"active"}}},
		"active null":             {authserver.Set("active", nil), want{code: fault.ProviderViolation}},
		"no active":               {authserver.Drop("active"), want{code: fault.ProviderViolation}},
		"HTML":                    {authserver.HTML(), want{code: fault.ProviderViolation, words: []string{"JSON"}}},
		"refused":                 {authserver.Answer(401, "text/plain", ""), want{code: fault.TemporarilyUnavailable, words: []string{"introspect"}}},
		"a redirect":              {authserver.Redirect("https://elsewhere.test"), want{code: fault.TemporarilyUnavailable}},
		"endless":                 {authserver.Endless(), want{code: fault.TemporarilyUnavailable}},
		"slow":                    {authserver.Slow(time.Minute), want{code: fault.TemporarilyUnavailable}},
		"failing":                 {authserver.Busy(time.Second), want{code: fault.TemporarilyUnavailable}},
		"odd details":             {authserver.Set("authorization_details", "x"), want{code: fault.ProviderViolation}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, authserver.Options{}, with{"verify": "introspect", "audience_parameter": "audience"})
			f.beImpatient(name)
			f.server.Break(authserver.EndpointIntrospect, test.fault)
			f.requireChecked(api, test.want)
		})
	}
}

// withScopes is a with other scopes.
func withScopes(a access.Access, values ...string) access.Access {
	a.Scopes = access.Exactly(values...)
	return a
}

func TestTheAnswersExcessIsKeptWhateverTheCheckSays(t *testing.T) {
	f := newFixture(t, authserver.Options{}, with{"verify": "introspect"})
	f.server.Break(authserver.EndpointToken, authserver.Set("scope", "read admin"))
	f.server.Break(authserver.EndpointIntrospect, authserver.Set("scope", "read"))
	child := f.mustMint(scopes("read"))
	require.True(t, child.Granted.Equal(scopes("read", "admin")))

	// What the answer merely repeats of the request is no excess.
	f.server.Break(authserver.EndpointToken, authserver.Set("scope", "read write"))
	child = f.mustMint(scopes("read", "write"))
	require.True(t, child.Granted.Equal(scopes("read")))
}

// claimsOf is a good token's claims with changes; nil deletes.
func claimsOf(s *authserver.Server, changes map[string]any) map[string]any {
	claims := map[string]any{
		"iss": s.URL, "sub": testClient, "client_id": testClient, "aud": []string{"https://api.test/"},
		"scope": "read", "iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(), "jti": "1",
	}
	for name, value := range changes {
		if value == nil {
			delete(claims, name)
		} else {
			claims[name] = value
		}
	}
	return claims
}

func TestJWT(t *testing.T) {
	type changes = map[string]any
	api := targets([]string{"https://api.test/"}, nil)
	soon := func(d time.Duration) int64 { return time.Now().Add(d).Unix() }
	good := want{granted: api, confirmed: checkedAll, life: hour}
	bad := func(words ...string) want { return want{code: fault.ProviderViolation, words: words} }
	for name, test := range map[string]struct {
		typ     string
		changes changes
		want    want
	}{
		"RFC 9068":             {"at+jwt", nil, good},
		"with its media type":  {"application/at+jwt", nil, good},
		"typ JWT":              {"JWT", nil, good},
		"no typ":               {"", nil, good},
		"scp as a list":        {"JWT", changes{"scope": nil, "scp": []string{"read"}}, good},
		"scp as a string":      {"JWT", changes{"scope": nil, "scp": "read"}, good},
		"scp beside scope":     {"JWT", changes{"scp": []string{"admin"}}, want{granted: withScopes(api, "read", "admin"), confirmed: checkedAll}},
		"no scope":             {"at+jwt", changes{"scope": nil}, good},
		"ends earlier":         {"at+jwt", changes{"exp": soon(time.Minute)}, want{granted: api, confirmed: checkedAll, life: time.Minute}},
		"no aud":               {"at+jwt", changes{"aud": nil}, want{granted: api, confirmed: checkedAll[:1]}},
		"more aud":             {"at+jwt", changes{"aud": []string{"https://api.test/", "x"}}, want{granted: targets([]string{"https://api.test/", "x"}, nil), confirmed: checkedAll}},
		"ends much later":      {"at+jwt", changes{"exp": soon(24 * hour)}, bad("later")},
		"has ended":            {"at+jwt", changes{"exp": soon(-time.Minute)}, bad("expired")},
		"no exp":               {"at+jwt", changes{"exp": nil}, bad("exp")},
		"exp a word":           {"at+jwt", changes{"exp": "never"}, bad()},
		"begins later":         {"at+jwt", changes{"nbf": soon(10 * time.Minute)}, bad("not valid yet")},
		"begins within skew":   {"at+jwt", changes{"nbf": soon(30 * time.Second)}, good},
		"issued later":         {"at+jwt", changes{"iat": soon(10 * time.Minute)}, bad("future")},
		"iat a word":           {"at+jwt", changes{"iat": "now"}, bad()},
		"another issuer":       {"at+jwt", changes{"iss": "https://other.test"}, bad("issuer")},
		"issuer with a slash":  {"at+jwt", changes{"iss": "/"}, bad("issuer")},
		"no issuer":            {"at+jwt", changes{"iss": nil}, bad("issuer")},
		"another client's":     {"at+jwt", changes{"client_id": "somebody"}, bad("another client")},
		"typ of a logout":      {"logout+jwt", nil, bad("typ")},
		"typ of a DPoP proof":  {"dpop+jwt", nil, bad("typ")},
		"an ID token by hash":  {"JWT", changes{"at_hash": "x"}, bad("ID")},
		"an ID token by claim": {"JWT", changes{"token_use": "id"}, bad("ID")},
		"a refresh token":      {"JWT", changes{"typ": "Refresh"}, bad("refresh")},
		"Keycloak's Bearer":    {"JWT", changes{"typ": "Bearer"}, good},
		"a broken scope":       {"at+jwt", changes{"scope": "re\"ad"}, bad("scope")},
		"a broken scp":         {"at+jwt", changes{"scp": []any{7}}, bad("scope")},
		"aud 7":                {"at+jwt", changes{"aud": 7}, bad("audience")},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, authserver.Options{}, with{"verify": "jwt", "audience_parameter": "audience"})
			token := f.server.SignClaims(test.typ, claimsOf(f.server, test.changes))
			f.server.AddToken(authserver.Token{Value: token, Client: testClient})
			f.server.Break(authserver.EndpointToken, authserver.Answer(200, "application/json",
				marshal(map[string]any{"access_token": token, "token_type": "Bearer", "expires_in": 3600})))
			f.requireChecked(api, test.want)
		})
	}
}

func TestJWTSignatures(t *testing.T) {
	stranger := authserver.New(t, authserver.Options{})
	for name, token := range map[string]func(*authserver.Server) string{
		"opaque":          func(*authserver.Server) string { return "opaque" },
		"a stranger's":    func(s *authserver.Server) string { return stranger.SignClaims("at+jwt", claimsOf(s, nil)) },
		"alg none":        func(*authserver.Server) string { return "eyJhbGciOiJub25lIn0.e30." },
		"payload changed": func(s *authserver.Server) string { return s.SignClaims("at+jwt", claimsOf(s, nil))[1:] },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, authserver.Options{}, with{"verify": "jwt"})
			value := token(f.server)
			f.server.AddToken(authserver.Token{Value: value, Client: testClient})
			f.server.Break(authserver.EndpointToken, authserver.Answer(200, "application/json",
				marshal(map[string]any{"access_token": value, "token_type": "Bearer", "expires_in": 3600})))
			f.requireChecked(scopes("read"), want{code: fault.ProviderViolation, words: []string{"signed", "verify=introspect"}})
		})
	}
	t.Run("no keys to be had", func(t *testing.T) {
		for _, broken := range []authserver.Fault{authserver.HTML(), authserver.Busy(time.Second), authserver.Hangup(), authserver.Endless()} {
			f := newFixture(t, authserver.Options{JWT: true}, with{"verify": "jwt"})
			f.server.Break(authserver.EndpointJWKS, broken)
			f.requireChecked(scopes("read"), want{code: fault.TemporarilyUnavailable, words: []string{"jwks_url"}})
		}
	})
	t.Run("keys are fetched once", func(t *testing.T) {
		f := newFixture(t, authserver.Options{JWT: true}, with{"verify": "jwt"})
		for range 5 {
			f.mustMint(scopes("read"))
		}
		require.Equal(t, 1, f.requests(authserver.EndpointJWKS))
		require.Empty(t, f.server.LastRequest(authserver.EndpointJWKS).Header.Get("Authorization"))
	})
	t.Run("explicit endpoints know no issuer", func(t *testing.T) {
		s := authserver.New(t, authserver.Options{JWT: true}, registered())
		f := newFixtureOn(t, s, with{
			"issuer": "", "verify": "jwt", "token_url": s.Endpoint(authserver.EndpointToken),
			"jwks_url": s.Endpoint(authserver.EndpointJWKS), "revocation_url": s.Endpoint(authserver.EndpointRevoke),
		})
		require.True(t, f.mustMint(scopes("read")).SelfContained)
	})
}

// With audience_parameter=none a role's audiences rest on the check alone, so a
// token without one is valid everywhere and must not be handed out.
func TestAnAudienceThatCouldNotBeAskedForMustBeThere(t *testing.T) {
	for _, verify := range []string{"introspect", "jwt"} {
		t.Run(verify, func(t *testing.T) {
			f := newFixture(t, authserver.Options{JWT: verify == "jwt"}, with{"verify": verify})
			for _, asked := range []access.Access{
				targets([]string{"https://api.test/"}, nil),
				targets(nil, []string{"https://api.test/"}),
			} {
				f.requireChecked(asked, want{code: fault.ProviderViolation, words: []string{"valid everywhere", "audience_parameter"}})
			}
			f.requireChecked(scopes("read"), want{granted: scopes("read"), confirmed: checkedAll[:1]})
		})
	}
	f := newFixture(t, authserver.Options{}, with{"verify": "introspect"})
	f.server.Break(authserver.EndpointIntrospect, authserver.Set("aud", []string{"https://api.test/", "https://files.test/"}))
	asked := targets([]string{"https://api.test/"}, []string{"https://files.test/"})
	f.requireChecked(asked, want{granted: asked, confirmed: checkedAll})
	require.Empty(t, f.server.LastRequest(authserver.EndpointToken).Form()["audience"])
	require.Empty(t, f.server.LastRequest(authserver.EndpointToken).Form()["resource"])
}

func TestAnExcessOfTargetsStandsInADimensionThatWasAskedFor(t *testing.T) {
	f := newFixture(t, authserver.Options{}, with{"verify": "introspect", "audience_parameter": "resource"})
	f.server.Break(authserver.EndpointIntrospect, authserver.Set("aud", []string{"https://api.test/", "x"}))
	for _, test := range []struct{ asked, granted access.Access }{
		{targets([]string{"https://api.test/"}, nil), targets([]string{"https://api.test/", "x"}, nil)},
		{targets(nil, []string{"https://api.test/"}), targets(nil, []string{"https://api.test/", "x"})},
		{targets([]string{"https://files.test/"}, []string{"https://api.test/"}), targets([]string{"x"}, []string{"https://api.test/"})},
		{targets([]string{"https://api.test/"}, []string{"https://api.test/"}), targets([]string{"https://api.test/", "x"}, []string{"https://api.test/"})},
		{targets(nil, nil), targets([]string{"https://api.test/", "x"}, nil)},
	} {
		f.requireChecked(test.asked, want{granted: test.granted, confirmed: checkedAll})
	}
}

func TestTargetsThatCannotBeAskedFor(t *testing.T) {
	glob, err := access.Ceiling("https://api.test/*")
	require.NoError(t, err)
	for name, test := range map[string]struct {
		parameter string
		asked     access.Access
		words     []string
	}{
		"an audience that is no URI": {"resource", targets([]string{"plain-name"}, nil), []string{"audience_parameter=resource", "absolute URI"}},
		"a resource with a fragment": {"resource", targets(nil, []string{"https://api.test/#a"}), []string{"fragment"}},
		"a glob":                     {"audience", access.Access{Audiences: glob}, []string{"audiences", "glob"}},
		"a glob of resources":        {"resource", access.Access{Resources: glob}, []string{"resources", "glob"}},
		"a scope that is two":        {"none", scopes("read admin"), []string{"scope"}},
		"a scope with a control":     {"none", scopes("re\nad"), []string{"scope"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, authserver.Options{}, with{"audience_parameter": test.parameter})
			child, err := f.mint(test.asked)
			requireCode(t, err, fault.InvalidRequest, test.words...)
			require.Nil(t, child)
			require.Zero(t, f.requests(authserver.EndpointToken))
		})
	}
	f := newFixture(t, authserver.Options{}, with{"audience_parameter": "audience"})
	require.NotNil(t, f.mustMint(targets([]string{"plain-name", "https://api.test/"}, nil)))
	_, err = f.mint(targets([]string{"https://unknown.test/"}, nil))
	requireCode(t, err, fault.InvalidTarget)
}

func TestAuthorizationDetails(t *testing.T) {
	parse := func(text string) access.Access {
		d, err := access.ParseDetails([]byte(text))
		require.NoError(t, err)
		return access.Access{Details: d}
	}
	one := parse(`[{"type":"payment","actions":["read"]}]`)
	more := parse(`[{"type":"payment","actions":["read","write"]}]`)
	raw := func(a access.Access) json.RawMessage { return a.Details.JSON() }

	t.Run("the answer confirms them", func(t *testing.T) {
		f := newFixture(t, authserver.Options{}, with{})
		child := f.mustMint(one)
		require.JSONEq(t, string(raw(one)), f.server.LastRequest(authserver.EndpointToken).Form().Get("authorization_details"))
		require.True(t, child.Granted.Details.Equal(one.Details))
		require.True(t, child.Confirmed[access.DimDetails])
	})
	t.Run("silence confirms nothing", func(t *testing.T) {
		f := newFixture(t, authserver.Options{}, with{})
		f.server.Break(authserver.EndpointToken, authserver.Drop("authorization_details"))
		child := f.mustMint(one)
		require.True(t, child.Granted.Details.Equal(one.Details))
		require.False(t, child.Confirmed[access.DimDetails])
	})
	t.Run("more than asked is shown", func(t *testing.T) {
		f := newFixture(t, authserver.Options{}, with{})
		f.server.Break(authserver.EndpointToken, authserver.Set("authorization_details", raw(more)))
		require.True(t, f.mustMint(one).Granted.Details.Equal(more.Details))
		require.True(t, f.mustMint(scopes("read")).Granted.Details.Equal(more.Details))
	})
	t.Run("the check is believed first", func(t *testing.T) {
		f := newFixture(t, authserver.Options{}, with{"verify": "introspect"})
		f.server.Break(authserver.EndpointIntrospect, authserver.Set("authorization_details", raw(one)))
		require.True(t, f.mustMint(more).Granted.Details.Equal(one.Details))
		f.server.Break(authserver.EndpointToken, authserver.Set("authorization_details", raw(more)))
		require.True(t, f.mustMint(one).Granted.Details.Equal(more.Details), "but the answer's own excess stays")
	})
	t.Run("the JWT confirms them", func(t *testing.T) {
		f := newFixture(t, authserver.Options{JWT: true}, with{"verify": "jwt"})
		f.server.Break(authserver.EndpointToken, authserver.Drop("authorization_details"))
		child := f.mustMint(one)
		require.True(t, child.Confirmed[access.DimDetails])
		require.True(t, child.Granted.Details.Equal(one.Details))
	})
}

func TestSelfContainedWhateverVerifies(t *testing.T) {
	for _, verify := range []string{"response", "introspect", "jwt"} {
		f := newFixture(t, authserver.Options{JWT: true}, with{"verify": verify})
		require.True(t, f.mustMint(scopes("read")).SelfContained, verify)
	}
}

// RFC 7519 2 has a NumericDate as a JSON number, of which RFC 8259 6 has many spellings;
// some servers quote it. It is never read as later than it is.
func TestDatesInATokenHaveManySpellings(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	for spelled, want := range map[string]int64{
		`1700003600`: 1700003600, `1700003600.999999999999999`: 1700003600, `1.7000036e9`: 1700003600, `17000036000E-1`: 1700003600, `"1700003600"`: 1700003600,
		`"1.7000036E+9"`: 1700003600, `253402300799.9`: 253402300799,
		`"soon"`: 0, `"NaN"`: 0, `true`: 0, `-1700003600`: 0, `0`: 0, `0.9`: 0, `1e30`: 0, `1e-30`: 0, `253402300800`: 0, `[1700003600]`: 0, `""`: 0, `"0x10"`: 0,
	} {
		claims := []byte(`{"iss":"https://as.test","iat":"1.7e9","nbf":1699999999.5,"exp":` + spelled + `}`)
		got, err := parseClaims(claims, "https://as.test", now)
		if want == 0 {
			require.Error(t, err, spelled)
			continue
		}
		require.NoError(t, err, spelled)
		require.Equal(t, want, got.expires.Unix(), spelled)
	}
	// Services read a JWT after us, and RFC 7519 2 has no such date.
	_, err := parseClaims([]byte(`{"iss":"https://as.test","exp":"2033-05-18T03:33:20Z"}`), "https://as.test", now)
	require.ErrorIs(t, err, errTime)
	_, err = parseClaims([]byte(`{"iss":"https://as.test","exp":1700003600,"nbf":"1.8e9"}`), "https://as.test", now)
	require.ErrorIs(t, err, errNotYet)
}
