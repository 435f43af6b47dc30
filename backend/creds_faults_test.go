package backend

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

// badAnswer is a provider that misbehaves when it is asked for a child.
type badAnswer struct {
	at    authserver.Endpoint // the token endpoint by default
	fault authserver.Fault
	code  fault.Code // "" if the child is handed out all the same
	// lost is true if the server minted and nothing of the token came over.
	lost bool
	// unminted is true if the server issued nothing.
	unminted bool
	setup    setup
}

// endOfAnswer is a fault that replaces what follows the token.
func verbatim(contentType, format string) authserver.Fault {
	return authserver.Verbatim(contentType, func(body map[string]any) string {
		token, _ := json.Marshal(body["access_token"])
		return strings.ReplaceAll(format, "TOKEN", string(token))
	})
}

func introspecting(f authserver.Fault, code fault.Code) badAnswer {
	return badAnswer{at: authserver.EndpointIntrospect, fault: f, code: code, setup: setup{provider: map[string]any{"verify": "introspect", "timeout": 3}}}
}

func signed(o badAnswer) badAnswer {
	o.setup.server.JWT = true
	o.setup.provider = map[string]any{"verify": "jwt"}
	return o
}

// badAnswers are all that issue 3 names, and more of the same kind.
func badAnswers() map[string]badAnswer {
	const violation, unavailable = fault.ProviderViolation, fault.TemporarilyUnavailable
	all := map[string]badAnswer{
		"HTML":                                {fault: authserver.HTML(), code: violation, unminted: true},
		"an endless body":                     {fault: authserver.Endless(), code: violation, unminted: true},
		"an endless body with a token":        {fault: authserver.EndlessAfterToken(), code: violation},
		"a redirect":                          {fault: authserver.Redirect("https://evil.example.com/"), code: violation, unminted: true},
		"a slow server":                       {fault: authserver.Slow(time.Minute), code: unavailable, lost: true, setup: setup{provider: map[string]any{"timeout": 3}}},
		"a broken connection":                 {fault: authserver.Hangup(), code: unavailable, lost: true},
		"a body that breaks off early":        {fault: authserver.Cut(5), code: unavailable, lost: true},
		"a body that breaks off in the token": {fault: authserver.Cut(25), code: unavailable, lost: true},
		"a body that breaks off late":         {fault: authserver.Cut(-1), code: unavailable},
		"an empty body":                       {fault: verbatim("application/json", ``), code: violation, lost: true},
		"null":                                {fault: verbatim("application/json", `null`), code: violation, lost: true},
		"a list":                              {fault: verbatim("application/json", `[]`), code: violation, lost: true},
		"a token in a list":                   {fault: verbatim("application/json", `[{"access_token":TOKEN}]`), code: violation},
		"a token in HTML":                     {fault: verbatim("text/html", `<pre>{"access_token":TOKEN}</pre>`), code: violation},
		"a token after a mark":                {fault: verbatim("application/json", "\ufeff"+`{"access_token":TOKEN,"token_type":"Bearer","expires_in":60}`)},
		"a token in an object":                {fault: verbatim("application/json", `{"data":{"access_token":TOKEN,"token_type":"Bearer"}}`), code: violation},
		"something after the object":          {fault: verbatim("application/json", `{"access_token":TOKEN,"token_type":"Bearer","expires_in":60}{"a":1}`), code: violation},
		"two tokens":                          {fault: verbatim("application/json", `{"access_token":"at-0-000000000000000000000000","access_token":TOKEN,"token_type":"Bearer","expires_in":60}`), code: violation},
		"a refusal with status 200":           {fault: authserver.Answer(200, "application/json", `{"error":"server_error"}`), code: unavailable, unminted: true},
		"a refused scope with status 200":     {fault: authserver.Answer(200, "application/json", `{"error":"invalid_scope"}`), code: fault.InvalidScope, unminted: true},
		"a refused target":                    {fault: authserver.Answer(400, "application/json", `{"error":"invalid_target"}`), code: fault.InvalidTarget, unminted: true},
		"an error that echoes the secret":     {fault: authserver.Answer(400, "application/json", `{"error":"%s","error_description":"%s"}`), code: unavailable, unminted: true},
		"a page that echoes the secret":       {fault: authserver.Answer(500, "text/html", `your secret is %s`), code: unavailable, unminted: true},
		"an error and a token":                {fault: authserver.Set("error", "invalid_request"), code: violation},
		"a token with status 500":             {fault: authserver.WithStatus(500), code: violation},
		"a token with status 401":             {fault: authserver.WithStatus(401), code: violation},
		"a token with status 302":             {fault: authserver.WithStatus(302), code: violation},
		"an overloaded server":                {fault: authserver.Busy(time.Second), code: unavailable, unminted: true},
		"too many requests":                   {fault: authserver.Answer(429, "text/plain", ""), code: unavailable, unminted: true},
		"a refused client":                    {fault: authserver.Answer(401, "application/json", `{"error":"invalid_client"}`), code: fault.ParentRefused, unminted: true},
		"the parent's own secret":             {fault: authserver.Set("access_token", parentSecret), code: violation, lost: true},
		"no token":                            {fault: authserver.Drop("access_token"), code: violation, lost: true},
		"a token that is null":                {fault: authserver.Set("access_token", nil), code: violation, lost: true},
		"a token that is a number":            {fault: authserver.Set("access_token", 7), code: violation, lost: true},
		"an empty token":                      {fault: authserver.Set("access_token", ""), code: violation, lost: true},
		"a token with a control character":    {fault: authserver.Set("access_token", "a\nb"), code: violation, lost: true},
		"a token beyond any use":              {fault: authserver.Set("access_token", strings.Repeat("a", 20000)), code: violation, lost: true},
		"more scopes than asked":              {fault: authserver.Set("scope", "read write admin"), code: violation},
		"other scopes than asked":             {fault: authserver.Set("scope", "admin"), code: violation},
		"fewer scopes than asked":             {fault: authserver.Set("scope", "read")},
		"a scope of no form":                  {fault: authserver.Set("scope", map[string]any{"a": 1}), code: violation},
		"a scope with a control character":    {fault: authserver.Set("scope", "read\x01"), code: violation},
		"no scope at all":                     {fault: authserver.Drop("scope")},
		"no token type":                       {fault: authserver.Drop("token_type"), code: violation},
		"a token bound to a key":              {fault: authserver.Set("token_type", "DPoP"), code: violation},
		"a refresh token beside it":           {fault: authserver.Set("refresh_token", "rt-0-000000000000000000000000")},
		"details that nobody asked for":       {fault: authserver.Set("authorization_details", []any{map[string]any{"type": "payment"}}), code: violation},
		"details of no form":                  {fault: authserver.Set("authorization_details", "x"), code: violation},

		"introspection: inactive":      introspecting(authserver.Set("active", false), violation),
		"introspection: active is 1":   introspecting(authserver.Set("active", 1), violation),
		"introspection: HTML":          introspecting(authserver.HTML(), violation),
		"introspection: endless":       introspecting(authserver.Endless(), unavailable),
		"introspection: slow":          introspecting(authserver.Slow(time.Minute), unavailable),
		"introspection: broken":        introspecting(authserver.Hangup(), unavailable),
		"introspection: busy":          introspecting(authserver.Busy(time.Second), unavailable),
		"introspection: redirect":      introspecting(authserver.Redirect("https://evil.example.com/"), unavailable),
		"introspection: other client":  introspecting(authserver.Set("client_id", "other"), violation),
		"introspection: expired":       introspecting(authserver.Set("exp", 1000), violation),
		"introspection: ends later":    introspecting(authserver.Set("exp", 99999999999), violation),
		"introspection: more scopes":   introspecting(authserver.Set("scope", "read write admin"), violation),
		"introspection: the audience?": introspecting(authserver.Set("aud", []any{1}), violation),
		"jwt: keys cannot be had":      signed(badAnswer{at: authserver.EndpointJWKS, fault: authserver.Busy(time.Second), code: unavailable}),
		"jwt: keys are HTML":           signed(badAnswer{at: authserver.EndpointJWKS, fault: authserver.HTML(), code: unavailable}),
		"jwt: no JWT":                  {fault: nil, code: violation, setup: setup{provider: map[string]any{"verify": "jwt"}}},
	}
	for _, v := range []any{0, -1, 1e12, 0.5, "soon", true, []any{60}, map[string]any{}, "0x10", "-1", 1e300, json.Number("99999999999999999999")} {
		all[fmt.Sprintf("expires_in %v (%T)", v, v)] = badAnswer{fault: authserver.Set("expires_in", v), code: violation}
	}
	return all
}

// revocations are how the server may be when what it answered has to be killed.
var revocations = map[string]authserver.Fault{
	"revocation works":        nil,
	"revocation is busy":      authserver.Busy(time.Second),
	"revocation breaks":       authserver.Hangup(),
	"revocation answers HTML": authserver.Answer(500, "text/html", "<h1>no</h1>"),
}

// TestBadAnswers holds the books against each other after each (newMount does):
// what the broker has seen is dead, or has a grant that can kill it.
func TestBadAnswers(t *testing.T) {
	for name, c := range badAnswers() {
		for state, revoke := range revocations {
			if strings.Contains(name, "slow") && revoke != nil && state != "revocation is busy" {
				continue // each costs its timeout
			}
			t.Run(name+"/"+state, func(t *testing.T) {
				t.Parallel()
				m := newMount(t, c.setup)
				c.breakServer(m)
				m.server.Break(authserver.EndpointRevoke, revoke)
				c.ask(t, m)
				if state == "revocation works" && c.code != "" {
					require.Len(t, m.server.Live(), m.lost, "killed at once")
					require.Empty(t, m.allGrants())
				}
			})
		}
		t.Run(name+"/nothing can be revoked", func(t *testing.T) {
			t.Parallel()
			s := c.setup
			s.server.WithoutRevocation = true
			s.provider = map[string]any{"assumed_lifetime": "30m"}
			for k, v := range c.setup.provider {
				s.provider[k] = v
			}
			m := newMount(t, s)
			c.breakServer(m)
			c.ask(t, m)
			m.requireForgottenAfterTheEnd()
		})
	}
}

// requireForgottenAfterTheEnd: what nothing can kill is listed until it has
// expired. Of a token whose end nobody ever told, or told years ahead, that cannot
// be said yet.
func (m *mount) requireForgottenAfterTheEnd() {
	m.t.Helper()
	m.clock.advance(2 * time.Hour)
	m.sweep()
	require.Empty(m.t, m.server.Live())
	m.lost = 0
	for _, id := range m.allGrants() {
		g, err := m.b.ledger.Get(m.t.Context(), id)
		require.NoError(m.t, err)
		require.True(m.t, g.ExpiresAt.IsZero() || g.ExpiresAt.After(m.clock.Now()))
		m.lost--
	}
}

func (c badAnswer) breakServer(m *mount) {
	if c.at == "" {
		c.at = authserver.EndpointToken
	}
	m.server.Break(c.at, c.fault)
}

func (c badAnswer) ask(t *testing.T, m *mount) {
	t.Helper()
	within(t, func() {
		l, err := m.creds(nil)
		if c.code == "" {
			require.NoError(t, err)
			require.NotEmpty(t, l.token)
			return
		}
		require.Error(t, err)
		requireCode(t, err, c.code)
	})
	minted := m.server.Counts().Minted
	require.LessOrEqual(t, minted, 1, "a mint that may have succeeded is never repeated")
	require.Equal(t, c.unminted, minted == 0)
	if c.lost {
		m.lost++
	}
	for _, r := range m.server.Requests() {
		if r.Path == string(authserver.EndpointRevoke) {
			require.NotContains(t, r.Body, parentSecret, "the parent is never sent as a token to be revoked")
		}
	}
}

func TestExpiredTLSAtTheTokenEndpoint(t *testing.T) {
	m := newMount(t, setup{server: authserver.Options{ExpiredTLS: true}, provider: map[string]any{"issuer": nil, "token_url": "https://127.0.0.1:1/"}})
	m.must(m.write("providers/oauth2/p", map[string]any{"client_secret": parentSecret, "token_url": m.server.Endpoint(authserver.EndpointToken), "revocation_url": m.server.Endpoint(authserver.EndpointRevoke)}))
	within(t, func() {
		_, err := m.creds(nil)
		requireCode(t, err, fault.TemporarilyUnavailable)
	})
	require.Empty(t, m.server.Requests(), "no credential went over that connection")
}

func TestAnUnreachableServer(t *testing.T) {
	m := newMount(t, setup{provider: map[string]any{"issuer": nil, "token_url": "https://127.0.0.1:1/token", "assumed_lifetime": "1h"}})
	within(t, func() {
		_, err := m.creds(nil)
		requireCode(t, err, fault.TemporarilyUnavailable)
	})
}

func TestTheParentRefreshTokenIsNeverHandedOut(t *testing.T) {
	for _, revocation := range []string{"token", "expiry"} {
		m := newEmptyMount(t, setup{server: authserver.Options{RotateRefresh: true}})
		parent := m.server.IssueRefreshToken(parentClient)
		m.must(m.write("providers/oauth2/p", m.providerFields(map[string]any{"grant": "refresh_token", "refresh_token": parent, "revocation": revocation})))
		m.must(m.write("roles/r", map[string]any{"provider": "oauth2/p", "scopes": "read"}))
		m.server.Break(authserver.EndpointToken, authserver.Set("access_token", parent))
		_, err := m.creds(nil)
		requireCode(t, err, fault.ProviderViolation)
		m.lost++

		// The next one, under the name of an access token too.
		m.server.Break(authserver.EndpointToken, verbatimRefresh())
		_, err = m.creds(nil)
		requireCode(t, err, fault.ProviderViolation)
		m.lost++
		require.Zero(t, m.server.Counts().Requests[authserver.EndpointRevoke], "a parent is never revoked in a child's place")

		m.server.Break(authserver.EndpointToken, nil)
		m.mustCreds(nil)
	}
}

// verbatimRefresh answers with the next refresh token in both places.
func verbatimRefresh() authserver.Fault {
	return authserver.Verbatim("application/json", func(body map[string]any) string {
		body["access_token"] = body["refresh_token"]
		raw, _ := json.Marshal(body)
		return string(raw)
	})
}

func TestARefreshTokenBesideTheChildDiesWithIt(t *testing.T) {
	m := newMount(t, setup{})
	stray := m.server.IssueRefreshToken(parentClient)
	m.server.Break(authserver.EndpointToken, authserver.Set("refresh_token", stray))
	l := m.mustCreds(nil)
	require.NotContains(t, l.data, "refresh_token")
	require.True(t, m.server.Active(stray))
	require.NoError(t, m.revoke(l))
	require.False(t, m.server.Active(stray), "with it new tokens could be had for ever")
	require.False(t, m.server.Active(l.token))
}

func TestARefusedParentIsRememberedNotRetried(t *testing.T) {
	m := newEmptyMount(t, setup{})
	parent := m.server.IssueRefreshToken(parentClient)
	m.must(m.write("providers/oauth2/p", m.providerFields(map[string]any{"grant": "refresh_token", "refresh_token": parent})))
	m.must(m.write("roles/r", map[string]any{"provider": "oauth2/p", "scopes": "read"}))
	m.server.Kill(parent)
	for range 3 {
		_, err := m.creds(nil)
		requireCode(t, err, fault.ParentRefused, "the parent")
	}
	require.Equal(t, 2, m.server.Counts().Requests[authserver.EndpointToken], "what was asked for, and nothing in particular")
	require.Equal(t, "refused", m.must(m.read("providers/oauth2/p")).Data["health"])
	info, _ := m.must(m.list("providers", nil)).Data["key_info"].(map[string]any)
	require.Equal(t, "refused", info["oauth2/p"].(map[string]any)["health"])
	m.start()
	_, err := m.creds(nil)
	requireCode(t, err, fault.ParentRefused)
	require.Equal(t, 2, m.server.Counts().Requests[authserver.EndpointToken], "remembered across a restart")
	_, err = m.write("providers/oauth2/p/check", nil)
	requireCode(t, err, fault.ParentRefused)

	m.must(m.write("providers/oauth2/p", map[string]any{"refresh_token": m.server.IssueRefreshToken(parentClient)}))
	m.mustCreds(nil)
	require.Equal(t, "ok", m.must(m.read("providers/oauth2/p")).Data["health"])
}

func TestACallerWhoHangsUpDuringTheMint(t *testing.T) {
	for state, revoke := range revocations {
		t.Run(state, func(t *testing.T) {
			m := newMount(t, setup{})
			m.server.Break(authserver.EndpointRevoke, revoke)
			_, err := m.hangUpDuring(call{op: "update", path: "creds/r"})
			requireCode(t, err, fault.TemporarilyUnavailable, "hung up")
			if revoke == nil {
				require.Empty(t, m.server.Live())
			}
			require.Equal(t, 1, m.server.Counts().Minted)
		})
	}
}

func TestAProviderThatChangesDuringTheMint(t *testing.T) {
	for name, change := range map[string]func(m *mount) error{
		"disabled": func(m *mount) error {
			_, err := m.write("providers/oauth2/p", map[string]any{"disabled": true})
			return err
		},
		"deleted": func(m *mount) error {
			_, err := m.delete("providers/oauth2/p", nil)
			return err
		},
		"deleted by force": func(m *mount) error {
			_, err := m.delete("providers/oauth2/p", map[string]any{"force": true})
			return err
		},
		"made another account": func(m *mount) error {
			_, err := m.write("providers/oauth2/p", map[string]any{"client_id": "other", "client_secret": parentSecret})
			return err
		},
		"frozen": func(m *mount) error {
			_, err := m.write("revoke/provider/oauth2/p", map[string]any{"freeze": true})
			return err
		},
		"its holder frozen": func(m *mount) error {
			_, err := m.write("revoke/entity/none", map[string]any{"freeze": true})
			return err
		},
		"its role frozen": func(m *mount) error {
			_, err := m.write("revoke/role/r", map[string]any{"freeze": true})
			return err
		},
	} {
		for state, revoke := range revocations {
			t.Run(name+"/"+state, func(t *testing.T) {
				m := newMount(t, setup{})
				m.server.Break(authserver.EndpointRevoke, revoke)
				worked, release := make(chan struct{}, 1), make(chan struct{})
				m.server.Break(authserver.EndpointToken, authserver.Hold(worked, release))
				answered := make(chan error)
				go func() {
					_, err := m.creds(nil)
					answered <- err
				}()
				<-worked
				changed := change(m)
				close(release)
				err := <-answered
				require.Equal(t, 1, m.server.Counts().Minted)
				if changed != nil { // refused for the mint's sake
					requireCode(t, changed, fault.InvalidRequest)
					return
				}
				require.Error(t, err, "a child of what was stopped meanwhile must not be handed out")
			})
		}
	}
}
