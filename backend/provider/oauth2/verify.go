package oauth2

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
)

// facts are what a checked source, introspection or a verified JWT, says of a
// child token.
type facts struct {
	scope    scopeList
	audience []string // empty where the source names none
	details  json.RawMessage
	expires  time.Time // zero where the source names none
	clientID string
	// members are all that the source says, unread.
	members map[string]json.RawMessage
	bound   confirmation
}

// clockSkew is how far the provider's clock may be off.
const clockSkew = time.Minute

// maxEndSkew is how much later than expires_in a token may say that it ends.
const maxEndSkew = 5 * time.Minute

var (
	errDetailsShape   = errors.New("the provider's authorization_details are malformed")
	errAudienceShape  = errors.New("the token's audience is malformed")
	errAudienceAbsent = errors.New("the token names no audience, so it is valid everywhere: let the provider set one, or set audience_parameter")
	errOtherClient    = errors.New("the token was issued to another client")
	errExpired        = errors.New("the token has expired already, or the clocks differ")
	errEndLater       = errors.New("the token itself ends later than expires_in says")
	errEndFar         = errors.New("the token itself ends more than 10 years from now")
)

// verify learns by the provider's own rule what was really granted, and writes
// it into child. also judges the facts of a source that was checked; nil is no
// further judgement.
func (p *Provider) verify(ctx context.Context, child *provider.Child, a answer, asked access.Access, also func(facts) error) error {
	var f facts
	var err error
	switch p.settings.Verify {
	case verifyIntrospect:
		f, err = p.introspectChild(ctx, child)
	case verifyJWT:
		f, err = p.readJWT(ctx, child.Token().Reveal())
	}
	if err != nil {
		return err
	}
	if err := p.checkClient(f); err != nil {
		return violation("%s", err)
	}
	if err := p.checkBinding(child, f.bound, a.proof); err != nil {
		return violation("%s", err)
	}
	if err := p.shortenEnd(child, f); err != nil {
		return violation("%s", err)
	}
	if also != nil {
		if err := also(f); err != nil {
			return violation("%s", err)
		}
	}
	if err := p.noteGranted(child, a, f, asked); err != nil {
		return violation("%s", err)
	}
	return nil
}

func (p *Provider) checkClient(f facts) error {
	if f.clientID != "" && f.clientID != p.settings.ClientID {
		return errOtherClient
	}
	return nil
}

// shortenEnd makes the earliest known end the child's. A token that itself ends
// much later than the answer said would outlive its lease wherever it is
// verified offline, so that is no discrepancy to smooth over; whoever kills it
// then has to know the later end.
func (p *Provider) shortenEnd(child *provider.Child, f facts) error {
	if f.expires.IsZero() {
		return nil
	}
	if !f.expires.After(p.deps.Now()) {
		return errExpired // or so it says: nobody should rely on its being dead
	}
	answered := child.ExpiresAt
	child.ExpiresAt = f.expires
	switch {
	case f.expires.After(p.deps.Now().Add(maxLifetime)):
		return errEndFar
	case !answered.IsZero() && f.expires.After(answered.Add(maxEndSkew)):
		return errEndLater
	case !answered.IsZero() && answered.Before(f.expires):
		child.ExpiresAt = answered
	}
	return nil
}

// noteGranted fills in Granted and Confirmed, dimension by dimension.
func (p *Provider) noteGranted(child *provider.Child, a answer, f facts, asked access.Access) error {
	child.Granted = asked
	child.Confirmed = access.Dimensions{}
	noteScopes(child, a.scope, f.scope, asked)
	if err := noteDetails(child, a.details, f.details, asked); err != nil {
		return err
	}
	return p.noteTargets(child, f.audience, asked)
}

// noteScopes: the checked source is believed before the answer, and silence of
// both means "as requested" (RFC 6749 5.1), if anything was requested. What the
// answer adds beyond what was asked is kept, so that the caller sees it.
func noteScopes(child *provider.Child, answered, checked scopeList, asked access.Access) {
	answered, checked = answered.apart(asked.Scopes), checked.apart(asked.Scopes)
	switch {
	case checked.known:
		granted := slices.Clone(checked.values)
		for _, s := range answered.values {
			if !asked.Scopes.Contains(s) {
				granted = append(granted, s)
			}
		}
		child.Granted.Scopes = access.Exactly(granted...)
	case answered.known:
		child.Granted.Scopes = access.Exactly(answered.values...)
	case asked.Scopes.IsNothing() || asked.Scopes.IsUnbounded():
		return // the server's own default, and nobody says what that is
	}
	child.Confirmed[access.DimScopes] = true
}

// noteDetails reads authorization_details from the answer (RFC 9396 7) or the
// checked source (RFC 9396 9). Silence confirms nothing.
func noteDetails(child *provider.Child, answered, checked json.RawMessage, asked access.Access) error {
	for _, source := range []json.RawMessage{answered, checked} {
		if source == nil {
			continue
		}
		details, err := access.ParseDetails(source)
		if err != nil {
			return errDetailsShape
		}
		// An excess that the answer names stays, whatever the check says.
		if !child.Confirmed[access.DimDetails] || child.Granted.Details.Within(asked.Details) {
			child.Granted.Details = details
		}
		child.Confirmed[access.DimDetails] = true
	}
	return nil
}

// noteTargets sorts the token's audience into the dimensions that were asked
// for; RFC 8707 2 turns resources into audiences. What fits neither is excess in
// a dimension that was asked for, or an audience where none was. The client's own
// id addresses nobody but the broker, so it is left out unless it was asked for.
func (p *Provider) noteTargets(child *provider.Child, audience []string, asked access.Access) error {
	if p.settings.Verify == verifyResponse {
		return nil
	}
	if len(audience) == 0 {
		return p.absentAudience(asked)
	}
	var audiences, resources []string
	excessIsResource := asked.Audiences.IsNothing() && !asked.Resources.IsNothing()
	for _, v := range audience {
		isAudience, isResource := asked.Audiences.Contains(v), asked.Resources.Contains(v)
		if v == p.settings.ClientID && !isAudience && !isResource {
			continue
		}
		if access.CheckTarget(v) != nil {
			return errAudienceShape
		}
		if isResource || (!isAudience && excessIsResource) {
			resources = append(resources, v)
		}
		if isAudience || (!isResource && !excessIsResource) {
			audiences = append(audiences, v)
		}
	}
	child.Granted.Audiences = access.Exactly(audiences...)
	child.Granted.Resources = access.Exactly(resources...)
	child.Confirmed[access.DimAudiences] = true
	child.Confirmed[access.DimResources] = true
	return nil
}

// absentAudience judges a token that names no audience. Where the audience was
// asked for, the server may confirm it elsewhere: unverified. Where it could not
// be asked for, the check was the role's only bound, and it is not there.
func (p *Provider) absentAudience(asked access.Access) error {
	askable := p.Traits().Askable
	for d, set := range map[access.Dimension]access.Set{
		access.DimAudiences: asked.Audiences,
		access.DimResources: asked.Resources,
	} {
		if !askable[d] && !set.IsNothing() && !set.IsUnbounded() {
			return errAudienceAbsent
		}
	}
	return nil
}
