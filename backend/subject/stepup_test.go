package subject

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
)

func TestStepUp(t *testing.T) {
	login := func(ago time.Duration) time.Time { return noon.Add(-ago) }
	for name, c := range map[string]struct {
		need StepUp
		tok  Token
		want string // the whole message; "" if the login will do
	}{
		"nothing required":         {StepUp{}, Token{}, ""},
		"the acr":                  {StepUp{RequiredACR: []string{"gold"}}, Token{ACR: "gold"}, ""},
		"any of the acrs":          {StepUp{RequiredACR: []string{"gold", "silver"}}, Token{ACR: "silver"}, ""},
		"all of the amrs":          {StepUp{RequiredAMR: []string{"otp", "pwd"}}, Token{AMR: []string{"pwd", "x", "otp"}}, ""},
		"young enough":             {StepUp{MaxAuthAge: 5 * time.Minute}, Token{AuthTime: login(5 * time.Minute)}, ""},
		"a login just ahead of us": {StepUp{MaxAuthAge: time.Minute}, Token{AuthTime: login(-20 * time.Second), clockSkew: 30 * time.Second}, ""},
		"the skew does not lengthen": {StepUp{MaxAuthAge: 5 * time.Minute}, Token{AuthTime: login(5*time.Minute + time.Second), clockSkew: time.Minute},
			`insufficient_user_authentication: ask for a new login with max_age=300 (the subject token's login does not do: its login is too long ago)`},
		"another acr": {StepUp{RequiredACR: []string{"gold", "silver"}, MaxAuthAge: 5 * time.Minute}, Token{ACR: "s3cr3t", AuthTime: noon},
			`insufficient_user_authentication: ask for a new login with acr_values="gold silver" max_age=300 (the subject token's login does not do: its acr is none of these)`},
		"no acr": {StepUp{RequiredACR: []string{"gold"}}, Token{},
			`insufficient_user_authentication: ask for a new login with acr_values="gold" (the subject token's login does not do: its acr is none of these)`},
		"an amr missing": {StepUp{RequiredAMR: []string{"otp", "hwk"}}, Token{AMR: []string{"otp"}},
			`insufficient_user_authentication: ask for a new login with amr="otp hwk" (the subject token's login does not do: its amr lacks hwk)`},
		"no auth_time": {StepUp{MaxAuthAge: time.Hour}, Token{},
			`insufficient_user_authentication: ask for a new login with max_age=3600 (the subject token's login does not do: it has no auth_time)`},
		"auth_time zero is long ago": {StepUp{MaxAuthAge: time.Hour}, Token{AuthTime: time.Unix(0, 0)},
			`insufficient_user_authentication: ask for a new login with max_age=3600 (the subject token's login does not do: its login is too long ago)`},
		"everything": {StepUp{RequiredACR: []string{"gold"}, RequiredAMR: []string{"otp"}, MaxAuthAge: time.Minute}, Token{AuthTime: login(time.Hour)},
			`insufficient_user_authentication: ask for a new login with acr_values="gold" max_age=60 amr="otp" (the subject token's login does not do: its acr is none of these, its amr lacks otp, its login is too long ago)`},
		"a login beyond the skew": {StepUp{}, Token{AuthTime: login(-31 * time.Second), clockSkew: 30 * time.Second},
			`invalid_grant: the token's login lies 31s in the future (auth_time): check the clocks`},
	} {
		t.Run(name, func(t *testing.T) {
			err := c.need.Check(&c.tok, noon)
			if c.want == "" {
				assert.Nil(t, err)
				return
			}
			require.NotNil(t, err)
			assert.Equal(t, c.want, err.Error())
		})
	}
}

// TestStepUpOfVerifiedToken: what the claims say arrives.
func TestStepUpOfVerifiedToken(t *testing.T) {
	fake := newFakeIssuer(t, goodKeys())
	issuer := open(t, fake.config())
	raw := fake.sign(jwa.ES256, nil, fake.claims(map[string]any{
		"acr": "gold", "amr": []string{"pwd", "otp"}, "auth_time": noon.Add(-time.Minute).Unix()}))
	tok, err := issuer.Verify(t.Context(), raw, noon)
	require.NoError(t, err)
	need := StepUp{RequiredACR: []string{"gold"}, RequiredAMR: []string{"otp"}, MaxAuthAge: 2 * time.Minute}
	assert.Nil(t, need.Check(tok, noon))
	assert.Equal(t, fault.StepUp, need.Check(tok, noon.Add(2*time.Minute)).Code)
}

func TestStepUpValidate(t *testing.T) {
	require.NoError(t, StepUp{}.Validate())
	require.NoError(t, StepUp{RequiredACR: []string{"urn:mace:incommon:iap:silver", "phr"}, RequiredAMR: []string{"mfa"}, MaxAuthAge: time.Hour}.Validate())
	for name, s := range map[string]StepUp{
		"a space":        {RequiredACR: []string{"a b"}},
		"a quote":        {RequiredACR: []string{`a"`}},
		"a backslash":    {RequiredAMR: []string{`a\`}},
		"empty":          {RequiredAMR: []string{""}},
		"long":           {RequiredAMR: []string{strings.Repeat("a", 257)}},
		"many":           {RequiredACR: make([]string, maxRequired+1)},
		"negative":       {MaxAuthAge: -time.Second},
		"huge":           {MaxAuthAge: maxMaxAuthAge + time.Second},
		"half a second":  {MaxAuthAge: time.Second / 2},
		"a control char": {RequiredACR: []string{"a\x7f"}},
	} {
		t.Run(name, func(t *testing.T) { requireFault(t, s.Validate(), fault.InvalidRequest, "") })
	}
}

func TestCheckActor(t *testing.T) {
	actor := &Token{Issuer: "https://a", Claims: map[string]any{"iss": "https://a", "sub": "agent", "n": "1", "i": json.Number("1.0"), "o": map[string]any{}}}
	for name, c := range map[string]struct {
		mayAct map[string]any
		issuer string
		refuse string
	}{
		"nothing said":                {nil, "https://b", ""},
		"by sub":                      {map[string]any{"sub": "agent"}, "https://a", ""},
		"by sub of another issuer":    {map[string]any{"sub": "agent"}, "https://b", "own issuer"},
		"by sub and iss":              {map[string]any{"sub": "agent", "iss": "https://a"}, "https://b", ""},
		"another sub":                 {map[string]any{"sub": "other"}, "https://a", `"sub" differs`},
		"another iss":                 {map[string]any{"sub": "agent", "iss": "https://c"}, "https://a", `"iss" differs`},
		"a claim that is not there":   {map[string]any{"sub": "agent", "client_id": "x"}, "https://a", `"client_id" differs`},
		"a claim of another type":     {map[string]any{"sub": "agent", "n": true}, "https://a", `"n" differs`},
		"an object identifies no one": {map[string]any{"sub": "agent", "o": map[string]any{}}, "https://a", `"o" differs`},
		"null identifies no one":      {map[string]any{"sub": "agent", "x": nil}, "https://a", `"x" differs`},
		"no one":                      {map[string]any{}, "https://a", "no one"},
	} {
		t.Run(name, func(t *testing.T) {
			err := CheckActor(&Token{Issuer: c.issuer, MayAct: c.mayAct}, actor)
			if c.refuse == "" {
				assert.Nil(t, err)
				return
			}
			requireFault(t, err, fault.AccessDenied, c.refuse)
		})
	}
}
