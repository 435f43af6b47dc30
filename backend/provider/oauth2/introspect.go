package oauth2

import (
	"context"
	"encoding/json"
	"errors"
	"net/url"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/kit"
)

// introspection is an answer of RFC 7662 2.2, judged.
type introspection struct {
	active bool
	facts  facts
}

var (
	errNoIntrospection = errors.New("the introspection answer is not a JSON object with a boolean active (RFC 7662 2.2)")
	errInactive        = errors.New("introspection calls the new token inactive: may the client introspect it, or must it be in its audience?")
)

// introspect asks about token, which may be the parent's refresh token: it goes
// to an endpoint to which secrets may be sent.
func (p *Provider) introspect(ctx context.Context, endpoint, token, hint string) (introspection, error) {
	resp, err := p.post(ctx, endpoint, url.Values{"token": {token}, "token_type_hint": {hint}})
	switch {
	case err != nil:
		return introspection{}, kit.Unreached(err, "the introspection endpoint did not answer: try again, and check introspection_url")
	case !succeeded(resp.Status):
		return introspection{}, unavailable("the introspection endpoint answered HTTP %d: check introspection_url, and whether the client may introspect there", resp.Status).Because(p.retryAfter(resp))
	}
	parsed, err := parseIntrospection(resp.Body)
	if err != nil {
		return introspection{}, violation("%s", err)
	}
	return parsed, nil
}

// introspectChild is verify=introspect.
func (p *Provider) introspectChild(ctx context.Context, child *provider.Child) (facts, error) {
	got, err := p.introspect(ctx, p.at.Introspection, child.Token().Reveal(), hintAccess)
	if err == nil && !got.active {
		err = violation("%s", errInactive)
	}
	return got.facts, err
}

// parseIntrospection judges an introspection answer. Its errors are texts for
// the caller.
func parseIntrospection(body []byte) (introspection, error) {
	members, twice, err := form.Members(body)
	var active *bool
	if err != nil || json.Unmarshal(members["active"], &active) != nil || active == nil {
		return introspection{}, errNoIntrospection
	}
	if err := eachOnce(twice, introspected); err != nil {
		return introspection{}, err
	}
	if !*active {
		return introspection{}, nil // whatever else it says is of no use
	}
	members["exp"] = inSeconds(members["exp"])
	f, err := parseFacts(members)
	return introspection{active: true, facts: f}, err
}

// introspected are the members of an introspection answer that are gone by.
var introspected = []string{"active", "scope", "exp", "aud", "client_id", "sub", "act", "oid", "tid", "cnf", "authorization_details"}

// parseFacts reads the members that introspection (RFC 7662 2.2) and JWT access
// tokens (RFC 9068 2.2) share.
func parseFacts(members map[string]json.RawMessage) (facts, error) {
	f := facts{details: presentDetails(members["authorization_details"]), members: members}
	var err error
	if f.scope, err = parseScope(members["scope"]); err != nil {
		return facts{}, err
	}
	if f.expires, err = numericDate(members["exp"]); err != nil {
		return facts{}, err
	}
	if f.clientID, err = idMember(members["client_id"]); err != nil {
		return facts{}, errOtherClient
	}
	if f.bound, err = parseConfirmation(members["cnf"]); err != nil {
		return facts{}, err
	}
	if raw := present(members["aud"]); raw != nil {
		if f.audience, err = stringOrList(raw); err != nil {
			return facts{}, errAudienceShape
		}
		if len(f.audience) == 1 && f.audience[0] == "" {
			f.audience = nil
		}
	}
	return f, nil
}
