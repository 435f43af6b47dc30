package jwks

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
)

// key is one public key and what its owner says that it is for.
type key struct {
	id     string                 // kid, "" if it has none
	alg    jwa.SignatureAlgorithm // its own alg, "" if it names none
	public any                    // *rsa.PublicKey, *ecdsa.PublicKey or ed25519.PublicKey
	good   *good                  // signatures of public's
}

// serves reports whether k may have signed a token with that header: right id,
// right kind of key, and not meant for another algorithm.
func (k key) serves(h Header) bool {
	if k.id != "" && h.KeyID != "" && k.id != h.KeyID {
		return false
	}
	if k.alg != "" && k.alg != h.Algorithm {
		return false
	}
	return slices.Contains(fitting(k.public), h.Algorithm)
}

// parseDocument reads a JSON Web Key Set, an object of PEM texts by key id, or PEM.
// Keys that cannot verify a signature are left out; a document without a usable one is
// an error. strict is for PEM that an operator has written, who can mend what is wrong
// with it: in what a server publishes a broken key does not spoil the others.
func parseDocument(document []byte, strict bool) (keys []key, err error) {
	if len(document) > MaxDocument {
		return nil, fmt.Errorf("the key set is larger than %d bytes", MaxDocument)
	}
	document = httpclient.Document(document)
	if !bytes.HasPrefix(document, []byte("{")) && bytes.Contains(document, []byte("-----BEGIN ")) {
		keys, err = parsePEM(document, strict)
	} else {
		keys, err = parseJWKS(document)
	}
	if err != nil {
		return nil, err
	}
	if len(keys) == 0 {
		return nil, errors.New("the document holds no usable signature key")
	}
	for i := range keys {
		keys[i].good = &good{}
	}
	return keys, nil
}

func parseJWKS(document []byte) ([]key, error) {
	members, err := form.UniqueMembers(document)
	var set []json.RawMessage
	if raw := members["keys"]; err != nil || raw != nil && json.Unmarshal(raw, &set) != nil {
		return nil, errors.New("the key set is not a JSON Web Key Set (RFC 7517 5)")
	}
	if set == nil {
		return parseNamedPEM(members)
	}
	if len(set) > MaxKeys {
		return nil, fmt.Errorf("the key set holds more than %d keys", MaxKeys)
	}
	var keys []key
	for _, raw := range set {
		// RFC 7517 5: a key that is not understood does not spoil the others.
		if k, ok := parseJWK(raw); ok {
			keys = append(keys, k)
		}
	}
	if len(keys) == 0 {
		return nil, errNoKeys
	}
	return keys, nil
}

// errNoKeys is an issuer's word that none of its keys may be trusted: a key set that
// is well-formed and holds no key that signs, not a page that stands in its place.
var errNoKeys = errors.New("the key set holds no usable signature key")

// parseNamedPEM reads an object of certificates or public keys by key id, as Google
// publishes them beside its key set.
func parseNamedPEM(byID map[string]json.RawMessage) ([]key, error) {
	if len(byID) > MaxKeys {
		return nil, fmt.Errorf("the key set holds more than %d keys", MaxKeys)
	}
	var keys []key
	for id, raw := range byID {
		var text string
		if json.Unmarshal(raw, &text) != nil {
			continue
		}
		named, err := parsePEM([]byte(text), false)
		if err != nil {
			return nil, err
		}
		for _, k := range named {
			k.id = id
			keys = append(keys, k)
		}
		if len(keys) > MaxKeys {
			return nil, fmt.Errorf("the key set holds more than %d keys", MaxKeys)
		}
	}
	return keys, nil
}

// usedMembers are those of a JWK that say which key it is and what it is for. What else
// is there may be of any type: nobody looks at it.
var usedMembers = []string{"kty", "use", "key_ops", "alg", "kid", "crv", "x", "y", "n", "e"}

func parseJWK(raw []byte) (key, bool) {
	members, err := form.UniqueMembers(raw)
	if err != nil { // also where a member stands twice: others may read another key
		return key{}, false
	}
	used := map[string]json.RawMessage{}
	for _, name := range usedMembers {
		if v := bytes.TrimSpace(members[name]); len(v) > 0 && string(v) != "null" {
			used[name] = v
		}
	}
	if kid := used["kid"]; kid != nil && kid[0] != '"' { // a name that no token can bear
		delete(used, "kid")
	}
	if ops := used["key_ops"]; ops != nil && ops[0] == '"' {
		used["key_ops"] = slices.Concat([]byte("["), ops, []byte("]"))
	}
	raw, err = json.Marshal(used)
	if err != nil {
		return key{}, false
	}
	parsed, err := jwk.ParseKey(raw)
	if err != nil {
		return key{}, false
	}
	if use := parsed.KeyUsage(); use != "" && use != string(jwk.ForSignature) {
		return key{}, false
	}
	if ops := parsed.KeyOps(); len(ops) > 0 && !slices.Contains(ops, jwk.KeyOpVerify) {
		return key{}, false
	}
	k := key{id: parsed.KeyID()}
	if alg := parsed.Algorithm().String(); alg != "" {
		k.alg = jwa.SignatureAlgorithm(alg)
		if alg == "Ed25519" { // RFC 9864's name for the same
			k.alg = jwa.EdDSA
		}
		if !slices.Contains(algorithms, k.alg) {
			return key{}, false
		}
	}
	public, err := parsed.PublicKey()
	if err != nil {
		return key{}, false
	}
	var material any
	if err := public.Raw(&material); err != nil {
		return key{}, false
	}
	k.public, err = checkMaterial(material)
	return k, err == nil
}

// parsePEM reads the blocks, around which any text may stand, as openssl and browsers
// write it. A broken block is passed over by pem.Decode, which strict does not.
func parsePEM(document []byte, strict bool) ([]key, error) {
	var keys []key
	begun := bytes.Count(document, []byte("-----BEGIN "))
	for {
		block, rest := pem.Decode(document)
		if block == nil {
			if strict && begun > 0 {
				return nil, errors.New("the PEM text holds a block that cannot be read: is it whole, and does each of its lines begin with it?")
			}
			return keys, nil
		}
		document, begun = rest, begun-1
		public, err := publicOf(block, strict)
		if err == nil {
			public, err = checkMaterial(public)
		}
		switch {
		case err != nil && !strict && !strings.Contains(block.Type, "PRIVATE"):
			continue
		case err != nil:
			return nil, err
		}
		if len(keys) == MaxKeys {
			return nil, fmt.Errorf("the PEM text holds more than %d keys", MaxKeys)
		}
		keys = append(keys, key{public: public})
	}
}

// publicOf is the key in a block. What an operator has written (strict) is meant for
// signatures; of what a server publishes, a certificate for another use, such as
// that of the authority in its chain, is passed over, as a JWK of another use is.
func publicOf(block *pem.Block, strict bool) (any, error) {
	switch block.Type {
	case "PUBLIC KEY":
		return x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		return x509.ParsePKCS1PublicKey(block.Bytes)
	case "CERTIFICATE":
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		signs := cert.KeyUsage&(x509.KeyUsageDigitalSignature|x509.KeyUsageContentCommitment) != 0
		if !strict && cert.KeyUsage != 0 && !signs {
			return nil, errors.New("the certificate is for another use than signatures (RFC 5280 4.2.1.3)")
		}
		return cert.PublicKey, nil
	}
	return nil, errors.New("the PEM text must hold public keys or certificates only")
}

// checkMaterial refuses keys that are too weak, too large or of another kind.
func checkMaterial(public any) (any, error) {
	switch p := public.(type) {
	case *rsa.PublicKey:
		if fitting(p) == nil {
			return nil, fmt.Errorf("an RSA key must have %d to %d bits and a sane exponent", minRSABits, maxRSABits)
		}
	case *ecdsa.PublicKey:
		if _, err := p.ECDH(); err != nil || fitting(p) == nil { // also: is the point on the curve?
			return nil, errors.New("an EC key must be a point of P-256, P-384 or P-521")
		}
	case ed25519.PublicKey:
		if fitting(p) == nil {
			return nil, errors.New("an Ed25519 key has the wrong size")
		}
	default:
		return nil, errors.New("a key is neither RSA, EC nor Ed25519")
	}
	return public, nil
}
