package authserver

import (
	"crypto"
	"encoding/base64"
	"net/http"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// judgeProof is RFC 9449 4.3: it returns the key's thumbprint or an error code. The
// caller holds mu.
func (s *Server) judgeProof(proof, endpoint string) (jkt, code string) {
	const refused = "invalid_dpop_proof"
	token, err := jwt.ParseSigned(proof, AssertionAlgorithms)
	if err != nil || len(token.Headers) != 1 || token.Headers[0].ExtraHeaders[jose.HeaderType] != "dpop+jwt" {
		return "", refused
	}
	key := token.Headers[0].JSONWebKey
	if key == nil || !key.IsPublic() {
		return "", refused
	}
	var claims struct {
		jwt.Claims
		Method string `json:"htm"`
		URL    string `json:"htu"`
		Nonce  string `json:"nonce"`
	}
	if token.Claims(key, &claims) != nil || claims.Method != http.MethodPost || claims.URL != endpoint || claims.IssuedAt == nil {
		return "", refused
	}
	if s.options.DPoPNonce && claims.Nonce != s.nonce() {
		return "", "use_dpop_nonce"
	}
	age := s.options.Now().Sub(claims.IssuedAt.Time())
	if age.Abs() > time.Minute || !s.useOnce(claims.ID) {
		return "", refused
	}
	sum, err := key.Thumbprint(crypto.SHA256)
	if err != nil {
		return "", refused
	}
	return base64.RawURLEncoding.EncodeToString(sum), ""
}

// nonce is the one that proofs must hold.
func (s *Server) nonce() string { return "nonce-of-" + s.server.Listener.Addr().String() }

func tokenTypeOf(t *Token) string {
	if t.Confirmation["jkt"] != "" {
		return "DPoP"
	}
	return "Bearer"
}
