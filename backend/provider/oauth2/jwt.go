package oauth2

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/jwks"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/kit"
)

var (
	errTyp          = errors.New("the token's typ is neither at+jwt nor JWT, so it is no access token")
	errIDToken      = errors.New("the token is an ID or refresh token, not an access token")
	errIssuer       = errors.New("the token's iss is not the provider's issuer")
	errNoEnd        = errors.New("the token has no exp, so whoever verifies it offline accepts it for ever")
	errNotYet       = errors.New("the token is not valid yet, or the clocks differ")
	errIssuedLater  = errors.New("the token was issued in the future, or the clocks differ")
	errClaimsAtOdds = errors.New("the token's claims have the wrong types")
)

// readJWT is verify=jwt: the server's signature over the claims is the proof.
func (p *Provider) readJWT(ctx context.Context, token string) (facts, error) {
	ctx, cancel := context.WithTimeout(ctx, p.deps.Client.Timeout())
	defer cancel()
	// The token is the provider's own, minutes old at most, and dies if it cannot be
	// verified: that is worth a moment's patience with keys that were rotated just now.
	payload, header, err := p.keys.VerifyPatiently(ctx, token, jwks.Algorithms())
	switch {
	case errors.Is(err, jwks.ErrInvalid):
		return facts{}, violation("verify=jwt: the child is not a JWT that the provider's keys have signed; let the provider issue JWTs, or set verify=introspect").Because(err)
	case err != nil:
		why := ""
		if known := (*fault.Error)(nil); errors.As(err, &known) { // fetchKeys', of a redirect
			why = " (" + known.Message + ")"
		}
		return facts{}, kit.Unreached(err, "verify=jwt: the provider's keys could not be had%s: try again, and check jwks_url", why)
	}
	if !accessTokenType(header.Type) {
		return facts{}, violation("%s", errTyp)
	}
	f, err := parseClaims(payload, p.at.Issuer, p.deps.Now())
	if err != nil {
		return facts{}, violation("%s", err)
	}
	return f, nil
}

// accessTokenType judges typ: at+jwt by RFC 9068 2.1, JWT by RFC 7519 5.1, JOSE, which
// says no more than the token's form (RFC 7515 4.1.9), and absent, as many servers issue
// them.
func accessTokenType(typ string) bool {
	typ = strings.ToLower(typ)
	switch strings.TrimPrefix(typ, "application/") {
	case "", "jwt", "jose", "at+jwt":
		return true
	}
	return false
}

// parseClaims judges the claims of a verified access token (RFC 9068 2.2, with
// what servers before it do: scp for scope, no typ). issuer is "" if unknown.
func parseClaims(payload []byte, issuer string, now time.Time) (facts, error) {
	claims, err := claimsIn(payload)
	if err != nil {
		return facts{}, err
	}
	if isOtherKind(claims) {
		return facts{}, errIDToken
	}
	f, err := parseFacts(claims)
	if err != nil {
		return facts{}, err
	}
	if iss, err := stringMember(claims["iss"]); err != nil || (issuer != "" && iss != issuer) {
		return facts{}, errIssuer
	}
	if f.expires.IsZero() {
		return facts{}, errNoEnd
	}
	if err := checkBeginning(claims, now); err != nil {
		return facts{}, err
	}
	f.scope, err = addSCP(f.scope, claims["scp"])
	return f, err
}

// isOtherKind recognizes tokens for other purposes that the same key signs: ID
// tokens by their hashes (OpenID Connect Core 3.1.3.6), and by the kind claims
// of servers that have one.
func isOtherKind(claims map[string]json.RawMessage) bool {
	if claims["at_hash"] != nil || claims["c_hash"] != nil {
		return true
	}
	for _, name := range []string{"typ", "token_use"} {
		switch kind, _ := stringMember(claims[name]); strings.ToLower(kind) {
		case "id", "refresh", "offline":
			return true
		}
	}
	return false
}

func checkBeginning(claims map[string]json.RawMessage, now time.Time) error {
	notBefore, err := beginning(claims["nbf"])
	if err != nil {
		return errClaimsAtOdds
	}
	issued, err := beginning(claims["iat"])
	switch {
	case err != nil:
		return errClaimsAtOdds
	case notBefore.After(now.Add(clockSkew)):
		return errNotYet
	case issued.After(now.Add(clockSkew)):
		return errIssuedLater
	}
	return nil
}

// beginning is numericDate for a date that 0, by which some servers mean none (Keycloak
// wrote nbf so for years), makes no stricter.
func beginning(raw json.RawMessage) (time.Time, error) {
	if raw = present(raw); raw != nil {
		if seconds, ok := wholeSeconds(raw); ok && seconds == 0 {
			return time.Time{}, nil
		}
	}
	return numericDate(raw)
}

// addSCP adds the scopes of scp, which some servers (Hydra among them) have
// instead of scope, or beside it: the token is good for both.
func addSCP(scope scopeList, raw json.RawMessage) (scopeList, error) {
	scp, err := parseScope(raw)
	return scopeList{
		known:  scope.known || scp.known,
		values: append(scope.values, scp.values...),
	}, err
}

// selfContained reports whether a resource server can accept token without
// asking anybody: a JWT.
func selfContained(token string) bool { return jwks.LooksLikeJWT(token) }

// fetchKeys reads the server's JWKS.
func (p *Provider) fetchKeys(ctx context.Context) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.at.JWKS, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json, application/jwk-set+json, */*;q=0.1")
	resp, err := p.deps.Client.Public().Do(req)
	if err != nil {
		return nil, err
	}
	switch {
	case resp.PointsTo() != "":
		return nil, invalid("the JWKS endpoint answered HTTP %d, a redirect to %s, which is not followed", resp.Status, resp.PointsTo())
	case resp.Status/100 != 2:
		return nil, fmt.Errorf("the JWKS endpoint answered HTTP %d", resp.Status)
	}
	return resp.Body, nil
}
