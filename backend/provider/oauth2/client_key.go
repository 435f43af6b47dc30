package oauth2

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"slices"
	"strings"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/jwks"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// clientKey signs client assertions, and nothing else (rule 10 of the contract).
type clientKey struct {
	private crypto.Signer
	public  jwk.Key // with kid, alg and use
	alg     jwa.SignatureAlgorithm
	id      string // kid
	// registered is true if the key has brought its kid, so that the server knows it.
	registered bool
	// certificate is the key's, by whose thumbprints a server finds it; nil for none.
	certificate *x509.Certificate
}

// The ways in which a private key will not do. None quotes the key.
var (
	errKeyShape = errors.New("must be one private key: unencrypted PEM (PKCS#8, PKCS#1 or SEC 1) or a JWK")
	errKeyKind  = errors.New("must be an RSA key of 2048 to 8192 bits, an EC key on P-256, P-384 or P-521, or an Ed25519 key")
	errKeyAlg   = errors.New("is a JWK whose alg does not fit its kty, or whose use is not sig")
	errKeyID    = errors.New("is a JWK whose kid is not made of 1 to 256 printable characters")
)

// parseClientKey reads a private key as an operator wrote it, or as it was made
// here. It signs with the preferred algorithm if that fits and the key itself names
// none. Its errors are the ends of sentences that begin with a field's name.
func parseClientKey(text, preferred string) (*clientKey, error) {
	if len(text) > maxToken {
		return nil, errKeyShape
	}
	if strings.HasPrefix(strings.TrimSpace(text), "{") {
		return parseJWK(text, preferred)
	}
	private, err := parsePEMKey(text)
	if err != nil {
		return nil, err
	}
	return newClientKey(private, fittingOr(private, preferred), "")
}

// fittingOr is the algorithm if the key can sign with it, or "".
func fittingOr(private crypto.Signer, algorithm string) jwa.SignatureAlgorithm {
	if alg := jwa.SignatureAlgorithm(algorithm); slices.Contains(jwks.AlgorithmsOf(private.Public()), alg) {
		return alg
	}
	return ""
}

// parseJWK keeps a kid that the key brings: the server may know it by that.
func parseJWK(text, preferred string) (*clientKey, error) {
	parsed, err := jwk.ParseKey([]byte(text))
	if err != nil {
		return nil, errKeyShape
	}
	if use := parsed.KeyUsage(); use != "" && use != string(jwk.ForSignature) {
		return nil, errKeyAlg
	}
	if id := parsed.KeyID(); len(id) > 256 || !printable(id) {
		return nil, errKeyID
	}
	var raw any
	if err := parsed.Raw(&raw); err != nil {
		return nil, errKeyShape
	}
	private, ok := raw.(crypto.Signer)
	if !ok {
		return nil, errKeyShape
	}
	alg := jwa.SignatureAlgorithm(parsed.Algorithm().String())
	if alg == "" {
		alg = fittingOr(private, preferred)
	}
	key, err := newClientKey(private, alg, parsed.KeyID())
	if err == nil {
		key.registered = parsed.KeyID() != ""
	}
	return key, err
}

// parsePEMKey reads the only private key of a PEM text.
func parsePEMKey(text string) (crypto.Signer, error) {
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
			return nil, errKeyShape
		}
		found = block
	}
	if found == nil {
		return nil, errKeyShape
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
		err = errKeyShape
	}
	private, ok := key.(crypto.Signer)
	if err != nil || !ok {
		return nil, errKeyShape
	}
	return private, nil
}

// newClientKey judges the key itself. alg and id are "" for what follows from the
// key: the thumbprint of RFC 7638 as id.
func newClientKey(private crypto.Signer, alg jwa.SignatureAlgorithm, id string) (*clientKey, error) {
	fitting := jwks.AlgorithmsOf(private.Public())
	if fitting == nil {
		return nil, errKeyKind
	}
	if alg == "" {
		alg = fitting[0]
	}
	if !slices.Contains(fitting, alg) {
		return nil, errKeyAlg
	}
	public, err := jwk.FromRaw(private.Public())
	if err != nil {
		return nil, errKeyKind
	}
	if id == "" {
		if id, err = thumbprint(public); err != nil {
			return nil, errKeyKind
		}
	}
	for name, value := range map[string]any{jwk.KeyIDKey: id, jwk.AlgorithmKey: alg, jwk.KeyUsageKey: string(jwk.ForSignature)} {
		if err := public.Set(name, value); err != nil {
			return nil, errKeyKind
		}
	}
	return &clientKey{private: private, public: public, alg: alg, id: id}, nil
}

// thumbprint is that of RFC 7638 with SHA-256, in base64url.
func thumbprint(key jwk.Key) (string, error) {
	sum, err := key.Thumbprint(crypto.SHA256)
	if err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(sum), nil
}

// makeKey makes a private key for one of the values of client_key_algorithm.
func makeKey(algorithm string) (crypto.Signer, error) {
	switch algorithm {
	case keyRS256, keyPS256:
		return rsa.GenerateKey(rand.Reader, 2048)
	case keyEdDSA:
		_, private, err := ed25519.GenerateKey(rand.Reader)
		return private, err
	}
	return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
}

// encodeKey is the form in which a key that was made here is stored.
func encodeKey(private crypto.Signer) (secret.Text, error) {
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return secret.Text{}, err
	}
	return secret.New(string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))), nil
}
