package jwt

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

const thumbprint = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I" // RFC 9449 6.1's

// TestClaims compares what is signed with testdata/wire/jwt. UPDATE_GOLDEN=1 rewrites
// the files.
func TestClaims(t *testing.T) {
	details, err := access.ParseDetails([]byte(`[{"type":"payment","actions":["read"],"limit":10}]`))
	require.NoError(t, err)
	user := map[string]any{
		"auth_time": json.Number("1772600000"), "acr": "high", "amr": []any{"pwd", "otp"}, "email": "ann@idp.test", "scope": "everything",
	}
	agent := &provider.Party{Issuer: ownIssuer, ID: entity}
	for name, c := range map[string]struct {
		fields   map[string]any
		change   func(*provider.Request)
		exchange bool
	}{
		"mint": {},
		"mint-with-everything": {
			fields: map[string]any{
				"subject": "agent:{{identity.entity.name}}", "client_id": "{{identity.entity.aliases.auth_oidc_1.name}}",
				"claims": map[string]string{
					"groups": "{{identity.entity.groups.names}}", "team": "team-{{identity.entity.metadata.team}}/{{identity.entity.aliases.auth_oidc_1.metadata.dept}}",
					"https://corp.test/env": "prod", "empty": "{{identity.entity.metadata.empty}}",
				},
			},
			change: func(r *provider.Request) {
				r.Access.Details = details
				r.Proofs = map[provider.ProofKind]secret.Text{provider.ProofThumbprint: secret.New(thumbprint)}
			},
		},
		"mint-without-scopes": {change: func(r *provider.Request) {
			r.Access = access.Everything().With(access.DimAudiences, r.Access)
		}},
		"exchange-by-the-entity": {exchange: true, change: func(r *provider.Request) {
			r.Subject, r.Actor = &provider.Party{Issuer: "https://idp.test", ID: "ann", Claims: user, ExpiresAt: began.Add(time.Minute)}, agent
		}},
		"exchange-with-claims": {
			exchange: true,
			fields: map[string]any{
				"claims": map[string]string{"groups": "{{identity.entity.groups.names}}"},
				"exchange_claims": map[string]string{
					"roles": "{{subject.claims.roles}}", "quota": "{{subject.claims.quota}}", "https://corp.test/env": "prod", "act.groups": "{{identity.entity.groups.names}}",
				},
			},
			change: func(r *provider.Request) {
				r.Actor = agent
				r.Subject = &provider.Party{Issuer: "https://idp.test", ID: "ann", ExpiresAt: began.Add(time.Minute), Claims: map[string]any{
					"roles": []any{"reader"}, "quota": json.Number("12345678901234567890"), "email": "ann@idp.test",
				}}
			},
		},
		"exchange-by-nobody": {exchange: true, change: func(r *provider.Request) {
			r.Subject = &provider.Party{Issuer: "https://idp.test", ID: "ann", Claims: map[string]any{"act": map[string]any{"sub": "portal"}}, ExpiresAt: began.Add(time.Minute)}
		}},
		"exchange-by-an-actor-token": {exchange: true, change: func(r *provider.Request) {
			r.Subject = &provider.Party{Issuer: "https://idp.test", ID: "ann", ExpiresAt: began.Add(2 * time.Hour), Claims: map[string]any{
				"act":     map[string]any{"sub": "portal", "act": map[string]any{"sub": "edge", "iss": "https://edge.test", "act": "nonsense"}},
				"may_act": map[string]any{"sub": "ci"},
			}}
			r.Actor = &provider.Party{Issuer: "https://idp.test", ID: "ci", Token: secret.New("actor token")}
		}},
		"exchange-of-an-exchanged-one": {exchange: true, change: func(r *provider.Request) {
			r.Subject = &provider.Party{Issuer: ownIssuer, ID: "ann", ExpiresAt: began.Add(time.Minute), Claims: map[string]any{
				"sub_id":  map[string]any{"format": "iss_sub", "iss": "https://idp.test", "sub": "ann"},
				"act":     map[string]any{"sub": "22222222-bbbb", "iss": ownIssuer},
				"may_act": map[string]any{"sub": entity, "iss": ownIssuer},
			}}
			r.Actor = agent
		}},
		"exchange-of-an-entitys-own": {exchange: true, change: func(r *provider.Request) {
			r.Subject, r.Actor = &provider.Party{Issuer: ownIssuer, ID: "22222222-bbbb", ExpiresAt: began.Add(time.Minute), Claims: map[string]any{}}, agent
		}},
	} {
		t.Run(name, func(t *testing.T) {
			f := mustOpen(t, c.fields)
			r := request()
			if c.change != nil {
				c.change(&r)
			}
			call := f.Mint
			if c.exchange {
				call = f.Exchange
			}
			child, err := call(t.Context(), r)
			require.NoError(t, err)
			require.Equal(t, []provider.Purpose{provider.PurposeChild}, f.signer.purposes)
			_, raw := f.payload(t, child)
			golden(t, name, raw)
		})
	}
}

func golden(t *testing.T, name string, raw []byte) {
	t.Helper()
	var got bytes.Buffer
	require.NoError(t, json.Indent(&got, raw, "", "  "))
	got.WriteByte('\n')
	file := filepath.Join("..", "..", "..", "testdata", "wire", "jwt", name+".json")
	if os.Getenv("UPDATE_GOLDEN") != "" {
		require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
		require.NoError(t, os.WriteFile(file, got.Bytes(), 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err, "UPDATE_GOLDEN=1 writes it")
	require.Equal(t, string(want), got.String())
}
