package kit

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"testing"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/stretchr/testify/require"
)

func pemOf(t *testing.T, kind string, key any) string {
	t.Helper()
	var der []byte
	var err error
	switch kind {
	case "RSA PRIVATE KEY":
		der = x509.MarshalPKCS1PrivateKey(key.(*rsa.PrivateKey))
	case "EC PRIVATE KEY":
		der, err = x509.MarshalECPrivateKey(key.(*ecdsa.PrivateKey))
	default:
		der, err = x509.MarshalPKCS8PrivateKey(key)
	}
	require.NoError(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func jwkOf(t *testing.T, key any, more map[string]any) string {
	t.Helper()
	k, err := jwk.FromRaw(key)
	require.NoError(t, err)
	for name, value := range more {
		require.NoError(t, k.Set(name, value))
	}
	raw, err := json.Marshal(k)
	require.NoError(t, err)
	return string(raw)
}

func newKey[K any](t *testing.T) func(K, error) K {
	return func(k K, err error) K { t.Helper(); require.NoError(t, err); return k }
}

func TestPrivateKeysInEveryUsualForm(t *testing.T) {
	p256 := newKey[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	p384 := newKey[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	rsa2048 := newKey[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 2048))
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	for name, test := range map[string]struct {
		text string
		alg  jwa.SignatureAlgorithm
		id   string // "" for the thumbprint
	}{
		"PKCS#8 P-256":                {pemOf(t, "PRIVATE KEY", p256), jwa.ES256, ""},
		"PKCS#8 Ed25519":              {pemOf(t, "PRIVATE KEY", ed), jwa.EdDSA, ""},
		"PKCS#1":                      {pemOf(t, "RSA PRIVATE KEY", rsa2048), jwa.RS256, ""},
		"SEC 1 P-384":                 {pemOf(t, "EC PRIVATE KEY", p384), jwa.ES384, ""},
		"SEC 1 with its parameters":   {"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n" + pemOf(t, "EC PRIVATE KEY", p256), jwa.ES256, ""},
		"JWK":                         {jwkOf(t, p256, nil), jwa.ES256, ""},
		"JWK that brings its own kid": {jwkOf(t, p256, map[string]any{"kid": "known there"}), jwa.ES256, "known there"},
		"JWK that wants PS256":        {jwkOf(t, rsa2048, map[string]any{"alg": "PS256"}), jwa.PS256, ""},
	} {
		t.Run(name, func(t *testing.T) {
			key, err := ParseSigningKey(test.text, "")
			require.NoError(t, err)
			require.Equal(t, test.alg, key.Algorithm)
			if test.id == "" {
				sum, err := key.Public.Thumbprint(crypto.SHA256)
				require.NoError(t, err)
				require.Len(t, sum, 32)
				test.id, err = Thumbprint(key.Public)
				require.NoError(t, err)
			}
			require.Equal(t, test.id, key.Public.KeyID())
			shown, err := json.Marshal(key.Public)
			require.NoError(t, err)
			for _, private := range []string{"d", "p", "q", "dp", "dq", "qi", "k"} {
				require.NotContains(t, string(shown), `"`+private+`":`)
			}
		})
	}
}

func TestOtherThingsAreNoPrivateKeys(t *testing.T) {
	p256 := newKey[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	p224 := newKey[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P224(), rand.Reader))
	good := pemOf(t, "PRIVATE KEY", p256)
	public, err := x509.MarshalPKIXPublicKey(p256.Public())
	require.NoError(t, err)
	for name, test := range map[string]struct {
		text string
		want error
	}{
		"nothing":              {"", ErrKeyShape},
		"a word":               {"secret", ErrKeyShape},
		"two keys":             {good + good, ErrKeyShape},
		"a public key":         {string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})), ErrKeyShape},
		"encrypted":            {"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n", ErrKeyShape},
		"P-224":                {pemOf(t, "PRIVATE KEY", p224), ErrKeyKind},
		"a public JWK":         {jwkOf(t, p256.Public(), nil), ErrKeyShape},
		"a symmetric JWK":      {`{"kty":"oct","k":"c2VjcmV0LXNlY3JldC1zZWNyZXQ"}`, ErrKeyShape},
		"a JWK for another":    {jwkOf(t, p256, map[string]any{"alg": "RS256"}), ErrKeyAlg},
		"a JWK to encrypt":     {jwkOf(t, p256, map[string]any{"use": "enc"}), ErrKeyAlg},
		"a JWK with odd kid":   {jwkOf(t, p256, map[string]any{"kid": "a\nb"}), ErrKeyID},
		"a set":                {`{"keys":[` + jwkOf(t, p256, nil) + `]}`, ErrKeyShape},
		"larger than a secret": {good + string(make([]byte, maxKey)), ErrKeyShape},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseSigningKey(test.text, "")
			require.ErrorIs(t, err, test.want)
		})
	}
	weak := &rsa.PrivateKey{PublicKey: rsa.PublicKey{N: newKey[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 1024)).N, E: 65537}}
	_, err = NewSigningKey(weak, "", "")
	require.ErrorIs(t, err, ErrKeyKind)
}

func FuzzSigningKey(f *testing.F) {
	f.Add(`{"kty":"EC","crv":"P-256","x":"AA","y":"AA","d":"AA"}`)
	f.Add("-----BEGIN PRIVATE KEY-----\nMFkw\n-----END PRIVATE KEY-----\n")
	f.Fuzz(func(t *testing.T, text string) {
		key, err := ParseSigningKey(text, "")
		if err == nil {
			_, err = key.Sign(map[string]any{"typ": "JWT"}, map[string]any{"a": 1})
			if err != nil {
				t.Skip("a key of parts that do not fit") // refused by the first use
			}
		}
	})
}
