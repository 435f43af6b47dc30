package condition

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Every field that the type checker knows is told of, and nothing else, with an example
// that uses it, and that somebody meets.
func TestNames(t *testing.T) {
	told := map[string]bool{}
	who := Input{
		Identity: Identity{
			EntityID: "11", Name: "ci-7", Metadata: map[string]string{"team": "payments"}, Groups: []string{"deployers"},
			Aliases: []Alias{
				{Name: "alice@example.com", MountAccessor: "auth_oidc_6cb9b4a2", MountType: "oidc"},
				{Name: "sa", MountType: "kubernetes", Metadata: map[string]string{"service_account_namespace": "prod"}},
			},
		},
		Request: Request{Scopes: []string{"repo:read"}, Audiences: []string{"a"}, Resources: []string{"acme/api"}, TTL: time.Minute, RemoteAddr: "192.0.2.1"},
		Subject: Subject{Claims: map[string]any{"ref": "refs/heads/main"}},
		Now:     time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC), // a Friday
	}
	for _, n := range Names() {
		require.False(t, told[n.Name], n.Name)
		told[n.Name] = true
		require.NotEmpty(t, n.About, n.Name)
		require.NotEmpty(t, n.Type, n.Name)
		p, err := Compile(n.Example)
		require.NoError(t, err, n.Name)
		require.NoError(t, p.Eval(who), n.Example)
		require.Error(t, p.Eval(Input{
			Identity: Identity{Aliases: []Alias{{MountType: "oidc"}, {MountType: "oidc"}}},
			Request: Request{
				Scopes: []string{"repo:admin"}, Resources: []string{"other"}, Permissions: map[string]string{"administration": "write"},
				TTL: time.Hour, RemoteAddr: "10.0.0.1",
			},
		}), n.Example)
	}
	for object, typeName := range objects {
		for member := range fields[typeName] {
			require.True(t, told[object+"."+member], "%s.%s", object, member)
			delete(told, object+"."+member)
		}
	}
	require.Equal(t, map[string]bool{varNow: true}, told)
	require.Len(t, objects, len(fields))
}
