package harness

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
)

// What the tests of the type rely on, shown without the broker.
func TestGitea(t *testing.T) {
	slow(t)
	g := StartGitea(t)
	bot := g.CreateUser(t, "bot")
	g.CreateRepository(t, bot, "tools")
	require.Empty(t, g.Tokens(t, bot))

	status, token := g.CreateToken(t, bot, "one", "read:repository")
	require.Equal(t, http.StatusCreated, status)
	require.Equal(t, []string{"one"}, g.Tokens(t, bot))
	require.Equal(t, http.StatusOK, g.As(t, token, http.MethodGet, "/repos/bot/tools", nil))
	require.Equal(t, http.StatusForbidden, g.As(t, token, http.MethodGet, "/user", nil), "beyond its scope")
	require.Equal(t, http.StatusForbidden, g.As(t, token, http.MethodPatch, "/repos/bot/tools", map[string]any{"description": "x"}), "beyond its level")
	require.Equal(t, http.StatusUnauthorized, g.As(t, "nonsense", http.MethodGet, "/repos/bot/tools", nil))

	status, _ = g.CreateToken(t, bot, "one", "read:repository")
	require.Equal(t, http.StatusBadRequest, status, "a name is there once")
	status, _ = g.CreateToken(t, Credentials{ID: bot.ID, Secret: "wrong"}, "two", "read:repository")
	require.Equal(t, http.StatusUnauthorized, status)

	require.Equal(t, http.StatusNoContent, g.DeleteToken(t, bot, "one"))
	require.Equal(t, http.StatusNotFound, g.DeleteToken(t, bot, "one"))
	require.Equal(t, http.StatusUnauthorized, g.As(t, token, http.MethodGet, "/repos/bot/tools", nil))
}
