package kit

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"slices"
	"strings"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jws"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/jwks"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// SigningKey is a private key by which the broker authenticates to a system, and with
// which it signs nothing else (rule 10 of the contract). It is immutable, and safe for
// concurrent use.
type SigningKey struct {
	Private crypto.Signer
	// Public is what the system has of it, with kid, alg and use.
	Public    jwk.Key
	Algorithm jwa.SignatureAlgorithm
	// ID is the kid: the one that the key has brought, or its thumbprint.
	ID string
	// Registered is true if the key has brought its kid, so that the system knows it.
	Registered bool
}

// maxKey bounds the text of a key, in bytes.
const maxKey = 16 << 10

// The ways in which a private key will not do, as the ends of sentences that begin with a
// field's name. None quotes the key.
var (
	ErrKeyShape = errors.New("must be one private key: unencrypted PEM (PKCS#8, PKCS#1 or SEC 1) or a JWK")
	ErrKeyKind  = errors.New("must be an RSA key of 2048 to 8192 bits, an EC key on P-256, P-384 or P-521, or an Ed25519 key")
	ErrKeyAlg   = errors.New("is a JWK whose alg does not fit its kty, or whose use is not sig")
	ErrKeyID    = errors.New("is a JWK whose kid is not made of 1 to 256 printable characters")
)

// ParseSigningKey reads a private key as an operator wrote it, or EncodeKey: PEM (PKCS#8,
// PKCS#1 or SEC 1) or a JWK. It signs with the preferred algorithm, "" for none, if that
// fits and the key itself names none. Its errors are those above.
func ParseSigningKey(text, preferred string) (*SigningKey, error) {
	if len(text) > maxKey {
		return nil, ErrKeyShape
	}
	if strings.HasPrefix(strings.TrimSpace(text), "{") {
		return parseJWK(text, preferred)
	}
	private, err := ParsePEMKey(text)
	if err != nil {
		return nil, err
	}
	return NewSigningKey(private, fittingOr(private, preferred), "")
}

// fittingOr is the algorithm if the key can sign with it, or "".
func fittingOr(private crypto.Signer, algorithm string) jwa.SignatureAlgorithm {
	if alg := jwa.SignatureAlgorithm(algorithm); slices.Contains(jwks.AlgorithmsOf(private.Public()), alg) {
		return alg
	}
	return ""
}

// parseJWK keeps a kid that the key brings: the server may know it by that.
func parseJWK(text, preferred string) (*SigningKey, error) {
	parsed, err := jwk.ParseKey([]byte(text))
	if err != nil {
		return nil, ErrKeyShape
	}
	if use := parsed.KeyUsage(); use != "" && use != string(jwk.ForSignature) {
		return nil, ErrKeyAlg
	}
	if id := parsed.KeyID(); len(id) > 256 || !IsASCII(id) {
		return nil, ErrKeyID
	}
	var raw any
	if err := parsed.Raw(&raw); err != nil {
		return nil, ErrKeyShape
	}
	private, ok := raw.(crypto.Signer)
	if !ok {
		return nil, ErrKeyShape
	}
	alg := jwa.SignatureAlgorithm(parsed.Algorithm().String())
	if alg == "" {
		alg = fittingOr(private, preferred)
	}
	key, err := NewSigningKey(private, alg, parsed.KeyID())
	if err == nil {
		key.Registered = parsed.KeyID() != ""
	}
	return key, err
}

// ParsePEMKey reads the only private key of a PEM text, of whatever kind. Its error is
// ErrKeyShape.
func ParsePEMKey(text string) (crypto.Signer, error) {
	var found *pem.Block
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type == "EC PARAMETERS" { // openssl ecparam writes them before the key
			continue
		}
		if found != nil {
			return nil, ErrKeyShape
		}
		found = block
	}
	if found == nil {
		return nil, ErrKeyShape
	}
	var key any
	var err error
	switch found.Type {
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(found.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(found.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(found.Bytes)
	default:
		err = ErrKeyShape
	}
	private, ok := key.(crypto.Signer)
	if err != nil || !ok {
		return nil, ErrKeyShape
	}
	return private, nil
}

// NewSigningKey judges the key itself. alg and id are "" for what follows from the
// key: the thumbprint of RFC 7638 as id.
func NewSigningKey(private crypto.Signer, alg jwa.SignatureAlgorithm, id string) (*SigningKey, error) {
	fitting := jwks.AlgorithmsOf(private.Public())
	if fitting == nil {
		return nil, ErrKeyKind
	}
	if alg == "" {
		alg = fitting[0]
	}
	if !slices.Contains(fitting, alg) {
		return nil, ErrKeyAlg
	}
	public, err := jwk.FromRaw(private.Public())
	if err != nil {
		return nil, ErrKeyKind
	}
	if id == "" {
		if id, err = Thumbprint(public); err != nil {
			return nil, ErrKeyKind
		}
	}
	for name, value := range map[string]any{jwk.KeyIDKey: id, jwk.AlgorithmKey: alg, jwk.KeyUsageKey: string(jwk.ForSignature)} {
		if err := public.Set(name, value); err != nil {
			return nil, ErrKeyKind
		}
	}
	return &SigningKey{Private: private, Public: public, Algorithm: alg, ID: id}, nil
}

// Thumbprint is that of RFC 7638 with SHA-256, in base64url.
func Thumbprint(key jwk.Key) (string, error) {
	sum, err := key.Thumbprint(crypto.SHA256)
	if err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(sum), nil
}

// GenerateKey makes a private key for RS256, PS256, EdDSA or, for any other algorithm,
// ES256.
func GenerateKey(algorithm jwa.SignatureAlgorithm) (crypto.Signer, error) {
	switch algorithm {
	case jwa.RS256, jwa.PS256:
		return rsa.GenerateKey(rand.Reader, 2048)
	case jwa.EdDSA:
		_, private, err := ed25519.GenerateKey(rand.Reader)
		return private, err
	}
	return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
}

// EncodeKey is the form in which a key that was made here is stored.
func EncodeKey(private crypto.Signer) (secret.Text, error) {
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return secret.Text{}, err
	}
	return secret.New(string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))), nil
}

// Sign makes a JWS of the claims in compact form (RFC 7515 7.1). header are the members
// of its protected header beside the alg.
func (k *SigningKey) Sign(header, claims map[string]any) (secret.Text, error) {
	payload, err := json.Marshal(claims)
	if err != nil {
		return secret.Text{}, err
	}
	headers := jws.NewHeaders()
	for name, value := range header {
		if err := headers.Set(name, value); err != nil {
			return secret.Text{}, err
		}
	}
	signed, err := jws.Sign(payload, jws.WithKey(k.Algorithm, k.Private, jws.WithProtectedHeaders(headers)))
	return secret.New(string(signed)), err
}
