package catalog_test

import (
	"maps"
	"slices"
	"testing"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/catalog"
)

// No type's answer takes a field of every creds response, and types that have a field of
// the same name mean the same by it: one is never a secret here and shown there.
func TestAnswersDoNotCollide(t *testing.T) {
	seen := map[string]*framework.FieldSchema{}
	names := map[string]bool{}
	for _, typ := range catalog.Types() {
		require.False(t, names[typ.Name()], "two types are called %s", typ.Name())
		names[typ.Name()] = true
		require.NoError(t, provider.CheckAnswer(typ.Answer()), typ.Name())
		for name, f := range typ.Answer() {
			if before := seen[name]; before != nil {
				require.Equal(t, before.Type, f.Type, "%s of %s", name, typ.Name())
				require.Equal(t, provider.IsSecret(before), provider.IsSecret(f), "%s of %s", name, typ.Name())
			}
			seen[name] = f
		}
	}
}

// What a collision would be is told.
func TestACollisionIsFound(t *testing.T) {
	text := func(description string, secret bool) *framework.FieldSchema {
		return &framework.FieldSchema{Type: framework.TypeString, Description: description, DisplayAttrs: &framework.DisplayAttributes{Sensitive: secret}}
	}
	for _, name := range append(slices.Collect(maps.Keys(provider.CommonFields())), "lease_id", "renewable") {
		fields := provider.TokenField()
		fields[name] = text("Something else.", false)
		require.ErrorContains(t, provider.CheckAnswer(fields), name)
	}
	require.NoError(t, provider.CheckAnswer(provider.TokenField()))
	for name, fields := range map[string]map[string]*framework.FieldSchema{
		"nothing":                  {},
		"no secret":                {"host": text("Where it is good.", false)},
		"no description":           {"key": text("", true)},
		"a name of capitals":       {"Key": text("The key.", true)},
		"a secret that is no text": {"key": {Type: framework.TypeInt, Description: "The key.", DisplayAttrs: &framework.DisplayAttributes{Sensitive: true}}},
	} {
		require.Error(t, provider.CheckAnswer(fields), name)
	}
}
