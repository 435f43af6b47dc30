package oauth2

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/kit"
)

// endpoints are where the provider's servers are, as pinned when it was written.
type endpoints struct {
	// Issuer is what signed tokens must name; "" where only URLs were written.
	Issuer        string `json:"issuer,omitempty"`
	Token         string `json:"token"`
	Revocation    string `json:"revocation,omitempty"`
	Introspection string `json:"introspection,omitempty"`
	JWKS          string `json:"jwks,omitempty"`
	// Others are further endpoints of the server at which clients authenticate, as its
	// metadata told. Nothing is sent to them; they are what a client's credential may
	// be made out to.
	Others []string `json:"others,omitempty"`
}

// endpointFields name an endpoint: whoever writes one wants it looked at again.
// So does whoever writes auth_method: endpoints for mTLS have names of their own.
var endpointFields = []string{fieldIssuer, fieldTokenURL, fieldRevocationURL, fieldIntrospectionURL, fieldJWKSURL, fieldAuthMethod}

// maxLifetime is the longest life of a token that is believed: what says more is a mistake.
const maxLifetime = 10 * 365 * 24 * time.Hour

// Configure implements provider.Type: it judges the fields, finds the endpoints,
// and then judges what the fields want of the endpoints.
func (Type) Configure(ctx context.Context, change provider.Change) (*provider.Pinned, error) {
	s, err := parseSettings(change.Config.Fields)
	if err != nil {
		return nil, err
	}
	for _, check := range []func() error{
		s.checkValues,
		s.checkTokenType,
		s.checkExtraMembers,
		s.checkProof,
		func() error { return s.checkURLs(change.AllowHTTP, change.Client.Proxied()) },
		s.checkClient,
		func() error { return s.checkParent(change.Parent) },
		func() error { return s.checkDates(change) },
	} {
		if err := check(); err != nil {
			return nil, err
		}
	}
	at, err := s.locate(ctx, change)
	if err != nil {
		return nil, err
	}
	if err := s.checkCapabilities(at); err != nil {
		return nil, err
	}
	if err := s.checkTransport(at, change.Client.Proxied()); err != nil {
		return nil, err
	}
	pinned, err := s.pin(at, change)
	if err != nil {
		return nil, err
	}
	pinned.Destinations = s.keepUnpinned(pinned.Destinations, change)
	return pinned, nil
}

// checkValues judges the fields one by one.
func (s settings) checkValues() error {
	switch {
	case s.ClientID == "":
		return invalid("client_id is missing: write the client identifier that the authorization server gave to the broker")
	case !kit.IsASCII(s.ClientID) || len(s.ClientID) > 1024:
		return invalid("client_id must be at most 1024 printable ASCII characters")
	case s.AssumedLifetime < 0 || s.assumedLifetime() > maxLifetime:
		return invalid("assumed_lifetime must lie between 0 and 10 years")
	}
	for _, f := range []struct {
		name, value string
		supported   []string
	}{
		{fieldAuthMethod, s.AuthMethod, []string{authBasic, authPost, authPrivateKeyJWT, authTLS, authSelfSignedTLS, authNone}},
		{fieldAssertionSigner, s.AssertionSigner, []string{"", signerClient, signerBroker}},
		{fieldClientKeyAlgorithm, s.ClientKeyAlgorithm, []string{"", keyES256, keyRS256, keyPS256, keyEdDSA}},
		{fieldGrant, s.Grant, []string{grantClientCredentials, grantRefreshToken}},
		{fieldExchange, s.Exchange, []string{"", exchangeToken, exchangeJWTBearer, exchangeOnBehalfOf}},
		{fieldAudienceParameter, s.AudienceParameter, []string{audienceNone, audienceAudience, audienceResource}},
		{fieldVerify, s.Verify, []string{verifyResponse, verifyIntrospect, verifyJWT}},
		{fieldRevocation, s.Revocation, []string{"", revocationToken, revocationLever, revocationExpiry}},
	} {
		if !slices.Contains(f.supported, f.value) {
			return invalid("%s must be one of %s", f.name, list(f.supported))
		}
	}
	return nil
}

// checkURLs judges what was written; discovered URLs are judged when found.
func (s settings) checkURLs(allowHTTP, proxied bool) error {
	if s.Issuer == "" && s.TokenURL == "" {
		return invalid("issuer or token_url is missing: write the issuer to have the endpoints discovered, or token_url")
	}
	for name, value := range map[string]string{
		fieldIssuer:           s.Issuer,
		fieldTokenURL:         s.TokenURL,
		fieldRevocationURL:    s.RevocationURL,
		fieldIntrospectionURL: s.IntrospectionURL,
		fieldJWKSURL:          s.JWKSURL,
	} {
		if value == "" {
			continue
		}
		check := checkEndpoint
		if name == fieldIssuer {
			check = httpclient.CheckURL // RFC 8414 2: it has no query
		}
		if err := check(value, allowHTTP); err != nil {
			return invalid("%s %s", name, err)
		}
		if proxied && !httpclient.IsHTTPS(value) {
			return invalid("%s must be https with proxy_url: a proxy reads plain http", name)
		}
	}
	return nil
}

// ownParameters are those by which a client says what it wants, who it is or what it has,
// as IANA's registry of OAuth parameters lists them, and what servers have beside it.
var ownParameters = []string{
	"grant_type", "scope", "audience", "resource", "authorization_details", "client_id", "client_secret", "client_assertion",
	"client_assertion_type", "refresh_token", "access_token", "token", "token_type_hint", "subject_token", "subject_token_type", "actor_token",
	"actor_token_type", "requested_token_type", "requested_token_use", "assertion", "code", "username", "password",
	"request", "request_uri", "response_type", "response_mode", "redirect_uri", "state", "nonce", "claims", "claims_locales", "prompt", "max_age",
	"acr_values", "login_hint", "id_token_hint", "id_token", "code_verifier", "code_challenge", "code_challenge_method", "device_code", "auth_req_id",
	"dpop_jkt", "dpop", "ticket", "claim_token", "claim_token_format", "pct", "rpt", "scopes", "aud", "permission",
}

// parameterOf is the parameter that a server takes a name for: in any case, as a member
// of a list or map (scope[], scope[0]), and, as PHP has it, with dots, blanks and odd
// brackets for underscores.
func parameterOf(name string) string {
	name = strings.ToLower(strings.TrimSpace(name))
	if at := strings.IndexByte(name, '['); at > 0 {
		name = name[:at]
	}
	if at := strings.IndexByte(name, 0); at >= 0 {
		name = name[:at]
	}
	return strings.Trim(strings.NewReplacer(".", "_", " ", "_", "[", "_").Replace(name), "_")
}

// checkEndpoint lets an endpoint have a query (RFC 6749 3.2), but none that asks the
// server for something beside what the broker asks it for, and compares the answer with.
func checkEndpoint(raw string, allowHTTP bool) error {
	if err := httpclient.CheckEndpoint(raw, allowHTTP); err != nil {
		return err
	}
	_, query, _ := strings.Cut(raw, "?")
	asked, err := url.ParseQuery(query)
	if err != nil { // CheckEndpoint has parsed it before
		return err
	}
	for name := range asked {
		if own := parameterOf(name); slices.Contains(ownParameters, own) {
			return fmt.Errorf("must not have %s in its query: the broker itself says that in each request, or leaves it out", own)
		}
	}
	return nil
}

// checkProof judges what check and rotate ask for.
func (s settings) checkProof() error {
	for _, scope := range s.CheckScopes {
		if err := access.CheckScope(scope); err != nil {
			return invalid("check_scopes: %s", err)
		}
	}
	check := access.CheckTarget
	switch {
	case len(s.CheckAudiences) > 0 && s.AudienceParameter == audienceNone:
		return invalid("check_audiences needs audience_parameter=audience or audience_parameter=resource, by which they are asked for")
	case s.AudienceParameter == audienceResource:
		check = access.CheckResource
	}
	for _, audience := range s.CheckAudiences {
		if err := check(audience); err != nil {
			return invalid("check_audiences: %s", err)
		}
	}
	return nil
}

// checkParent judges whether the secrets fit what the fields say of them.
func (s settings) checkParent(parent provider.Parent) error {
	if err := s.checkCredential(parent); err != nil {
		return err
	}
	has := func(name string) bool { return !parent.Secrets[name].Empty() }
	switch {
	case s.Grant == grantRefreshToken && !has(fieldRefreshToken):
		return invalid("refresh_token is missing: grant=refresh_token needs it")
	case s.Grant != grantRefreshToken && has(fieldRefreshToken):
		return invalid("refresh_token contradicts grant=%s: set grant=refresh_token or write refresh_token empty", s.Grant)
	}
	return checkText(fieldRefreshToken, parent.Secrets[fieldRefreshToken].Reveal())
}

// locate finds the endpoints: those that were written, and the others by
// discovery, which is not repeated unless the write names an endpoint.
func (s settings) locate(ctx context.Context, change provider.Change) (endpoints, error) {
	var at endpoints
	renew := len(change.Config.Pinned.Data) == 0
	for _, f := range endpointFields {
		renew = renew || change.Written[f]
	}
	switch {
	case !renew:
		if err := json.Unmarshal(change.Config.Pinned.Data, &at); err != nil {
			return at, invalid("the stored endpoints are not readable: write issuer or token_url again").Because(err)
		}
	case s.Issuer != "":
		var err error
		if at, err = discover(ctx, change.Client, s, change.AllowHTTP); err != nil {
			return at, err
		}
	}
	override(&at.Token, s.TokenURL)
	override(&at.Revocation, s.RevocationURL)
	override(&at.Introspection, s.IntrospectionURL)
	override(&at.JWKS, s.JWKSURL)
	at.Others = slices.DeleteFunc(at.Others, func(v string) bool { return slices.Contains(at.destinations(), v) })
	if at.Token == "" {
		return at, invalid("the issuer's metadata names no token endpoint: write token_url")
	}
	return at, at.check(change.AllowHTTP)
}

func override(endpoint *string, written string) {
	if written != "" {
		*endpoint = written
	}
}

// check judges every endpoint again: allow_http may have been taken back.
func (at endpoints) check(allowHTTP bool) error {
	for name, value := range at.byName() {
		if value == "" {
			continue
		}
		if err := checkEndpoint(value, allowHTTP); err != nil {
			return invalid("the %s endpoint %s", name, err)
		}
	}
	return nil
}

func (at endpoints) byName() map[string]string {
	return map[string]string{
		"token":         at.Token,
		"revocation":    at.Revocation,
		"introspection": at.Introspection,
		"jwks":          at.JWKS,
	}
}

// checkCapabilities judges what the fields want of endpoints that may not exist.
func (s settings) checkCapabilities(at endpoints) error {
	switch {
	case s.Verify == verifyIntrospect && at.Introspection == "":
		return invalid("verify=introspect needs an introspection endpoint: write introspection_url")
	case s.Verify == verifyJWT && at.JWKS == "":
		return invalid("verify=jwt needs the server's keys: write jwks_url")
	case (s.Revocation == revocationToken || s.Revocation == revocationLever) && at.Revocation == "":
		return invalid("revocation=%s needs a revocation endpoint: write revocation_url", s.Revocation)
	case s.ConfirmRevocation && at.Introspection == "":
		return invalid("confirm_revocation needs an introspection endpoint: write introspection_url")
	case s.ConfirmRevocation && s.class(at) == provider.ClassExpiry:
		return invalid("confirm_revocation contradicts revocation=%s, by which nothing is revoked: set revocation=token or leave confirm_revocation out", s.class(at))
	}
	return nil
}

// pin fixes what may not change unnoticed. The JWKS is no destination: no secret
// goes there.
func (s settings) pin(at endpoints, change provider.Change) (*provider.Pinned, error) {
	data, err := json.Marshal(at)
	if err != nil {
		return nil, err
	}
	account, err := s.pinAccount(at, change)
	if err != nil {
		return nil, err
	}
	return &provider.Pinned{Destinations: s.secretDestinations(at), Account: account, Data: data}, nil
}

// destinations are the URLs to which a secret may be sent, sorted.
func (at endpoints) destinations() []string {
	var all []string
	for _, u := range []string{at.Token, at.Revocation, at.Introspection} {
		if u != "" {
			all = append(all, u)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func invalid(format string, args ...any) *fault.Error {
	return fault.New(fault.InvalidRequest, format, args...)
}

func list(values []string) string {
	quoted := make([]string, 0, len(values))
	for _, v := range values {
		if v != "" {
			quoted = append(quoted, v)
		}
	}
	return strings.Join(quoted, ", ")
}

func hasControl(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r == 0x7f })
}
