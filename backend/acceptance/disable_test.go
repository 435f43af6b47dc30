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
