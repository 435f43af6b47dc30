package authserver

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// Clients that authenticate by a key. go-jose verifies here what jwx signed in the
// broker, so that no mistake of one library is hidden by the other half of it.

// AssertionAlgorithms are those that the server takes in assertions and proofs.
var AssertionAlgorithms = []jose.SignatureAlgorithm{jose.ES256, jose.ES384, jose.ES512, jose.RS256, jose.PS256, jose.EdDSA}

const assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

func (c *Client) hasKeys() bool { return c.JWKS != "" || c.AuthorityPEM != "" }

// authenticateByKey is RFC 7523 2.2 where an assertion came, else RFC 8705 2.
func (s *Server) authenticateByKey(client *Client, r *http.Request, form url.Values) *Client {
	_, _, basic := r.BasicAuth()
	certificate := s.certificateOf(r)
	var known bool
	switch {
	case basic || form.Has("client_secret"):
	case form.Has("client_assertion"):
		known = form.Get("client_assertion_type") == assertionType && s.assertionHolds(client, form.Get("client_assertion"))
	case certificate != nil && client.AuthorityPEM != "":
		known = certificate.Subject.String() == client.Subject && signedBy(certificate, client.AuthorityPEM)
	case certificate != nil:
		known = registered(certificate, client.JWKS)
	}
	if !known {
		return nil
	}
	return client
}

// certificateOf is the client's certificate, at the endpoints where one counts.
func (s *Server) certificateOf(r *http.Request) *x509.Certificate {
	if !strings.HasPrefix(r.URL.Path, mutualTLS+"/") || r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return nil
	}
	return r.TLS.PeerCertificates[0]
}

// assertionHolds judges an assertion by RFC 7523 3: the issuer or the token endpoint
// as its audience, a minute of life at most, and each jti once.
func (s *Server) assertionHolds(client *Client, assertion string) bool {
	token, err := jwt.ParseSigned(assertion, AssertionAlgorithms)
	if err != nil || len(token.Headers) != 1 || token.Headers[0].ExtraHeaders[jose.HeaderType] != "JWT" {
		return false
	}
	var set jose.JSONWebKeySet
	if json.Unmarshal([]byte(client.JWKS), &set) != nil {
		return false
	}
	keys := set.Key(token.Headers[0].KeyID)
	var claims jwt.Claims
	if len(keys) != 1 || token.Claims(keys[0], &claims) != nil || claims.Expiry == nil || claims.IssuedAt == nil {
		return false
	}
	now := s.options.Now()
	audience := len(claims.Audience) == 1 && (claims.Audience[0] == s.URL || claims.Audience[0] == s.Endpoint(EndpointToken))
	if s.options.AnyAudience {
		audience = len(claims.Audience) == 1 && strings.HasPrefix(claims.Audience[0], s.URL)
	}
	inTime := !claims.IssuedAt.Time().After(now) && now.Before(claims.Expiry.Time()) &&
		claims.Expiry.Time().Sub(claims.IssuedAt.Time()) <= time.Minute
	return claims.Issuer == client.ID && claims.Subject == client.ID && audience && inTime && s.useOnce(claims.ID)
}

// useOnce reports whether id is new. The caller holds mu.
func (s *Server) useOnce(id string) bool {
	if id == "" || s.used[id] {
		return false
	}
	s.used[id] = true
	return true
}

func signedBy(certificate *x509.Certificate, authorityPEM string) bool {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(authorityPEM))
	_, err := certificate.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	return err == nil
}

// registered looks for the certificate among the x5c (RFC 8705 2.2.2).
func registered(certificate *x509.Certificate, text string) bool {
	var set jose.JSONWebKeySet
	if json.Unmarshal([]byte(text), &set) != nil {
		return false
	}
	return slices.ContainsFunc(set.Keys, func(key jose.JSONWebKey) bool {
		return len(key.Certificates) > 0 && key.Certificates[0].Equal(certificate)
	})
}

func (s *Server) aliases(m map[string]any) map[string]any {
	aliases := map[string]any{}
	for name, value := range m {
		if strings.HasSuffix(name, "_endpoint") {
			aliases[name] = strings.Replace(value.(string), s.URL, s.URL+mutualTLS, 1)
		}
	}
	return aliases
}

// bound answers a token request, whose token is bound to the key that came with it.
// The caller holds mu.
func (s *Server) bound(client *Client, r *http.Request, form url.Values) reply {
	asked := *client
	if certificate := s.certificateOf(r); certificate != nil && client.CertificateBound {
		sum := sha256.Sum256(certificate.Raw)
		asked.confirmation = map[string]string{"x5t#S256": base64.RawURLEncoding.EncodeToString(sum[:])}
	}
	if proof := r.Header.Get("DPoP"); proof != "" {
		jkt, code := s.judgeProof(proof, s.URL+r.URL.Path)
		if code != "" {
			return oauthError(http.StatusBadRequest, code)
		}
		asked.confirmation = map[string]string{"jkt": jkt}
	}
	return s.token(&asked, form)
}
