package acceptance

import (
	"crypto/sha256"
	"encoding/hex"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
)

// An operator changes the client's secret at Hydra while agents go on reading.
func TestClientSecretChangesWithoutDowntime(t *testing.T) {
	t.Parallel()
	s := newScene(t, harness.HydraClient{}, nil)
	s.role(t, "deploy", nil)
	before := read(t, s.Mount, "deploy")
	_, err := s.TryWrite(t, "providers/oauth2/hydra/rotate", nil)
	refused(t, err, 400, "invalid_request", "client_secret_next")

	stop := make(chan struct{})
	var agents sync.WaitGroup
	var issued []child
	agents.Go(func() {
		for {
			secret, err := s.TryRead(t, "creds/deploy")
			if err != nil {
				t.Errorf("an agent was refused: %v", err)
				return
			}
			issued = append(issued, given(t, secret))
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	const next = "the-next-client-secret"
	confidential("next client secret", next)
	// Announced, not yet valid: rotating now must not lock the broker out.
	s.Write(t, "providers/oauth2/hydra", harness.Fields{"client_secret_next": next})
	_, err = s.TryWrite(t, "providers/oauth2/hydra/rotate", nil)
	refused(t, err, 501, "parent_refused", "client_secret stays")
	read(t, s.Mount, "deploy")

	s.hydra.SetSecret(t, s.client.ID, next)
	during := read(t, s.Mount, "deploy")
	health := s.Write(t, "providers/oauth2/hydra/check", nil)
	require.Contains(t, health.Data["detail"], "client_secret_next")
	s.Write(t, "providers/oauth2/hydra/rotate", nil)
	after := read(t, s.Mount, "deploy")
	close(stop)
	agents.Wait()
	require.NotEmpty(t, issued)

	shown := s.Read(t, "providers/oauth2/hydra")
	sum := sha256.Sum256([]byte(next))
	require.Equal(t, hex.EncodeToString(sum[:]), text(shown, "client_secret_sha256"))
	require.NotContains(t, shown.Data, "client_secret_next_sha256")
	require.NotContains(t, shown.Data, "client_secret")
	// Each is killed by the secret of the day.
	for _, c := range append(issued, before, during, after) {
		s.hydra.MustBeActive(t, c.Token)
		require.NoError(t, endLease(t, s.vault.Session, c.LeaseID))
		s.hydra.MustBeInactive(t, c.Token)
	}
}

func TestAMovedProviderNeedsItsSecretAgain(t *testing.T) {
	t.Parallel()
	s := newScene(t, harness.HydraClient{}, nil)
	_, err := s.TryWrite(t, "providers/oauth2/hydra", harness.Fields{"token_url": "https://elsewhere.example.com/token"})
	refused(t, err, 400, "invalid_request", "write client_secret again")
	s.role(t, "deploy", nil)
	c := read(t, s.Mount, "deploy")
	_, err = s.TryWrite(t, "providers/oauth2/hydra", harness.Fields{"client_id": "somebody-else", "client_secret": s.client.Secret})
	refused(t, err, 400, "invalid_request", "could not be killed any more")
	require.NoError(t, endLease(t, s.vault.Session, c.LeaseID))
}
