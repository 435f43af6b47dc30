package acceptance

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
)

// The broker as an issuer, seen by resource servers that know its URL and nothing
// else: go-oidc finds the keys over Vault's own HTTP address, without a token.

const otherAudience = "https://other.example.com"

// issuing is a mount that is an issuer, with the provider jwt/own.
type issuing struct {
	scene
	issuer string
}

func newIssuing(t *testing.T, vault *harness.Vault, provider harness.Fields) *issuing {
	t.Helper()
	s := &issuing{scene: scene{Mount: vault.Enable(t, ""), vault: vault}}
	s.issuer = vault.Addr + "/v1/" + s.Path
	s.Write(t, "config", harness.Fields{"issuer": s.issuer})
	s.Write(t, "providers/jwt/own", provider)
	s.Write(t, "roles/api", harness.Fields{
		"provider": "jwt/own", "audiences": []string{apiAudience, otherAudience}, "scopes": []string{"read", "write"}, "ttl": "10m",
	})
	return s
}

// delegating adds an issuer of users and the role that exchanges their tokens.
func (s *issuing) delegating(t *testing.T) *signer {
	t.Helper()
	idp := newSigner(t, "https://idp.example.com")
	idp.trust(t, s.Mount, "idp")
	s.Write(t, "roles/delegate", harness.Fields{
		"provider": "jwt/own", "mode": "exchange", "subject_issuers": "idp", "audiences": apiAudience, "scopes": "read", "ttl": "10m",
	})
	return idp
}

// accepts is what a resource server does with a token, at a time.
func (s *issuing) accepts(t *testing.T, audience, token string, at time.Time) (map[string]any, error) {
	t.Helper()
	provider, err := oidc.NewProvider(t.Context(), s.issuer)
	require.NoError(t, err, "discovery")
	verified, err := provider.VerifierContext(t.Context(), &oidc.Config{ClientID: audience, Now: func() time.Time { return at }}).Verify(t.Context(), token)
	if err != nil {
		return nil, err
	}
	claims := map[string]any{}
	require.NoError(t, verified.Claims(&claims))
	return claims, nil
}

// resourceServer may ask about tokens and nothing else.
func (s *issuing) resourceServer(t *testing.T) *harness.Session {
	t.Helper()
	session := s.vault.Login(t, harness.Agent{
		Name:   s.local("api"),
		Policy: fmt.Sprintf("path %q { capabilities = [\"update\"] }", s.At("oauth/introspect")),
	})
	confidential("Vault token", session.Token)
	return session
}

// asks introspects as RFC 7662 2.1 has it: a form, and a bearer token.
func (s *issuing) asks(t *testing.T, as *harness.Session, path, token string) (*http.Response, map[string]any) {
	t.Helper()
	client := oauth2.NewClient(context.Background(), oauth2.StaticTokenSource(&oauth2.Token{AccessToken: as.Token}))
	resp, err := client.PostForm(s.issuer+path, url.Values{"token": {token}, "token_type_hint": {"access_token"}})
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	answer := map[string]any{}
	if len(body) > 0 {
		require.NoError(t, json.Unmarshal(body, &answer))
	}
	return resp, answer
}

func (s *issuing) requireActive(t *testing.T, as *harness.Session, token string, active bool) {
	t.Helper()
	resp, answer := s.asks(t, as, "/oauth/introspect", token)
	require.Equal(t, http.StatusOK, resp.StatusCode)
	require.Equal(t, active, answer["active"])
	// Vault's own client sees the same.
	secret, err := s.As(as).TryWrite(t, "oauth/introspect", harness.Fields{"token": token})
	require.NoError(t, err)
	require.Equal(t, active, secret.Data["active"])
	if !active {
		require.Equal(t, map[string]any{"active": false, "data": map[string]any{"active": false}}, answer)
		require.Len(t, secret.Data, 1)
	}
}

func TestAResourceServerVerifiesWhatTheBrokerSigns(t *testing.T) {
	t.Parallel()
	s := newIssuing(t, sharedVault(t), harness.Fields{
		"subject": "agent:{{identity.entity.name}}",
		"claims":  harness.Fields{"team": "{{identity.entity.metadata.team}}", "groups": "{{identity.entity.groups.names}}"},
	})
	require.Contains(t, text(s.Write(t, "providers/jwt/own/check", nil), "detail"), s.issuer)
	agent := s.agent(t, harness.Agent{Name: "bot", Metadata: map[string]string{"team": `"},"admin":true,"x":{"`}, Groups: []string{"deployers", "ops"}})
	c := issue(t, s.As(agent), "api", harness.Fields{"audiences": apiAudience, "scopes": "read"})
	claims, err := s.accepts(t, apiAudience, c.Token, time.Now())
	require.NoError(t, err)
	require.Equal(t, "agent:"+s.local("bot"), claims["sub"])
	require.Equal(t, agent.EntityID, claims["client_id"])
	require.Equal(t, c.GrantID, claims["jti"])
	require.Equal(t, "read", claims["scope"])
	require.Equal(t, `"},"admin":true,"x":{"`, claims["team"], "a value, whatever it looks like")
	require.NotContains(t, claims, "admin")
	require.Equal(t, []any{s.local("deployers"), s.local("ops")}, claims["groups"])
	require.Equal(t, "at+jwt", headerOf(t, c.Token)["typ"])
	require.Equal(t, true, c.Data["self_contained"])

	_, err = s.accepts(t, otherAudience, c.Token, time.Now())
	require.ErrorContains(t, err, "expected audience")
	_, err = s.accepts(t, apiAudience, c.Token, time.Now().Add(11*time.Minute))
	require.ErrorContains(t, err, "expired")
	_, err = s.accepts(t, apiAudience, c.Token[:len(c.Token)-8]+"AAAAAAAA", time.Now())
	require.Error(t, err)

	_, err = s.As(agent).TryWrite(t, "creds/api", harness.Fields{"audiences": s.issuer})
	refused(t, err, 400, "invalid_target")
	_, err = s.TryWrite(t, "creds/api", nil) // root has no entity
	refused(t, err, 403, "access_denied", "log in with an auth method")
}

func headerOf(t *testing.T, token string) map[string]any {
	t.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(strings.SplitN(token, ".", 2)[0])
	require.NoError(t, err)
	header := map[string]any{}
	require.NoError(t, json.Unmarshal(raw, &header))
	return header
}

// The whole story: a user's token, an agent with a login of its own, a resource server
// that sees both, and the agent's end.
func TestAUsersTokenExchangedByAnAgent(t *testing.T) {
	t.Parallel()
	s := newIssuing(t, sharedVault(t), nil)
	idp, api := s.delegating(t), s.resourceServer(t)
	agent, other := s.agent(t, harness.Agent{Name: "bot"}), s.agent(t, harness.Agent{Name: "other"})

	user := idp.token(t, harness.Fields{"sub": "ann", "acr": "high", "scope": "read write", "aud": []string{vaultAudience, apiAudience, otherAudience}})
	c := issue(t, s.As(agent), "delegate", harness.Fields{"subject_token": user})
	require.Equal(t, "ann", text(c.Secret, "subject"))
	require.Equal(t, agent.EntityID, text(c.Secret, "actor"))
	claims, err := s.accepts(t, apiAudience, c.Token, time.Now())
	require.NoError(t, err)
	require.Equal(t, "ann", claims["sub"])
	require.Equal(t, map[string]any{"format": "iss_sub", "iss": "https://idp.example.com", "sub": "ann"}, claims["sub_id"])
	require.Equal(t, map[string]any{"sub": agent.EntityID, "iss": s.issuer}, claims["act"])
	require.Equal(t, "high", claims["acr"])
	require.Equal(t, []any{apiAudience}, claims["aud"], "narrower than the user's")
	_, err = s.accepts(t, otherAudience, c.Token, time.Now())
	require.ErrorContains(t, err, "expected audience")

	named := idp.token(t, harness.Fields{"sub": "ann", "may_act": harness.Fields{"sub": agent.EntityID, "iss": s.issuer}})
	_, err = s.As(other).TryWrite(t, "creds/delegate", harness.Fields{"subject_token": named})
	refused(t, err, 403, "access_denied", "may_act")
	issue(t, s.As(agent), "delegate", harness.Fields{"subject_token": named})

	theirs := issue(t, s.As(other), "delegate", harness.Fields{"subject_token": user})
	s.requireActive(t, api, c.Token, true)
	killed := s.Write(t, "revoke/entity/"+agent.EntityID, nil)
	require.Equal(t, json.Number("2"), killed.Data["expiry_only"], "it says what it cannot do")
	require.NotEqual(t, json.Number("0"), killed.Data["residual_exposure_seconds"])
	s.requireActive(t, api, c.Token, false)
	s.requireActive(t, api, theirs.Token, true)
}

func TestIntrospectionAndRevocationOnTheWire(t *testing.T) {
	t.Parallel()
	s := newIssuing(t, sharedVault(t), harness.Fields{"revocation": "token"})
	api, agent := s.resourceServer(t), s.agent(t, harness.Agent{Name: "bot"})
	c := issue(t, s.As(agent), "api", harness.Fields{"audiences": apiAudience})
	require.Equal(t, "token", text(c.Secret, "revocation"))

	resp, answer := s.asks(t, api, "/oauth/introspect", c.Token)
	require.Equal(t, http.StatusOK, resp.StatusCode)
	require.Equal(t, "application/json", resp.Header.Get("Content-Type"))
	require.Equal(t, "no-store", resp.Header.Get("Cache-Control"))
	require.Equal(t, true, answer["active"])
	require.Equal(t, agent.EntityID, answer["sub"])
	require.Equal(t, "read write", answer["scope"])
	require.Equal(t, []any{apiAudience}, answer["aud"])
	require.Equal(t, c.GrantID, answer["jti"])
	require.Equal(t, "Bearer", answer["token_type"])
	require.Contains(t, api.CLI(t, "write", "-field=active", s.At("oauth/introspect"), "token="+c.Token), "true")

	resp, answer = s.asks(t, s.vault.As("no-such-token"), "/oauth/introspect", c.Token)
	require.Equal(t, http.StatusForbidden, resp.StatusCode, "%v", answer)
	resp, _ = s.asks(t, api, "/oauth/revoke", c.Token)
	require.Equal(t, http.StatusForbidden, resp.StatusCode, "its policy says nothing of revocation")
	resp, answer = s.asks(t, api, "/oauth/introspect", strings.Repeat("x", 17<<10))
	require.Equal(t, http.StatusBadRequest, resp.StatusCode)
	require.Contains(t, fmt.Sprint(answer["errors"]), "invalid_request")
	s.requireActive(t, api, "nonsense", false)

	for range 2 {
		resp, answer = s.asks(t, s.vault.Session, "/oauth/revoke", c.Token)
		require.Equal(t, http.StatusOK, resp.StatusCode)
		require.Empty(t, answer)
	}
	secret, err := s.TryWrite(t, "oauth/revoke", harness.Fields{"token": "nonsense"})
	require.NoError(t, err)
	require.Nil(t, secret)
	s.requireActive(t, api, c.Token, false)
	require.Empty(t, s.List(t, "grants"))
	require.NoError(t, endLease(t, s.vault.Session, c.LeaseID))

	ended := issue(t, s.As(agent), "api", harness.Fields{"audiences": apiAudience})
	s.requireActive(t, api, ended.Token, true)
	require.NoError(t, endLease(t, s.vault.Session, ended.LeaseID))
	s.requireActive(t, api, ended.Token, false)
}

// badTokens are of every kind that costs something to refuse.
func badTokens(t *testing.T, good string) []string {
	t.Helper()
	parts := strings.Split(good, ".")
	long := base64.RawURLEncoding.EncodeToString([]byte(`{"iss":"x","a":"` + strings.Repeat("x", 8<<10) + `"}`))
	deep := base64.RawURLEncoding.EncodeToString([]byte(strings.Repeat(`{"a":`, 1500) + "1" + strings.Repeat("}", 1500)))
	unknown := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"ES256","kid":"nobody","typ":"at+jwt"}`))
	return []string{
		strings.Repeat("x", 16<<10), strings.Repeat("e30.", 4<<10), strings.Repeat("x", 60<<10),
		good[:len(good)-8] + "AAAAAAAA", parts[0] + "." + long + "." + parts[2], parts[0] + "." + deep + "." + parts[2],
		unknown + "." + parts[1] + "." + parts[2], unknown + "." + long + "." + parts[2],
	}
}

// TestAFloodOfBadTokens is not parallel: what it measures is this flood alone.
func TestAFloodOfBadTokens(t *testing.T) {
	needsServers(t)
	const flood, clients = 5000, 32
	vault := harness.StartVault(t, harness.VaultOptions{})
	s := newIssuing(t, vault, nil)
	idp, agent := s.delegating(t), s.agent(t, harness.Agent{Name: "bot"})
	own := issue(t, s.As(agent), "api", harness.Fields{"audiences": apiAudience})
	ask, bring := badTokens(t, own.Token), badTokens(t, idp.token(t, nil))
	idle := vault.PluginPeakMemory(t)

	var all sync.WaitGroup
	for c := range clients {
		client := agent.Client(t)
		root := vault.Client(t)
		all.Go(func() {
			for i := c; i < flood; i += clients {
				secret, err := root.Logical().Write(s.At("oauth/introspect"), harness.Fields{"token": ask[i%len(ask)]})
				if harness.StatusOf(err) != http.StatusBadRequest && (err != nil || secret.Data["active"] != false) {
					t.Errorf("introspection of a bad token: %v, %v", secret, err)
					return
				}
				if _, err := client.Logical().Write(s.At("creds/delegate"), harness.Fields{"subject_token": bring[i%len(bring)]}); harness.StatusOf(err) != http.StatusBadRequest {
					t.Errorf("a bad subject token: %v", err)
					return
				}
			}
		})
	}
	all.Wait()
	peak := vault.PluginPeakMemory(t)
	t.Logf("%d bad tokens to introspect and %d to exchange; the plugin's peak memory is %.1f MiB, %.1f MiB before them", flood, flood, mib(peak), mib(idle))
	require.Less(t, peak, uint64(memoryLimit))
	s.requireActive(t, vault.Session, own.Token, true)
	require.Equal(t, []string{own.GrantID}, s.List(t, "grants"))
}
