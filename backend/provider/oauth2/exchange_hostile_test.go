package oauth2

import (
	"context"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

// Whatever the answer, a token that was seen comes back to be killed, and none of
// the caller's is ever among what is killed.
func TestExchangeAnswersThatMustNotBeHandedOut(t *testing.T) {
	for name, test := range map[string]struct {
		fault authserver.Fault
		words []string
		lost  bool // nothing of the server's can be killed
	}{
		"no issued_token_type":        {authserver.Drop("issued_token_type"), []string{"issued_token_type"}, false},
		"another issued_token_type":   {authserver.Set("issued_token_type", typeJWT), []string{"requested_token_type"}, false},
		"issued_token_type no string": {authserver.Set("issued_token_type", 7), []string{"issued_token_type"}, false},
		"a refresh token":             {authserver.Set("issued_token_type", typeRefreshToken), []string{"refresh token"}, false},
		"N_A for an access token":     {authserver.Set("token_type", "N_A"), []string{"N_A"}, false},
		"another token_type":          {authserver.Set("token_type", "mac"), []string{"token_type"}, false},
		"expires_in of nothing":       {authserver.Set("expires_in", 0), []string{"expires_in"}, false},
		"a scope that is none":        {authserver.Set("scope", "a\x01"), []string{"scope"}, false},
		"an error with a token":       {authserver.Set("error", "invalid_grant"), []string{"an error and a token"}, false},
		"the subject token":           {authserver.Set("access_token", janesToken), []string{"the very token"}, true},
		"the actor token":             {authserver.Set("access_token", agentsToken), []string{"the very token"}, true},
		"it, signed otherwise":        {authserver.Set("access_token", janesToken+"A"), []string{"the very token"}, true},
		"it, another signature":       {authserver.Set("access_token", unsigned(janesToken)+"dHdpbg"), []string{"the very token"}, true},
		"the subject token inside":    {authserver.Set("access_token", "x."+janesToken), []string{"the very token"}, true},
		"it as a refresh token":       {authserver.Set("refresh_token", janesToken), []string{"refresh token"}, false},
		"the client secret":           {authserver.Set("access_token", testSecret), []string{"parent credential"}, true},
		"cut short":                   {authserver.Answer(200, "application/json", `{"access_token":"abc`), []string{"not whole"}, true},
		"no token":                    {authserver.Drop("access_token"), []string{"no access_token"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			f := exchangeFixture(t, authserver.Options{}, with{})
			f.server.AddToken(authserver.Token{Value: janesToken, Client: testClient, Subject: "jane", Expires: time.Now().Add(time.Hour)})
			f.server.AddToken(authserver.Token{Value: agentsToken, Client: testClient, Subject: "agent", Expires: time.Now().Add(time.Hour)})
			f.server.Break(authserver.EndpointToken, test.fault)
			r := forJane(scopes("read"))
			r.Actor = agent()
			child, err := f.exchange(r)
			requireCode(t, err, fault.ProviderViolation, test.words...)
			if test.lost {
				require.Nil(t, child)
			} else {
				require.NotNil(t, child)
				require.NoError(t, f.Revoke(context.Background(), child.Handle))
				require.ElementsMatch(t, []string{janesToken, agentsToken}, f.server.Live(), "what was minted is dead")
			}
			require.True(t, f.server.Active(janesToken), "the caller's tokens live on")
			require.True(t, f.server.Active(agentsToken))
		})
	}
}

// A server whose exchanges have no end need not be asked again for the same, and
// everything else that it gives goes on.
func TestAnEndlessExchangeEndsNothingElse(t *testing.T) {
	for name, test := range map[string]struct {
		fields      with
		wanted, typ string
	}{
		"class expiry":            {with{"revocation": "expiry"}, typeAccessToken, "Bearer"},
		"N_A, which nobody kills": {with{}, typeJWT, "N_A"},
	} {
		t.Run(name, func(t *testing.T) {
			f := exchangeFixture(t, authserver.Options{}, test.fields)
			r := forJane(scopes("read"))
			r.Parameters = map[string]string{parameterRequestedType: test.wanted}
			f.server.Break(authserver.EndpointToken, authserver.Answer(http.StatusOK, "application/json",
				`{"access_token":"for-ever-and-ever","token_type":"`+test.typ+`","issued_token_type":"`+test.wanted+`"}`))
			_, err := f.exchange(r)
			requireCode(t, err, fault.ProviderViolation, "expire")
			var lasts provider.Lasting
			require.ErrorAs(t, err, &lasts, "each further one would live for ever")
			require.Positive(t, lasts.LastsFor())
			f.server.Break(authserver.EndpointToken, nil)
			_, err = f.Mint(context.Background(), provider.Request{Access: scopes("read")})
			require.NoError(t, err)
		})
	}
}

func TestARefreshTokenBesideDiesWithTheChild(t *testing.T) {
	for _, grant := range []string{grantClientCredentials, grantRefreshToken} {
		f := exchangeFixture(t, authserver.Options{}, with{"grant": grant, "revocation": "token"})
		beside := f.server.IssueRefreshToken(testClient)
		f.server.Break(authserver.EndpointToken, authserver.Set("refresh_token", beside))
		child, err := f.exchange(forJane(scopes("read")))
		require.NoError(t, err)
		require.NoError(t, f.Revoke(context.Background(), child.Handle))
		require.False(t, f.server.Active(beside))
		require.False(t, f.server.Active(child.Token().Reveal()))
		require.Zero(t, f.store.Saves(), "it never became the parent")
	}
}

// A token that is no access token cannot be revoked (RFC 7009 2.1), so it has no
// handle, and nothing that lives longer comes with it.
func TestATokenThatIsNoAccessToken(t *testing.T) {
	const idToken = "urn:ietf:params:oauth:token-type:id_token"
	r := forJane(scopes("read"))
	r.Parameters = map[string]string{"requested_token_type": idToken}
	body := `{"access_token":"an.id.token","issued_token_type":"` + idToken + `","token_type":"n_a","expires_in":60`

	f := exchangeFixture(t, authserver.Options{}, with{})
	f.server.Break(authserver.EndpointToken, authserver.Answer(200, "application/json", body+"}"))
	child, err := f.exchange(r)
	require.NoError(t, err)
	require.Equal(t, "N_A", child.TokenType)
	require.Equal(t, idToken, child.IssuedTokenType)
	require.True(t, child.Handle.Empty())

	f.server.Break(authserver.EndpointToken, authserver.Answer(200, "application/json", body+`,"refresh_token":"r"}`))
	child, err = f.exchange(r)
	requireCode(t, err, fault.ProviderViolation, "refresh token")
	require.False(t, child.Handle.Empty(), "which is killed")
}

// The subject is never replaced silently, nor is the actor.
func TestOthersTokensAreRefused(t *testing.T) {
	claims := func(f *fixture, more map[string]any) string {
		all := map[string]any{"iss": f.server.URL, "sub": "jane", "client_id": testClient, "scope": "read", "exp": time.Now().Add(time.Hour).Unix()}
		maps.Copy(all, more)
		return f.server.SignClaims("at+jwt", all)
	}
	entra := map[string]any{"oid": "o-1", "tid": "t-1"}
	for name, test := range map[string]struct {
		form   string
		claims map[string]any
		words  []string
	}{
		"the subject":                  {exchangeToken, nil, nil},
		"another subject":              {exchangeToken, map[string]any{"sub": "joe"}, []string{"another subject"}},
		"a subject that is no text":    {exchangeToken, map[string]any{"sub": 7}, []string{"another subject"}},
		"the actor":                    {exchangeToken, map[string]any{"act": map[string]any{"sub": "agent", "iss": "https://idp.test", "act": map[string]any{"sub": "joe"}}}, nil},
		"another actor":                {exchangeToken, map[string]any{"act": map[string]any{"sub": "joe"}}, []string{"another actor"}},
		"another issuer's actor":       {exchangeToken, map[string]any{"act": map[string]any{"sub": "agent", "iss": "https://evil.test"}}, []string{"another actor"}},
		"an actor that is none":        {exchangeToken, map[string]any{"act": "agent"}, []string{"another actor"}},
		"an actor of numbers":          {exchangeToken, map[string]any{"act": map[string]any{"sub": 7}}, []string{"another actor"}},
		"another sub, the same Entra":  {exchangeOnBehalfOf, map[string]any{"sub": "pairwise", "oid": "o-1", "tid": "t-1"}, nil},
		"another sub, another tenant":  {exchangeOnBehalfOf, map[string]any{"sub": "pairwise", "oid": "o-1", "tid": "t-2"}, []string{"another subject"}},
		"another sub, and no oid":      {exchangeOnBehalfOf, map[string]any{"sub": "pairwise"}, []string{"another subject"}},
		"oid means nothing elsewhere":  {exchangeToken, map[string]any{"sub": "pairwise", "oid": "o-1", "tid": "t-1"}, []string{"another subject"}},
		"issued to another client":     {exchangeToken, map[string]any{"client_id": "joe"}, []string{"another client"}},
		"broader than what was wanted": {exchangeToken, map[string]any{"scope": "read admin"}, nil}, // and told so, below
	} {
		t.Run(name, func(t *testing.T) {
			f := exchangeFixture(t, authserver.Options{}, with{"verify": "jwt", "exchange": test.form})
			token := claims(f, test.claims)
			f.server.AddToken(authserver.Token{Value: token, Client: testClient, Expires: time.Now().Add(time.Hour)})
			f.server.Break(authserver.EndpointToken, authserver.Set("access_token", token))
			r := forJane(scopes("read"))
			if test.form == exchangeToken {
				r.Actor = agent()
			}
			r.Subject.Claims = entra
			child, err := f.exchange(r)
			require.NotNil(t, child)
			if test.words == nil {
				require.NoError(t, err)
				require.Equal(t, name != "broader than what was wanted", child.Granted.Equal(scopes("read")), "%v", child.Granted.Flat())
				require.Equal(t, test.claims["act"] != nil, child.ActorConfirmed)
				return
			}
			requireCode(t, err, fault.ProviderViolation, test.words...)
			require.NoError(t, f.Revoke(context.Background(), child.Handle))
			require.False(t, f.server.Active(token))
		})
	}
}

func TestErrorsOfAnExchange(t *testing.T) {
	for name, test := range map[string]struct {
		status int
		body   string
		code   fault.Code
		words  []string
	}{
		"invalid_grant":          {400, `{"error":"invalid_grant"}`, fault.InvalidGrant, []string{"subject token"}},
		"Hydra's jti_known":      {400, `{"error":"jti_known"}`, fault.InvalidGrant, []string{"once"}},
		"invalid_request":        {400, `{"error":"invalid_request"}`, fault.InvalidRequest, []string{"subject or actor token"}},
		"invalid_scope":          {400, `{"error":"invalid_scope"}`, fault.InvalidScope, nil},
		"invalid_target":         {400, `{"error":"invalid_target"}`, fault.InvalidTarget, nil},
		"invalid details":        {400, `{"error":"invalid_authorization_details"}`, fault.InvalidRequest, []string{"authorization_details"}},
		"unsupported_token_type": {400, `{"error":"unsupported_token_type"}`, fault.UnsupportedTokenType, []string{"parameters"}},
		"unsupported_grant_type": {400, `{"error":"unsupported_grant_type"}`, fault.TemporarilyUnavailable, []string{"exchange=token-exchange"}},
		"invalid_client":         {401, `{"error":"invalid_client"}`, fault.ParentRefused, []string{"parent credential"}},
		"unauthorized_client":    {400, `{"error":"unauthorized_client"}`, fault.ParentRefused, []string{"parent credential"}},
		"server_error":           {500, `{"error":"server_error"}`, fault.TemporarilyUnavailable, []string{"server_error"}},
		"interaction_required":   {400, `{"error":"interaction_required","claims":"{\"access_token\": {\"polids\":{\"essential\":true}}}"}`, fault.StepUp, []string{`claims={"access_token":{"polids":{"essential":true}}}`}},
		"claims as an object":    {400, `{"error":"interaction_required","claims":{"id_token":null}}`, fault.StepUp, []string{`claims={"id_token":null}`}},
		"consent_required":       {400, `{"error":"consent_required"}`, fault.StepUp, []string{"consent_required"}},
		"login_required":         {400, `{"error":"login_required"}`, fault.StepUp, []string{"log in again"}},
		"RFC 9470":               {401, `{"error":"insufficient_user_authentication","acr_values":"phr mfa","max_age":300}`, fault.StepUp, []string{`acr_values="phr mfa"`, "max_age=300"}},
		"max_age as a string":    {401, `{"error":"insufficient_user_authentication","max_age":"300"}`, fault.StepUp, []string{"max_age=300"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := exchangeFixture(t, authserver.Options{}, with{"grant": "refresh_token"})
			f.server.Break(authserver.EndpointToken, authserver.Answer(test.status, "application/json", test.body))
			child, err := f.exchange(forJane(scopes("read")))
			require.Nil(t, child)
			requireCode(t, err, test.code, test.words...)
			require.Empty(t, f.store.Parent().Refused, "the parent is not the one that was refused")
			require.NotErrorIs(t, err, provider.ErrAnswerLost)
		})
	}
}

// Of an error, nothing is passed on that is not in its place and well-formed.
func TestTextsThatAreNotPassedOn(t *testing.T) {
	long := strings.Repeat("a", maxHint)
	for name, members := range map[string]string{
		"a description":              `"error_description":"NEVER"`,
		"claims that are text":       `"claims":"NEVER"`,
		"claims that are a list":     `"claims":["NEVER"]`,
		"claims that are cut":        `"claims":"{\"NEVER\":"`,
		"claims with a line end":     `"claims":"{\"NEVER\":\"a\\u0000\"} \n x"`,
		"claims beyond ASCII":        `"claims":"{\"NEVER\":\"\u00e9\"}"`,
		"claims of any length":       `"claims":"{\"NEVER\":\"` + long + `\"}"`,
		"claims with the subject":    `"claims":"{\"NEVER\":\"` + janesToken + `\"}"`,
		"claims with the secret":     `"claims":"{\"NEVER\":\"` + testSecret + `\"}"`,
		"acr_values with a quote":    `"acr_values":"NEVER\" x=\""`,
		"acr_values with a line end": `"acr_values":"NEVER\n"`,
		"acr_values of any length":   `"acr_values":"NEVER` + long + `"`,
		"acr_values as a list":       `"acr_values":["NEVER"]`,
		"acr_values with the token":  `"acr_values":"NEVER ` + janesToken + `"`,
		"max_age with a unit":        `"max_age":"5NEVER"`,
	} {
		t.Run(name, func(t *testing.T) {
			f := exchangeFixture(t, authserver.Options{}, with{})
			f.server.Break(authserver.EndpointToken, authserver.Answer(400, "application/json", `{"error":"interaction_required",`+members+`}`))
			_, err := f.exchange(forJane(scopes("read")))
			requireCode(t, err, fault.StepUp)
			require.NotContains(t, err.Error(), "NEVER")
		})
	}
	f := exchangeFixture(t, authserver.Options{}, with{})
	short := forJane(scopes("read"))
	short.Subject.Token = secret.New("opaque-subject-token")
	for _, code := range []string{"opaque-subject-token", "subject-token", "x.opaque-subject-token"} {
		f.server.Break(authserver.EndpointToken, authserver.Answer(400, "application/json", `{"error":"`+code+`"}`))
		_, err := f.exchange(short)
		requireCode(t, err, fault.TemporarilyUnavailable, codeUnreadable)
		require.NotContains(t, err.Error(), "subject-token")
	}
	f.server.Break(authserver.EndpointToken, authserver.Echo())
	_, err := f.exchange(forJane(scopes("read")))
	require.Error(t, err)
}

func TestAnExchangeWhoseAnswerIsLost(t *testing.T) {
	f := exchangeFixture(t, authserver.Options{}, with{})
	f.server.Break(authserver.EndpointToken, authserver.Cut(5))
	child, err := f.exchange(forJane(scopes("read")))
	require.Nil(t, child)
	require.ErrorIs(t, err, provider.ErrAnswerLost)
	require.Equal(t, 1, f.server.Counts().Requests[authserver.EndpointToken], "it is not repeated")

	f.server.Break(authserver.EndpointToken, authserver.Cut(-3))
	child, err = f.exchange(forJane(scopes("read")))
	require.Error(t, err)
	require.NotNil(t, child, "the token was in what did arrive")
	require.NoError(t, f.Revoke(context.Background(), child.Handle))

	f.server.Break(authserver.EndpointToken, authserver.Answer(http.StatusServiceUnavailable, "text/plain", "x"))
	_, err = f.exchange(forJane(scopes("read")))
	require.ErrorIs(t, err, provider.ErrAnswerLost)
}
