package chaos

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// mintHere is a server that mints, behind a recorder's door.
func mintHere(t *testing.T) (r *Recorder, door *Door, minted *atomic.Int64) {
	t.Helper()
	minted = &atomic.Int64{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path != tokenPath {
			return
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"access_token":"token-%d","token_type":"bearer","expires_in":3600}`, minted.Add(1))
	}))
	t.Cleanup(server.Close)
	r = newRecorder(server.URL, server.URL, 1)
	door, stop, err := r.Open("line")
	require.NoError(t, err)
	t.Cleanup(stop)
	return r, door, minted
}

func ask(t *testing.T, door *Door) (status int, body string, err error) {
	t.Helper()
	resp, err := http.PostForm(door.URL+tokenPath, url.Values{"scope": {"task.a"}})
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(content), err
}

func TestRecorderKnowsWhatWasMintedWhateverBecomesOfTheAnswer(t *testing.T) {
	for _, c := range []struct {
		fault   Kind
		status  int
		minted  int
		arrives bool
	}{
		{"", 200, 1, true},
		{ErrorInstead, 500, 0, true},
		{Busy, 429, 0, true},
		{ErrorAfter, 500, 1, true},
		{HangUp, 0, 1, false},
	} {
		t.Run(string(c.fault), func(t *testing.T) {
			r, door, minted := mintHere(t)
			door.Spoil(c.fault)
			status, body, err := ask(t, door)
			require.Equal(t, c.arrives, err == nil, "%v", err)
			require.Equal(t, c.status, status)
			require.EqualValues(t, c.minted, minted.Load())
			mints := r.Mints()
			require.Len(t, mints, c.minted)
			require.Empty(t, r.Problems())
			for _, m := range mints {
				require.Equal(t, "token-1", m.Token)
				require.Equal(t, "task.a", m.Scope)
				require.Equal(t, "line", m.Line)
				require.Equal(t, c.fault, m.Withheld)
				require.Equal(t, m.Withheld == "", strings.Contains(body, m.Token))
				require.False(t, m.Left.Before(m.Arrived))
			}
		})
	}
}

// What is called withheld of half a body is just what did not go out.
func TestHalfABodyIsWithheldUnlessTheTokenIsInIt(t *testing.T) {
	r, door, _ := mintHere(t)
	door.Spoil(HalfBody)
	seen, kept := 0, 0
	for i := range 60 {
		_, body, err := ask(t, door)
		require.Error(t, err)
		m := r.Mints()[i]
		whole := bytes.Contains([]byte(body), []byte(`"`+m.Token+`"`))
		require.Equal(t, whole, m.Withheld == "", "%q", body)
		if whole {
			seen++
		} else {
			kept++
		}
	}
	require.Positive(t, seen)
	require.Positive(t, kept)
}
