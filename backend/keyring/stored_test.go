package keyring

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func decode64(t testing.TB, s string) []byte {
	t.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(s)
	require.NoError(t, err)
	return raw
}

func encode(t testing.TB, r *Ring) []byte {
	t.Helper()
	raw, err := r.Encode()
	require.NoError(t, err)
	return raw
}

func TestARingOutlivesStorage(t *testing.T) {
	for _, alg := range Algorithms() {
		terms := usual
		terms.Algorithm = alg
		r := advance(t, &Ring{}, epoch, terms)
		back, err := Decode(encode(t, r))
		require.NoError(t, err)
		require.JSONEq(t, string(r.JWKS(epoch)), string(back.JWKS(epoch)))
		_, err = r.Verify(Child, sign(t, back, Child, epoch, time.Hour), epoch)
		require.NoError(t, err)
		_, changed, err := back.Advance(epoch, terms)
		require.NoError(t, err)
		require.False(t, changed)
	}
}

func TestStoredKeysAreChecked(t *testing.T) {
	var good stored
	require.NoError(t, json.Unmarshal(encode(t, advance(t, &Ring{}, epoch, usual)), &good))
	require.Contains(t, string(encode(t, advance(t, &Ring{}, epoch, usual))), "MIG", "by which a private key is known below")
	var other stored
	ed := usual
	ed.Algorithm = "EdDSA"
	require.NoError(t, json.Unmarshal(encode(t, advance(t, &Ring{}, epoch, ed)), &other))
	for name, change := range map[string]func(s *stored){
		"another version":       func(s *stored) { s.Version = 2 },
		"no purpose":            func(s *stored) { s.Keys[0].Purpose = "" },
		"another purpose":       func(s *stored) { s.Keys[0].Purpose = "anything" },
		"no life":               func(s *stored) { s.Keys[0].LongestLife = 0 },
		"an overflowing life":   func(s *stored) { s.Keys[0].LongestLife = 1<<63 - 1 },
		"no key":                func(s *stored) { s.Keys[0].Private = []byte("nothing") },
		"another's algorithm":   func(s *stored) { s.Keys[0].Private = other.Keys[0].Private },
		"no algorithm":          func(s *stored) { s.Keys[0].Algorithm = "none" },
		"one key, two purposes": func(s *stored) { s.Keys[0].Private = s.Keys[1].Private },
	} {
		s := good
		s.Keys = append([]storedKey(nil), good.Keys...)
		change(&s)
		raw, err := json.Marshal(s)
		require.NoError(t, err)
		_, err = Decode(raw)
		require.Error(t, err, name)
		require.NotContains(t, err.Error(), "MIG", name)
	}
	many := good
	for range MaxKeys {
		var more stored
		require.NoError(t, json.Unmarshal(encode(t, advance(t, &Ring{}, epoch, usual)), &more))
		many.Keys = append(many.Keys, more.Keys...)
	}
	raw, err := json.Marshal(many)
	require.NoError(t, err)
	for _, raw := range [][]byte{raw, nil, []byte("null"), []byte(strings.Repeat(" ", maxStored+1))} {
		_, err := Decode(raw)
		require.Error(t, err)
	}
}

func FuzzDecode(f *testing.F) {
	r := advance(f, &Ring{}, epoch, usual)
	f.Add(encode(f, r))
	stopped, _, err := rotate(f, r, epoch, false).Stop(epoch.Add(Lead))
	require.NoError(f, err)
	f.Add(encode(f, stopped))
	f.Add([]byte(`{"version":1}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := Decode(raw)
		if err != nil {
			return
		}
		once := encode(t, r)
		back, err := Decode(once)
		require.NoError(t, err)
		require.Equal(t, once, encode(t, back))
		require.NotContains(t, string(r.JWKS(epoch)), `"d"`)
		next, _, err := r.Advance(epoch, usual)
		require.NoError(t, err)
		sign(t, next, Child, epoch, usual.LongestLife)
	})
}

func FuzzVerify(f *testing.F) {
	terms := usual
	terms.Algorithm = "EdDSA" // whose signatures have one spelling
	r := advance(f, &Ring{}, epoch, terms)
	good := sign(f, r, Child, epoch, time.Hour)
	f.Add(good)
	f.Add(sign(f, r, Actor, epoch, time.Hour))
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	f.Add("a.b.c")
	f.Fuzz(func(t *testing.T, token string) {
		payload, err := r.Verify(Child, token, epoch)
		if err == nil && token != good {
			t.Fatalf("accepted %q with payload %q", token, payload)
		}
		if err != nil {
			require.ErrorIs(t, err, ErrInvalid)
		}
	})
}
