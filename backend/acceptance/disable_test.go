package acceptance

import (
	"bytes"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
)

// Disabling a mount takes its records along, so what lives must die first.

func TestDisablingTheMountKillsWhatLives(t *testing.T) {
	t.Parallel()
	s := newScene(t, harness.HydraClient{}, nil)
	s.role(t, "deploy", nil)
	var children []child
	for range 5 {
		children = append(children, read(t, s.Mount, "deploy"))
	}
	s.vault.CLI(t, "secrets", "disable", s.Path)
	for _, c := range children {
		s.hydra.MustBeInactive(t, c.Token)
	}
}

// The operator's way out of a provider that is gone for good is in the message:
// wait until the tokens have expired, or bring it back.
func TestMountIsNotDisabledWhileItsProviderIsDead(t *testing.T) {
	t.Parallel()
	s, w := severable(t)
	c := read(t, s.Mount, "deploy")

	w.Cut()
	output, err := s.vault.TryCLI(t, "secrets", "disable", s.Path)
	require.Error(t, err, output)
	require.Contains(t, output, "the mount cannot be disabled or moved")
	require.Contains(t, output, c.GrantID)
	require.Contains(t, output, "oauth2/hydra")
	require.NotContains(t, output, c.Token)
	s.hydra.MustBeActive(t, c.Token)
	require.Contains(t, s.vault.CLI(t, "secrets", "list"), s.Path+"/", "Vault keeps the mount")

	w.Mend()
	s.vault.CLI(t, "secrets", "disable", s.Path)
	s.hydra.MustBeInactive(t, c.Token)
	require.NotContains(t, s.vault.CLI(t, "secrets", "list"), s.Path+"/")
}

// A token without a lease, here one that was refused after the mint, cannot keep
// the mount: Vault gives the plugin one last run and does not ask how it went.
func TestDisablingTheMountKillsAlsoWhatHasNoLease(t *testing.T) {
	t.Parallel()
	s, w := severable(t)
	var minted string
	w.Tamper(func(path string, body []byte) []byte {
		if path == "/oauth2/token" {
			minted = text(decoded(t, body), "access_token")
			w.Cut()
			return bytes.Replace(body, []byte(`"scope":"`), []byte(`"scope":"admin `), 1)
		}
		return body
	})
	_, err := s.TryRead(t, "creds/deploy")
	refused(t, err, 501, "provider_violation", "not dead yet")
	s.hydra.MustBeActive(t, confidential("refused token", minted))
	w.Mend()
	s.vault.CLI(t, "secrets", "disable", s.Path)
	s.hydra.MustBeInactive(t, minted)
}

// A failed disable leaves a mount that serves nobody: Vault says of each of its paths that
// there is no value. Moving it away and back opens it again, with all that is in it: once
// its leases can be ended, or, while the provider is dead, once Vault has forgotten them.
// The broker has not, and kills what they were for when the provider is back.
func TestAFailedDisableIsUndoneByMovingTheMount(t *testing.T) {
	t.Parallel()
	for name, dead := range map[string]bool{"the provider is back": false, "the provider stays dead": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, w := severable(t)
			c := read(t, s.Mount, "deploy")
			w.Cut()
			output, err := s.vault.TryCLI(t, "secrets", "disable", s.Path)
			require.Error(t, err, output)
			require.Contains(t, output, "moving it away and back opens it again")
			// Whatever comes of this, it does not open it.
			_, _ = s.vault.TryCLI(t, "secrets", "tune", "-default-lease-ttl=1h", s.Path)
			for _, path := range []string{"roles/deploy", "providers/oauth2/hydra", "grants/" + c.GrantID} {
				output, err := s.vault.TryCLI(t, "read", s.Path+"/"+path)
				require.Error(t, err)
				require.Contains(t, output, "No value found")
			}
			away := s.Path + "-away"
			if dead {
				output := s.vault.CLI(t, "secrets", "move", s.Path, away) // whatever comes of it
				require.Contains(t, output, "Failure!", "a move ends leases too")
				s.vault.CLI(t, "lease", "revoke", "-force", "-prefix", s.Path+"/")
			} else {
				w.Mend()
			}
			require.Contains(t, s.vault.CLI(t, "secrets", "move", s.Path, away), "Success!")
			require.Contains(t, s.vault.CLI(t, "secrets", "move", away, s.Path), "Success!")

			require.Contains(t, s.vault.CLI(t, "read", s.Path+"/roles/deploy"), "oauth2/hydra", "all that was configured is there")
			if dead {
				s.hydra.MustBeActive(t, c.Token)
				require.Equal(t, "pending", text(s.Read(t, "grants/"+c.GrantID), "state"), "and the kill is not forgotten")
				w.Mend()
				s.sweepAway(t, c)
			}
			s.hydra.MustBeInactive(t, c.Token)
			s.hydra.MustBeActive(t, read(t, s.Mount, "deploy").Token)
		})
	}
}

func TestMountIsNotDisabledWhileHydraIsStopped(t *testing.T) {
	t.Parallel()
	hydra := ownHydra(t)
	s := sceneOn(t, sharedVault(t), hydra, harness.HydraClient{}, nil)
	s.role(t, "deploy", nil)
	c := read(t, s.Mount, "deploy")
	hydra.Stop(t)
	output, err := s.vault.TryCLI(t, "secrets", "disable", s.Path)
	require.Error(t, err, output)
	require.Contains(t, output, c.GrantID)
}

// A mint whose answer is late keeps the mount until its token is dead: on record it
// would have gone with the mount.
func TestDisablingTheMountWaitsForAMintInFlight(t *testing.T) {
	t.Parallel()
	s, w := severable(t)
	worked, release := make(chan string, 1), make(chan struct{})
	answer := sync.OnceFunc(func() { close(release) })
	t.Cleanup(answer)
	w.Tamper(func(path string, body []byte) []byte {
		if path == "/oauth2/token" {
			worked <- text(decoded(t, body), "access_token")
			<-release
		}
		return body
	})
	asked, disabled := make(chan error, 1), make(chan error, 1)
	go func() { _, err := s.TryRead(t, "creds/deploy"); asked <- err }()
	minted := confidential("late token", <-worked)
	go func() { _, err := s.vault.TryCLI(t, "secrets", "disable", s.Path); disabled <- err }()
	harness.Eventually(t, patience, "the mount serves nobody", func() error {
		if role, err := s.TryRead(t, "roles/deploy"); err == nil && role != nil {
			return errors.New("it does")
		}
		return nil
	})
	select {
	case <-disabled:
		t.Error("the mount was given up while a mint was in flight")
	case <-time.After(3 * time.Second):
	}
	s.hydra.MustBeActive(t, minted)
	answer()
	require.Error(t, <-asked)
	require.NoError(t, <-disabled)
	s.hydra.MustBeInactive(t, minted)
	require.NotContains(t, s.vault.CLI(t, "secrets", "list"), s.Path+"/")
}
