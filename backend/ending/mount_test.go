package ending

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/downstream"
)

func TestAMintEndsBeforeTheWaitForIt(t *testing.T) {
	require.Less(t, downstream.MintBudget+downstream.SettleBudget, downstream.DrainBudget)
	require.Less(t, downstream.DrainBudget, leaveBudget)
	require.Less(t, leaveBudget, 90*time.Second, "Vault's own bound on the last run")
}
