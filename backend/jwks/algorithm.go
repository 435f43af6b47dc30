package jwks

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"slices"

	"github.com/lestrrat-go/jwx/v2/jwa"
)

// RSA keys below the minimum are forgeable (RFC 7518 3.3), above the maximum
// they are a way to burn our processor.
const (
	minRSABits = 2048
	maxRSABits = 8192
)

// The algorithms by kind of key, the usual one first. Neither none nor any HMAC is among
// them: an HMAC would be keyed with what everyone knows, the public key (RFC 8725 2.1),
// and could not tell the issuer from the verifier anyway.
var (
	forRSA     = []jwa.SignatureAlgorithm{jwa.RS256, jwa.PS256, jwa.RS384, jwa.PS384, jwa.RS512, jwa.PS512}
	forP256    = []jwa.SignatureAlgorithm{jwa.ES256} // RFC 7518 3.4: each has its own curve
	forP384    = []jwa.SignatureAlgorithm{jwa.ES384}
	forP521    = []jwa.SignatureAlgorithm{jwa.ES512}
	forEd25519 = []jwa.SignatureAlgorithm{jwa.EdDSA}

	algorithms = slices.Concat(forP256, forP384, forP521, forRSA, forEd25519)
)

// Algorithms are all by which a token may be signed: those whose public key verifies, and
// that are no weaker than they say. A fresh slice for each call.
func Algorithms() []jwa.SignatureAlgorithm { return slices.Clone(algorithms) }

// AlgorithmsOf are those that fit a public key, the usual one first; none for a key that
// is of another kind, too weak or too large.
func AlgorithmsOf(public any) []jwa.SignatureAlgorithm { return slices.Clone(fitting(public)) }

// fitting is AlgorithmsOf, to read only.
func fitting(public any) []jwa.SignatureAlgorithm {
	switch p := public.(type) {
	case *rsa.PublicKey:
		if bits := p.N.BitLen(); bits >= minRSABits && bits <= maxRSABits && p.E >= 3 && p.E%2 == 1 {
			return forRSA
		}
	case *ecdsa.PublicKey:
		switch p.Curve {
		case elliptic.P256():
			return forP256
		case elliptic.P384():
			return forP384
		case elliptic.P521():
			return forP521
		}
	case ed25519.PublicKey:
		if len(p) == ed25519.PublicKeySize {
			return forEd25519
		}
	}
	return nil
}
