package backend

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/keyring"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

// moment is something that writes to storage: prepare runs while storage works,
// act while it fails.
type moment struct {
	setup   setup
	prepare func(m *mount) []*lease
	act     func(m *mount, leases []*lease) error
}

func issueThree(m *mount) []*lease {
	m.t.Helper()
	return []*lease{m.mustCreds(nil), m.mustCreds(nil), m.mustCreds(nil)}
}

// doomThree leaves three grants in the outbox, due at once.
func doomThree(m *mount) []*lease {
	m.t.Helper()
	leases := issueThree(m)
	m.server.Break(authserver.EndpointRevoke, authserver.Answer(500, "text/plain", ""))
	for _, l := range leases {
		require.Error(m.t, m.revoke(l))
	}
	m.clock.advance(time.Minute)
	m.server.Break(authserver.EndpointRevoke, nil)
	return leases
}

// issuing is a mount that signs.
func issuing(m *mount) []*lease {
	m.t.Helper()
	m.must(m.write("config", map[string]any{"issuer": ownURL}))
	return nil
}

func nothing(*mount) []*lease { return nil }

func writing(path string, data map[string]any) func(m *mount, _ []*lease) error {
	return func(m *mount, _ []*lease) error {
		_, err := m.write(path, data)
		return err
	}
}

var moments = map[string]moment{
	"issue": {prepare: nothing, act: func(m *mount, _ []*lease) error { _, err := m.creds(nil); return err }},
	"issue by a holder with limits": {
		setup: setup{role: map[string]any{"max_grants_per_entity": 5, "max_issue_rate": 5}}, prepare: nothing,
		act: func(m *mount, _ []*lease) error { _, err := m.credsBy(call{entity: alice}); return err },
	},
	"issue and refuse": {
		prepare: func(m *mount) []*lease {
			m.server.Break(authserver.EndpointToken, authserver.Set("scope", "admin"))
			return nil
		},
		act: func(m *mount, _ []*lease) error { _, err := m.creds(nil); return err },
	},
	"issue after a restart": {
		prepare: func(m *mount) []*lease { m.mustCreds(nil); m.start(); return nil },
		act:     func(m *mount, _ []*lease) error { _, err := m.creds(nil); return err },
	},
	"renew": {prepare: issueThree, act: func(m *mount, l []*lease) error {
		m.clock.advance(time.Minute)
		_, err := m.renew(l[0], time.Hour)
		return err
	}},
	"revoke": {prepare: issueThree, act: func(m *mount, l []*lease) error { return m.revoke(l[0]) }},
	"revoke one": {prepare: issueThree, act: func(m *mount, l []*lease) error {
		_, err := m.write("revoke/grant/"+l[0].grantID, nil)
		return err
	}},
	"revoke a role":     {prepare: issueThree, act: writing("revoke/role/r", nil)},
	"revoke and freeze": {prepare: issueThree, act: writing("revoke/provider/oauth2/p", map[string]any{"freeze": true})},
	"sweep":             {prepare: doomThree, act: writing("sweep", nil)},
	"periodic": {
		prepare: func(m *mount) []*lease { l := issueThree(m); m.clock.advance(62 * time.Minute); return l },
		act:     func(m *mount, _ []*lease) error { return m.periodic() },
	},
	"force": {prepare: issueThree, act: func(m *mount, _ []*lease) error {
		_, err := m.delete("providers/oauth2/p", map[string]any{"force": true})
		return err
	}},
	"check":            {prepare: nothing, act: writing("providers/oauth2/p/check", nil)},
	"write a provider": {prepare: issueThree, act: writing("providers/oauth2/p", map[string]any{"timeout": 2})},
	"write a role":     {prepare: issueThree, act: writing("roles/r", map[string]any{"ttl": "5m"})},
	"become an issuer": {prepare: nothing, act: writing("config", map[string]any{"issuer": ownURL})},
	"rotate the keys":  {prepare: issuing, act: writing("issuer/rotate", nil)},
	"keys in need":     {prepare: issuing, act: writing("issuer/rotate", map[string]any{"emergency": true})},
	"sign and verify": {prepare: issuing, act: func(m *mount, _ []*lease) error {
		m.start()
		token, err := m.b.signToken(context.Background(), keyring.Child, m.claims(time.Hour))
		if err == nil {
			_, err = m.b.verifyOwn(context.Background(), token)
		}
		_, err = m.b.asLogical(&logical.Request{}, err)
		return err
	}},
	"list":           {prepare: issueThree, act: func(m *mount, _ []*lease) error { m.start(); _, err := m.list("grants", nil); return err }},
	"read a grant":   {prepare: issueThree, act: func(m *mount, l []*lease) error { _, err := m.read("grants/" + l[0].grantID); return err }},
	"the whole life": {prepare: nothing, act: wholeLife},
	"tainted, periodic": {
		prepare: func(m *mount) []*lease {
			l := issueThree(m)
			m.vault.change(func(v *vaultView) { v.tainted = true })
			return l
		},
		act: func(m *mount, _ []*lease) error {
			_ = m.periodic() // Vault ignores what it answers
			m.vault.change(func(v *vaultView) { v.tainted = false })
			return nil
		},
	},
}

// wholeLife goes on after each error, as Vault does.
func wholeLife(m *mount, _ []*lease) error {
	m.t.Helper()
	l, err := m.creds(nil)
	if err != nil {
		return err
	}
	m.clock.advance(time.Minute)
	_, renewed := m.renew(l, time.Hour)
	_, swept := m.write("sweep", nil)
	first := m.revoke(l)
	second := m.revoke(l)
	for _, err := range []error{renewed, swept, first, second} {
		if err != nil {
			return err
		}
	}
	return nil
}

// TestStorageFailsAtAnyMoment lets the nth operation fail, for every n that there
// is, and lets writing fail for good from there on; newMount holds the books
// against each other afterwards.
func TestStorageFailsAtAnyMoment(t *testing.T) {
	for name, c := range moments {
		for _, revoke := range []string{"revocation works", "revocation answers HTML"} {
			for _, kinds := range [][]string{{"put"}, {"delete"}, {"get"}, {"list"}, {"put", "delete"}} {
				t.Run(fmt.Sprintf("%s/%s/%v", name, revoke, kinds), func(t *testing.T) {
					t.Parallel()
					for n := range int64(40) {
						last := n + 1 // once
						if len(kinds) > 1 {
							last = 1 << 60 // and ever after
						}
						if !c.failAt(t, revoke, n+1, last, kinds) {
							return // there are only n of them
						}
					}
				})
			}
		}
	}
}

// failAt runs the moment with the operations from the first to the last of the
// kinds failing; false if it never came so far.
func (c moment) failAt(t *testing.T, revoke string, first, last int64, kinds []string) (failed bool) {
	t.Helper()
	t.Run(fmt.Sprintf("%d to %d", first, last), func(t *testing.T) {
		m := newMount(t, c.setup)
		leases := c.prepare(m)
		m.server.Break(authserver.EndpointRevoke, revocations[revoke])
		var seen atomic.Int64
		m.storage.on(func(op, _ string) error {
			if n := seen.Add(1); !slices.Contains(kinds, op) {
				seen.Add(-1)
			} else if n >= first && n <= last {
				return errStorage
			}
			return nil
		})
		var err error
		within(t, func() { err = c.act(m, leases) })
		failed = seen.Load() >= first
		if err != nil {
			requireServerSide(t, err)
		}
	})
	return failed
}

// requireServerSide: a failing storage is never the caller's mistake.
func requireServerSide(t testing.TB, err error) {
	t.Helper()
	coded, ok := err.(interface{ Code() int })
	require.True(t, ok, "without a code: %v", err)
	require.GreaterOrEqual(t, coded.Code(), 500, err.Error())
}
