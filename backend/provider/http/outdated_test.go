package httpapi

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
)

// formerly are definitions that no version takes now, as if an earlier one had.
var formerly = map[string]func(definition string) string{
	"a member that is not known any more": func(d string) string { return strings.Replace(d, `{"class"`, `{"formerly": true, "class"`, 1) },
	"a rule that was not there": func(d string) string {
		return strings.Replace(d, `{"class"`, `{"parameters": {"x": {"about": "X."}}, "class"`, 1)
	},
	"a class that is none": func(d string) string { return strings.Replace(d, `"class": "token"`, `"class": "lever"`, 1) },
}

// openStored opens what is stored, as after an upgrade: nothing was configured anew.
func (r *rig) openStored(t *testing.T, definition string) provider.Provider {
	t.Helper()
	setup := r.setup(rigDefinition, nil, map[string]string{"token": rigToken})
	setup.Type = reopened{as: func(cfg provider.Config) provider.Config {
		var fields map[string]json.RawMessage
		require.NoError(t, json.Unmarshal(cfg.Fields, &fields))
		fields["definition"] = json.RawMessage(definition)
		cfg.Fields, _ = json.Marshal(fields)
		return cfg
	}}
	opened, _ := setup.Open(t)
	return opened
}

// reopened is the type, at an entry that was stored otherwise than it was configured.
type reopened struct {
	Type
	as func(provider.Config) provider.Config
}

func (r reopened) Open(cfg provider.Config, parent provider.Parent, deps provider.Deps) (provider.Provider, error) {
	return r.Type.Open(r.as(cfg), parent, deps)
}

// An upgrade of the plugin that takes a stored definition no more leaves nothing alive: it
// mints nothing, kills what there is, and forgets nothing that is still to be found.
func TestADefinitionThatIsNotTakenAnyMoreStillKills(t *testing.T) {
	for name, change := range formerly {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, rigDefinition)
			child, err := w.Mint(t.Context(), rigRequest())
			require.NoError(t, err)
			definition := change(rigDefinition)
			require.NotEqual(t, rigDefinition, definition)
			_, err = Parse([]byte(definition))
			require.Error(t, err)
			p := w.openStored(t, definition)
			require.Equal(t, provider.ClassToken, p.Traits().Class)

			asked := len(w.requests())
			_, err = p.Mint(t.Context(), rigRequest())
			require.Equal(t, fault.TemporarilyUnavailable, fault.CodeOf(err))
			require.ErrorContains(t, err, "write it anew")
			_, err = p.(provider.Checker).Check(t.Context())
			require.Equal(t, fault.TemporarilyUnavailable, fault.CodeOf(err))
			_, err = p.(provider.Finder).Find(t.Context(), provider.Trace{GrantID: rigRequest().GrantID})
			require.Equal(t, fault.TemporarilyUnavailable, fault.CodeOf(err))
			require.NotErrorIs(t, err, provider.ErrCannotRevoke)
			require.Len(t, w.requests(), asked)

			require.NoError(t, p.(provider.Revoker).Revoke(t.Context(), child.Handle))
			require.False(t, w.alive(child.Token().Reveal()))
		})
	}
}

// What a system takes for the broker's own word stays reserved, also while its provider's
// definition is not taken any more.
func TestADefinitionThatIsNotTakenAnyMoreReservesItsAudience(t *testing.T) {
	keyless := parentOf(`{"jwt": {"audience": "sts.acme.example", "subject": "broker"}, "headers": {"Authorization": "Bearer {{jwt}}"}}`)
	for name, change := range formerly {
		fields, err := json.Marshal(map[string]any{"base_url": "https://sts.acme.example/api", "definition": json.RawMessage(change(keyless))})
		require.NoError(t, err)
		r := Type{}.ReservedAudiences(provider.Config{Fields: fields})
		require.Equal(t, []string{"sts.acme.example"}, r.Names, name)
		require.Equal(t, []string{"https://sts.acme.example/api"}, r.Endpoints, name)
	}
}
