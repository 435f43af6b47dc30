package secret_test

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

const long = `pa/re"nt+<se cret>`

func TestASearchFindsEverySpelling(t *testing.T) {
	s := secret.NewSearch(secret.New(long), secret.Text{}, secret.New("short"))
	escaped, err := json.Marshal(map[string]string{"token": long})
	require.NoError(t, err)
	for name, text := range map[string]string{
		"itself":          long,
		"inside":          "a" + long + "b",
		"JSON":            string(escaped),
		"a query":         url.Values{"t": {long}}.Encode(),
		"a path":          "/x/" + url.PathEscape(long),
		"hex":             hex.EncodeToString([]byte("x" + long)),
		"hex, upper case": strings.ToUpper(hex.EncodeToString([]byte(long))),
		"Base64":          base64.StdEncoding.EncodeToString([]byte(long)),
		"Base64 for URLs": base64.RawURLEncoding.EncodeToString([]byte(long)),
		"a basic header":  base64.StdEncoding.EncodeToString([]byte("admin:" + long)),
	} {
		require.True(t, s.In(text), name)
	}
	for name, text := range map[string]string{
		"nothing":                  "",
		"a part":                   long[:len(long)-1],
		"a short one inside":       "a short one",
		"Base64 of something else": base64.StdEncoding.EncodeToString([]byte("admin:" + long[1:])),
	} {
		require.False(t, s.In(text), name)
	}
	require.False(t, secret.Search{}.In("x"))
	require.True(t, s.Is(secret.New(long)))
	require.True(t, s.Is(secret.New("short")))
	require.True(t, secret.New(long).In("a"+long+"b"))
	require.False(t, secret.New("short").In("a short one"))
	require.False(t, s.Is(secret.New(long+"x")))
	require.False(t, s.Is(secret.Text{}), "what is empty is no secret")
}

// Whatever stands around a secret in what was encoded, Base64 does not hide it.
func TestNoNeighbourHidesASecretInBase64(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		before, after := rapid.String().Draw(t, "before"), rapid.String().Draw(t, "after")
		value := rapid.StringN(16, 40, -1).Draw(t, "value")
		s := secret.NewSearch(secret.New(value))
		for _, e := range []*base64.Encoding{base64.StdEncoding, base64.URLEncoding, base64.RawStdEncoding, base64.RawURLEncoding} {
			if text := e.EncodeToString([]byte(before + value + after)); !s.In(text) {
				t.Fatalf("%q hides %q", text, value)
			}
		}
	})
}
