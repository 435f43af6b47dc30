package chaos

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestReadLogs(t *testing.T) {
	file := filepath.Join(t.TempDir(), "vault.log")
	require.NoError(t, os.WriteFile(file, []byte(`2026-11-25T00:12:05.623Z [INFO]  secrets.broker: grant killed: cause=lease_ended grant_id=none.1 provider=oauth2/careful
2026-11-25T00:12:06.000Z [INFO]  secrets.broker: grant killed: grant_id=none.2 cause="revoke/role"
2026-11-25T00:12:07.250Z [WARN]  secrets.broker: a mint's answer was lost: if a token was minted, it lives: role=reader provider=oauth2/trusting error="x" timestamp=2026-11-25T00:12:07.249Z
unreadable a mint's answer was lost
2026-11-25T00:12:08.000Z [ERROR] secrets.broker: panic: runtime error
`), 0o600))
	l, err := readLogs([]string{file})
	require.NoError(t, err)
	require.Equal(t, map[string]int{"lease_ended": 1, "revoke/role": 1}, l.killedBy)
	require.Equal(t, []lostAnswer{{at: time.Date(2026, 11, 25, 0, 12, 7, 250e6, time.UTC), provider: "oauth2/trusting"}}, l.lost)
	require.Len(t, l.bad, 2)
}
