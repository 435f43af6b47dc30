package backend

import (
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
)

// keysOf is the definition of a system whose keys are made with what is borrowed.
const keysOf = `{
	"class": "token",
	"access": {"scopes": {"ask": true}},
	"parent": {"headers": {"Authorization": "Bearer {{borrowed}}"}},
	"mint": [{
		"method": "POST", "path": "keys", "json": {"scopes": "{{scopes}}"}, "take": {"key": "/key", "id": "/id"},
		"undo": {"method": "DELETE", "path": "keys/{{taken.id}}"}
	}],
	"child": {"secrets": {"access_token": "{{taken.key}}"}, "expires": "never"},
	"check": {"method": "GET", "path": "keys"}
}`

// newBorrowingHTTP is a mount with the provider http/x, which borrows of oauth2/p, and its
// role r.
func newBorrowingHTTP(t *testing.T) (*mount, *tenantSystem, map[string]any) {
	t.Helper()
	s := newTenantSystem(t)
	m := newEmptyMount(t, setup{})
	s.m = m
	m.must(m.write("providers/oauth2/p", m.providerFields(nil)))
	fields := map[string]any{"base_url": s.URL, "definition": keysOf, "token_provider": "oauth2/p", "token_request": `{"scopes":["read"]}`}
	m.must(m.write("providers/http/x", fields))
	m.must(m.write("roles/r", map[string]any{"provider": "http/x", "scopes": "any", "ttl": "10m", "max_ttl": "1h"}))
	return m, s, fields
}

// A definition's credential may be another provider's child, from its proof to its end.
func TestADefinitionBorrowsItsCredential(t *testing.T) {
	m, s, fields := newBorrowingHTTP(t)
	require.Equal(t, "ok", m.must(m.read("providers/http/x")).Data["health"], "the write has proven it")
	first, second := m.mustCreds(nil), m.mustCreds(nil)
	require.Equal(t, "providers/http/x", m.must(m.read("grants/" + m.own()[0])).Data["borrower"])
	lent := s.last()
	m.server.Kill(lent)
	m.mustCreds(nil) // by a fresh one
	require.NoError(t, m.revoke(first))
	require.NoError(t, m.revoke(second))
	require.Equal(t, 1, s.alive())
	require.NotEqual(t, lent, s.last())

	m.clock.advance(2 * time.Minute)
	s.change(func() { s.deaf = true })
	for range 3 {
		_, err := m.creds(nil)
		requireCode(t, err, fault.ParentRefused)
	}
	s.change(func() { s.deaf = false })
	m.clock.advance(2 * time.Minute)
	m.must(m.write("providers/http/x/check", nil))

	s.change(func() { s.echo = true })
	_, err := m.creds(nil)
	requireCode(t, err, fault.ProviderViolation)
	require.Equal(t, 1, s.alive())
	s.change(func() { s.echo = false })

	// Where it goes, and how, changes by who brings it alone.
	without := maps.Clone(fields)
	delete(without, "token_provider")
	without["definition"] = `{"about": "the same",` + keysOf[1:]
	_, err = m.write("providers/http/x", without)
	requireCode(t, err, fault.InvalidRequest, "token_provider")
	require.EqualValues(t, 1, m.must(m.delete("providers/http/x", map[string]any{"force": true})).Data["revoked"])
	m.waitForKills()
	require.Empty(t, m.server.Live())
	require.Empty(t, m.allGrants())
}

// What a login by a borrowed token has given goes with that token.
func TestALoginByABorrowedToken(t *testing.T) {
	m, s, fields := newBorrowingHTTP(t)
	fields["definition"] = strings.Replace(keysOf, `{"headers": {"Authorization": "Bearer {{borrowed}}"}}`, `{
		"login": {"method": "POST", "path": "login", "headers": {"Authorization": "Bearer {{borrowed}}"}, "take": {"session": "/session"}, "lasts": "5h"},
		"headers": {"Authorization": "Bearer {{login.session}}"}
	}`, 1)
	m.must(m.write("providers/http/x", fields))
	m.mustCreds(nil)
	m.mustCreds(nil)
	session := s.last()
	require.Contains(t, session, "session-")

	m.must(m.write("revoke/provider/oauth2/p", map[string]any{"freeze": true}))
	_, err := m.creds(nil)
	requireCode(t, err, fault.AccessDenied, "frozen")
	m.must(m.write("revoke/provider/oauth2/p", map[string]any{"freeze": false}))
	m.mustCreds(nil)
	require.NotEqual(t, session, s.last())
}
