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
	require.NoError(t, os.WriteFile(file, []byte(`2026-11-25T00:12:05.623Z [INFO]  secrets.broker: grant killed: cause=lease_ended event=grant_killed grant_id=none.1 provider=oauth2/careful timestamp=2026-11-25T00:12:05.622Z
2026-11-25T00:12:06.000Z [INFO]  secrets.broker: in other words: event=grant_killed grant_id=none.2 cause="revoke/role"
2026-11-25T00:12:06.100Z [INFO]  secrets.broker: of another kind: event=grant_made grant_id=none.3 cause=none
2026-11-25T00:12:07.950Z [WARN]  secrets.broker: in other words: if a token was minted, it lives: event=answer_lost role=reader provider=oauth2/trusting error="a \"x\" event=grant_killed provider=oauth2/other" timestamp=2026-11-25T00:12:07.249Z
2026-11-25T00:12:07.960Z [WARN]  secrets.broker: without its time: event=answer_lost role=reader provider=oauth2/trusting
2026-11-25T00:12:07.970Z [WARN]  secrets.broker: without its provider: event=answer_lost role=reader timestamp=2026-11-25T00:12:07.249Z
2026-11-25T00:12:07.980Z [INFO]  secrets.broker: without its cause: event=grant_killed grant_id=none.3
2026-11-25T00:12:08.000Z [ERROR] secrets.broker: panic: runtime error
`), 0o600))
	l, err := readLogs([]string{file})
	require.NoError(t, err)
	require.Equal(t, map[string]int{"lease_ended": 1, "revoke/role": 1}, l.killedBy)
	require.Equal(t, "killed at 2026-11-25T00:12:05.622Z by lease_ended", l.deaths["none.1"])
	require.Equal(t, []lostAnswer{{at: time.Date(2026, 11, 25, 0, 12, 7, 249e6, time.UTC), provider: "oauth2/trusting", role: "reader"}}, l.lost)
	require.Len(t, l.bad, 4)
}
