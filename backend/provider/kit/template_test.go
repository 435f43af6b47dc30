package kit

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
)

var accepted = []string{
	"a constant", "{{identity.entity.id}}", "x-{{ identity.entity.name }}-{{identity.entity.metadata.a}}",
	"{{identity.entity.aliases.acc.name}}", "{{identity.entity.aliases.acc.metadata.a}}", "{{identity.entity.groups.names}}",
}

func TestTemplatesAreFilledFromTheEntity(t *testing.T) {
	filling := FillingOf(provider.Identity{EntityID: "e", Name: "n{{", Metadata: map[string]string{"a": "1"}, Groups: []string{"h", "g"},
		Aliases: []provider.Alias{{Name: "al", MountAccessor: "acc", Metadata: map[string]string{"a": "2"}}}})
	for i, want := range []any{"a constant", "e", "x-n{{-1", "al", "2", []string{"g", "h"}} {
		parsed, err := ParseTemplate("f", accepted[i])
		require.NoError(t, err)
		value, err := parsed.Value(filling)
		require.NoError(t, err)
		require.Equal(t, want, value)
		require.Equal(t, i > 1, parsed.NeedsEntity(), accepted[i])
		_, err = parsed.Value(FillingOf(provider.Identity{}))
		require.Equal(t, i > 0, fault.CodeOf(err) == fault.AccessDenied, "without an entity")
	}
	for _, source := range []string{
		"", "a\n", strings.Repeat("x", MaxTemplate+1), "{{", "}}", "{{}}", "{{time.now}}", "{{identity.entity.metadata.}}", "x{{identity.entity.groups.names}}",
	} {
		_, err := ParseTemplate("f", source)
		require.Equal(t, fault.InvalidRequest, fault.CodeOf(err), source)
		require.ErrorContains(t, err, "f: ")
	}
	odd, err := ParseTemplate("f", "{{identity.entity.name}}")
	require.NoError(t, err)
	for _, name := range []string{"", "a\x00", strings.Repeat("x", MaxTemplate+1)} {
		_, err := odd.Identifier(FillingOf(provider.Identity{EntityID: "e", Name: name}))
		require.Equal(t, fault.AccessDenied, fault.CodeOf(err))
	}
}

// Templates that are accepted are ones that can be filled, and parsing never fails in
// another way than by refusing.
func FuzzTemplate(f *testing.F) {
	for _, t := range append(slices.Clone(accepted), "{{", "}}", "{{ x }}", "{{identity.entity.metadata.{{}}}}", "{{}}{{}}") {
		f.Add(t)
	}
	id := FillingOf(provider.Identity{EntityID: "e", Name: "n", Metadata: map[string]string{"a": "1", "b": "2"}, Groups: []string{"g"},
		Aliases: []provider.Alias{{Name: "n", MountAccessor: "acc", Metadata: map[string]string{"a": "1"}}}})
	f.Fuzz(func(t *testing.T, source string) {
		parsed, err := ParseTemplate("f", source)
		if err != nil {
			return
		}
		value, err := parsed.Value(id)
		if err != nil {
			require.Equal(t, fault.AccessDenied, fault.CodeOf(err))
			return
		}
		_, isText := value.(string)
		require.Equal(t, parsed.List(), !isText)
	})
}
