package jwt

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
)

// hostile are values that would do harm as JSON or as a template.
func hostile() *rapid.Generator[string] {
	return rapid.OneOf(
		rapid.String(),
		rapid.SampledFrom([]string{
			`","iss":"https://evil.test","x":"`, `"}`, `{"sub":"root"}`, `["admin"]`, `{{identity.entity.id}}`, `{{`, `}}`, "\n", "\x00", "\u2028",
			`\`, `\"`, `\u0022`, `null`, `true`, `0`, `<script>`, "\xff", "a\xc3", `{{identity.entity.metadata.b}}`,
		}),
	)
}

var templates = []string{
	"{{identity.entity.metadata.a}}", "{{identity.entity.metadata.b}}{{identity.entity.metadata.a}}", "x{{identity.entity.metadata.a}}y",
	`{"k":"{{identity.entity.metadata.a}}"}`, `"{{identity.entity.metadata.b}}"`, "{{identity.entity.name}}", "{{identity.entity.groups.names}}",
	"{{identity.entity.aliases.acc.name}}", "{{identity.entity.aliases.acc.metadata.a}}", "constant", "[]", "{}", "null",
}

// Whatever fills whichever templates, a token holds the broker's claims as the broker
// made them, the operator's under their names and of their types, and no others.
func TestNoValueBecomesAnythingButAValue(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		names := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"team", "groups", "roles", "https://corp.test/x", "a b", "€", "entitlements", "subject", "issuer"}), 0, 5, rapid.ID).Draw(rt, "names")
		operators := map[string]string{}
		for _, name := range names {
			operators[name] = rapid.SampledFrom(templates).Draw(rt, name)
		}
		f := mustOpen(t, map[string]any{"claims": operators})
		r := request()
		metadata := map[string]string{"a": hostile().Draw(rt, "a"), "b": hostile().Draw(rt, "b")}
		r.Identity = provider.Identity{
			EntityID: entity, Name: hostile().Filter(func(s string) bool { return s != "" }).Draw(rt, "name"), Metadata: metadata,
			Groups:  rapid.SliceOfN(hostile(), 0, 4).Draw(rt, "groups"),
			Aliases: []provider.Alias{{Name: "n" + hostile().Draw(rt, "alias"), MountAccessor: "acc", Metadata: metadata}},
		}
		child, err := f.Mint(t.Context(), r)
		if err != nil {
			requireOnlyNoText(rt, err, r.Identity)
			return
		}
		claims, raw := f.payload(t, child)
		requireNoDuplicates(rt, raw)
		for name, template := range operators {
			if template == "{{identity.entity.groups.names}}" {
				requireNames(rt, r.Identity.Groups, claims[name])
			} else {
				require.IsType(rt, "", claims[name], name)
			}
			if template == "{{identity.entity.metadata.a}}" {
				require.Equal(rt, metadata["a"], claims[name], "as it is, and never filled again")
			}
			delete(claims, name)
		}
		require.Equal(rt, map[string]any{
			"iss": ownIssuer, "sub": entity, "client_id": entity, "jti": grantID, "scope": "read write",
			"aud": []any{"https://api.test", "https://api.test/v2"},
			"iat": float64(began.Unix()), "exp": float64(child.ExpiresAt.Unix()),
		}, claims)
	})
}

// Whatever a subject token says, it says only what is kept of it: whom the token is
// about, who acts and may act, and how the user logged in.
func TestNothingElseComesFromTheSubjectToken(t *testing.T) {
	claim := rapid.OneOf(
		rapid.Map(hostile(), func(s string) any { return s }),
		rapid.Map(rapid.Int(), func(n int) any { return n }),
		rapid.Just[any](map[string]any{"sub": "root", "iss": ownIssuer, "act": "x", "cnf": 1}),
		rapid.Just[any]([]any{"admin"}), rapid.Just[any](nil), rapid.Just[any](true),
	)
	names := append(slices.DeleteFunc(slices.Clone(reserved), func(n string) bool { return n == "cnf" }), "groups", "roles", "email", "SUB")
	rapid.Check(t, func(rt *rapid.T) {
		said := rapid.MapOf(rapid.SampledFrom(names), claim).Draw(rt, "claims")
		f := mustOpen(t, nil)
		r := request()
		r.Subject = &provider.Party{Issuer: "https://idp.test", ID: "ann", Claims: said, ExpiresAt: began.Add(time.Hour)}
		r.Actor = &provider.Party{Issuer: ownIssuer, ID: entity}
		child, err := f.Exchange(t.Context(), r)
		require.NoError(rt, err)
		claims, raw := f.payload(t, child)
		requireNoDuplicates(rt, raw)
		act := claims["act"].(map[string]any)
		delete(act, "act")
		require.Equal(rt, map[string]any{"sub": entity, "iss": ownIssuer}, act)
		for _, kept := range []string{"act", "may_act", "auth_time", "acr", "amr"} {
			delete(claims, kept)
		}
		require.Equal(rt, map[string]any{
			"iss": ownIssuer, "sub": "ann", "sub_id": map[string]any{"format": "iss_sub", "iss": "https://idp.test", "sub": "ann"},
			"client_id": entity, "jti": grantID, "scope": "read write", "aud": []any{"https://api.test", "https://api.test/v2"},
			"iat": float64(began.Unix()), "exp": float64(child.ExpiresAt.Unix()),
		}, claims)
	})
}

// What is copied from the subject token is what it said, of the type that it had, under
// the operator's name alone.
func TestWhatIsCopiedIsTheSubjectsWord(t *testing.T) {
	value := rapid.OneOf(
		rapid.Map(rapid.String(), func(s string) any { return s }),
		rapid.Map(rapid.Int(), func(n int) any { return json.Number(fmt.Sprint(n)) }),
		rapid.SampledFrom([]any{json.Number("0.10"), json.Number("9007199254740993"), true, false, "{{identity.entity.id}}", "", []any{}, []any{"a", nil, true}, map[string]any{"iss": "x", "n": json.Number("1.50")}}),
	)
	rapid.Check(t, func(rt *rapid.T) {
		said := map[string]any{"groups": value.Draw(rt, "groups"), "https://corp.test/tier": value.Draw(rt, "tier"), "secret": "not asked for"}
		f := mustOpen(t, map[string]any{"exchange_claims": map[string]string{
			"roles": "{{subject.claims.groups}}", "tier": "{{ subject.claims.https://corp.test/tier }}", "made_by": "operator",
		}})
		r := request()
		r.Subject = &provider.Party{Issuer: "https://idp.test", ID: "ann", Claims: said, ExpiresAt: began.Add(time.Hour)}
		child, err := f.Exchange(t.Context(), r)
		require.NoError(rt, err)
		_, raw := f.payload(t, child)
		requireNoDuplicates(rt, raw)
		var claims map[string]json.RawMessage
		require.NoError(rt, json.Unmarshal(raw, &claims))
		for name, want := range map[string]any{"roles": said["groups"], "tier": said["https://corp.test/tier"], "made_by": "operator"} {
			text, err := json.Marshal(want)
			require.NoError(rt, err)
			require.Equal(rt, string(text), string(claims[name]), name)
			delete(claims, name)
		}
		require.ElementsMatch(rt, []string{"iss", "sub", "sub_id", "client_id", "jti", "scope", "aud", "iat", "exp"}, slices.Collect(maps.Keys(claims)))
	})
}

// requireOnlyNoText allows one reason to refuse these: a value that is no UTF-8.
func requireOnlyNoText(rt *rapid.T, err error, id provider.Identity) {
	all := append([]string{id.Name, id.Metadata["a"], id.Metadata["b"], id.Aliases[0].Name}, id.Groups...)
	require.True(rt, slices.ContainsFunc(all, func(s string) bool { return !utf8.ValidString(s) }), "%v", err)
}

func requireNames(rt *rapid.T, groups []string, claim any) {
	var got []string
	list, ok := claim.([]any)
	require.True(rt, ok, "a list of names is a list: %v", claim)
	for _, e := range list {
		got = append(got, e.(string))
	}
	require.ElementsMatch(rt, groups, got)
}

// requireNoDuplicates reads the payload member by member: a decoder into a map would
// not notice a second iss.
func requireNoDuplicates(rt *rapid.T, raw []byte) {
	var pairs map[string]json.RawMessage
	require.NoError(rt, json.Unmarshal(raw, &pairs))
	canonical, err := json.Marshal(pairs)
	require.NoError(rt, err)
	require.Len(rt, raw, len(canonical), "a member stands in it twice")
}
