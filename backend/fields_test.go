package backend

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/downstream"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/role"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/signal"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/subject"
)

// filled are values that no member has by itself.
var filled = []any{
	"x", true, 7, 7.5, 7 * time.Second, []string{"x"}, map[string]string{"x": "y"}, map[string][]string{"x": {"y"}}, json.RawMessage(`[{"x":1}]`),
}

// eachMemberIsAField: what is stored of a T beside the others is shown, each member as one
// field, and each field is one member's.
func eachMemberIsAField[T any](t *testing.T, names []string, show func(*T, map[string]any), others ...string) {
	shown := func(v *T) map[string]any {
		data := map[string]any{}
		show(v, data)
		return data
	}
	empty := shown(new(T))
	var found []string
	for member := range reflect.TypeFor[T]().Fields() {
		if slices.Contains(others, member.Name) {
			continue
		}
		i := slices.IndexFunc(filled, func(v any) bool { return reflect.TypeOf(v) == member.Type })
		if i < 0 {
			i = slices.IndexFunc(filled, func(v any) bool { return reflect.TypeOf(v).Kind() == member.Type.Kind() })
		}
		require.GreaterOrEqual(t, i, 0, "%s: add a value of its type to filled", member.Name)
		v := new(T)
		reflect.ValueOf(v).Elem().FieldByIndex(member.Index).Set(reflect.ValueOf(filled[i]).Convert(member.Type))
		before := len(found)
		for name, value := range shown(v) {
			if !reflect.DeepEqual(value, empty[name]) {
				found = append(found, strings.TrimSuffix(name, "_sha256"))
			}
		}
		require.Equal(t, before+1, len(found), "%s is not in the table, or there twice", member.Name)
	}
	slices.Sort(found)
	names = slices.DeleteFunc(slices.Sorted(slices.Values(names)), func(name string) bool { return name == "name" })
	require.Equal(t, names, found)
}

func TestEachMemberOfWhatIsStoredIsAField(t *testing.T) {
	t.Run("role", func(t *testing.T) {
		eachMemberIsAField(t, slices.Collect(maps.Keys(roleFields.Schema())), roleFields.Show)
	})
	t.Run("issuer", func(t *testing.T) {
		eachMemberIsAField(t, slices.Collect(maps.Keys(issuerFields.Schema())), issuerFields.Show, "Name")
		require.Equal(t, 2, reflect.TypeFor[storedIssuer]().NumField())
		require.Equal(t, reflect.TypeFor[subject.IssuerConfig](), reflect.TypeFor[storedIssuer]().Field(0).Type)
	})
	t.Run("signal", func(t *testing.T) {
		eachMemberIsAField(t, slices.Collect(maps.Keys(signalFields.Schema())), signalFields.Show)
		require.Equal(t, 2, reflect.TypeFor[storedSignal]().NumField())
		require.Equal(t, reflect.TypeFor[signal.Config](), reflect.TypeFor[storedSignal]().Field(0).Type)
	})
	t.Run("config", func(t *testing.T) {
		eachMemberIsAField(t, slices.Collect(maps.Keys(configFields.Schema())), configFields.Show)
	})
	t.Run("settings", func(t *testing.T) {
		eachMemberIsAField(t, slices.Collect(maps.Keys(downstream.CommonFields())), func(s *downstream.Settings, data map[string]any) { s.Show(data) }, "Deleting")
	})
}

// TestARoleShowsWhatWasWritten and what was unset it shows no more.
func TestARoleShowsWhatWasWritten(t *testing.T) {
	m := newMount(t, setup{})
	m.must(m.write("issuers/i", map[string]any{"oidc_discovery_url": m.server.URL, "bound_audiences": "broker"}))
	written := map[string]any{
		"bound_subject_claims": map[string]any{"sub": "x", "/a/b": []any{true, json.Number("1")}}, "subject_issuers": "i",
		"bound_entity_metadata": map[string]any{"team": "a"}, "max_auth_age": "1h", "condition": "true",
		"required_acr": "x,y", "max_issue_rate": 3, "require_entity": true,
	}
	m.must(m.write("roles/r", written))
	shown := m.must(m.read("roles/r")).Data
	for name, value := range map[string]any{
		"name": "r", "provider": "oauth2/p", "mode": "mint", "on_excess": role.Strip, "scopes": []string{"read", "write"},
		"bound_subject_claims": map[string][]string{"sub": {"x"}, "/a/b": {"true", "1"}}, "subject_issuers": []string{"i"},
		"bound_entity_metadata": map[string]string{"team": "a"}, "max_auth_age": int64(3600), "condition": "true",
		"required_acr": []string{"x", "y"}, "max_issue_rate": 3, "require_entity": true, "require_revocable": false,
	} {
		require.Equal(t, value, shown[name], name)
	}
	require.Equal(t, []string{}, shown["audiences"], "every field is shown")
	m.must(m.write("roles/r", map[string]any{
		"bound_subject_claims": map[string]any{}, "subject_issuers": "", "bound_entity_metadata": map[string]any{}, "max_auth_age": 0,
		"condition": "", "required_acr": []any{}, "max_issue_rate": 0, "require_entity": false, "on_excess": "",
	}))
	shown = m.must(m.read("roles/r")).Data
	for _, name := range []string{"bound_subject_claims", "subject_issuers", "bound_entity_metadata", "condition", "required_acr"} {
		require.Empty(t, shown[name], name)
	}
	require.Equal(t, role.Strip, shown["on_excess"])
	require.EqualValues(t, 0, shown["max_auth_age"])
}

// TestAnIssuerShowsItsTimeout, of which a read told nothing before.
func TestAnIssuerShowsItsTimeout(t *testing.T) {
	m := newMount(t, setup{})
	fields := map[string]any{"oidc_discovery_url": m.server.URL, "bound_audiences": "broker"}
	m.must(m.write("issuers/i", fields))
	require.EqualValues(t, 10, m.must(m.read("issuers/i")).Data["timeout"])
	m.must(m.write("issuers/i", map[string]any{"timeout": "3s"}))
	require.EqualValues(t, 3, m.must(m.read("issuers/i")).Data["timeout"])
}
