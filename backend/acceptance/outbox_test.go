package acceptance

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
)

// A revocation that fails is reported as failed, remembered and repeated.

// severable is a scene whose wire to Hydra can be cut.
func severable(t *testing.T) (*scene, *wire) {
	t.Helper()
	w := newWire(t, sharedHydra(t).URL)
	s := newScene(t, harness.HydraClient{}, with(w.through(), harness.Fields{"timeout": slowTimeout}))
	s.role(t, "deploy", nil)
	return s, w
}

func TestFailedRevocationIsReportedAndSweptLater(t *testing.T) {
	t.Parallel()
	s, w := severable(t)
	c := read(t, s.Mount, "deploy")
	other := read(t, s.Mount, "deploy")

	w.Cut()
	err := endLease(t, s.vault.Session, c.LeaseID)
	require.ErrorContains(t, err, "temporarily_unavailable: ")
	require.ErrorContains(t, err, c.GrantID)
	require.ErrorContains(t, err, "not dead yet")
	require.NotContains(t, err.Error(), c.Token)
	s.hydra.MustBeActive(t, c.Token) // the report is the truth

	pending := s.Read(t, "grants/"+c.GrantID)
	require.Equal(t, true, pending.Data["pending"])
	require.Equal(t, "lease_ended", text(pending, "cause"))
	require.GreaterOrEqual(t, number(t, pending, "attempts"), 1.0)
	require.NotEmpty(t, text(pending, "next_attempt"))
	require.NotEmpty(t, text(pending, "last_error"))
	require.Equal(t, true, keyInfo(t, s.Mount, "grants", c.GrantID)["pending"])
	require.Equal(t, false, keyInfo(t, s.Mount, "grants", other.GrantID)["pending"])
	_, err = s.vault.Client(t).Sys().Renew(c.LeaseID, 60)
	require.Error(t, err, "what is being killed is not renewed")

	s.Write(t, "sweep", nil)
	require.Zero(t, s.killed(t, "lease_ended"))
	require.Equal(t, true, s.Read(t, "grants/"+c.GrantID).Data["pending"])

	w.Mend()
	s.sweepAway(t, c)
	require.Equal(t, 1.0, s.killed(t, "lease_ended"))
	s.hydra.MustBeInactive(t, c.Token)
	require.Nil(t, s.Read(t, "grants/"+c.GrantID))
	require.NoError(t, endLease(t, s.vault.Session, c.LeaseID), "the lease finds its token dead")
	s.hydra.MustBeActive(t, other.Token)
}

func TestVaultsOwnRetryFindsTheTokenDead(t *testing.T) {
	t.Parallel()
	s, w := severable(t)
	// Cut as soon as the token is minted: its lease must not end before.
	w.Tamper(func(path string, body []byte) []byte {
		if path == "/oauth2/token" {
			w.Cut()
		}
		return body
	})
	c := read(t, s.Mount, "deploy", "ttl=2s")
	harness.Eventually(t, patience, "the lease's end has failed", func() error {
		if grant := s.Read(t, "grants/"+c.GrantID); grant.Data["pending"] != true {
			return fmt.Errorf("not pending: %v", grant.Data)
		}
		return nil
	})
	s.hydra.MustBeActive(t, c.Token)
	w.Mend()
	s.sweepAway(t, c)
	s.hydra.MustBeInactive(t, c.Token)
	// Vault waits 10 to 30 seconds before its second attempt.
	harness.Eventually(t, sweepPatience, "Vault's retry succeeds", func() error {
		if leaseLives(t, s.vault, c.LeaseID) {
			return fmt.Errorf("the lease is still there")
		}
		return nil
	})
}

func TestSweepRunsEveryMinuteByItself(t *testing.T) {
	t.Parallel()
	s, w := severable(t)
	c := read(t, s.Mount, "deploy")
	w.Cut()
	// A revocation that was asked for by hand is not retried by Vault.
	require.Error(t, endLease(t, s.vault.Session, c.LeaseID))
	w.Mend()
	inactiveWithin(t, s.hydra, c.Token, sweepPatience)
	harness.Eventually(t, patience, "the grant is forgotten", s.noGrant(t, c.GrantID))
	require.True(t, leaseLives(t, s.vault, c.LeaseID), "it was the sweep, not Vault")
}

func TestProviderWithLiveGrantsIsNotDeletedUnlessForced(t *testing.T) {
	t.Parallel()
	s, w := severable(t)
	c := read(t, s.Mount, "deploy")
	_, err := s.vault.Client(t).Logical().Delete(s.At("providers/oauth2/hydra"))
	refused(t, err, 400, "invalid_request", "force=true")

	w.Cut()
	killed, err := s.vault.Client(t).Logical().DeleteWithData(s.At("providers/oauth2/hydra"), map[string][]string{"force": {"true"}})
	require.NoError(t, err)
	require.Equal(t, "1", fmt.Sprint(killed.Data["pending"]))
	require.NotEmpty(t, killed.Warnings)
	require.Equal(t, "deleting", keyInfo(t, s.Mount, "providers", "oauth2/hydra")["health"])
	_, err = s.TryRead(t, "creds/deploy")
	refused(t, err, 403, "access_denied", "disabled")

	w.Mend()
	s.sweepAway(t, c)
	s.hydra.MustBeInactive(t, c.Token)
	harness.Eventually(t, patience, "the provider is gone", func() error {
		s.Write(t, "sweep", nil)
		if s.Read(t, "providers/oauth2/hydra") != nil {
			return fmt.Errorf("it is still there")
		}
		return nil
	})
}

// Hydra answers 200 also where its database has failed the revocation, and to one
// client that revokes another's token. Where that is not good enough, the operator
// lets the broker ask.
func TestRevocationIsConfirmedWhereTheOperatorAsksForIt(t *testing.T) {
	t.Parallel()
	s, w := severable(t)
	w.Lie("/oauth2/revoke")
	believed := read(t, s.Mount, "deploy")
	require.NoError(t, endLease(t, s.vault.Session, believed.LeaseID))
	s.hydra.MustBeActive(t, believed.Token) // by default a 200 is believed

	fields := s.provider(w.through())
	fields["introspection_url"] = s.hydra.AdminURL + "/admin/oauth2/introspect"
	fields["confirm_revocation"] = true
	s.Write(t, "providers/oauth2/careful", fields)
	s.role(t, "careful", harness.Fields{"provider": "oauth2/careful"})
	c := read(t, s.Mount, "careful")
	err := endLease(t, s.vault.Session, c.LeaseID)
	require.ErrorContains(t, err, "still active")
	require.ErrorContains(t, err, c.GrantID)
	require.Equal(t, true, s.Read(t, "grants/"+c.GrantID).Data["pending"])

	w.Lie("")
	s.sweepAway(t, c)
	s.hydra.MustBeInactive(t, c.Token)
	require.NoError(t, endLease(t, s.vault.Session, c.LeaseID))
}
