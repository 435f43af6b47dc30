package github

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/github/fake"
)

// TestWire compares every request of a child's life, byte for byte, with
// testdata/wire/github. UPDATE_GOLDEN=1 rewrites the files. What GitHub answers is in its
// description, against which bootstrap/conformance holds both sides.
func TestWire(t *testing.T) {
	life := func(r provider.Request) func(*testing.T, *world) {
		return func(t *testing.T, w *world) {
			child := w.mint(t, r)
			require.NoError(t, w.Revoke(t.Context(), child.Handle))
		}
	}
	for name, c := range map[string]struct {
		fields map[string]any
		do     func(*testing.T, *world)
	}{
		"names":           {map[string]any{"organization": "acme"}, life(asking(t, "acme/web", "acme/api", "ACME/Docs.v2"))},
		"patterns":        {map[string]any{"organization": "acme"}, life(asking(t, "acme/svc-*", "acme/api"))},
		"app_id_and_user": {map[string]any{"user": "jane", "app_id": "1001", "client_id": ""}, life(asking(t, "jane/dotfiles"))},
		"installation_id": {map[string]any{"installation_id": "1003"}, life(asking(t, "acme/api"))},
		"enterprise": {map[string]any{"enterprise": "big"}, life(provider.Request{
			Access: access.Access{Permissions: perms(t, map[string]string{"enterprise_administration": "read"})},
		})},
		"check_and_rotate": {map[string]any{"organization": "acme"}, func(t *testing.T, w *world) {
			_, err := w.Check(t.Context())
			require.NoError(t, err)
			_, err = w.Rotate(t.Context())
			require.NoError(t, err)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.now = time.Date(2026, 11, 28, 10, 0, 0, 0, time.UTC)
			w.github.Install(w.app, "user", "jane", granted, "dotfiles")
			w.github.Install(w.app, "enterprise", "big", map[string]string{"enterprise_administration": "write"})
			if c.fields["installation_id"] != nil {
				c.fields["installation_id"] = w.in.ID
			}
			if c.fields["app_id"] != nil {
				c.fields["app_id"] = w.app.ID
			} else {
				c.fields["client_id"] = w.app.ClientID
			}
			c.fields["base_url"] = w.github.URL
			w.setup.Fields = c.fields
			w.setup.Secrets["private_key_next"] = w.github.NewKey(w.app)
			w.open(t)
			c.do(t, w)
			compare(t, name, strings.ReplaceAll(dump(t, w.github.Requests()), w.app.ClientID, "<client_id>"))
		})
	}
}

// dump writes requests down as they came, without what Go's client adds.
func dump(t *testing.T, all []fake.Exchange) string {
	t.Helper()
	var b strings.Builder
	for _, e := range all {
		fmt.Fprintf(&b, "%s %s\n", e.Request.Method, e.Request.URL.RequestURI())
		for _, name := range []string{"Accept", "Authorization", "Content-Type", "User-Agent", "X-GitHub-Api-Version"} {
			if value := e.Request.Header.Get(name); value != "" {
				fmt.Fprintf(&b, "%s: %s\n", name, shown(t, value))
			}
		}
		if len(e.Body) > 0 {
			fmt.Fprintf(&b, "\n%s\n", e.Body)
		}
		fmt.Fprintf(&b, "> %d\n\n", e.Status)
	}
	return b.String()
}

// shown is what a JWT says, and that another token is one.
func shown(t *testing.T, value string) string {
	t.Helper()
	bearer, ok := strings.CutPrefix(value, "Bearer ")
	switch {
	case !ok:
		return value
	case strings.HasPrefix(bearer, "ghs_"):
		return "Bearer <installation token>"
	}
	parts := strings.Split(bearer, ".")
	require.Len(t, parts, 3)
	text := "Bearer "
	for _, part := range parts[:2] {
		raw, err := base64.RawURLEncoding.DecodeString(part)
		require.NoError(t, err)
		text += string(raw) + "."
	}
	return text + "<signature>"
}

func compare(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("..", "..", "..", "testdata", "wire", "github", name+".txt")
	if os.Getenv("UPDATE_GOLDEN") != "" {
		require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
		require.NoError(t, os.WriteFile(file, []byte(got), 0o600))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(want), got)
}
