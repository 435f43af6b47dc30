package oauth2

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/kit"
)

// metadata are the members of RFC 8414 2 and OpenID Connect Discovery 3 that the
// broker uses.
type metadata struct {
	issuer, jwks string
	served
	// aliases are where to go instead with a client certificate (RFC 8705 5).
	aliases served
}

// served are endpoints at which clients authenticate.
type served struct {
	token, revocation, introspection string
	// never are those that are never called: by RFC 9126, RFC 8628, and CIBA.
	never []string
}

// maxRemembered bounds an endpoint that is kept and never called, in bytes.
const maxRemembered = 2048

// forClients are all endpoints at which clients authenticate. A server may take any of
// them as the audience of an assertion, also where it is used at another (RFC 9126 2).
func (m metadata) forClients() []string {
	var all []string
	for _, s := range []served{m.served, m.aliases} {
		all = append(append(all, s.token, s.revocation, s.introspection), s.never...)
	}
	return distinct(slices.DeleteFunc(all, func(v string) bool { return len(v) > maxRemembered || !kit.IsASCII(v) }))
}

// endpoints are those for a client of this kind.
func (m metadata) endpoints(mutualTLS bool) endpoints {
	at := endpoints{Issuer: m.issuer, Token: m.token, Revocation: m.revocation, Introspection: m.introspection, JWKS: m.jwks}
	if mutualTLS {
		override(&at.Token, m.aliases.token)
		override(&at.Revocation, m.aliases.revocation)
		override(&at.Introspection, m.aliases.introspection)
	}
	at.Others = m.forClients()
	return at
}

// discover reads the issuer's metadata where RFC 8414 3.1 puts it and, if there
// is none that can be used, where OpenID Connect Discovery 4 does. No secret is
// sent.
func discover(ctx context.Context, client *httpclient.Client, s settings, allowHTTP bool) (endpoints, error) {
	var best, other error
	for _, location := range metadataURLs(s.Issuer) {
		at, err := discoverAt(ctx, client, location, s, allowHTTP)
		if err == nil {
			return at, nil
		}
		// A failure at one place says nothing of the other, which a gateway may send to
		// another server (RFC 8414 5).
		if best == nil || telling(err) > telling(best) {
			best, other = err, best
		} else {
			other = err
		}
	}
	if other != nil && telling(best) == mayPass && telling(other) == notTheIssuers {
		best = unavailable("%s; at its other place, %s", message(best), message(other)).Because(errors.Join(best, other))
	}
	return endpoints{}, best
}

// What a failure tells an operator, from least to most: that there is no document, that
// another place was pointed to, that the document is not the issuer's, and that none could
// be had now.
const (
	nothingThere = iota
	pointedElsewhere
	notTheIssuers
	mayPass
)

// telling ranks a failure.
func telling(err error) int {
	switch {
	case errors.Is(err, errElsewhere):
		return pointedElsewhere
	case errors.Is(err, errNoMetadata):
		return nothingThere
	case fault.CodeOf(err) == fault.TemporarilyUnavailable:
		return mayPass
	}
	return notTheIssuers
}

var (
	errNoMetadata = errors.New("no metadata at this URL")
	errElsewhere  = errors.New("a redirect instead of metadata")
)

func metadataURLs(issuer string) []string {
	u, err := url.Parse(issuer)
	if err != nil { // CheckURL has parsed it before
		return nil
	}
	path := strings.TrimSuffix(u.EscapedPath(), "/")
	base := u.Scheme + "://" + u.Host
	return []string{
		base + "/.well-known/oauth-authorization-server" + path,
		base + path + "/.well-known/openid-configuration",
	}
}

func discoverAt(ctx context.Context, client *httpclient.Client, location string, s settings, allowHTTP bool) (endpoints, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, location, nil)
	if err != nil {
		return endpoints{}, invalid("issuer is not a URL").Because(err)
	}
	req.Header.Set("Accept", "application/json")
	resp, err := client.Do(req)
	switch {
	case errors.Is(err, httpclient.ErrBodyTooLarge):
		return endpoints{}, invalid("the issuer's metadata at %s is larger than %d bytes", location, httpclient.MaxBody)
	case err != nil:
		return endpoints{}, kit.Unreached(err, "the issuer could not be reached for its metadata: try again, or write token_url instead of issuer")
	case resp.Status == http.StatusTooManyRequests || resp.Status >= 500:
		return endpoints{}, unavailable("the issuer answered HTTP %d instead of its metadata: try again, or write token_url instead of issuer", resp.Status)
	case resp.PointsTo() != "":
		return endpoints{}, invalid("the issuer has no metadata: %s answers HTTP %d, a redirect to %s, which is not followed; if that is the issuer's own, write as issuer what its metadata calls it, or write token_url instead", location, resp.Status, resp.PointsTo()).Because(errElsewhere)
	case resp.Status/100 != 2:
		return endpoints{}, invalid("the issuer has no metadata: %s answers HTTP %d; check the issuer, or write token_url instead", location, resp.Status).Because(errNoMetadata)
	}
	return readMetadata(resp.Body, s, allowHTTP)
}

// parseMetadata reads a document, by exact names (encoding/json would take "to\u212aen"
// for "token"). A member of a type that it cannot have is as good as absent: most are for
// other clients than the broker.
func parseMetadata(body []byte) (metadata, error) {
	members, err := form.UniqueMembers(httpclient.Document(body))
	if err != nil {
		return metadata{}, err
	}
	m := metadata{issuer: textIn(members, "issuer"), jwks: textIn(members, "jwks_uri"), served: servedBy(members)}
	// Where nobody knows which one is meant, there is none.
	if aliases, err := form.UniqueMembers(members["mtls_endpoint_aliases"]); err == nil {
		m.aliases = servedBy(aliases)
	}
	return m, nil
}

func servedBy(members map[string]json.RawMessage) served {
	s := served{
		token:         textIn(members, "token_endpoint"),
		revocation:    textIn(members, "revocation_endpoint"),
		introspection: textIn(members, "introspection_endpoint"),
	}
	for _, name := range []string{"pushed_authorization_request_endpoint", "device_authorization_endpoint", "backchannel_authentication_endpoint"} {
		s.never = append(s.never, textIn(members, name))
	}
	return s
}

// textIn is a member that is a text, else "".
func textIn(members map[string]json.RawMessage, name string) string {
	text, err := stringMember(members[name])
	if err != nil {
		return ""
	}
	return text
}

// readMetadata judges one document: it must be the asked issuer's own (RFC 8414
// 3.3), and its endpoints obey the same rules as those that an operator writes.
func readMetadata(body []byte, s settings, allowHTTP bool) (endpoints, error) {
	m, err := parseMetadata(body)
	if err != nil {
		return endpoints{}, invalid("the issuer answered something that is no metadata (RFC 8414): check the issuer, or write token_url instead").Because(errNoMetadata)
	}
	switch {
	case m.issuer == s.Issuer:
	case strings.Contains(m.issuer, "{"):
		// A server never calls itself so in a token.
		return endpoints{}, invalid("the metadata found there is for many issuers at once%s: write the issuer of your own tenant, with its id where the metadata has the placeholder; or write token_url instead of issuer", quoted(m.issuer))
	default:
		return endpoints{}, invalid("the metadata found there is of another issuer%s: write exactly what the server calls itself", quoted(m.issuer))
	}
	at := m.endpoints(s.mutualTLS())
	if err := at.check(allowHTTP); err != nil {
		return endpoints{}, err
	}
	for name, value := range at.byName() {
		if httpclient.IsLoopback(value) && !httpclient.IsLoopback(s.Issuer) {
			return endpoints{}, invalid("the issuer says that its %s endpoint is on this machine, which a remote issuer cannot know", name)
		}
	}
	return at, nil
}

// quoted shows a URL that a server chose, if it is one that can be shown.
func quoted(raw string) string {
	if len(raw) > 200 || !kit.IsASCII(raw) || strings.Contains(raw, "?") || httpclient.CheckURL(raw, true) != nil {
		return ""
	}
	return " (" + raw + ")"
}

func unavailable(format string, args ...any) *fault.Error {
	return fault.New(fault.TemporarilyUnavailable, format, args...)
}
