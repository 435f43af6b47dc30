package secret_test

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
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
	require.True(t, s.In(long))
	require.True(t, s.In("short"), "equality needs no length")
	require.True(t, secret.Anywhere(secret.New("short")).In("a short one"))
	require.False(t, s.Is(secret.New(long+"x")))
	require.False(t, s.Is(secret.Text{}), "what is empty is no secret")
}

// Others spell what they escape in ways of their own, and put one encoding into another.
func TestASearchFindsWhatOthersWrite(t *testing.T) {
	const value = "wJalrXUtnFEMI/K7MDENG+bPxRfi~CYEX AMPLE=="
	s := secret.NewSearch(secret.New(value))
	lower := strings.NewReplacer("/", "%2f", "+", "%2b", "=", "%3d", " ", "+").Replace(value)
	basic := base64.StdEncoding.EncodeToString([]byte("id:" + value))
	for name, text := range map[string]string{
		"a form, lower case":         lower,
		"a form by Java":             strings.NewReplacer("/", "%2F", "+", "%2B", "=", "%3D", "~", "%7E", " ", "+").Replace(value),
		"encodeURI":                  strings.ReplaceAll(value, " ", "%20"),
		"escaped twice":              url.QueryEscape(url.QueryEscape(value)),
		"JSON by PHP":                strings.ReplaceAll(value, "/", `\/`),
		"JSON by .NET":               strings.ReplaceAll(value, "+", `\u002B`),
		"JSON in JSON":               strings.ReplaceAll(value, "/", `\\\/`),
		"a header of RFC 6749 2.3.1": base64.StdEncoding.EncodeToString([]byte("id:" + url.QueryEscape(value))),
		"the same, lower case":       "Basic " + base64.StdEncoding.EncodeToString([]byte("id:"+lower)),
		"a claim by PHP":             "e30." + base64.RawURLEncoding.EncodeToString([]byte(`{"s":"`+strings.ReplaceAll(value, "/", `\/`)+`"}`)) + ".c2ln",
		"a header in a claim":        "e30." + base64.RawURLEncoding.EncodeToString([]byte(`{"a":"Basic `+basic+`"}`)) + ".c2ln",
		"Base64 in a path":           "/of/" + base64.RawURLEncoding.EncodeToString([]byte("id:"+url.QueryEscape(value))) + "/x",
		"Base64 in lines":            basic[:20] + "\r\n" + basic[20:],
		"Base64 behind blanks":       " a\tb  " + base64.StdEncoding.EncodeToString([]byte("id:"+lower)),
		"Base64 in hex":              hex.EncodeToString([]byte("x" + basic)),
		"Base64 in a form":           url.QueryEscape(basic),
	} {
		require.True(t, s.In(text), name)
	}
	require.False(t, s.In("e30."+base64.RawURLEncoding.EncodeToString([]byte(`{"s":"`+value[1:]+`"}`))+".c2ln"))
	require.False(t, s.In(strings.Repeat(`%2\u00%zz\`, 20)))
	require.True(t, secret.NewSearch(secret.New(`100%25 and a \n that is none`)).In(`100%25 and a \n that is none`))
}

// A key is the same one however its lines are broken, and a secret is with or without the
// line end with which it was stored.
func TestASearchFindsWhatIsOfSeveralLines(t *testing.T) {
	_, private, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(private)
	require.NoError(t, err)
	key := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	account, err := json.Marshal(map[string]string{"type": "service_account", "private_key": key})
	require.NoError(t, err)
	for stored, own := range map[string]string{"PEM": key, "CRLF": strings.ReplaceAll(key, "\n", "\r\n"), "trimmed": strings.TrimSpace(key), "JSON": string(account)} {
		s := secret.NewSearch(secret.New(own))
		for name, text := range map[string]string{
			"as it is": key, "trimmed": strings.TrimSpace(key), "CRLF": strings.ReplaceAll(key, "\n", "\r\n"),
			"one line": strings.ReplaceAll(key, "\n", " "), "its body": base64.RawURLEncoding.EncodeToString(der),
			"JSON": `{"k":"` + strings.ReplaceAll(strings.TrimSpace(key), "\n", `\n`) + `"}`,
		} {
			require.True(t, s.In(text), "%s stored, %s found", stored, name)
		}
		require.False(t, s.In("-----BEGIN PRIVATE KEY-----"))
	}
	s := secret.NewSearch(secret.New(long + "\n"))
	require.True(t, s.In("x"+long+"y"))
	require.True(t, s.Is(secret.New(long)))
}

// A JWT is the same one whatever stands for its signature.
func TestASearchFindsAJWTWithoutItsSignature(t *testing.T) {
	part := base64.RawURLEncoding.EncodeToString
	own := part([]byte(`{"alg":"ES256"}`)) + "." + part([]byte(`{"sub":"ann"}`)) + "."
	s := secret.NewSearch(secret.New(own + "c2ln"))
	require.True(t, s.Is(secret.New(own+"AAAA")))
	require.True(t, s.In("x "+own+"AAAA y"))
	require.True(t, s.In(base64.StdEncoding.EncodeToString([]byte(own))))
	require.False(t, s.In(part([]byte(`{"alg":"ES256"}`))+"."+part([]byte(`{"sub":"bob"}`))+".c2ln"))
	require.False(t, secret.NewSearch(secret.New("one-of-many.parts-and-more.here")).In("one-of-many.parts-and-more."), "that is no JWT")
}

// What a server sends is not under anybody's control.
func FuzzASearchEnds(f *testing.F) {
	f.Add(`%2\u00%zz\ud83d\ude00 e30.YWJj`)
	s := secret.NewSearch(secret.New(long), secret.New("YWJj%5Cu0041====YWJj"))
	f.Fuzz(func(t *testing.T, text string) {
		s.In(text)
		if !s.In(text + url.QueryEscape(long)) {
			t.Fatalf("%q hides it", text)
		}
	})
}

// BenchmarkSearch is what a child that is a JWT costs.
func BenchmarkSearch(b *testing.B) {
	claims := base64.RawURLEncoding.EncodeToString([]byte(strings.Repeat(`{"sub":"somebody","x":1}`, 18)))
	token := "eyJhbGciOiJFUzI1NiIsImtpZCI6IjEyMzQ1Njc4In0." + claims + "." + strings.Repeat("s1G_", 21) + "Aw"
	s := secret.NewSearch(secret.New("the-parent-of-some-length-0123456789"))
	b.ReportAllocs()
	for b.Loop() {
		if s.In(token) {
			b.Fatal("it is not there")
		}
	}
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
