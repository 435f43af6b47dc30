package subject

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"strings"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
)

// Discover finds where the issuer's keys are fetched, once, when the issuer is
// written: the caller stores the answer and gives it to Open, so that a later
// change of the discovery document cannot move trust to another server. For
// jwks_url it is that URL and for jwks_pem it is "", both without any request.
//
// The discovery document's issuer must equal oidc_discovery_url exactly (OpenID
// Connect Discovery 4.3, RFC 8414 3.3), and its jwks_uri obeys the rules of
// httpclient.CheckURL and is not less protected than the document itself.
//
// Errors are *fault.Error: temporarily_unavailable if the issuer could not be
// reached or failed, invalid_request if what it answered cannot be right.
func (c IssuerConfig) Discover(ctx context.Context, client *httpclient.Client) (jwksURL string, err error) {
	if err := c.Validate(); err != nil {
		return "", err
	}
	if c.OIDCDiscoveryURL == "" {
		return c.JWKSURL, nil
	}
	// OpenID Connect Discovery 4.1: a terminating slash is removed first.
	body, err := get(ctx, client, strings.TrimSuffix(c.OIDCDiscoveryURL, "/")+"/.well-known/openid-configuration")
	if err != nil {
		return "", err
	}
	members, err := form.Object(httpclient.Document(body), maxDepth)
	if err != nil {
		return "", invalid("the discovery document is not a JSON object that can be trusted: %s", err)
	}
	if issuer, _ := members["issuer"].(string); issuer != c.OIDCDiscoveryURL {
		return "", wrongIssuer(c.OIDCDiscoveryURL, issuer)
	}
	uri, _ := members["jwks_uri"].(string)
	if uri == "" {
		return "", invalid("the discovery document names no jwks_uri: write jwks_url and bound_issuer instead")
	}
	if err := httpclient.CheckEndpoint(uri, c.AllowHTTP); err != nil {
		return "", invalid("the discovery document's jwks_uri %s", err)
	}
	// CheckURL lets plain http to loopback pass, for issuers that are there. One
	// that is reached by TLS has no business sending us to our own loopback.
	if err := c.proxied("the discovery document's jwks_uri", uri); err != nil {
		return "", err
	}
	if httpclient.IsHTTPS(c.OIDCDiscoveryURL) && !httpclient.IsHTTPS(uri) {
		return "", invalid("the discovery document's jwks_uri must be https, as the issuer is")
	}
	if httpclient.IsLoopback(uri) && !httpclient.IsLoopback(c.OIDCDiscoveryURL) {
		return "", invalid("the discovery document's jwks_uri is on this machine, which a remote issuer cannot know")
	}
	return uri, nil
}

// wrongIssuer tells the operator what the document says, which is public, in
// case only a slash is missing.
func wrongIssuer(asked, said string) *fault.Error {
	switch {
	case said == "" || len(said) > 256:
		return invalid("the discovery document does not say that it is %q's", asked)
	case strings.Contains(said, "{"):
		// No token's iss is ever such a name.
		return invalid("the discovery document is for many issuers at once, %q: write the oidc_discovery_url of your own tenant, "+
			"with its id where the document has the placeholder; for tokens of several tenants write an issuer for each", said)
	}
	return invalid("the discovery document is for the issuer %q, not for %q; "+
		"if that is the issuer you mean, write it so", said, asked)
}

// get fetches a public document, JSON or PEM. Only a transport failure, a 5xx or a 429
// can pass by itself; every other status means that the URL is wrong.
func get(ctx context.Context, client *httpclient.Client, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, invalid("the URL cannot be requested").Because(err)
	}
	req.Header.Set("Accept", "application/json, application/jwk-set+json, */*;q=0.1")
	resp, err := client.Do(req)
	switch {
	case httpclient.ProxyAdvice(err) != "":
		return nil, fault.New(fault.TemporarilyUnavailable, "%s", httpclient.ProxyAdvice(err)).Because(err)
	case err != nil:
		return nil, fault.New(fault.TemporarilyUnavailable,
			"the token issuer could not be reached; retry, or check its URL, ca_pem and the network").Because(err)
	case resp.Status >= 500 || resp.Status == http.StatusTooManyRequests:
		return nil, fault.New(fault.TemporarilyUnavailable,
			"the token issuer answered with status %d; retry later", resp.Status)
	case resp.PointsTo() != "":
		return nil, invalid("the token issuer answered with status %d, a redirect to %s, which is not followed; "+
			"write that URL if it is the issuer's own, and else check what you wrote", resp.Status, resp.PointsTo())
	case resp.Status/100 != 2:
		return nil, invalid("the token issuer answered with status %d; check its URL", resp.Status)
	case !bytes.Contains(resp.Body, []byte("-----BEGIN ")) && !json.Valid(httpclient.Document(resp.Body)):
		return nil, invalid("the token issuer did not answer with JSON; check its URL")
	}
	return resp.Body, nil
}
