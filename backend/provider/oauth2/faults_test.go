package oauth2

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

// What happened to the token that the server minted, if it minted.
type fate int

const (
	unminted fate = iota // the server minted nothing
	killable             // the caller got a child whose handle kills it
	lostly               // minted, and nobody can know the token: ErrAnswerLost
)

func TestFaultsOfTheTokenEndpoint(t *testing.T) {
	echo := func(status int, code string) authserver.Fault {
		return authserver.Answer(status, "application/json", fmt.Sprintf(`{"error":%q,"error_description":"you sent %%s"}`, code))
	}
	for name, test := range map[string]struct {
		fault authserver.Fault
		code  fault.Code
		fate  fate
		words []string
	}{
		"HTML":                          {authserver.HTML(), fault.ProviderViolation, unminted, []string{"JSON"}},
		"an array":                      {authserver.Answer(200, "application/json", `[]`), fault.ProviderViolation, unminted, []string{"JSON"}},
		"null":                          {authserver.Answer(200, "application/json", `null`), fault.ProviderViolation, unminted, []string{"JSON"}},
		"an empty object":               {authserver.Lie(), fault.ProviderViolation, unminted, []string{"access_token"}},
		"nothing":                       {authserver.Answer(200, "application/json", ""), fault.ProviderViolation, lostly, nil},
		"half an object":                {authserver.Answer(200, "application/json", `{"token_type":"Bea`), fault.ProviderViolation, lostly, nil},
		"a body without end":            {authserver.Endless(), fault.ProviderViolation, lostly, []string{"larger"}},
		"a token, then no end":          {authserver.EndlessAfterToken(), fault.ProviderViolation, killable, []string{"larger"}},
		"a redirect":                    {authserver.Redirect("https://elsewhere.test/"), fault.ProviderViolation, unminted, []string{"redirect"}},
		"slow":                          {authserver.Slow(time.Minute), fault.TemporarilyUnavailable, lostly, []string{"in time"}},
		"no answer":                     {authserver.Hangup(), fault.TemporarilyUnavailable, lostly, nil},
		"cut behind the token":          {authserver.Cut(-3), fault.TemporarilyUnavailable, killable, nil},
		"cut inside the token":          {authserver.Cut(24), fault.TemporarilyUnavailable, lostly, nil},
		"200 with an error":             {authserver.Answer(200, "application/json", `{"error":"slow"}`), fault.TemporarilyUnavailable, unminted, []string{"slow"}},
		"200 with an error and a token": {authserver.Set("error", "slow"), fault.ProviderViolation, killable, []string{"error and a token"}},
		"400 with a token":              {authserver.WithStatus(400), fault.ProviderViolation, killable, nil},
		"401 with a token":              {authserver.WithStatus(401), fault.ProviderViolation, killable, nil},
		"500 with a token":              {authserver.WithStatus(500), fault.ProviderViolation, killable, nil},

		"no token_type":         {authserver.Drop("token_type"), fault.ProviderViolation, killable, []string{"token_type"}},
		"token_type mac":        {authserver.Set("token_type", "mac"), fault.ProviderViolation, killable, []string{"token_type"}},
		"token_type DPoP":       {authserver.Set("token_type", "DPoP"), fault.ProviderViolation, killable, []string{"token_type"}},
		"token_type 7":          {authserver.Set("token_type", 7), fault.ProviderViolation, killable, []string{"token_type"}},
		"expires_in 0":          {authserver.Set("expires_in", 0), fault.ProviderViolation, killable, []string{"expires_in"}},
		"expires_in -1":         {authserver.Set("expires_in", -1), fault.ProviderViolation, killable, []string{"expires_in"}},
		"expires_in 10^12":      {authserver.Set("expires_in", 1e12), fault.ProviderViolation, killable, []string{"10 years"}},
		"expires_in 10^30":      {authserver.Set("expires_in", 1e30), fault.ProviderViolation, killable, []string{"expires_in"}},
		"expires_in a fraction": {authserver.Set("expires_in", 0.5), fault.ProviderViolation, killable, []string{"expires_in"}},
		"expires_in a word":     {authserver.Set("expires_in", "soon"), fault.ProviderViolation, killable, []string{"expires_in"}},
		"expires_in \"0\"":      {authserver.Set("expires_in", "0"), fault.ProviderViolation, killable, []string{"expires_in"}},
		"expires_in \"-1\"":     {authserver.Set("expires_in", "-1"), fault.ProviderViolation, killable, []string{"expires_in"}},
		"expires_in true":       {authserver.Set("expires_in", true), fault.ProviderViolation, killable, []string{"expires_in"}},
		"expires_in a list":     {authserver.Set("expires_in", []int{60}), fault.ProviderViolation, killable, []string{"expires_in"}},
		"scope 7":               {authserver.Set("scope", 7), fault.ProviderViolation, killable, []string{"scope"}},
		"scope with a control":  {authserver.Set("scope", "read\x00write"), fault.ProviderViolation, killable, []string{"scope"}},
		"scope with a quote":    {authserver.Set("scope", `re"ad`), fault.ProviderViolation, killable, []string{"scope"}},
		"scope beyond ASCII":    {authserver.Set("scope", "réad"), fault.ProviderViolation, killable, []string{"scope"}},
		"odd details":           {authserver.Set("authorization_details", []any{7}), fault.ProviderViolation, killable, []string{"authorization_details"}},

		"invalid_scope":                 {echo(400, "invalid_scope"), fault.InvalidScope, unminted, nil},
		"invalid_target":                {echo(400, "invalid_target"), fault.InvalidTarget, unminted, nil},
		"invalid_request":               {echo(400, "invalid_request"), fault.InvalidRequest, unminted, []string{"audience"}},
		"invalid_authorization_details": {echo(400, "invalid_authorization_details"), fault.InvalidRequest, unminted, []string{"authorization_details"}},
		"invalid_client":                {echo(401, "invalid_client"), fault.ParentRefused, unminted, []string{"parent credential", "invalid_client"}},
		"invalid_client with 400":       {echo(400, "invalid_client"), fault.ParentRefused, unminted, []string{"parent credential"}},
		"invalid_grant":                 {echo(400, "invalid_grant"), fault.ParentRefused, unminted, []string{"parent credential"}},
		"unauthorized_client":           {echo(400, "unauthorized_client"), fault.ParentRefused, unminted, []string{"parent credential"}},
		"unsupported_grant_type":        {echo(400, "unsupported_grant_type"), fault.TemporarilyUnavailable, unminted, []string{"unsupported_grant_type"}},
		"server_error":                  {echo(500, "server_error"), fault.TemporarilyUnavailable, unminted, []string{"HTTP 500"}},
		"an error code with markup":     {echo(400, "<b>no</b>"), fault.TemporarilyUnavailable, unminted, []string{"unreadable"}},
		"an error code without end":     {echo(400, strings.Repeat("a", 65)), fault.TemporarilyUnavailable, unminted, []string{"unreadable"}},
		"an error code that is ours":    {echo(400, "%s"), fault.TemporarilyUnavailable, unminted, []string{"unreadable"}},
		"an error that is an object":    {authserver.Answer(400, "application/json", `{"error":{"code":1}}`), fault.TemporarilyUnavailable, unminted, []string{"HTTP 400"}},
		"401 without a word":            {authserver.Answer(401, "text/plain", ""), fault.ParentRefused, unminted, []string{"parent credential"}},
		"403 with HTML":                 {authserver.Answer(403, "text/html", "<html>"), fault.TemporarilyUnavailable, unminted, []string{"HTTP 403"}},
		"404":                           {authserver.Answer(404, "text/html", "<html>"), fault.TemporarilyUnavailable, unminted, []string{"HTTP 404"}},
		"429":                           {authserver.Answer(429, "text/html", "<html>"), fault.TemporarilyUnavailable, unminted, []string{"later"}},
		"503":                           {authserver.Busy(7 * time.Second), fault.TemporarilyUnavailable, unminted, []string{"later"}},
		"502 of a gateway":              {authserver.Answer(502, "text/html", "<html>"), fault.TemporarilyUnavailable, lostly, []string{"HTTP 502"}},
		"504 of a gateway":              {authserver.Answer(504, "text/html", "<html>"), fault.TemporarilyUnavailable, lostly, []string{"HTTP 504"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, authserver.Options{}, with{})
			f.beImpatient(name)
			f.server.Break(authserver.EndpointToken, test.fault)
			start := time.Now()
			child, err := f.mint(scopes("read"))
			require.Less(t, time.Since(start), time.Minute, "promptly")
			requireCode(t, err, test.code, test.words...)
			require.Equal(t, 1, f.server.Counts().Requests[authserver.EndpointToken], "a mint is never repeated")
			require.Equal(t, test.fate == lostly, errors.Is(err, provider.ErrAnswerLost), "%v", err)
			f.requireFate(child, test.fate)
		})
	}
}

// requireFate checks that no token that was seen is left alive and unkillable.
func (f *fixture) requireFate(child *provider.Child, want fate) {
	f.t.Helper()
	if want != killable {
		require.Nil(f.t, child)
		return
	}
	require.NotNil(f.t, child)
	live := f.server.Live()
	require.Len(f.t, live, 1)
	require.Equal(f.t, live[0], child.Token().Reveal())
	require.NoError(f.t, f.Revoke(context.Background(), child.Handle))
	require.Empty(f.t, f.server.Live())
}

func TestAnErrorCodeThatRepeatsASecretIsNotShown(t *testing.T) {
	for _, code := range []string{"plain-client-secret", "x-plain-client-secret-x", "plain-client"} {
		f := newFixture(t, authserver.Options{}, with{})
		f.accept("plain-client-secret")
		f.store.Write(map[string]string{"client_secret": "plain-client-secret"})
		f.parent = f.store.Parent()
		f.server.Break(authserver.EndpointToken, authserver.Answer(400, "application/json", marshal(map[string]any{"error": code})))
		_, err := f.mint(scopes("read"))
		requireCode(t, err, fault.TemporarilyUnavailable, "unreadable")
		require.NotContains(t, err.Error(), "plain")
	}
}

func TestAnswersOfSloppyServersAreUnderstood(t *testing.T) {
	for name, test := range map[string]struct {
		fault authserver.Fault
		life  time.Duration
	}{
		"expires_in as a string":  {authserver.Set("expires_in", "3600"), time.Hour},
		"expires_in with .0":      {authserver.Verbatim("application/json", swap(`"expires_in":3600`, `"expires_in":3600.0`)), time.Hour},
		"expires_in 10 years":     {authserver.Set("expires_in", 10*365*86400), maxLifetime},
		"token_type in lowercase": {authserver.Set("token_type", "bearer"), time.Hour},
		"no scope":                {authserver.Drop("scope"), time.Hour},
		"scope null":              {authserver.Set("scope", nil), time.Hour},
		"scope as a list":         {authserver.Set("scope", []string{"read"}), time.Hour},
		"scope with more spaces":  {authserver.Set("scope", "  read  "), time.Hour},
		"another content type":    {authserver.Verbatim("text/plain", swap("", "")), time.Hour},
		"unknown members":         {authserver.Set("id_token", "a.b.c"), time.Hour},
		"error null":              {authserver.Set("error", nil), time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, authserver.Options{}, with{})
			f.server.Break(authserver.EndpointToken, test.fault)
			child := f.mustMint(scopes("read"))
			require.Equal(t, "Bearer", child.TokenType)
			require.True(t, child.Granted.Equal(scopes("read")))
			require.True(t, child.Confirmed[access.DimScopes])
			require.WithinDuration(t, time.Now().Add(test.life), child.ExpiresAt, 10*time.Second)
		})
	}
}

// swap is the true answer with one piece of its text replaced.
func swap(from, to string) func(map[string]any) string {
	return func(body map[string]any) string { return strings.Replace(marshal(body), from, to, 1) }
}

func TestWhatWasGrantedIsReportedAndNotWhatWasAsked(t *testing.T) {
	for scope, want := range map[string]access.Access{
		"read write admin": scopes("read", "write", "admin"),
		"other":            scopes("other"),
		"read,write":       scopes("read,write"),
		"":                 scopes(),
	} {
		f := newFixture(t, authserver.Options{}, with{})
		f.server.Break(authserver.EndpointToken, authserver.Set("scope", scope))
		child := f.mustMint(scopes("read"))
		require.True(t, child.Granted.Equal(want), "%q: %v", scope, child.Granted.Flat())
		require.True(t, child.Confirmed[access.DimScopes])
	}
}

func TestSilenceAboutAScopeThatNobodyAskedForConfirmsNothing(t *testing.T) {
	f := newFixture(t, authserver.Options{}, with{})
	child := f.mustMint(access.Access{})
	require.True(t, child.Granted.Equal(scopes("read", "write", "admin")), "the server says what its default is")
	require.True(t, child.Confirmed[access.DimScopes])

	f.server.Break(authserver.EndpointToken, authserver.Drop("scope"))
	child = f.mustMint(access.Access{})
	require.False(t, child.Confirmed[access.DimScopes])
}

func TestTokensThatMustNotBeHandedOut(t *testing.T) {
	for name, token := range map[string]string{
		"a control character":   "abc\x00def",
		"a line break":          "abc\r\nX-Injected: 1",
		"beyond ASCII":          "abcdéf",
		"longer than the bound": strings.Repeat("a", maxToken+1),
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, authserver.Options{}, with{})
			f.server.Break(authserver.EndpointToken, authserver.Set("access_token", token))
			child, err := f.mint(scopes("read"))
			requireCode(t, err, fault.ProviderViolation)
			require.NotNil(t, child, "it was seen, so it must be killed")
			require.Equal(t, token, child.Token().Reveal())
			require.NoError(t, f.Revoke(context.Background(), child.Handle))
			require.Equal(t, token, f.server.LastRequest(authserver.EndpointRevoke).Form().Get("token"))
		})
	}
	f := newFixture(t, authserver.Options{}, with{})
	f.server.Break(authserver.EndpointToken, authserver.Set("access_token", strings.Repeat("a", maxToken)))
	require.Len(t, f.mustMint(scopes("read")).Token().Reveal(), maxToken)
}

func TestTheParentIsNeverAChild(t *testing.T) {
	const parentToken = "the-parent-refresh-token"
	for name, fields := range map[string]with{
		"client_secret":      {},
		"client_secret_next": {"client_secret_next": nextSecret},
		"refresh_token":      {"grant": "refresh_token", "refresh_token": parentToken, "revocation": "token"},
	} {
		t.Run(name, func(t *testing.T) {
			own := map[string]string{"client_secret": testSecret, "client_secret_next": nextSecret, "refresh_token": parentToken}[name]
			f := newFixture(t, authserver.Options{}, fields)
			f.server.Break(authserver.EndpointToken, authserver.Answer(200, "application/json",
				marshal(map[string]any{"access_token": own, "token_type": "Bearer", "expires_in": 60})))
			child, err := f.mint(scopes("read"))
			requireCode(t, err, fault.ProviderViolation, "parent credential")
			require.Nil(t, child, "it would be revoked")
		})
	}
	t.Run("the next refresh token as the access token", func(t *testing.T) {
		f := newFixture(t, authserver.Options{}, with{"grant": "refresh_token", "revocation": "token"})
		f.server.Break(authserver.EndpointToken, authserver.Answer(200, "application/json",
			`{"access_token":"both","refresh_token":"both","token_type":"Bearer","expires_in":60}`))
		child, err := f.mint(scopes("read"))
		requireCode(t, err, fault.ProviderViolation, "parent credential")
		require.Nil(t, child)
		require.Equal(t, "both", f.store.Parent().Secrets["refresh_token"].Reveal(), "the server's word about the parent holds")
	})
	t.Run("the used refresh token as the access token", func(t *testing.T) {
		f := newFixture(t, authserver.Options{}, with{"grant": "refresh_token", "revocation": "token"})
		used := f.stored()
		f.server.Break(authserver.EndpointToken, authserver.Answer(200, "application/json",
			marshal(map[string]any{"access_token": used, "refresh_token": "next", "token_type": "Bearer", "expires_in": 60})))
		child, err := f.mint(scopes("read"))
		requireCode(t, err, fault.ProviderViolation, "parent credential")
		require.Nil(t, child)
		require.Equal(t, "next", f.stored())
	})
	t.Run("the client secret as a refresh token", func(t *testing.T) {
		f := newFixture(t, authserver.Options{}, with{})
		f.server.Break(authserver.EndpointToken, authserver.Set("refresh_token", testSecret))
		child, err := f.mint(scopes("read"))
		requireCode(t, err, fault.ProviderViolation)
		require.NotNil(t, child)
		require.NotContains(t, child.Handle.Reveal(), testSecret)
		f.requireFate(child, killable)
	})
}

func TestATokenIsFoundWhereverItStands(t *testing.T) {
	for name, text := range map[string]func(map[string]any) string{
		"words before it":    func(b map[string]any) string { return "token: " + marshal(b) },
		"a guard in reverse": func(b map[string]any) string { return "{}])" + marshal(b) },
		"inside HTML":        func(b map[string]any) string { return "<pre>" + marshal(b) + "</pre>" },
		"rubbish behind it":  func(b map[string]any) string { return marshal(b) + "rubbish" },
		"opened twice":       func(b map[string]any) string { return "{" + marshal(b) },
		"an inner object":    func(b map[string]any) string { return `{"data":` + marshal(b) + `}` },
		"in a list":          func(b map[string]any) string { return `[` + marshal(b) + `]` },
		"broken behind it":   func(b map[string]any) string { return fmt.Sprintf(`{"access_token":%q,"x":nan}`, b["access_token"]) },
		"spaces":             func(b map[string]any) string { return fmt.Sprintf(`x "access_token"  : %q`, b["access_token"]) },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, authserver.Options{}, with{})
			f.server.Break(authserver.EndpointToken, authserver.Verbatim("application/json", text))
			child, err := f.mint(scopes("read"))
			requireCode(t, err, fault.ProviderViolation)
			f.requireFate(child, killable)
		})
	}
	t.Run("a form that does not say so", func(t *testing.T) {
		f := newFixture(t, authserver.Options{}, with{})
		f.server.Break(authserver.EndpointToken, authserver.Verbatim("text/plain",
			func(b map[string]any) string {
				return fmt.Sprintf("access_token=%s&token_type=bearer", b["access_token"])
			}))
		child, err := f.mint(scopes("read"))
		requireCode(t, err, fault.ProviderViolation, "JSON")
		f.requireFate(child, killable)
	})
	t.Run("two of them", func(t *testing.T) {
		f := newFixture(t, authserver.Options{}, with{})
		f.server.Break(authserver.EndpointToken, authserver.Verbatim("application/json", func(b map[string]any) string {
			return fmt.Sprintf(`{"access_token":"first","access_token":%q,"token_type":"Bearer"}`, b["access_token"])
		}))
		child, err := f.mint(scopes("read"))
		requireCode(t, err, fault.ProviderViolation, "more than one")
		require.NoError(t, f.Revoke(context.Background(), child.Handle))
		require.Empty(t, f.server.Live())
		require.Equal(t, 2, f.server.Counts().Requests[authserver.EndpointRevoke])
	})
}

// A hostile answer may be built to be slow to read.
func TestReadingAnAnswerIsLinear(t *testing.T) {
	fill := func(piece string) []byte { return []byte(strings.Repeat(piece, httpclient.MaxBody/len(piece))) }
	for _, piece := range []string{
		`{"access_token":`, `"access_token":`, `"access_token":"`, `"access_token":"a`, `"access_token":["`, `"access_token"`, `"access_token"                                                                `,
		`"access_token":"\\"`, `\"access_token":"\`, `[`, `{"a":`, `"`, `{`, `"access_token":"a","refresh_token":"b",`,
	} {
		body := fill(piece)
		start := time.Now()
		_ = seeTokensIn(body)
		_, _ = parseAnswer(body, seeTokensIn(body), (&Provider{}).usualType)
		_, _ = parseIntrospection(body)
		_ = errorCode(body)
		require.Less(t, time.Since(start), 30*time.Second, piece) // some milliseconds, if it is
	}
}

func TestARefreshTokenThatNobodyAskedForDiesToo(t *testing.T) {
	f := newFixture(t, authserver.Options{}, with{})
	extra := f.server.IssueRefreshToken(testClient)
	f.server.Break(authserver.EndpointToken, authserver.Set("refresh_token", extra))
	child := f.mustMint(scopes("read"))
	require.True(t, f.server.Active(extra))
	require.NoError(t, f.Revoke(context.Background(), child.Handle))
	require.False(t, f.server.Active(extra))
	require.Empty(t, f.server.Live())
}

func TestTokensWithoutAnEnd(t *testing.T) {
	for name, test := range map[string]struct {
		options authserver.Options
		fields  with
		ok      bool
		life    time.Duration
	}{
		"that can be revoked":                 {authserver.Options{}, with{}, true, 0},
		"that cannot be revoked":              {authserver.Options{WithoutRevocation: true}, with{}, false, 0},
		"of a refresh token":                  {authserver.Options{}, with{"grant": "refresh_token"}, false, 0},
		"whose end is the operator's word":    {authserver.Options{}, with{"assumed_lifetime": 600}, true, 10 * time.Minute},
		"whose end introspection tells":       {authserver.Options{}, with{"verify": "introspect", "revocation": "expiry"}, true, time.Hour},
		"whose end the JWT tells":             {authserver.Options{JWT: true}, with{"verify": "jwt", "revocation": "expiry"}, true, time.Hour},
		"whose checked end beats the assumed": {authserver.Options{JWT: true}, with{"verify": "jwt", "assumed_lifetime": 600}, true, time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, test.options, test.fields)
			f.server.Break(authserver.EndpointToken, authserver.Drop("expires_in"))
			child, err := f.mint(scopes("read"))
			require.NotNil(t, child)
			switch {
			case !test.ok:
				requireCode(t, err, fault.ProviderViolation, "assumed_lifetime")
			case test.life == 0:
				require.NoError(t, err)
				require.True(t, child.ExpiresAt.IsZero())
			default:
				require.NoError(t, err)
				require.WithinDuration(t, time.Now().Add(test.life), child.ExpiresAt, 10*time.Second)
			}
		})
	}
}

func TestUnreachable(t *testing.T) {
	t.Run("nobody listens", func(t *testing.T) {
		f := newFixture(t, authserver.Options{}, with{"token_url": "http://127.0.0.1:1/token"})
		child, err := f.mint(scopes("read"))
		requireCode(t, err, fault.TemporarilyUnavailable, "reached")
		require.Nil(t, child)
		require.NotErrorIs(t, err, provider.ErrAnswerLost)
	})
	t.Run("expired certificate", func(t *testing.T) {
		expired := authserver.New(t, authserver.Options{ExpiredTLS: true}, registered())
		f := newFixtureOn(t, expired, with{"issuer": "", "token_url": expired.Endpoint(authserver.EndpointToken)})
		child, err := f.mint(scopes("read"))
		requireCode(t, err, fault.TemporarilyUnavailable, "ca_pem")
		require.Nil(t, child)
		require.NotErrorIs(t, err, provider.ErrAnswerLost)
		require.Empty(t, expired.Requests(), "the secret never left")
	})
}

func TestRetryAfter(t *testing.T) {
	f := newFixture(t, authserver.Options{}, with{})
	f.server.Break(authserver.EndpointToken, authserver.Header("Retry-After", "7", authserver.Answer(503, "text/plain", "")))
	_, err := f.mint(scopes("read"))
	var wait provider.RetryLater
	require.ErrorAs(t, err, &wait)
	require.Equal(t, 7*time.Second, wait.RetryAfter())
}

// A name is itself letter by letter, and what encoding/json would take for it too is
// another one.
func TestAnswersAreReadByExactNames(t *testing.T) {
	body := []byte(`{"access_token":"one","acce\u017f\u017f_token":"two","token_type":"Bearer","to\u212aen_type":"N_A","expires_in":60,"Expires_in":3600,"scope":"read","\u017fcope":"admin","Error":"invalid_grant"}`)
	got, err := parseAnswer(body, seeTokensIn(body), (&Provider{}).usualType)
	require.NoError(t, err)
	require.Equal(t, "one", got.accessToken)
	require.Equal(t, "Bearer", got.tokenType)
	require.Equal(t, time.Minute, got.lifetime.value)
	require.Equal(t, []string{"read"}, got.scope.values)
	require.Empty(t, errorCode(body))

	seen, err := parseIntrospection([]byte(`{"active":false,"Active":true}`))
	require.NoError(t, err)
	require.False(t, seen.active)
	seen, err = parseIntrospection([]byte(`{"active":true,"Active":false,"scope":"read","\u017fcope":"admin","client_id":"a","Client_ID":"b","exp":4,"EXP":5}`))
	require.NoError(t, err)
	require.True(t, seen.active)
	require.Equal(t, []string{"read"}, seen.facts.scope.values)
	require.Equal(t, "a", seen.facts.clientID)
	require.EqualValues(t, 4, seen.facts.expires.Unix())

	claims, err := claimsIn([]byte(`{"iss":"a","i\u017f\u017f":"b","ISS":"c"}`))
	require.NoError(t, err)
	require.Len(t, claims, 3)
	require.Equal(t, `"a"`, string(claims["iss"]))

	code, failed := failureIn([]byte(`{"\u017fuccess":false,"Error":"x","OK":false}`), denials...)
	require.Empty(t, code)
	require.False(t, failed)
}
