package keyring

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jws"
)

// rsaBits is NIST's for 128 bits of security (SP 800-57 part 1, table 2).
const rsaBits = 3072

// key is one signing key, ready to sign. It is never changed.
type key struct {
	purpose     Purpose
	alg         jwa.SignatureAlgorithm
	private     crypto.Signer
	activeFrom  time.Time
	longestLife time.Duration

	id     string // RFC 7638 thumbprint
	public []byte // as a JSON Web Key
	header []byte // the protected header in base64url, and the dot behind it
	signer jws.Signer
}

func generate(p Purpose, t Terms, activeFrom time.Time) (*key, error) {
	alg := jwa.SignatureAlgorithm(t.Algorithm)
	private, err := generatePrivate(alg)
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	return newKey(key{purpose: p, alg: alg, private: private, activeFrom: activeFrom, longestLife: t.LongestLife})
}

func generatePrivate(alg jwa.SignatureAlgorithm) (crypto.Signer, error) {
	switch alg {
	case jwa.RS256:
		return rsa.GenerateKey(rand.Reader, rsaBits)
	case jwa.EdDSA:
		_, private, err := ed25519.GenerateKey(rand.Reader)
		return private, err
	default:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
}

// fits reports whether private is a key of the algorithm, as generatePrivate makes
// them.
func fits(private any, alg jwa.SignatureAlgorithm) bool {
	switch k := private.(type) {
	case *rsa.PrivateKey:
		return alg == jwa.RS256 && k.N.BitLen() == rsaBits
	case ed25519.PrivateKey:
		return alg == jwa.EdDSA
	case *ecdsa.PrivateKey:
		return alg == jwa.ES256 && k.Curve == elliptic.P256()
	}
	return false
}

// newKey works out once what every signature needs.
func newKey(k key) (*key, error) {
	public, err := jwk.FromRaw(k.private.Public())
	if err != nil {
		return nil, err
	}
	thumbprint, err := public.Thumbprint(crypto.SHA256)
	if err != nil {
		return nil, err
	}
	k.id = base64.RawURLEncoding.EncodeToString(thumbprint)
	for name, value := range map[string]any{jwk.KeyIDKey: k.id, jwk.AlgorithmKey: k.alg, jwk.KeyUsageKey: jwk.ForSignature} {
		if err := public.Set(name, value); err != nil {
			return nil, err
		}
	}
	if k.public, err = json.Marshal(public); err != nil {
		return nil, err
	}
	header, err := json.Marshal(map[string]string{"alg": k.alg.String(), "kid": k.id, "typ": k.purpose.Type()})
	if err != nil {
		return nil, err
	}
	k.header = append(base64.RawURLEncoding.AppendEncode(nil, header), '.')
	k.signer, err = jws.NewSigner(k.alg)
	return &k, err
}

// document is the JSON Web Key Set of the keys.
func document(keys []*key) []byte {
	all := make([][]byte, len(keys))
	for i, k := range keys {
		all[i] = k.public
	}
	return slices.Concat([]byte(`{"keys":[`), bytes.Join(all, []byte(",")), []byte(`]}`))
}
