package acceptance

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
)

// Whatever ends the plugin or Vault, what the broker has promised stays true.

// promise is something that must hold across a disaster. It is made before, and
// what it returns looks afterwards whether it was kept.
type promise struct {
	what string
	make func(t *testing.T, s *stage) (kept func(t *testing.T))
}

var promises = []promise{
	{"a token that was handed out dies with its lease", leaseStillKills},
	{"a lease that ends meanwhile ends its token as well", lateLeaseKills},
	{"a failed revocation is remembered and repeated", outboxStays},
	{"a subject token that was used up stays used up", replayStaysRefused},
	{"the next read follows the parent's last successor", parentFollowed},
	{"what is frozen stays frozen", freezeStays},
	{"who holds what is still known, and renewals go on", leaseRenewable},
	{"the broker's own keys are the same", ownKeysStay},
}

// The servers that a disaster starts live as long as the test that it is given.
var (
	pluginKilled = disaster{"the plugin is killed", func(t *testing.T, v *harness.Vault) { v.KillPlugin(t) }}
	vaultSealed  = disaster{"Vault is sealed and unsealed", func(t *testing.T, v *harness.Vault) { v.Seal(t); v.Unseal(t) }}
	vaultStopped = disaster{"Vault is stopped and started", func(t *testing.T, v *harness.Vault) { v.Restart(t) }}
	vaultKilled  = disaster{"Vault is killed and started", func(t *testing.T, v *harness.Vault) { v.Kill(t); v.Restart(t) }}
)

type disaster struct {
	name   string
	strike func(*testing.T, *harness.Vault)
}

func TestPromisesOutliveDisastersOnFiles(t *testing.T) {
	t.Parallel()
	outlive(t, harness.File, pluginKilled, vaultSealed, vaultStopped, vaultKilled)
}

func TestPromisesOutliveDisastersOnRaft(t *testing.T) {
	t.Parallel()
	outlive(t, harness.Raft, vaultStopped, vaultKilled)
}

func outlive(t *testing.T, storage harness.Storage, disasters ...disaster) {
	t.Helper()
	needsServers(t)
	vault, hydra := harness.StartVault(t, harness.VaultOptions{Storage: storage}), sharedHydra(t)
	for _, d := range disasters {
		t.Run(d.name, func(sub *testing.T) {
			s := newStage(sub, vault, hydra)
			kept := make([]func(*testing.T), len(promises))
			for i, p := range promises {
				kept[i] = p.make(sub, s)
			}
			d.strike(t, vault)
			for i, p := range promises {
				sub.Run(p.what, kept[i])
			}
		})
	}
}

// stage is a mount with all that the promises need.
type stage struct {
	*scene
	wire   *wire
	family *scene
	ci     *signer
}

func newStage(t *testing.T, vault *harness.Vault, hydra *harness.Hydra) *stage {
	t.Helper()
	s := &stage{wire: newWire(t, hydra.URL), ci: newSigner(t, "https://ci.example.com")}
	s.scene = sceneOn(t, vault, hydra, harness.HydraClient{}, nil)
	s.role(t, "deploy", nil)
	s.ci.trust(t, s.Mount, "ci")
	s.role(t, "once", harness.Fields{"subject_issuers": "ci", "subject_single_use": true})

	s.Write(t, "providers/oauth2/shaky", s.provider(s.wire.through()))
	s.role(t, "shaky", harness.Fields{"provider": "oauth2/shaky"})
	s.family, _ = newFamily(t, vault, hydra, nil)
	return s
}

func leaseStillKills(t *testing.T, s *stage) func(*testing.T) {
	c := read(t, s.Mount, "deploy")
	s.hydra.MustBeActive(t, c.Token)
	return func(t *testing.T) {
		s.hydra.MustBeActive(t, c.Token)
		// Vault may not have seen yet that the plugin is dead; it repeats this, too.
		harness.Eventually(t, patience, "the lease has ended", func() error { return endLease(t, s.vault.Session, c.LeaseID) })
		s.hydra.MustBeInactive(t, c.Token)
		require.Nil(t, s.Read(t, "grants/"+c.GrantID))
	}
}

func outboxStays(t *testing.T, s *stage) func(*testing.T) {
	c := read(t, s.Mount, "shaky")
	s.wire.Cut()
	require.ErrorContains(t, endLease(t, s.vault.Session, c.LeaseID), "not dead yet")
	return func(t *testing.T) {
		pending := s.Read(t, "grants/"+c.GrantID)
		require.Equal(t, true, pending.Data["pending"])
		s.hydra.MustBeActive(t, c.Token)
		s.wire.Mend()
		s.sweepAway(t, c)
		s.hydra.MustBeInactive(t, c.Token)
		require.NoError(t, endLease(t, s.vault.Session, c.LeaseID))
	}
}

func replayStaysRefused(t *testing.T, s *stage) func(*testing.T) {
	used, fresh := s.ci.token(t, nil), s.ci.token(t, nil)
	issue(t, s.Mount, "once", harness.Fields{"subject_token": used})
	return func(t *testing.T) {
		_, err := s.TryWrite(t, "creds/once", harness.Fields{"subject_token": used})
		refused(t, err, 400, "invalid_grant", "used already")
		issue(t, s.Mount, "once", harness.Fields{"subject_token": fresh})
	}
}

func parentFollowed(t *testing.T, s *stage) func(*testing.T) {
	for range 2 {
		read(t, s.family.Mount, "deploy")
	}
	stored := text(s.family.Read(t, "providers/oauth2/hydra"), "refresh_token_sha256")
	return func(t *testing.T) {
		require.Equal(t, stored, text(s.family.Read(t, "providers/oauth2/hydra"), "refresh_token_sha256"))
		s.hydra.MustBeActive(t, read(t, s.family.Mount, "deploy").Token)
	}
}

func freezeStays(t *testing.T, s *stage) func(*testing.T) {
	s.role(t, "iced", nil)
	s.Write(t, "revoke/role/iced", harness.Fields{"freeze": true})
	return func(t *testing.T) {
		_, err := s.TryRead(t, "creds/iced")
		refused(t, err, 403, "access_denied", "frozen")
		require.Equal(t, []string{"role/iced"}, s.List(t, "frozen"))
	}
}

func leaseRenewable(t *testing.T, s *stage) func(*testing.T) {
	s.role(t, "long", harness.Fields{"ttl": "5m", "max_ttl": "30m"})
	c := read(t, s.Mount, "long")
	return func(t *testing.T) {
		require.Contains(t, s.List(t, "grants/entity/none"), c.GrantID)
		renewed, err := s.vault.Client(t).Sys().Renew(c.LeaseID, 1200)
		require.NoError(t, err)
		require.InDelta(t, 1200, renewed.LeaseDuration, 2)
	}
}

func lateLeaseKills(t *testing.T, s *stage) func(*testing.T) {
	c := read(t, s.Mount, "deploy", "ttl=3s")
	return func(t *testing.T) {
		inactiveWithin(t, s.hydra, c.Token, sweepPatience)
		harness.Eventually(t, patience, "the grant is forgotten", s.noGrant(t, c.GrantID))
	}
}

// Hydra itself goes away and comes back: the same story as in outbox_test.go, with
// nothing of ours in between.
func TestRevocationWaitsForHydraToComeBack(t *testing.T) {
	t.Parallel()
	hydra := ownHydra(t)
	s := sceneOn(t, sharedVault(t), hydra, harness.HydraClient{}, nil)
	s.role(t, "deploy", nil)
	c := read(t, s.Mount, "deploy")

	hydra.Stop(t)
	require.ErrorContains(t, endLease(t, s.vault.Session, c.LeaseID), "not dead yet")
	_, err := s.TryRead(t, "creds/deploy")
	refused(t, err, 503, "temporarily_unavailable", "could not be reached")
	_, err = s.TryWrite(t, "providers/oauth2/hydra/check", nil)
	refused(t, err, 503, "temporarily_unavailable")

	hydra.Restart(t)
	hydra.MustBeActive(t, c.Token)
	s.sweepAway(t, c)
	require.Equal(t, 1.0, s.killed(t, "lease_ended"))
	hydra.MustBeInactive(t, c.Token)
}
