package backend

import (
	"context"
	"encoding/json"
	"net/http"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/ending"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/kills"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/github/fake"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/transmitter"
)

// TestEveryAnswerKeepsToItsSchema calls each operation of each path so that it
// succeeds; checkResponse holds each answer against the documented fields.
func TestEveryAnswerKeepsToItsSchema(t *testing.T) {
	m := newInputMount(t)
	there := m
	m.atItsURL(&there) // which a check of jwt/p asks
	m.must(m.write("providers/oauth2/p", map[string]any{"client_secret_next": parentSecret, "audience_parameter": "audience", "assumed_lifetime": "1h", "max_ttl": "12h"}))
	m.must(m.write("roles/p", map[string]any{
		"scopes": "read,write", "audiences": "https://api.test", "authorization_details": []any{map[string]any{"type": "t", "actions": []any{"a", "b"}}},
		"default_scopes": "read", "ttl": "10m", "max_ttl": "1h", "bound_entity_ids": alice, "bound_group_names": "ops", "bound_cidrs": "10.0.0.0/8",
		"bound_entity_metadata": map[string]any{"team": "payments"}, "condition": "identity.name == 'alice'",
		"subject_issuers": "p", "bound_subject_claims": map[string]any{"sub": []any{"user-*"}}, "required_acr": "high", "required_amr": "hwk", "max_auth_age": "5m",
		"subject_single_use": true, "max_grants_per_entity": 9, "max_issue_rate": 9, "require_revocable": true,
	}))
	doomed := m.mustCreds(nil)
	m.server.Break(authserver.EndpointRevoke, authserver.Answer(500, "text/plain", ""))
	require.Error(t, m.revoke(doomed))
	m.server.Break(authserver.EndpointRevoke, nil)
	m.must(m.write("revoke/entity/nobody", map[string]any{"freeze": true}))
	_, err := m.b.killer.KillAll(t.Context(), ending.Thing{Kind: ending.KindRole, Name: "none"}, kills.Asked{ID: names["kill_id"], Always: true})
	require.NoError(t, err)

	subject := func() string {
		return m.subjectToken(m.clock.Now().String()+newID(t), map[string]any{"acr": "high", "amr": []any{"hwk"}, "auth_time": m.clock.Now().Unix()})
	}
	s := transmitter.New(t, transmitter.Options{Now: m.clock.Now, Tokens: []string{streamToken}})
	m.must(m.write("signals/p", map[string]any{"issuer": s.URL, "token": streamToken, "proxy_username": ""}))
	s.Send(transmitter.AccountDisabled(transmitter.IssSub("https://nobody.test", "user-1")))
	_, err = m.write("providers/jwt/p/rotate", nil)
	requireCode(t, err, fault.InvalidRequest, "cannot rotate")
	m.withGitLab(t)
	g := fake.New(t, fake.Options{Now: m.clock.Now})
	app := g.NewApp("the-broker")
	nextKey := m.hide(g.NewKey(app))
	m.withKeys(t)
	_, err = m.write("providers/http/p/rotate", nil)
	requireCode(t, err, fault.InvalidRequest, "cannot rotate")
	reached := map[string]bool{}
	for _, c := range []call{
		{op: logical.UpdateOperation, path: "providers/github/p", data: map[string]any{"base_url": g.URL, "app_id": app.ID, "private_key": m.hide(app.PrivateKey), "private_key_next": nextKey}},
		{op: logical.ListOperation, path: "providers/github"},
		{op: logical.ReadOperation, path: "providers/github/p"},
		{op: logical.UpdateOperation, path: "providers/github/p/check"},
		{op: logical.UpdateOperation, path: "providers/github/p/rotate"},
		{op: logical.DeleteOperation, path: "providers/github/p"},
		{op: logical.ListOperation, path: "providers"},
		{op: logical.ListOperation, path: "providers/oauth2"},
		{op: logical.ReadOperation, path: "providers/oauth2/p"},
		{op: logical.UpdateOperation, path: "providers/oauth2/p", data: map[string]any{"timeout": 5}},
		{op: logical.UpdateOperation, path: "providers/oauth2/p/check"},
		{op: logical.UpdateOperation, path: "providers/oauth2/p/rotate"},
		{op: logical.ListOperation, path: "providers/jwt"},
		{op: logical.UpdateOperation, path: "providers/jwt/p", data: map[string]any{"claims": map[string]any{"team": "{{identity.entity.metadata.team}}"}}},
		{op: logical.ReadOperation, path: "providers/jwt/p"},
		{op: logical.UpdateOperation, path: "providers/jwt/p/check"},
		{op: logical.ListOperation, path: "presets"},
		{op: logical.ListOperation, path: "providers/http"},
		{op: logical.UpdateOperation, path: "providers/http/p", data: map[string]any{"timeout": 5}},
		{op: logical.ReadOperation, path: "providers/http/p"},
		{op: logical.UpdateOperation, path: "providers/http/p/check"},
		{op: logical.ListOperation, path: "providers/gitlab"},
		{op: logical.UpdateOperation, path: "providers/gitlab/p", data: map[string]any{"timeout": 5}},
		{op: logical.ReadOperation, path: "providers/gitlab/p"},
		{op: logical.UpdateOperation, path: "providers/gitlab/p/check"},
		{op: logical.UpdateOperation, path: "providers/gitlab/p/rotate"},
		{op: logical.UpdateOperation, path: "oauth/introspect", data: map[string]any{"token": "x", "token_type_hint": "access_token"}},
		{op: logical.UpdateOperation, path: "oauth/revoke", data: map[string]any{"token": "x"}},
		{op: logical.ListOperation, path: "roles"},
		{op: logical.ReadOperation, path: "roles/p"},
		{op: logical.UpdateOperation, path: "roles/r", data: map[string]any{"ttl": "1h"}},
		{op: logical.UpdateOperation, path: "roles/p/explain", data: map[string]any{"scopes": "read,admin", "subject_token": subject()}},
		{op: logical.UpdateOperation, path: "roles/p/explain", data: map[string]any{"entity_id": bob, "remote_addr": "192.0.2.1"}},
		{op: logical.UpdateOperation, path: "roles/p/explain", data: map[string]any{"entity_id": "nobody"}},
		{op: logical.ListOperation, path: "signals"},
		{op: logical.UpdateOperation, path: "signals/p", data: map[string]any{"poll_interval": "1m"}},
		{op: logical.UpdateOperation, path: "signals/p/check"},
		{op: logical.ReadOperation, path: "signals/p"},
		{op: logical.DeleteOperation, path: "signals/p"},
		{op: logical.ListOperation, path: "issuers"},
		{op: logical.ReadOperation, path: "issuers/p"},
		{op: logical.UpdateOperation, path: "issuers/p", data: map[string]any{"bound_issuer": m.server.URL}},
		{op: logical.UpdateOperation, path: "creds/p", data: map[string]any{"scopes": "read,admin", "subject_token": subject(), "ttl": "9h"}},
		{op: logical.ReadOperation, path: "creds/r"},
		{op: logical.ListOperation, path: "creds"},
		{op: logical.ListOperation, path: "grants"},
		{op: logical.ListOperation, path: "grants/entity"},
		{op: logical.ListOperation, path: "grants/entity/" + alice},
		{op: logical.ListOperation, path: "grants/role/p"},
		{op: logical.ListOperation, path: "grants/provider/oauth2/p"},
		{op: logical.ReadOperation, path: "grants/subject", data: map[string]any{"issuer": "p", "subject": "user-1"}},
		{op: logical.ReadOperation, path: "grants/" + doomed.grantID},
		{op: logical.ListOperation, path: "frozen"},
		{op: logical.ReadOperation, path: "metrics"},
		{op: logical.UpdateOperation, path: "sweep"},
		{op: logical.UpdateOperation, path: "config", data: map[string]any{"max_token_ttl": "2h"}},
		{op: logical.ReadOperation, path: "config"},
		{op: logical.UpdateOperation, path: "issuer/rotate", data: map[string]any{"emergency": true}},
		{op: logical.ReadOperation, path: ".well-known/openid-configuration"},
		{op: logical.ReadOperation, path: ".well-known/jwks.json"},
		{op: logical.UpdateOperation, path: "revoke/grant/none.x"},
		{op: logical.UpdateOperation, path: "revoke/entity/" + alice},
		{op: logical.UpdateOperation, path: "revoke/role/r", data: map[string]any{"freeze": false}},
		{op: logical.UpdateOperation, path: "revoke/provider/oauth2/p"},
		{op: logical.UpdateOperation, path: "revoke/issuer/i"},
		{op: logical.UpdateOperation, path: "revoke/subject", data: map[string]any{"issuer": "p", "subject": "user-1"}},
		{op: logical.UpdateOperation, path: "revoke/person", data: map[string]any{"entity_id": alice, "freeze": true}},
		{op: logical.ListOperation, path: "kills"},
		{op: logical.ReadOperation, path: "kills/20261128T170000.000Z-0123456789ab"},
		{op: logical.DeleteOperation, path: "issuers/nobody"},
		{op: logical.DeleteOperation, path: "roles/nobody"},
		{op: logical.DeleteOperation, path: "providers/jwt/p"},
		{op: logical.DeleteOperation, path: "providers/gitlab/p"},
		{op: logical.DeleteOperation, path: "providers/http/p"},
		{op: logical.DeleteOperation, path: "providers/oauth2/p", data: map[string]any{"force": true}},
	} {
		c.entity, c.addr = alice, "10.0.0.1"
		resp, err := m.do(c)
		require.NoError(t, err, "%s %s", c.op, c.path)
		reached[m.b.Route(c.path).Pattern+" "+string(c.op)] = true
		if resp == nil {
			documented := m.b.Route(c.path).Operations[c.op].Properties().Responses
			require.Contains(t, documented, http.StatusNoContent, "%s %s answers with nothing", c.op, c.path)
		}
	}
	for _, e := range everyEndpoint(t, m) {
		if !e.path.TakesArbitraryInput && e.sample != "providers/jwt/p/rotate" && e.sample != "providers/http/p/rotate" { // always a refusal
			require.True(t, reached[e.path.Pattern+" "+string(e.op)], "no successful call of %s in this test", e)
		}
	}
}

// newID is anything unique.
func newID(t testing.TB) string {
	t.Helper()
	return "-" + t.Name() + time.Now().Format(time.RFC3339Nano)
}

func TestTheCredsResponse(t *testing.T) {
	always := []string{"access_token", "expires_at", "grant_id", "granted", "lease_expires_at", "provider", "revocation", "scopes", "self_contained", "token_type"}
	for name, c := range map[string]struct {
		setup  setup
		fault  authserver.Fault
		data   map[string]any
		more   []string // members beside those that are always there
		less   []string
		values map[string]any
	}{
		"plain": {values: map[string]any{
			"token_type": "Bearer", "scopes": []string{"read", "write"}, "granted": []string{"scope:read", "scope:write"},
			"provider": "oauth2/p", "revocation": "token", "self_contained": false,
		}},
		"narrowed":   {data: map[string]any{"scopes": "read"}, values: map[string]any{"scopes": []string{"read"}}},
		"stripped":   {data: map[string]any{"scopes": "read,admin"}, more: []string{"stripped"}, values: map[string]any{"stripped": []string{"scope:admin"}}},
		"unverified": {setup: setup{provider: map[string]any{"audience_parameter": "audience"}, role: map[string]any{"audiences": "https://api.test"}}, more: []string{"audiences", "unverified"}, values: map[string]any{"unverified": []string{"audiences"}, "audiences": []string{"https://api.test"}}},
		"verified":   {setup: setup{provider: map[string]any{"audience_parameter": "audience", "verify": "introspect"}, role: map[string]any{"audiences": "https://api.test"}}, more: []string{"audiences"}, values: map[string]any{"audiences": []string{"https://api.test"}}},
		"a JWT":      {setup: setup{server: authserver.Options{JWT: true}}, values: map[string]any{"self_contained": true}},
		"details": {
			setup: setup{role: map[string]any{"authorization_details": []any{map[string]any{"type": "t"}}}}, more: []string{"authorization_details"},
			values: map[string]any{"authorization_details": []any{map[string]any{"type": "t"}}},
		},
		"no scopes":    {setup: setup{role: map[string]any{"scopes": ""}}, fault: authserver.Drop("scope"), less: []string{"scopes", "granted"}, more: []string{"unverified"}},
		"fewer":        {fault: authserver.Set("scope", "write"), values: map[string]any{"scopes": []string{"write"}}},
		"class expiry": {setup: setup{server: authserver.Options{WithoutRevocation: true}}, values: map[string]any{"revocation": "expiry"}},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMount(t, c.setup)
			m.server.Break(authserver.EndpointToken, c.fault)
			l := m.mustCreds(c.data)
			want := slices.DeleteFunc(append(slices.Clone(always), c.more...), func(n string) bool { return slices.Contains(c.less, n) })
			var got []string
			for name, value := range l.data {
				got = append(got, name)
				v := reflect.ValueOf(value)
				switch v.Kind() {
				case reflect.String, reflect.Slice, reflect.Map:
					require.NotZero(t, v.Len(), "%s is empty, and should be left out", name)
				}
			}
			require.ElementsMatch(t, want, got)
			for name, value := range c.values {
				require.Equal(t, value, l.data[name], name)
			}
			expires, err := time.Parse(time.RFC3339, l.data["expires_at"].(string))
			require.NoError(t, err)
			require.Equal(t, m.clock.Now().Add(time.Hour), expires)
			_, err = json.Marshal(l.data)
			require.NoError(t, err)
			shown := m.must(m.read("grants/" + l.grantID)).Data
			require.Equal(t, l.data["granted"], shown["granted"])
		})
	}
}

// TestHelpIsComplete: every path and field says what it is for, and neither help
// nor the OpenAPI document fails.
func TestHelpIsComplete(t *testing.T) {
	m := newMount(t, setup{})
	for _, p := range m.b.Paths {
		require.NotEmpty(t, p.HelpSynopsis, p.Pattern)
		require.NotEmpty(t, p.HelpDescription, p.Pattern)
		require.NotNil(t, p.DisplayAttrs, p.Pattern)
		requireDescribed(t, p.Pattern, p.Fields)
		for op, handler := range p.Operations {
			properties := handler.Properties()
			require.NotEmpty(t, properties.Summary, "%s %s", op, p.Pattern)
			require.NotEmpty(t, properties.Responses, "%s %s", op, p.Pattern)
			for _, responses := range properties.Responses {
				for _, r := range responses {
					require.NotEmpty(t, r.Description)
					requireDescribed(t, p.Pattern, r.Fields)
				}
			}
		}
	}
	for _, path := range []string{"", "providers/oauth2/p", "creds/r", "roles/r"} {
		resp, err := m.b.HandleRequest(context.Background(), &logical.Request{Operation: logical.HelpOperation, Path: path, Storage: m.storage})
		require.NoError(t, err, path)
		require.NotEmpty(t, resp.Data["help"], path)
	}
}

func requireDescribed(t *testing.T, where string, fields map[string]*framework.FieldSchema) {
	t.Helper()
	for name, f := range fields {
		require.NotEmpty(t, f.Description, "%s of %s", name, where)
	}
}

// TestSecretsFieldsAreMarked: what is a secret is not shown by Vault's UI either.
func TestSecretFieldsAreMarked(t *testing.T) {
	m := newMount(t, setup{})
	for path, fields := range map[string][]string{
		"providers/oauth2/p": {"client_secret", "client_secret_next", "refresh_token"},
		"creds/r":            {"subject_token"},
		"roles/r/explain":    {"subject_token"},
	} {
		for _, name := range fields {
			f := m.b.Route(path).Fields[name]
			require.True(t, f.DisplayAttrs != nil && f.DisplayAttrs.Sensitive, "%s of %s", name, path)
		}
	}
}

// TestTheFactoryTouchesNothing: Vault also makes an engine where storage and
// system view refuse everything, to read the plugin's version.
func TestTheFactoryTouchesNothing(t *testing.T) {
	storage := &flakyStorage{}
	storage.fail("get", "put", "delete", "list")
	b, err := Factory(t.Context(), &logical.BackendConfig{StorageView: storage, System: nil})
	require.NoError(t, err)
	require.Equal(t, logical.TypeLogical, b.Type())
	require.Contains(t, b.SpecialPaths().SealWrapStorage, "provider/")
	require.Contains(t, b.SpecialPaths().SealWrapStorage, "signing-keys")
}
