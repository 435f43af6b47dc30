package backend

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

// newRefreshMount is a mount whose parent is a refresh token that the server
// replaces at each use, and whose children can be killed.
func newRefreshMount(t testing.TB) *mount {
	t.Helper()
	m := newEmptyMount(t, setup{server: authserver.Options{RotateRefresh: true}})
	m.must(m.write("providers/oauth2/p", m.providerFields(map[string]any{
		"grant": "refresh_token", "refresh_token": m.server.IssueRefreshToken(parentClient), "revocation": "token",
	})))
	m.must(m.write("roles/r", map[string]any{"provider": "oauth2/p", "scopes": "read"}))
	return m
}

// TestARotatedParentSurvives: the server has forgotten the old refresh token when
// its answer arrives, so the new one must not get lost, whatever fails here.
func TestARotatedParentSurvives(t *testing.T) {
	for _, op := range []string{"get", "put", "delete"} {
		for n := int64(1); n <= 8; n++ {
			t.Run(fmt.Sprintf("%s %d", op, n), func(t *testing.T) {
				m := newRefreshMount(t)
				m.mustCreds(nil)
				var seen atomic.Int64
				m.storage.on(func(kind, _ string) error {
					if kind == op && seen.Add(1) >= n {
						return errStorage
					}
					return nil
				})
				for range 2 {
					if _, err := m.creds(nil); err != nil {
						requireCode(t, err, fault.TemporarilyUnavailable)
					}
				}
				m.heal()
				for range 3 {
					m.mustCreds(nil)
				}
				m.start()
				m.mustCreds(nil)
			})
		}
	}
}

func TestARotatedParentSurvivesABrokenAnswer(t *testing.T) {
	for name, c := range map[string]struct {
		fault authserver.Fault
		code  fault.Code
	}{
		"cut at the end":       {authserver.Cut(-1), fault.TemporarilyUnavailable},
		"granted more":         {authserver.Set("scope", "read write admin"), fault.ProviderViolation},
		"no end that is one":   {authserver.Set("expires_in", "soon"), fault.ProviderViolation},
		"no token type":        {authserver.Drop("token_type"), fault.ProviderViolation},
		"an endless body":      {authserver.EndlessAfterToken(), fault.ProviderViolation},
		"the caller hangs up":  {nil, fault.TemporarilyUnavailable},
		"a token in an object": {verbatim("application/json", `{"access_token":TOKEN}`), fault.ProviderViolation},
	} {
		t.Run(name, func(t *testing.T) {
			m := newRefreshMount(t)
			var err error
			if c.fault == nil {
				_, err = m.hangUpDuring(call{op: "update", path: "creds/r"})
			} else {
				m.server.Break(authserver.EndpointToken, c.fault)
				_, err = m.creds(nil)
				m.server.Break(authserver.EndpointToken, nil)
			}
			requireCode(t, err, c.code)
			if name == "a token in an object" { // and no new refresh token: the server's mistake ends the parent
				_, err = m.creds(nil)
				requireCode(t, err, fault.ParentRefused)
				return
			}
			m.start()
			m.mustCreds(nil)
		})
	}
}
