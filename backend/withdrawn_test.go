package backend

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
)

// withdrawals are the changes after which the broker takes for its own no more what it has
// signed before, and the cause that grants of it then show.
var withdrawals = map[string]struct {
	cause  string
	path   string
	fields map[string]any
}{
	"an emergency":   {"keys_withdrawn", "issuer/rotate", map[string]any{"emergency": true}},
	"another issuer": {"issuer_changed", "config", map[string]any{"issuer": ownURL + "/2"}},
	"no issuer":      {"issuer_changed", "config", map[string]any{"issuer": ""}},
}

// TestWhatIsWithdrawnIsKilled: the grants of tokens whose key an emergency took back, or
// that bear another issuer. Before, a lease on one lived on, and its grant showed no cause.
func TestWhatIsWithdrawnIsKilled(t *testing.T) {
	for name, c := range withdrawals {
		t.Run(name, func(t *testing.T) {
			m := newJWTMount(t, nil)
			m.must(m.write("providers/jwt/asked", map[string]any{"revocation": "token"}))
			m.must(m.write("roles/asked", map[string]any{"provider": "jwt/asked", "audiences": jwtAPI, "scopes": "read", "ttl": "10m"}))
			signed, asked, others := m.signedTo(alice, "j", nil), m.signedTo(bob, "asked", nil), m.mustCreds(nil)
			old := m.signedTo(bob, "j", nil)
			_, err := m.b.ledger.Update(t.Context(), old.grantID, func(g *grant.Grant) error {
				g.Issuer, g.KeyID = "", "" // as a build of before recorded it
				return nil
			})
			require.NoError(t, err)
			m.clock.advance(time.Minute)

			resp := m.must(m.write(c.path, c.fields))
			m.waitForKills()
			if c.path == "issuer/rotate" {
				require.EqualValues(t, 1, resp.Data["revoked"], "of a type that asks")
				require.EqualValues(t, 2, resp.Data["expiry_only"])
				require.EqualValues(t, 540, resp.Data["residual_exposure_seconds"])
			} else {
				require.Contains(t, strings.Join(resp.Warnings, "\n"), "issuer_changed")
			}
			killed := []*lease{signed}
			if name != "no issuer" && name != "another issuer" {
				killed = append(killed, old) // for which nothing but the key tells
			}
			for _, l := range killed {
				g := m.must(m.read("grants/" + l.grantID)).Data
				require.Equal(t, c.cause, g["cause"])
				_, err := m.renew(l, time.Minute)
				requireCode(t, err, fault.AccessDenied, "read creds again")
				m.requireInactive(l.token)
			}
			dead, err := m.read("grants/" + asked.grantID)
			require.NoError(t, err)
			require.Nil(t, dead)
			_, err = m.renew(asked, time.Minute)
			requireCode(t, err, fault.AccessDenied, "read creds again")
			require.NotContains(t, m.must(m.read("grants/"+others.grantID)).Data, "cause", "another provider's token is not meant")
			_, err = m.renew(others, time.Minute)
			require.NoError(t, err)
			require.Contains(t, m.log.String(), "cause="+c.cause)
			require.Contains(t, m.metrics(), `cause="`+c.cause+`"`)
			if name == "no issuer" {
				return
			}
			m.requireActive(m.signedTo(alice, "j", nil).token)
		})
	}
}

// TestAnOrdinaryRotationKillsNothing, nor does a first issuer, or a setting beside it.
func TestAnOrdinaryRotationKillsNothing(t *testing.T) {
	m := newJWTMount(t, nil)
	l := m.signedTo(alice, "j", nil)
	resp := m.must(m.write("issuer/rotate", nil))
	require.NotContains(t, resp.Data, "revoked")
	m.must(m.write("config", map[string]any{"issuer": ownURL, "max_token_ttl": "3h"}))
	_, err := m.write("config", map[string]any{"issuer": "nonsense"})
	requireCode(t, err, fault.InvalidRequest)
	m.waitForKills()
	require.Empty(t, m.allKeysBelow("kill/"))
	m.requireActive(l.token)
	require.NotContains(t, m.must(m.read("grants/"+l.grantID)).Data, "cause")
}

// TestAWithdrawalSurvivesACrash, whichever of its writes is the last one.
func TestAWithdrawalSurvivesACrash(t *testing.T) {
	for name, c := range withdrawals {
		// What the keys' and the configuration's writes fail with, and the records'.
		for _, fails := range []string{"signing-keys", "config", grant.StoragePrefix} {
			t.Run(name+", "+fails, func(t *testing.T) {
				m := newJWTMount(t, nil)
				l := m.signedTo(alice, "j", nil)
				m.clock.advance(time.Minute)
				m.storage.on(func(op, key string) error {
					if op == "put" && strings.HasPrefix(key, fails) {
						return errStorage
					}
					return nil
				})
				_, _ = m.write(c.path, c.fields)
				m.waitForKills()
				m.start() // all that was in memory only is gone
				m.heal()
				m.sweep()
				m.waitForKills()
				require.Empty(t, m.allKeysBelow("kill/"))
				g, err := m.b.ledger.Get(context.Background(), l.grantID)
				require.NoError(t, err)
				withdrawn, err := m.b.withdrawn(t.Context(), g)
				require.NoError(t, err)
				require.Equal(t, withdrawn, g.Doom != nil, "just what was withdrawn is killed")
				if fails == grant.StoragePrefix {
					require.True(t, withdrawn, "the change was written")
				}
			})
		}
	}
}
