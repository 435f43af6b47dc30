package oauth2

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/jwks"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/kit"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// A DPoP proof (RFC 9449 4.2) says which key a token shall be bound to. The key is
// the caller's and never here: the broker looks whether the proof is one for the
// token endpoint, passes it on, and holds the answer against it.

const (
	headerDPoP      = "DPoP"
	headerDPoPNonce = "DPoP-Nonce"
	typeDPoP        = "dpop+jwt"
	// maxProof bounds a proof in bytes: it travels in a header.
	maxProof = 8 << 10
	// maxProofAge is how far a proof's iat may be from now.
	maxProofAge = time.Minute
	maxJTI      = 256
	maxNonce    = 256
)

// dpopProof is a proof that was looked at.
type dpopProof struct {
	compact secret.Text
	// thumbprint is the key's by RFC 7638, as in cnf.jkt.
	thumbprint string
}

// The ways in which a proof will not do. They say nothing of what it holds.
var (
	errProofShape   = errors.New("is not a signed JWT of at most 8192 bytes")
	errProofType    = errors.New("has another typ than dpop+jwt")
	errProofKey     = errors.New("holds no public key (jwk) of an asymmetric algorithm that the broker knows")
	errProofPrivate = errors.New("holds a private key: replace that key, and put only its public half into jwk")
	errProofSigned  = errors.New("is not signed by the key that it holds, or by another algorithm than ES, PS, RS or EdDSA")
	errProofClaims  = errors.New("has claims that are not a JSON object")
	errProofMethod  = errors.New("has another htm than POST")
	errProofURL     = errors.New("has another htu than the token endpoint")
	errProofTime    = errors.New("has no iat within a minute of now: make it anew for each request, and look at the clock")
	errProofID      = errors.New("has no jti of 1 to 256 characters")
)

// privateMembers are those of a JWK that hold a secret (RFC 7518 6.2.2, 6.3.2, 6.4.1).
var privateMembers = []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k"}

// proofOf is the proof that r brings; nil where the provider binds no tokens.
func (p *Provider) proofOf(r provider.Request) (*dpopProof, error) {
	if !p.settings.DPoP {
		return nil, nil
	}
	compact := r.Proofs[provider.ProofDPoP]
	if compact.Empty() {
		return nil, invalid("dpop_proof is missing: make a DPoP proof (RFC 9449 4.2) with htm=POST and htu=%s, and send it along", proofURL(p.at.Token))
	}
	proof, err := parseProof(compact.Reveal(), p.at.Token, p.deps.Now())
	if err != nil {
		return nil, invalid("dpop_proof %s; it must be a DPoP proof (RFC 9449 4.2) with htm=POST and htu=%s", err, proofURL(p.at.Token))
	}
	return proof, nil
}

// parseProof judges a proof by RFC 9449 4.3 as far as that needs no memory of
// proofs seen and no nonce: those are the server's.
func parseProof(compact, endpoint string, now time.Time) (*dpopProof, error) {
	if len(compact) > maxProof {
		return nil, errProofShape
	}
	proof, err := jwks.Parse(compact)
	if err != nil {
		return nil, fmt.Errorf("%w (%w)", errProofShape, err)
	}
	key, err := proofKey(proof)
	if err != nil {
		return nil, err
	}
	document, err := json.Marshal(map[string]any{"keys": []jwk.Key{key}})
	if err != nil {
		return nil, errProofKey
	}
	keys, err := jwks.Static(document)
	if err != nil {
		return nil, errProofKey
	}
	if keys.VerifyToken(context.Background(), proof, jwks.Algorithms()) != nil {
		return nil, errProofSigned
	}
	if err := checkProofClaims(proof.Payload, endpoint, now); err != nil {
		return nil, err
	}
	jkt, err := kit.Thumbprint(key)
	if err != nil {
		return nil, errProofKey
	}
	return &dpopProof{compact: secret.New(compact), thumbprint: jkt}, nil
}

// proofKey is the public key in the header. Its other members are dropped: what it
// says of its own use is nothing that the server goes by.
func proofKey(proof *jwks.Token) (jwk.Key, error) {
	if proof.Header.Type != typeDPoP {
		return nil, errProofType
	}
	value, _ := proof.Member("jwk")
	members, isObject := value.(map[string]any)
	if !isObject {
		return nil, errProofKey
	}
	for _, name := range privateMembers {
		if members[name] != nil {
			return nil, errProofPrivate
		}
	}
	bare := map[string]any{}
	for _, name := range []string{"kty", "crv", "x", "y", "n", "e"} {
		if members[name] != nil {
			bare[name] = members[name]
		}
	}
	raw, err := json.Marshal(bare)
	if err != nil {
		return nil, errProofKey
	}
	key, err := jwk.ParseKey(raw)
	if err != nil {
		return nil, errProofKey
	}
	return key, nil
}

func checkProofClaims(payload []byte, endpoint string, now time.Time) error {
	claims, err := claimsIn(payload)
	if err != nil {
		return errProofClaims
	}
	text := func(name string) string { s, _ := stringMember(claims[name]); return s }
	issued, err := numericDate(claims["iat"])
	switch {
	case text("htm") != http.MethodPost:
		return errProofMethod
	case text("htu") != proofURL(endpoint):
		return errProofURL
	case err != nil || issued.IsZero() || issued.Before(now.Add(-maxProofAge)) || issued.After(now.Add(maxProofAge)):
		return errProofTime
	case text("jti") == "" || len(text("jti")) > maxJTI:
		return errProofID
	}
	return nil
}

// ownProof is for a check of the parent credential at a provider that binds its
// tokens: its child is bound to a key that nobody keeps, and is killed at once.
func (p *Provider) ownProof(nonce string) (*dpopProof, error) {
	if !p.settings.DPoP {
		return nil, nil
	}
	private, err := kit.GenerateKey(jwa.ES256)
	if err != nil {
		return nil, unavailable("a key for the check could not be made: try again").Because(err)
	}
	key, err := kit.NewSigningKey(private, "", "")
	if err != nil {
		return nil, unavailable("a key for the check could not be made: try again").Because(err)
	}
	return prove(key, p.at.Token, nonce, p.deps.Now())
}

// proofURL is the htu of an endpoint: without its query (RFC 9449 4.2).
func proofURL(endpoint string) string {
	bare, _, _ := strings.Cut(endpoint, "?")
	return bare
}
