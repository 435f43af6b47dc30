package oauth2

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jws"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/kit"
)

// The error codes of RFC 9449 5 and 8.
const (
	codeUseDPoPNonce     = "use_dpop_nonce"
	codeInvalidDPoPProof = "invalid_dpop_proof"
)

// The token types that the broker hands out (RFC 6750, RFC 9449 5).
const (
	typeBearerToken = "Bearer"
	typeDPoPToken   = "DPoP"
)

// The ways in which a token is not bound to what it should be bound to.
var (
	errDowngraded  = errors.New("the provider answered with a Bearer token although a DPoP proof was asked for and sent: whoever sees such a token can use it; let the server bind this client's tokens (RFC 9449), or write dpop=false")
	errUnbound     = errors.New("the token does not say that it is bound to the key of the proof (cnf.jkt, RFC 9449 6), although the provider called it DPoP")
	errOtherKey    = errors.New("the token is bound to another key than the proof's (cnf.jkt, RFC 9449 6)")
	errBoundToUs   = errors.New("the token is bound to the broker's client certificate (cnf, RFC 8705 3), so that nobody but the broker could use it: set tls_client_certificate_bound_access_tokens=false for this client at the server")
	errBoundToKey  = errors.New("the token is bound to a key (cnf, RFC 7800 3), although nobody brought one, so that the caller could not use it: let the server issue this client bearer tokens, or write dpop=true")
	errConfirmator = errors.New("the token's cnf is malformed (RFC 7800 3)")
)

// challenge is in the chain of an error after which a proof with nonce would do.
type challenge struct{ nonce string }

func (challenge) Error() string { return "the provider wants a nonce in the DPoP proof" }

// proofRefused is an answer of RFC 9449 5 and 8, or an invalid_grant, which
// oidc-provider says of a proof that came before. Nothing was minted.
func (p *Provider) proofRefused(resp *httpclient.Response, code string) *fault.Error {
	switch nonce := p.nonceIn(resp.Header); {
	case !p.settings.DPoP:
		return unavailable("the provider wants a DPoP proof (%s): an operator must write dpop=true", code)
	case code != codeUseDPoPNonce:
		return invalid("the provider refuses the DPoP proof (%s): make a new one for each request, with htm=POST, htu=%s and a fresh jti", code, proofURL(p.at.Token))
	case nonce == "":
		return violation("the provider wants a nonce in the DPoP proof (use_dpop_nonce) and names none that could be used")
	default:
		return invalid("the provider wants a nonce in the DPoP proof (use_dpop_nonce): make a new one with the claim nonce=%q", nonce).Because(challenge{nonce})
	}
}

// nonceIn is the answer's DPoP-Nonce: NQCHAR (RFC 9449 8.1), "" if there is none
// that can be shown.
func (p *Provider) nonceIn(header http.Header) string {
	values := header.Values(headerDPoPNonce)
	if len(values) != 1 || values[0] == "" || len(values[0]) > maxNonce {
		return ""
	}
	odd := strings.ContainsFunc(values[0], func(r rune) bool {
		return r < 0x21 || r > 0x7e || r == '"' || r == '\\'
	})
	if odd || p.discreet(values[0]) != values[0] {
		return ""
	}
	return values[0]
}

// confirmation is the cnf member of a checked source.
type confirmation struct {
	jkt         string // RFC 9449 6
	certificate string // x5t#S256, RFC 8705 3.1
	other       bool   // bound by something else
}

func parseConfirmation(raw json.RawMessage) (confirmation, error) {
	if raw = present(raw); raw == nil {
		return confirmation{}, nil
	}
	members, err := form.UniqueMembers(raw)
	if err != nil {
		return confirmation{}, errConfirmator
	}
	var c confirmation
	for name, value := range members {
		var err error
		switch name {
		case "jkt":
			c.jkt, err = stringMember(value)
		case "x5t#S256":
			c.certificate, err = stringMember(value)
		default:
			c.other = c.other || present(value) != nil
		}
		if err != nil {
			return confirmation{}, errConfirmator
		}
	}
	return c, nil
}

// checkBinding judges what the token is bound to: the proof's key, or nothing. What
// nobody looked at is noted.
func (p *Provider) checkBinding(child *provider.Child, c confirmation, proof *dpopProof) error {
	switch {
	case p.settings.Verify == verifyResponse:
		if proof != nil {
			child.Unverified = []string{provider.UnverifiedBinding}
		}
		return nil
	case c.certificate != "":
		return errBoundToUs
	case proof == nil && (c.jkt != "" || c.other), c.other:
		return errBoundToKey
	case proof != nil && c.jkt == "":
		return errUnbound
	case proof != nil && c.jkt != proof.thumbprint:
		return errOtherKey
	}
	return nil
}

// prove makes a proof of the key (RFC 9449 4.2), which travels in the header.
func prove(key *kit.SigningKey, endpoint, nonce string, now time.Time) (*dpopProof, error) {
	claims := map[string]any{"jti": rand.Text(), "htm": http.MethodPost, "htu": proofURL(endpoint), "iat": now.Unix()}
	if nonce != "" {
		claims["nonce"] = nonce
	}
	public, err := jwk.FromRaw(key.Private.Public())
	if err != nil {
		return nil, err
	}
	compact, err := key.Sign(map[string]any{jws.TypeKey: typeDPoP, jws.JWKKey: public}, claims)
	return &dpopProof{compact: compact, thumbprint: key.ID}, err
}
