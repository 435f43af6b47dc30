package jwks

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"maps"
	"math/big"
	"strings"
	"testing"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/stretchr/testify/require"
)

func TestWhichKeysServe(t *testing.T) {
	token := sign(t, jwa.ES256, p256(), m{"kid": "a"})
	unnamed := sign(t, jwa.ES256, p256(), nil)
	for name, test := range map[string]struct {
		key            map[string]any
		named, unnamed bool
	}{
		"same id":                   {public(t, p256(), m{"kid": "a"}), true, true},
		"no id":                     {public(t, p256(), nil), true, true},
		"another id":                {public(t, p256(), m{"kid": "b"}), false, true},
		"for signatures":            {public(t, p256(), m{"kid": "a", "use": "sig"}), true, true},
		"for encryption":            {public(t, p256(), m{"kid": "a", "use": "enc"}), false, false},
		"key_ops verify":            {public(t, p256(), m{"kid": "a", "key_ops": []string{"verify"}}), true, true},
		"key_ops without verify":    {public(t, p256(), m{"kid": "a", "key_ops": []string{"deriveKey"}}), false, false},
		"its algorithm":             {public(t, p256(), m{"kid": "a", "alg": "ES256"}), true, true},
		"another algorithm":         {public(t, p256(), m{"kid": "a", "alg": "ES384"}), false, false},
		"an encryption algorithm":   {public(t, p256(), m{"kid": "a", "alg": "ECDH-ES"}), false, false},
		"nearly another id":         {public(t, p256(), m{"kid": "a", "\u212aid": "b", "KID": "c"}), true, true},
		"nearly for encryption":     {public(t, p256(), m{"kid": "a", "u\u017fe": "enc", "Use": "enc"}), true, true},
		"an algorithm that is HMAC": {public(t, p256(), m{"kid": "a", "alg": "HS256"}), false, false},
	} {
		t.Run(name, func(t *testing.T) {
			// A second key keeps the set from being empty.
			s := static(t, test.key, public(t, p384(), m{"kid": "other"}))
			_, _, err := s.Verify(context.Background(), token, everything)
			require.Equal(t, test.named, err == nil, "%v", err)
			_, _, err = s.Verify(context.Background(), unnamed, everything)
			require.Equal(t, test.unnamed, err == nil, "%v", err)
		})
	}
}

func TestDocuments(t *testing.T) {
	good := public(t, p256(), m{"kid": "a"})
	many := make([]map[string]any, MaxKeys+1)
	for i := range many {
		many[i] = good
	}
	for name, test := range map[string]struct {
		document []byte
		ok       bool
	}{
		"one key":               {document(t, good), true},
		"broken keys beside it": {document(t, m{"kty": "EC"}, m{"kty": "XX"}, m{"kty": "OKP", "crv": "X25519", "x": "AAAA"}, m{}, good), true},
		"a private key counts as its public half": {document(t, private(t, p256())), true},
		"nothing usable":         {document(t, m{"kty": "oct", "k": "c2VjcmV0c2VjcmV0"}), false},
		"a small RSA key":        {document(t, public(t, smallRSA(), nil)), false},
		"a point off the curve":  {document(t, m{"kty": "EC", "crv": "P-256", "x": good["x"], "y": good["x"]}), false},
		"no keys":                {[]byte(`{"keys":[]}`), false},
		"keys null":              {[]byte(`{"keys":null}`), false},
		"no member keys":         {[]byte(`{}`), false},
		"keys of another type":   {[]byte(`{"keys":"x"}`), false},
		"HTML":                   {[]byte("<html></html>"), false},
		"nothing":                {nil, false},
		"too many keys":          {document(t, many...), false},
		"members of other types": {document(t, with(good, m{"x5c": "none", "x5t": 5, "key_ops": "verify", "use": nil, "alg": nil, "kid": 7, "ext": true, "nbf": "x"})), true},
		"odd members around it":  {[]byte(`{"keys":[null,5,"x",[],` + string(encoded(t, good)) + `],"issuer":[1],"x":"-----BEGIN CERTIFICATE-----"}`), true},
		"a byte order mark":      {append([]byte("\ufeff\r\n\n"), document(t, good)...), true},
		"a guard and a comment":  {[]byte(")]}'\n" + string(document(t, good)) + "\n<!-- gateway 1 -->\n\x00"), true},
		"padded coordinates":     {document(t, with(good, m{"x": good["x"].(string) + "=", "y": good["y"].(string) + "="})), true},
		"numbers of every kind":  {document(t, with(good, m{"iat": json.RawMessage("1.7e9"), "exp": json.RawMessage("1e999"), "x5t#S256": 5, "x5u": m{}})), true},
		"a comment as in Go":     {[]byte("// our key\n" + string(document(t, good))), false},
		"a comment within":       {[]byte(`{"keys":[/* ours */` + string(encoded(t, good)) + `]}`), false},
		"a comma too many":       {[]byte(`{"keys":[` + string(encoded(t, good)) + `,]}`), false},
		"a list of keys":         {[]byte(`[` + string(encoded(t, good)) + `]`), false},
		"one key without a set":  {encoded(t, good), false},
		"too large":              {[]byte(`{"keys":[],"x":"` + strings.Repeat("a", MaxDocument) + `"}`), false},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Static(test.document)
			require.Equal(t, test.ok, err == nil, "%v", err)
		})
	}
}

func encoded(t *testing.T, v any) []byte {
	t.Helper()
	raw, err := json.Marshal(v)
	require.NoError(t, err)
	return raw
}

func with(base, changes map[string]any) map[string]any {
	merged := maps.Clone(base)
	maps.Copy(merged, changes)
	return merged
}

func private(t *testing.T, key any) map[string]any {
	t.Helper()
	k, err := jwk.FromRaw(key)
	require.NoError(t, err)
	raw, err := json.Marshal(k)
	require.NoError(t, err)
	var out map[string]any
	require.NoError(t, json.Unmarshal(raw, &out))
	return out
}

func TestPEM(t *testing.T) {
	block := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	spki := func(key crypto.PublicKey) string {
		der, err := x509.MarshalPKIXPublicKey(key)
		require.NoError(t, err)
		return block("PUBLIC KEY", der)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, p256().Public(), p256())
	require.NoError(t, err)
	secretKey, err := x509.MarshalPKCS8PrivateKey(p256())
	require.NoError(t, err)

	token := sign(t, jwa.ES256, p256(), m{"kid": "any"})
	for name, text := range map[string]string{
		"a public key":           spki(p256().Public()),
		"two public keys":        spki(edKey().Public()) + "\n" + spki(p256().Public()),
		"a certificate":          block("CERTIFICATE", cert),
		"as openssl prints it":   "Bag Attributes\n    friendlyName: a\nsubject=CN = a\n" + block("CERTIFICATE", cert) + "---\nServer certificate\nNo client certificate CA names sent\n",
		"as Windows writes it":   "\ufeff" + strings.ReplaceAll(spki(p256().Public()), "\n", "\r\n"),
		"with a comment":         "# the key of 2026\n" + spki(p256().Public()) + "# until 2027",
		"a PKCS#1 key beside it": block("RSA PUBLIC KEY", x509.MarshalPKCS1PublicKey(freshRSA(t))) + spki(p256().Public()),
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Static([]byte(text))
			require.NoError(t, err)
			_, _, err = s.Verify(context.Background(), token, everything)
			require.NoError(t, err)
		})
	}
	for name, text := range map[string]string{
		"a private key":    block("PRIVATE KEY", secretKey),
		"a broken block":   block("PUBLIC KEY", []byte("nonsense")),
		"a small key":      spki(smallRSA().Public()),
		"a cut block":      "-----BEGIN PUBLIC KEY-----\nMFkw",
		"a cut one behind": spki(p256().Public()) + "-----BEGIN PUBLIC KEY-----\nMFkw",
		"a cut one before": "-----BEGIN PUBLIC KEY-----\nMFkw\n" + spki(p256().Public()),
		"an indented one":  spki(edKey().Public()) + "  " + strings.ReplaceAll(spki(p256().Public()), "\n", "\n  "),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Static([]byte(text))
			require.Error(t, err)
		})
	}
	good := spki(p256().Public())
	for name, test := range map[string]struct {
		document string
		ok       bool
	}{
		"a byte order mark":       {"\ufeff\r\n\r\n" + good, true},
		"a broken block":          {block("PUBLIC KEY", []byte("nonsense")) + good, true},
		"a small key":             {spki(smallRSA().Public()) + good, true},
		"rubbish behind it":       {good + "rubbish", true},
		"by key id, as Google":    {string(encoded(t, m{"any": block("CERTIFICATE", cert), "other": spki(edKey().Public()), "n": 5})), true},
		"by another key id":       {string(encoded(t, m{"other": block("CERTIFICATE", cert)})), false},
		"a private key beside it": {good + block("PRIVATE KEY", secretKey), false},
		"nothing that is good":    {block("PUBLIC KEY", []byte("nonsense")), false},
	} {
		t.Run("fetched: "+name, func(t *testing.T) {
			i := newIssuer([]byte(test.document))
			_, _, err := New(i.fetch, i.clock).Verify(context.Background(), token, everything)
			require.Equal(t, test.ok, err == nil, "%v", err)
		})
	}
}

func freshRSA(t *testing.T) *rsa.PublicKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	return &key.PublicKey
}

// A certificate says what its key is for. A server may publish the whole chain.
func TestACertificateForAnotherUseVouchesForNothing(t *testing.T) {
	published := func(usage x509.KeyUsage) []byte {
		template := &x509.Certificate{SerialNumber: big.NewInt(1), KeyUsage: usage, BasicConstraintsValid: true, IsCA: usage == x509.KeyUsageCertSign}
		der, err := x509.CreateCertificate(rand.Reader, template, template, p256().Public(), p256())
		require.NoError(t, err)
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	}
	for usage, signs := range map[x509.KeyUsage]bool{
		0: true, x509.KeyUsageDigitalSignature: true, x509.KeyUsageContentCommitment: true,
		x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment: true,
		x509.KeyUsageKeyEncipherment:                                 false, x509.KeyUsageCertSign: false,
	} {
		_, _, err := New(newIssuer(published(usage)).fetch, newIssuer(nil).clock).Verify(context.Background(), sign(t, jwa.ES256, p256(), nil), everything)
		require.Equal(t, signs, err == nil, "usage %b: %v", usage, err)
	}
	many := map[string]string{}
	for _, id := range []string{"a", "b", "c"} {
		many[id] = strings.Repeat(string(published(0)), MaxKeys/2)
	}
	_, err := parseDocument(encoded(t, many), false)
	require.ErrorContains(t, err, "more than")
}
