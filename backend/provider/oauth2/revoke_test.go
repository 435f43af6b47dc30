package oauth2

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

func TestRevocationFaults(t *testing.T) {
	alreadyDead := func(f *fixture, token string) { f.server.Kill(token) }
	dead := func(f *fixture, token string) { // while another one lives
		f.mustMint(scopes("read"))
		f.server.Kill(token)
	}
	for name, test := range map[string]struct {
		fields  with
		options authserver.Options
		before  func(f *fixture, token string)
		fault   authserver.Fault
		words   []string // of the error; none means success
	}{
		"already gone":              {before: alreadyDead},
		"204":                       {fault: authserver.WithStatus(204)},
		"200 is believed":           {fault: authserver.Lie()},
		"200 is confirmed":          {fields: with{"confirm_revocation": true}},
		"200 is a lie":              {fields: with{"confirm_revocation": true}, fault: authserver.Lie(), words: []string{"still active"}},
		"unsupported_token_type":    {fault: authserver.Answer(400, "application/json", `{"error":"unsupported_token_type"}`), words: []string{"unsupported_token_type"}},
		"busy":                      {fault: authserver.Busy(time.Second), words: []string{"HTTP 503"}},
		"failing":                   {fault: authserver.Answer(500, "text/html", ""), words: []string{"HTTP 500"}},
		"refused":                   {fault: authserver.Answer(401, "application/json", `{"error":"invalid_client"}`), words: []string{"parent credential"}},
		"not there":                 {fault: authserver.Answer(404, "text/html", ""), words: []string{"HTTP 404"}},
		"a redirect":                {fault: authserver.Redirect("https://elsewhere.test/"), words: []string{"HTTP 307"}},
		"slow":                      {fault: authserver.Slow(time.Minute), words: []string{"did not answer"}},
		"no answer":                 {fault: authserver.Hangup(), words: []string{"did not answer"}},
		"a success without end":     {fault: authserver.Endless(), words: []string{"did not answer"}},
		"an error, but dead":        {fields: with{"verify": "introspect"}, before: dead, fault: authserver.Answer(400, "application/json", `{"error":"invalid_request"}`)},
		"404 for what is dead":      {fields: with{"verify": "introspect"}, before: dead, fault: authserver.Answer(404, "text/html", "")},
		"404, and nothing lives":    {fields: with{"verify": "introspect"}, before: alreadyDead, fault: authserver.Answer(404, "text/html", ""), words: []string{"HTTP 404"}},
		"an error, and never seen":  {before: dead, fault: authserver.Answer(400, "application/json", `{"error":"invalid_request"}`), words: []string{"invalid_request"}},
		"an error and no one knows": {options: authserver.Options{WithoutIntrospection: true}, before: dead, fault: authserver.Answer(400, "application/json", `{"error":"invalid_request"}`), words: []string{"invalid_request"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, test.options, test.fields)
			f.beImpatient(name)
			child := f.mustMint(scopes("read"))
			if test.before != nil {
				test.before(f, child.Token().Reveal())
			}
			f.server.Break(authserver.EndpointRevoke, test.fault)
			err := f.Revoke(context.Background(), child.Handle)
			f.clean(err)
			if test.words != nil {
				requireCode(t, err, fault.TemporarilyUnavailable, test.words...)
				f.server.Break(authserver.EndpointRevoke, nil)
				require.NoError(t, f.Revoke(context.Background(), child.Handle), "a retry works")
				require.False(t, f.server.Active(child.Token().Reveal()))
				return
			}
			require.NoError(t, err)
		})
	}
}

func TestAConfirmationThatCannotBeHadIsNone(t *testing.T) {
	for name, broken := range map[string]authserver.Fault{
		"failing": authserver.Busy(time.Second), "HTML": authserver.HTML(), "no answer": authserver.Hangup(), "no active": authserver.Lie(),
	} {
		f := newFixture(t, authserver.Options{}, with{"confirm_revocation": true})
		child := f.mustMint(scopes("read"))
		f.server.Break(authserver.EndpointIntrospect, broken)
		require.Error(t, f.Revoke(context.Background(), child.Handle), name)
		f.server.Break(authserver.EndpointIntrospect, nil)
		require.NoError(t, f.Revoke(context.Background(), child.Handle), name)
	}
}

func TestRevocationSaysHowLongToWait(t *testing.T) {
	f := newFixture(t, authserver.Options{}, with{})
	child := f.mustMint(scopes("read"))
	f.server.Break(authserver.EndpointRevoke, authserver.Busy(42*time.Second))
	err := f.Revoke(context.Background(), child.Handle)
	var wait interface{ RetryAfter() time.Duration }
	require.ErrorAs(t, err, &wait)
	require.Equal(t, 42*time.Second, wait.RetryAfter())
}

func TestAGrantIsKillableWhateverChanged(t *testing.T) {
	f := newFixture(t, authserver.Options{}, with{})
	for name, changed := range map[string]with{
		"the parent was rotated":       {"client_secret": nextSecret},
		"nothing is revoked any more":  {"revocation": "expiry"},
		"the endpoints are written":    {"issuer": "", "token_url": f.at.Token, "revocation_url": f.at.Revocation},
		"another way to authenticate":  {"auth_method": "client_secret_post"},
		"another grant":                {"grant": "refresh_token"},
		"confirmation is wanted since": {"confirm_revocation": true},
		"another revocation endpoint":  {"revocation_url": f.at.Revocation + "/"},
	} {
		t.Run(name, func(t *testing.T) {
			child := f.mustMint(scopes("read"))
			f.accept(testSecret, nextSecret)
			now := newFixtureOn(t, f.server, changed)
			before := f.requests(authserver.EndpointRevoke)
			err := now.Revoke(context.Background(), child.Handle)
			if name == "another revocation endpoint" {
				// The account is another one: refused while grants live. The current
				// secret must not go to where the old settings sent theirs.
				require.Error(t, err)
				require.Equal(t, before, f.requests(authserver.EndpointRevoke))
				require.Zero(t, f.requests("/revoke/"), "another server's 200 would prove nothing")
				return
			}
			require.NoError(t, err)
			require.False(t, f.server.Active(child.Token().Reveal()))
		})
	}
}

func TestHandles(t *testing.T) {
	f := newFixture(t, authserver.Options{}, with{"confirm_revocation": true, "client_secret_next": nextSecret})
	child := f.mustMint(scopes("read"))
	var h handle
	require.NoError(t, json.Unmarshal([]byte(child.Handle.Reveal()), &h))
	require.Equal(t, handle{
		Version: 1, URL: f.server.Endpoint(authserver.EndpointRevoke), Introspection: f.server.Endpoint(authserver.EndpointIntrospect),
		Tokens: []doomed{{Token: child.Token().Reveal(), Hint: "access_token"}}, Seen: true,
	}, h)
	require.NotContains(t, child.Handle.Reveal(), testSecret)
	require.NotContains(t, child.Handle.Reveal(), nextSecret)

	for name, text := range map[string]string{
		"empty": "", "no JSON": "s3cret-token", "another version": `{"v":2,"tokens":[{"token":"s3cret-token"}]}`, "no tokens": `{"v":1,"url":"https://as.test"}`,
		"another type": `{"v":"s3cret-token"}`, "null": "null", "a list": "[]",
	} {
		err := f.Revoke(context.Background(), secret.New(text))
		requireCode(t, err, fault.InvalidRequest, "handle")
		for e := range chain(err) {
			require.NotContains(t, e.Error(), "s3cret-token", name)
		}
	}
}

// A handle as the first version wrote it must work for ever.
func TestTheFirstVersionsHandles(t *testing.T) {
	f := newFixture(t, authserver.Options{}, with{})
	child := f.mustMint(scopes("read"))
	text := `{"v":1,"url":"` + f.server.URL + `/revoke","tokens":[{"token":"` + child.Token().Reveal() + `","hint":"access_token"}],"introspect":"` + f.server.URL + `/introspect"}`
	require.NoError(t, f.Revoke(context.Background(), secret.New(text)))
	require.Empty(t, f.server.Live())
}

func TestEveryTokenOfAHandleIsTried(t *testing.T) {
	f := newFixture(t, authserver.Options{}, with{})
	extra := f.server.IssueRefreshToken(testClient)
	f.server.Break(authserver.EndpointToken, authserver.Set("refresh_token", extra))
	child := f.mustMint(scopes("read"))
	f.server.Break(authserver.EndpointRevoke, authserver.Once(authserver.Busy(time.Second)))
	require.Error(t, f.Revoke(context.Background(), child.Handle))
	require.False(t, f.server.Active(extra), "one failure does not spare the other")
	require.NoError(t, f.Revoke(context.Background(), child.Handle))
	require.False(t, f.server.Active(child.Token().Reveal()))
}

func TestNoHandleWhereNothingCanBeKilled(t *testing.T) {
	f := newFixture(t, authserver.Options{WithoutRevocation: true}, with{})
	child := f.mustMint(scopes("read"))
	require.True(t, child.Handle.Empty())
	require.Equal(t, provider.ClassExpiry, f.Traits().Class)
}

// A server may call a token inactive to a client that may not see it (RFC 7662
// 2.2): that confirms no death, so it must show before that it sees the living.
func TestABlindIntrospectionConfirmsNothing(t *testing.T) {
	f := newFixture(t, authserver.Options{}, with{"confirm_revocation": true})
	f.server.Break(authserver.EndpointIntrospect, authserver.Answer(200, "application/json", `{"active":false}`))
	child, err := f.Mint(context.Background(), provider.Request{Access: scopes("read")})
	requireCode(t, err, fault.ProviderViolation, "confirm_revocation")
	require.NotNil(t, child, "it lives and must be killed")
}
