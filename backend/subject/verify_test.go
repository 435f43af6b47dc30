package subject

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault/faulttest"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/jwks"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// requireFault checks code and a part of the message that the caller acts on.
func requireFault(t *testing.T, err error, code fault.Code, part string) {
	t.Helper()
	var f *fault.Error
	require.ErrorAs(t, err, &f)
	assert.Equal(t, code, f.Code, err.Error())
	assert.True(t, part == "" || faulttest.Says(err.Error(), part), "%q does not say %q", err, part)
}

// pickIssuer is what VerifyFrom does before it verifies anything.
func pickIssuer(raw secret.Text, allowed []*Issuer) (*Issuer, error) {
	c, err := parseCompact(raw)
	if err != nil {
		return nil, err
	}
	return pick(c, allowed)
}

func TestVerifyEachAlgorithm(t *testing.T) {
	fake := newFakeIssuer(t, goodKeys())
	issuer := open(t, fake.config())
	for _, alg := range algorithms {
		t.Run(alg.String(), func(t *testing.T) {
			token, err := issuer.Verify(t.Context(), fake.sign(alg, nil, fake.claims(nil)), noon)
			require.NoError(t, err)
			assert.Equal(t, "alice", token.Subject)
			assert.Equal(t, fake.URL, token.Issuer)
			assert.Equal(t, "fake", token.IssuerName)
			assert.Equal(t, "id-1", token.ID)
			assert.Equal(t, []string{audience}, token.Audience)
			assert.Equal(t, noon.Add(10*time.Minute), token.ExpiresAt)
			assert.Equal(t, token.ExpiresAt.Add(DefaultClockSkew), token.AcceptedUntil)
			assert.Equal(t, noon.Add(-time.Minute), token.IssuedAt)
			assert.False(t, token.HasScopes)
		})
	}
	assert.EqualValues(t, 1, fake.fetches.Load(), "the key set is fetched once")
}

func TestDefaultAlgorithms(t *testing.T) {
	fake := newFakeIssuer(t, goodKeys())
	cfg := fake.config()
	cfg.AllowedAlgorithms = nil
	issuer := open(t, cfg)
	for _, alg := range algorithms {
		_, err := issuer.Verify(t.Context(), fake.sign(alg, nil, fake.claims(nil)), noon)
		if slices.Contains(DefaultAlgorithms(), alg.String()) {
			assert.NoError(t, err, alg)
		} else {
			requireFault(t, err, fault.InvalidGrant, "allowed_algorithms")
		}
	}
}

// TestKeySources trusts the same issuer by each way of giving its keys.
func TestKeySources(t *testing.T) {
	fake := newFakeIssuer(t, goodKeys())
	raw := fake.sign(jwa.ES256, nil, fake.claims(nil))
	der, err := x509.MarshalPKIXPublicKey(fake.keys[jwa.ES256].Public())
	require.NoError(t, err)
	base := IssuerConfig{Name: "fake", BoundIssuer: fake.URL, BoundAudiences: []string{audience}}
	for name, change := range map[string]func(*IssuerConfig){
		"discovery": func(c *IssuerConfig) { c.OIDCDiscoveryURL = fake.URL },
		"jwks_url":  func(c *IssuerConfig) { c.JWKSURL = fake.URL + "/keys" },
		"pem": func(c *IssuerConfig) {
			c.JWKSPEM = string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
		},
		"key set": func(c *IssuerConfig) { c.JWKSPEM = string(keySetJSON(fake.keys)) },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := base
			change(&cfg)
			issuer := open(t, cfg)
			_, err := issuer.Verify(t.Context(), raw, noon)
			require.NoError(t, err)
			other := fake.sign(jwa.ES256, nil, fake.claims(map[string]any{"iss": "https://other.example.com"}))
			_, err = issuer.Verify(t.Context(), other, noon)
			requireFault(t, err, fault.InvalidGrant, "iss")
		})
	}
}

// TestClaims is the table of what a well-signed token may and may not say.
func TestClaims(t *testing.T) {
	fake := newFakeIssuer(t, goodKeys())
	issuer := open(t, fake.config())
	at := func(d time.Duration) int64 { return noon.Add(d).Unix() }
	for name, c := range map[string]struct {
		claims map[string]any
		refuse string // a part of the message; "" if accepted
	}{
		"audience in a list":        {map[string]any{"aud": []any{"x", audience}}, ""},
		"audience missing":          {map[string]any{"aud": nil}, "no claim aud"},
		"audience of another":       {map[string]any{"aud": "https://elsewhere"}, "bound_audiences"},
		"audience with a slash":     {map[string]any{"aud": audience + "/"}, "bound_audiences"},
		"audience empty":            {map[string]any{"aud": []any{}}, "bound_audiences"},
		"audience a number":         {map[string]any{"aud": 1}, "aud is not"},
		"audience with a number":    {map[string]any{"aud": []any{audience, 1}}, "aud is not"},
		"audience an object":        {map[string]any{"aud": map[string]any{audience: true}}, "aud is not"},
		"sub missing":               {map[string]any{"sub": nil}, "no claim sub"},
		"sub empty":                 {map[string]any{"sub": ""}, "sub is not"},
		"sub a number":              {map[string]any{"sub": 7}, "sub is not"},
		"sub with a line end":       {map[string]any{"sub": "alice\nroot"}, "sub is not"},
		"sub with a space":          {map[string]any{"sub": "repo:o/r:environment:Prod West"}, ""},
		"sub huge":                  {map[string]any{"sub": strings.Repeat("a", 2049)}, "sub is not"},
		"jti missing":               {map[string]any{"jti": nil}, ""},
		"jti a number":              {map[string]any{"jti": 5}, ""}, // no role asks for it here
		"jti null":                  {map[string]any{"jti": json.RawMessage("null")}, ""},
		"exp missing":               {map[string]any{"exp": nil}, "no claim exp"},
		"exp a string":              {map[string]any{"exp": "9999999999"}, "exp is not a NumericDate"},
		"exp null":                  {map[string]any{"exp": json.RawMessage("null")}, "exp is not a NumericDate"},
		"exp a fraction":            {map[string]any{"exp": json.RawMessage("1772367000.5")}, ""},
		"exp huge":                  {map[string]any{"exp": json.RawMessage("1e30")}, "exp is not a NumericDate"},
		"exp beyond floating point": {map[string]any{"exp": json.RawMessage("1e999")}, "exp is not a NumericDate"},
		"exp negative":              {map[string]any{"exp": -1}, "exp is not a NumericDate"},
		"exp zero":                  {map[string]any{"exp": 0}, "expired"},
		"exp long digits": {map[string]any{"exp": json.RawMessage(strings.Repeat("1", 100))},
			"exp is not a NumericDate"},
		"expired":                {map[string]any{"exp": at(-5 * time.Minute)}, "expired 5m0s ago"},
		"expired within skew":    {map[string]any{"exp": at(-29 * time.Second)}, ""},
		"expired at skew's end":  {map[string]any{"exp": at(-30 * time.Second)}, "expired 30s ago"},
		"nbf within skew":        {map[string]any{"nbf": at(30 * time.Second)}, ""},
		"nbf beyond skew":        {map[string]any{"nbf": at(31 * time.Second)}, "not valid for another 31s"},
		"nbf missing":            {map[string]any{"nbf": nil}, ""},
		"nbf zero":               {map[string]any{"nbf": 0}, ""},
		"nbf a string":           {map[string]any{"nbf": "0"}, "nbf is not"},
		"iat within skew":        {map[string]any{"iat": at(30 * time.Second)}, ""},
		"iat in the future":      {map[string]any{"iat": at(time.Hour), "exp": at(2 * time.Hour)}, "issued 1h0m0s in the future"},
		"iat in the far future":  {map[string]any{"iat": 253402300000}, "in the future"},
		"iat a list":             {map[string]any{"iat": []any{at(0)}}, "iat is not"},
		"auth_time in future":    {map[string]any{"auth_time": at(time.Minute)}, "login lies 1m0s in the future"},
		"auth_time a string":     {map[string]any{"auth_time": "today"}, ""}, // no role asks for it here
		"lives long enough":      {map[string]any{"iat": at(0), "exp": at(24 * time.Hour)}, ""},
		"lives too long":         {map[string]any{"iat": at(0), "exp": at(24*time.Hour + time.Second)}, "max_subject_lifetime"},
		"lived too long":         {map[string]any{"iat": at(-48 * time.Hour)}, "max_subject_lifetime"},
		"lives too long, no iat": {map[string]any{"iat": nil, "exp": at(25 * time.Hour)}, "max_subject_lifetime"},
		"no iat":                 {map[string]any{"iat": nil}, ""},
		"iss with a slash":       {map[string]any{"iss": fake.URL + "/"}, "iss"},
		"iss in upper case":      {map[string]any{"iss": strings.ToUpper(fake.URL)}, "iss"},
		"iss a list":             {map[string]any{"iss": []any{fake.URL}}, "iss"},
		"iss missing":            {map[string]any{"iss": nil}, "iss"},
		"ISS does not count":     {map[string]any{"iss": nil, "ISS": fake.URL}, "iss"},
		"acr a number":           {map[string]any{"acr": 1}, ""},
		"amr a single string":    {map[string]any{"amr": "pwd"}, ""},
		"amr a map":              {map[string]any{"amr": map[string]any{}}, ""},
		"scope a number":         {map[string]any{"scope": 1}, "scope is not"},
		"details that are none":  {map[string]any{"authorization_details": []any{"all"}}, "authorization_details is not"},
		"scp null":               {map[string]any{"scp": json.RawMessage("null")}, "scp is not"},
		"may_act a string":       {map[string]any{"may_act": "bob"}, "may_act is not"},
		"may_act null":           {map[string]any{"may_act": json.RawMessage("null")}, "may_act is not"},
		"act a list":             {map[string]any{"act": []any{}}, "act is not"},
	} {
		t.Run(name, func(t *testing.T) {
			raw := fake.sign(jwa.ES256, nil, fake.claims(c.claims))
			_, err := issuer.Verify(t.Context(), raw, noon)
			if c.refuse == "" {
				require.NoError(t, err)
				return
			}
			requireFault(t, err, fault.InvalidGrant, c.refuse)
			assert.NotContains(t, err.Error(), "alice")
		})
	}
}

func TestTypes(t *testing.T) {
	fake := newFakeIssuer(t, goodKeys())
	issuer := open(t, fake.config())
	for typ, accepted := range map[string]bool{
		"JWT": true, "jwt": true, "application/jwt": true, "at+jwt": true, "AT+JWT": true, "application/at+jwt": true,
		"dpop+jwt": false, "logout+jwt": false, "oauth-id-jag+jwt": false, "oauth-authz-req+jwt": false,
		"secevent+jwt": false, "token-introspection+jwt": false, "JOSE": true, "jose": true, "Jose": true, "JOSE+JSON": false, "application/": false, "": false,
	} {
		_, err := issuer.Verify(t.Context(), fake.sign(jwa.ES256, map[string]any{"typ": typ}, fake.claims(nil)), noon)
		if accepted {
			assert.NoError(t, err, typ)
		} else {
			requireFault(t, err, fault.InvalidGrant, "typ")
		}
	}
	_, err := issuer.Verify(t.Context(), fake.sign(jwa.ES256, map[string]any{"typ": nil}, fake.claims(nil)), noon)
	require.NoError(t, err, "Kubernetes gives no typ")
}

func TestScopes(t *testing.T) {
	for name, c := range map[string]struct {
		claims map[string]any
		given  bool
		want   []string
		others []string
	}{
		"none":              {map[string]any{}, false, nil, nil},
		"a string":          {map[string]any{"scope": "a  b"}, true, []string{"a", "b"}, nil},
		"an empty string":   {map[string]any{"scope": ""}, true, nil, nil},
		"a list":            {map[string]any{"scp": []any{"a", "b c"}}, true, []string{"a", "b", "c"}, nil},
		"both":              {map[string]any{"scope": "a b", "scp": []any{"b", "c"}}, true, []string{"b"}, []string{"a", "c"}},
		"both, the same":    {map[string]any{"scope": "a b", "scp": []any{"b", "a"}}, true, []string{"b", "a"}, nil},
		"both, disjoint":    {map[string]any{"scope": "a", "scp": "b"}, true, nil, []string{"a", "b"}},
		"no scope-token":    {map[string]any{"scope": `a "b" ü c\d`}, true, []string{"a"}, []string{`"b"`, "ü", `c\d`}},
		"an empty list":     {map[string]any{"scp": []any{}}, true, nil, nil},
		"scope by any case": {map[string]any{"Scope": "a"}, false, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			r := reader{claims: c.claims}
			got, others, given := r.scopes()
			assert.Nil(t, r.err)
			assert.Equal(t, c.given, given)
			assert.Equal(t, c.want, got)
			assert.Equal(t, c.others, others)
		})
	}
}

// TestHeadersThatAreIgnored: they may be there, and change nothing (the attacks
// show that they do not help a forgery either).
func TestHeadersThatAreIgnored(t *testing.T) {
	fake := newFakeIssuer(t, goodKeys())
	issuer := open(t, fake.config())
	for _, header := range []map[string]any{
		{"jku": "https://evil.example.com/keys"}, {"x5u": "https://evil.example.com/"}, {"x5c": []string{"AAAA"}},
		{"jwk": map[string]any{"kty": "oct", "k": "AAAA"}}, {"x5t": "AAAA"}, {"kid": nil}, {"cty": "application/json"}, {"CRIT2": true},
	} {
		_, err := issuer.Verify(t.Context(), fake.sign(jwa.ES256, header, fake.claims(nil)), noon)
		assert.NoError(t, err, "%v", header)
	}
}

// TestTimes compares the judgement of times with a model in whole seconds.
func TestTimes(t *testing.T) {
	second := rapid.IntRange(-200, 200)
	rapid.Check(t, func(t *rapid.T) {
		skew, most := rapid.IntRange(0, 60).Draw(t, "skew"), rapid.IntRange(1, 300).Draw(t, "max lifetime")
		exp, iat, nbf := second.Draw(t, "exp"), second.Draw(t, "iat"), second.Draw(t, "nbf")
		hasIAT, hasNBF := rapid.Bool().Draw(t, "has iat"), rapid.Bool().Draw(t, "has nbf")
		claims := map[string]any{"iss": "i", "sub": "s", "aud": "a", "exp": at(exp)}
		want, begin := exp+skew > 0, 0
		if hasIAT {
			claims["iat"], begin = at(iat), iat
			want = want && iat-skew <= 0
		}
		if hasNBF {
			claims["nbf"] = at(nbf)
			want = want && nbf-skew <= 0
		}
		want = want && exp-begin <= most
		token, fail := newToken(claims)
		if fail != nil {
			t.Fatal(fail)
		}
		i := &Issuer{cfg: IssuerConfig{BoundAudiences: []string{"a"}, ClockSkew: time.Duration(skew) * time.Second,
			MaxSubjectLifetime: time.Duration(most) * time.Second}}
		if fail := i.judge(token, noon); (fail == nil) != want {
			t.Fatalf("%v, want accepted %v", fail, want)
		}
	})
}

// at is a NumericDate some seconds from noon.
func at(seconds int) json.Number {
	return json.Number(strconv.FormatInt(noon.Unix()+int64(seconds), 10))
}

// TestKeysUnavailable: nobody knows anything about the token, so it is not bad.
func TestKeysUnavailable(t *testing.T) {
	fake := newFakeIssuer(t, goodKeys())
	raw := fake.sign(jwa.ES256, nil, fake.claims(nil))
	for _, status := range []int{500, 503, 429, 404, 302} {
		fake.status.Store(int32(status))
		_, err := open(t, fake.config()).Verify(t.Context(), raw, noon)
		requireFault(t, err, fault.TemporarilyUnavailable, "could not be had")
		require.ErrorIs(t, err, jwks.ErrUnavailable)
	}
	issuer := open(t, fake.config())
	fake.Close()
	_, err := issuer.Verify(t.Context(), raw, noon)
	requireFault(t, err, fault.TemporarilyUnavailable, "could not be reached")
}

func TestCallerGaveUp(t *testing.T) {
	fake := newFakeIssuer(t, goodKeys())
	issuer := open(t, fake.config())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := issuer.Verify(ctx, fake.sign(jwa.ES256, nil, fake.claims(nil)), noon)
	if err != nil { // the fetch may win the race against the cancelled context
		requireFault(t, err, fault.TemporarilyUnavailable, "could not be had")
	}
}

func TestPickIssuer(t *testing.T) {
	one, two := newFakeIssuer(t, goodKeys()), newFakeIssuer(t, evilKeys())
	first, second := open(t, one.config()), open(t, two.config())
	narrow := one.config()
	narrow.Name, narrow.BoundAudiences = "narrow", []string{"internal"}
	third := open(t, narrow)
	all := []*Issuer{third, first, second}

	token := func(f *fakeIssuer, aud any) secret.Text {
		return f.sign(jwa.ES256, nil, f.claims(map[string]any{"aud": aud}))
	}
	for name, c := range map[string]struct {
		raw     secret.Text
		allowed []*Issuer
		want    *Issuer
	}{
		"by iss":                           {token(two, audience), all, second},
		"by iss and audience":              {token(one, audience), all, first},
		"by iss and the other audience":    {token(one, []string{"internal"}), all, third},
		"the first if no audience fits":    {token(one, "elsewhere"), all, third},
		"the first if aud cannot be read":  {token(one, 5), all, third},
		"none trusted":                     {token(one, audience), nil, nil},
		"not trusted by this role":         {token(one, audience), []*Issuer{second}, nil},
		"no iss":                           {one.sign(jwa.ES256, nil, map[string]any{}), all, nil},
		"an iss that is no string":         {one.sign(jwa.ES256, nil, map[string]any{"iss": 1}), all, nil},
		"an empty iss is nobody's default": {one.sign(jwa.ES256, nil, map[string]any{"iss": ""}), all, nil},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := pickIssuer(c.raw, c.allowed)
			if c.want == nil {
				requireFault(t, err, fault.InvalidGrant, "subject_issuers")
				return
			}
			require.NoError(t, err)
			assert.Same(t, c.want, got)
		})
	}
}

// TestUnboundIssuer: keys without a name vouch for any name but one that the
// role trusts beside them.
func TestUnboundIssuer(t *testing.T) {
	named, free := newFakeIssuer(t, goodKeys()), newFakeIssuer(t, evilKeys())
	unbound := func(name, audience string) *Issuer {
		return open(t, IssuerConfig{Name: name, JWKSURL: free.URL + "/keys", BoundAudiences: []string{audience}})
	}
	bound, one, two, three := open(t, named.config()), unbound("one", audience), unbound("two", "other"), unbound("three", audience)
	sign := func(changes map[string]any) secret.Text { return free.sign(jwa.ES256, nil, named.claims(changes)) }

	raw := sign(map[string]any{"iss": "anyone"})
	picked, err := pickIssuer(raw, []*Issuer{bound, two, one})
	require.NoError(t, err)
	assert.Same(t, one, picked, "by its audience")
	token, err := picked.Verify(t.Context(), raw, noon)
	require.NoError(t, err)
	assert.Equal(t, "anyone", token.Issuer)
	assert.Equal(t, "one", token.IssuerName)

	picked, err = pickIssuer(sign(nil), []*Issuer{one, bound})
	require.NoError(t, err)
	assert.Same(t, bound, picked, "the name of a trusted issuer is its own")
	_, err = picked.Verify(t.Context(), sign(nil), noon)
	requireFault(t, err, fault.InvalidGrant, "signature")

	_, err = pickIssuer(raw, []*Issuer{one, two, three})
	requireFault(t, err, fault.InvalidGrant, "one or three: set bound_issuer")
	for _, changes := range []map[string]any{{"iss": nil}, {"iss": ""}, {"iss": 1}} {
		_, err = pickIssuer(sign(changes), []*Issuer{one})
		requireFault(t, err, fault.InvalidGrant, "no iss")
		_, err = one.Verify(t.Context(), sign(changes), noon)
		requireFault(t, err, fault.InvalidGrant, "iss")
	}

	// may_act names an actor of the bound issuer; the unbound one imitates it.
	subject, err := bound.Verify(t.Context(), named.sign(jwa.ES256, nil, named.claims(map[string]any{
		"may_act": map[string]any{"iss": named.URL, "sub": "agent"}})), noon)
	require.NoError(t, err)
	imitation, err := one.Verify(t.Context(), sign(map[string]any{"sub": "agent"}), noon)
	require.NoError(t, err)
	requireFault(t, CheckActor(subject, imitation), fault.AccessDenied, "set bound_issuer")
}

func TestReplayKey(t *testing.T) {
	token := &Token{Issuer: "https://a", ID: "1", AcceptedUntil: noon}
	key, until, err := token.ReplayKey()
	require.NoError(t, err)
	assert.Equal(t, noon, until)
	assert.Len(t, key, 43)
	again, _, _ := (&Token{Issuer: "https://a", ID: "1", Subject: "other"}).ReplayKey()
	assert.Equal(t, key, again)
	shifted, _, _ := (&Token{Issuer: "https://a1", ID: ""}).ReplayKey()
	assert.Empty(t, shifted)
	other, _, _ := (&Token{Issuer: "https://", ID: "a1"}).ReplayKey()
	assert.NotEqual(t, key, other)
	_, _, err = (&Token{Issuer: "https://a"}).ReplayKey()
	requireFault(t, err, fault.InvalidGrant, "no jti")
	_, _, err = (&Token{Issuer: "https://a", Claims: map[string]any{"jti": []any{"s3cr3t"}}}).ReplayKey()
	requireFault(t, err, fault.InvalidGrant, "jti is not")
	assert.NotContains(t, err.Error(), "s3cr3t")
}

// TestNoSecretInErrors walks refusals and looks for any part of the token.
func TestNoSecretInErrors(t *testing.T) {
	fake := newFakeIssuer(t, goodKeys())
	issuer := open(t, fake.config())
	for _, claims := range []map[string]any{
		{"sub": "s3cr3t\n"}, {"aud": "s3cr3t"}, {"iss": "s3cr3t"}, {"exp": "s3cr3t"},
		{"may_act": "s3cr3t"}, {"scope": map[string]any{"s3cr3t": 1}},
	} {
		raw := fake.sign(jwa.ES256, nil, fake.claims(claims))
		_, err := issuer.Verify(t.Context(), raw, noon)
		require.Error(t, err)
		eachIn(err, func(e error) {
			assert.NotContains(t, e.Error(), "s3cr3t")
			for _, part := range strings.Split(raw.Reveal(), ".") {
				assert.NotContains(t, e.Error(), part)
			}
		})
	}
}

// What is wrong with the login is judged only where a role asks for it, and tells as little.
func TestNoSecretInStepUp(t *testing.T) {
	fake := newFakeIssuer(t, goodKeys())
	raw := fake.sign(jwa.ES256, nil, fake.claims(map[string]any{"acr": "s3cr3t\x00", "amr": map[string]any{"s3cr3t": 1}, "auth_time": "s3cr3t"}))
	token, err := open(t, fake.config()).Verify(t.Context(), raw, noon)
	require.NoError(t, err)
	require.Nil(t, (StepUp{}).Check(token, noon))
	weak := StepUp{RequiredACR: []string{"gold"}, RequiredAMR: []string{"otp"}, MaxAuthAge: time.Hour}.Check(token, noon)
	requireFault(t, weak, fault.StepUp, "no NumericDate")
	require.NotContains(t, weak.Error(), "s3cr3t")
}

// eachIn calls f with err and everything that it wraps, joined or not.
func eachIn(err error, f func(error)) {
	if err == nil {
		return
	}
	f(err)
	switch e := err.(type) {
	case interface{ Unwrap() error }:
		eachIn(e.Unwrap(), f)
	case interface{ Unwrap() []error }:
		for _, inner := range e.Unwrap() {
			eachIn(inner, f)
		}
	}
}

func TestOpenRefusesUnpinnedKeys(t *testing.T) {
	fake := newFakeIssuer(t, goodKeys())
	client, err := httpclient.New(httpclient.Options{})
	require.NoError(t, err)
	for _, url := range []string{"", "http://keys.example.com/", "https://169.254.169.254/keys"} {
		_, err := Open(fake.config(), url, client, time.Now)
		requireFault(t, err, fault.InvalidRequest, "write the issuer again")
	}
	_, err = Open(IssuerConfig{}, "", client, time.Now)
	requireFault(t, err, fault.InvalidRequest, "exactly one")
}
