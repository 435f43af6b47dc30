package role_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/decision"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault/faulttest"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/role"
)

// kind is a provider type of which nothing but name and parameters are asked.
type kind struct {
	provider.Type
	parameters map[string]string
}

func (kind) Name() string                    { return "test" }
func (k kind) Parameters() map[string]string { return k.parameters }

// able are the traits of a provider that can do everything.
func able() provider.Traits {
	askable, checkable := access.Dimensions{}, access.Dimensions{}
	for _, d := range access.AllDimensions() {
		askable[d], checkable[d] = true, true
	}
	return provider.Traits{Class: provider.ClassToken, Askable: askable, Checkable: checkable, Ceiling: access.Everything()}
}

// plain is the least that a role must say.
func plain() *role.Role {
	return &role.Role{Provider: "test/it", Mode: provider.ModeMint, OnExcess: role.Strip}
}

func compile(r *role.Role, t provider.Traits) (*decision.Policy, error) {
	return r.Compile(kind{}, t, 0)
}

func requireRefused(t *testing.T, err error, words string) {
	t.Helper()
	require.Error(t, err)
	require.Equal(t, fault.InvalidRequest, fault.CodeOf(err))
	require.True(t, faulttest.Says(err.Error(), words), "%q does not say %q", err, words)
}

// TestCeilingBeyondTheParent: a ceiling of which the parent has nothing would be
// asked for as nothing, and nothing means everything to most servers.
func TestCeilingBeyondTheParent(t *testing.T) {
	traits := able()
	traits.Ceiling.Scopes = access.Exactly("read")
	traits.Ceiling.Audiences = access.Exactly("https://a.test")

	r := plain()
	r.Scopes = []string{"write"}
	_, err := compile(r, traits)
	requireRefused(t, err, "scopes: the parent credential can grant none of these")

	r.Scopes = []string{"read", "write"}
	r.Audiences = []string{"https://b.test/**"}
	_, err = compile(r, traits)
	requireRefused(t, err, "audiences: the parent credential")

	r.Audiences = []string{"https://*.test"}
	p, err := compile(r, traits)
	require.NoError(t, err)
	require.True(t, p.Ceiling.Scopes.Equal(access.Exactly("read")))
	require.True(t, p.Ceiling.Audiences.Equal(access.Exactly("https://a.test")))
}

// TestDefaultScopesAreNoPatterns: they would reach the provider as they stand,
// and some servers have wildcards of their own.
func TestDefaultScopesAreNoPatterns(t *testing.T) {
	r := plain()
	r.Scopes = []string{"repo:*"}
	r.DefaultScopes = []string{"repo:*"}
	_, err := compile(r, able())
	requireRefused(t, err, "default_scopes: repo:*: they are asked for as they stand")

	r.DefaultScopes = []string{"repo:read", "admin"}
	_, err = compile(r, able())
	requireRefused(t, err, "default_scopes: admin is not within scopes")

	r.DefaultScopes = []string{"repo:read"}
	p, err := compile(r, able())
	require.NoError(t, err)
	require.True(t, p.Defaults.Equal(access.Exactly("repo:read")))
}
