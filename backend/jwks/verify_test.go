package jwks

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jws"
	"github.com/stretchr/testify/require"
)

// keys that several tests use; RSA ones are slow to make.
var (
	rsaKey   = sync.OnceValue(func() *rsa.PrivateKey { k, _ := rsa.GenerateKey(rand.Reader, 2048); return k })
	smallRSA = sync.OnceValue(func() *rsa.PrivateKey { k, _ := rsa.GenerateKey(rand.Reader, 1024); return k })
	p256     = sync.OnceValue(func() *ecdsa.PrivateKey { k, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader); return k })
	p384     = sync.OnceValue(func() *ecdsa.PrivateKey { k, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader); return k })
	edKey    = sync.OnceValue(func() ed25519.PrivateKey { _, k, _ := ed25519.GenerateKey(rand.Reader); return k })
)

var everything = []jwa.SignatureAlgorithm{
	jwa.ES256, jwa.ES384, jwa.ES512, jwa.EdDSA, jwa.PS256, jwa.PS384, jwa.PS512, jwa.RS256, jwa.RS384, jwa.RS512,
	// A careless allow-list must not open these either.
	jwa.NoSignature, jwa.HS256, jwa.HS384, jwa.HS512,
}

const claims = `{"sub":"someone"}`

func sign(t *testing.T, alg jwa.SignatureAlgorithm, key any, header map[string]any) string {
	t.Helper()
	h := jws.NewHeaders()
	for name, value := range header {
		require.NoError(t, h.Set(name, value))
	}
	signed, err := jws.Sign([]byte(claims), jws.WithKey(alg, key, jws.WithProtectedHeaders(h)))
	require.NoError(t, err)
	return string(signed)
}

// public is a JWK of key's public half with more members.
func public(t *testing.T, key any, members map[string]any) map[string]any {
	t.Helper()
	k, err := jwk.FromRaw(key)
	require.NoError(t, err)
	k, err = k.PublicKey()
	require.NoError(t, err)
	raw, err := json.Marshal(k)
	require.NoError(t, err)
	var m map[string]any
	require.NoError(t, json.Unmarshal(raw, &m))
	for name, value := range members {
		m[name] = value
	}
	return m
}

func document(t *testing.T, keys ...map[string]any) []byte {
	t.Helper()
	raw, err := json.Marshal(map[string]any{"keys": keys})
	require.NoError(t, err)
	return raw
}

func static(t *testing.T, keys ...map[string]any) *Set {
	t.Helper()
	s, err := Static(document(t, keys...))
	require.NoError(t, err)
	return s
}

type m = map[string]any

func TestVerifyEveryAlgorithm(t *testing.T) {
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	require.NoError(t, err)
	for alg, key := range map[jwa.SignatureAlgorithm]any{
		jwa.RS256: rsaKey(), jwa.RS384: rsaKey(), jwa.RS512: rsaKey(),
		jwa.PS256: rsaKey(), jwa.PS384: rsaKey(), jwa.PS512: rsaKey(),
		jwa.ES256: p256(), jwa.ES384: p384(), jwa.ES512: p521, jwa.EdDSA: edKey(),
	} {
		t.Run(alg.String(), func(t *testing.T) {
			s := static(t, public(t, key, m{"kid": "k", "alg": alg.String()}))
			token := sign(t, alg, key, m{"kid": "k", "typ": "at+jwt"})
			payload, header, err := s.Verify(context.Background(), token, everything)
			require.NoError(t, err)
			require.Equal(t, claims, string(payload))
			require.Equal(t, Header{KeyID: "k", Type: "at+jwt", Algorithm: alg}, header)

			_, _, err = s.Verify(context.Background(), token, []jwa.SignatureAlgorithm{"RS1"})
			require.ErrorIs(t, err, ErrInvalid, "an algorithm that is not listed")
		})
	}
}

func TestForgeriesAreRefused(t *testing.T) {
	ecPublic := public(t, p256(), m{"kid": "ec"})
	rsaPublic := public(t, rsaKey(), m{"kid": "rsa", "alg": "RS256"})
	s := static(t, ecPublic, rsaPublic)
	good := sign(t, jwa.ES256, p256(), m{"kid": "ec"})
	parts := strings.Split(good, ".")
	encode := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	forge := func(header string) string { return encode(header) + "." + parts[1] + "." + parts[2] }
	spki, err := x509.MarshalPKIXPublicKey(rsaKey().Public())
	require.NoError(t, err)
	rsaPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki})

	for name, token := range map[string]string{
		"empty":                          "",
		"no token":                       "nonsense",
		"two parts":                      parts[0] + "." + parts[1],
		"five parts":                     good + ".a.b",
		"alg none":                       encode(`{"alg":"none"}`) + "." + parts[1] + ".",
		"alg none with a signature":      forge(`{"alg":"none","kid":"ec"}`),
		"alg None":                       forge(`{"alg":"None","kid":"ec"}`),
		"no alg":                         forge(`{"kid":"ec"}`),
		"alg of another type":            forge(`{"alg":7,"kid":"ec"}`),
		"header that is no object":       forge(`[]`),
		"another key's algorithm":        forge(`{"alg":"RS256","kid":"ec"}`),
		"header changed":                 forge(`{"alg":"ES256","kid":"ec","x":1}`),
		"unknown key":                    forge(`{"alg":"ES256","kid":"other"}`),
		"critical extension":             forge(`{"alg":"ES256","kid":"ec","crit":["b64"],"b64":false}`),
		"crit null is not absent enough": forge(`{"alg":"ES256","kid":"ec","crit":null}`),
		"HMAC with the public PEM":       hmacToken(`{"alg":"HS256","kid":"rsa"}`, rsaPEM),
		"HMAC with the public DER":       hmacToken(`{"alg":"HS256","kid":"rsa"}`, spki),
		"HMAC with the modulus":          hmacToken(`{"alg":"HS256","kid":"rsa"}`, rsaKey().N.Bytes()),
		"HMAC without a kid":             hmacToken(`{"alg":"HS256"}`, rsaPEM),
		"payload changed":                parts[0] + "." + encode(`{"sub":"admin"}`) + "." + parts[2],
		"no payload":                     parts[0] + ".." + parts[2],
		"signature cut":                  good[:len(good)-2],
		"signature of zeros":             parts[0] + "." + parts[1] + "." + encode(strings.Repeat("\x00", 64)),
		"padding":                        good + "=",
		"line break":                     parts[0] + "\n." + parts[1] + "." + parts[2],
		"JSON serialization":             jsonSerialization(parts),
		"own key inside the header":      selfKeyed(t),
		"the RSA key with PSS, which its alg forbids": sign(t, jwa.PS256, rsaKey(), m{"kid": "rsa"}),
		"a stranger's key under a known id":           sign(t, jwa.ES256, freshEC(t), m{"kid": "ec"}),
		"longer than the bound":                       good + strings.Repeat("a", MaxToken),
	} {
		t.Run(name, func(t *testing.T) {
			payload, header, err := s.Verify(context.Background(), token, everything)
			require.ErrorIs(t, err, ErrInvalid)
			require.Nil(t, payload)
			require.Equal(t, Header{}, header)
			if len(token) > 20 {
				require.NotContains(t, err.Error(), token[:20])
			}
		})
	}
	_, _, err = s.Verify(context.Background(), good, everything)
	require.NoError(t, err)
}

// The issuer's own signature does not make up for a header that must be refused.
func TestSignedTokensThatAreRefused(t *testing.T) {
	s := static(t, public(t, edKey(), m{"kid": "ed"}), public(t, p384(), m{"kid": "p384"}))
	ed := func(header string) string {
		return signed(header, func(input []byte) []byte { return ed25519.Sign(edKey(), input) })
	}
	// ES256's hash with another curve's key (RFC 7518 3.4 ties the two).
	mixed := signed(`{"alg":"ES256","kid":"p384"}`, func(input []byte) []byte {
		sum := sha256.Sum256(input)
		r, s, err := ecdsa.Sign(rand.Reader, p384(), sum[:])
		require.NoError(t, err)
		return append(r.FillBytes(make([]byte, 48)), s.FillBytes(make([]byte, 48))...)
	})
	_, _, err := s.Verify(context.Background(), ed(`{"alg":"EdDSA","kid":"ed"}`), everything)
	require.NoError(t, err)
	for name, token := range map[string]string{
		"a critical extension":      ed(`{"alg":"EdDSA","kid":"ed","crit":["exp"],"exp":1}`),
		"an empty crit":             ed(`{"alg":"EdDSA","kid":"ed","crit":[]}`),
		"a payload left as it is":   ed(`{"alg":"EdDSA","kid":"ed","crit":["b64"],"b64":false}`),
		"another algorithm's name":  ed(`{"alg":"RS256","kid":"ed"}`),
		"another key's id":          ed(`{"alg":"EdDSA","kid":"p384"}`),
		"an algorithm with a space": ed(`{"alg":"EdDSA ","kid":"ed"}`),
		"another curve":             mixed,
	} {
		_, _, err := s.Verify(context.Background(), token, everything)
		require.ErrorIs(t, err, ErrInvalid, name)
	}
}

// signed is a token with exactly that header.
func signed(header string, sign func(input []byte) []byte) string {
	encode := base64.RawURLEncoding.EncodeToString
	input := encode([]byte(header)) + "." + encode([]byte(claims))
	return input + "." + encode(sign([]byte(input)))
}

func hmacToken(header string, key []byte) string {
	signed := base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString([]byte(claims))
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(signed))
	return signed + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

func jsonSerialization(parts []string) string {
	return fmt.Sprintf(`{"payload":%q,"protected":%q,"signature":%q}`, parts[1], parts[0], parts[2])
}

// selfKeyed is signed by a key that it brings along.
func selfKeyed(t *testing.T) string {
	t.Helper()
	key := freshEC(t)
	k, err := jwk.FromRaw(key.Public())
	require.NoError(t, err)
	return sign(t, jwa.ES256, key, m{"jwk": k})
}

func freshEC(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	return key
}

func TestLooksLikeJWT(t *testing.T) {
	header := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"ES256"}`))
	for token, want := range map[string]bool{
		sign(t, jwa.ES256, p256(), nil): true,
		header + ".a.b":                 true,
		header + ".a.b.c.d":             true, // encrypted
		header + ".a":                   false,
		"a.b.c":                         false,
		"opaque":                        false,
		"":                              false,
		base64.RawURLEncoding.EncodeToString([]byte(`{}`)) + ".a.b": false,
	} {
		require.Equal(t, want, LooksLikeJWT(token), token)
	}
}
