package gitlab_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
)

// TestWire compares what goes over the wire, in both directions, with
// testdata/wire/gitlab: a mint and its end, an orphan's, a check and a rotation.
// UPDATE_GOLDEN=1 rewrites the files. bootstrap/conformance holds them against the vendor's
// own client.
func TestWire(t *testing.T) {
	for name := range requests(t) {
		t.Run(name, func(t *testing.T) {
			w, r := of(t, name)
			record := recording(w)
			child, err := w.Mint(t.Context(), r)
			require.NoError(t, err)
			require.NoError(t, w.Revoke(t.Context(), child.Handle))
			r.GrantID = "whose-answer-is-lost"
			_, err = w.Mint(t.Context(), r)
			require.NoError(t, err)
			where, err := w.Where(r)
			require.NoError(t, err)
			found, err := w.Find(t.Context(), provider.Trace{GrantID: r.GrantID, Where: where})
			require.NoError(t, err)
			require.Len(t, found, 1)
			require.NoError(t, w.Revoke(t.Context(), found[0].Handle))
			golden(t, strings.ReplaceAll(name, " ", "_"), record.Bytes())
		})
	}
	t.Run("parent", func(t *testing.T) {
		w, _ := of(t, "project")
		record := recording(w)
		_, err := w.Check(t.Context())
		require.NoError(t, err)
		_, err = w.Rotate(t.Context())
		require.NoError(t, err)
		golden(t, "parent", record.Bytes())
	})
}

// recording writes down what is sent to the world's server, and what it answers.
func recording(w *world) *bytes.Buffer {
	record := &bytes.Buffer{}
	known := []string{"<token>", w.parent, "<token_next>", w.spare}
	w.server.Record = func(r *http.Request, body []byte, status int, answer []byte) {
		var made struct{ Token string }
		if json.Unmarshal(answer, &made) == nil && made.Token != "" {
			known = append(known, fmt.Sprintf("<made %d>", len(known)/2-1), made.Token)
		}
		fmt.Fprintf(record, "%s %s\n", r.Method, r.URL.RequestURI())
		for _, name := range []string{"Accept", "Content-Type", "Private-Token"} {
			if value := r.Header.Get(name); value != "" {
				fmt.Fprintf(record, "%s: %s\n", name, value)
			}
		}
		fmt.Fprintf(record, "%s\n> %d\n%s\n\n", lines(body), status, lines(answer))
		text := record.String()
		for i := 0; i < len(known); i += 2 {
			text = strings.ReplaceAll(text, known[i+1], known[i])
		}
		record.Reset()
		record.WriteString(text)
	}
	return record
}

// lines is JSON in one member a line.
func lines(raw []byte) string {
	var out bytes.Buffer
	if len(raw) == 0 || json.Indent(&out, raw, "", "  ") != nil {
		return string(raw)
	}
	return out.String()
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	require.False(t, slices.Contains(strings.Fields(string(got)), "glpat-"))
	file := filepath.Join("..", "..", "..", "testdata", "wire", "gitlab", name+".txt")
	if os.Getenv("UPDATE_GOLDEN") != "" {
		require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
		require.NoError(t, os.WriteFile(file, got, 0o600))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(want), string(got))
}
