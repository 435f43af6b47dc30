package harness

import (
	"crypto/rand"
	"encoding/base64"
	"slices"
	"strings"
	"time"
)

// OIDCProviderOptions configures StartOIDCProvider. All of it is optional.
type OIDCProviderOptions struct {
	TLS            bool // https, with client certificates asked for (RFC 8705)
	TLSAliases     bool // the same, but they are asked for at mtls_endpoint_aliases alone (RFC 8705 5)
	Clients        []OIDCClient
	Resources      []OIDCResource
	Scopes         []string          // that exist besides those of clients and resources
	AccessTokenTTL time.Duration     // default one hour; whole seconds
	DPoPNonce      bool              // a DPoP proof without a nonce gets a challenge
	RotateRefresh  bool              // each refresh ends the refresh token for a new one
	DetailTypes    map[string]Fields // RFC 9396 types, each with members that the server puts on top of what is asked for
}

// OIDCClient describes a client. Only the ID must be there.
type OIDCClient struct {
	ID          string
	Secret      string
	AuthMethod  string   // default client_secret_basic
	Grants      []string // default client_credentials
	Scopes      []string // none means: whatever exists; offline_access is added with refresh_token
	JWKS        any      // a JWK set: of private_key_jwt, or Certificate.JWKS
	SubjectDN   string   // of tls_client_auth, as RFC 4514 writes it: CN=name,O=harness
	SubjectURI  string   // of tls_client_auth, instead of SubjectDN
	DPoPBound   bool     // no token without a DPoP proof
	CertBound   bool     // no token without a client certificate, to which it is bound
	DetailTypes []string // RFC 9396 types that it may ask for
	Extra       Fields   // further client metadata
}

// OIDCResource is a resource server (RFC 8707) that a client may name.
type OIDCResource struct {
	ID       string // absolute URI, what `resource` says
	Audience string // default ID
	Scopes   []string
	JWT      bool          // its tokens are JWTs, which can be neither revoked nor introspected
	TTL      time.Duration // default AccessTokenTTL; whole seconds
}

// settings are what bootstrap/oidc-provider/server.mjs reads, without its address.
func (o OIDCProviderOptions) settings() Fields {
	ttl := o.AccessTokenTTL
	if ttl == 0 {
		ttl = time.Hour
	}
	details := o.DetailTypes
	if details == nil {
		details = map[string]Fields{}
	}
	observer := OIDCClient{ID: oidcObserver.ID, Secret: oidcObserver.Secret}
	config := Fields{
		"clients":        clientMetadata(append(slices.Clone(o.Clients), observer)),
		"resources":      resourceSettings(o.Resources),
		"scopes":         append([]string{}, o.Scopes...),
		"accessTokenTTL": int(ttl.Seconds()),
		"rotateRefresh":  o.RotateRefresh,
		"detailTypes":    details,
	}
	if o.DPoPNonce {
		secret := make([]byte, 32)
		_, _ = rand.Read(secret) // never fails
		config["dpopNonceSecret"] = base64.StdEncoding.EncodeToString(secret)
	}
	return config
}

// oidcObserver introspects for the tests.
var oidcObserver = Credentials{ID: "harness-observer", Secret: "only-for-tests"}

// clientMetadata is RFC 7591's.
func clientMetadata(clients []OIDCClient) []Fields {
	all := make([]Fields, len(clients))
	for i, c := range clients {
		grants, responses, redirects := c.Grants, []string{}, []string{}
		if grants == nil {
			grants = []string{"client_credentials"}
		}
		scopes := c.Scopes
		if slices.Contains(grants, "authorization_code") {
			responses, redirects = []string{"code"}, []string{redirectURI}
		}
		if len(scopes) > 0 && slices.Contains(grants, "refresh_token") {
			scopes = append([]string{"offline_access"}, scopes...)
		}
		document := Fields{
			"client_id":                c.ID,
			"grant_types":              grants,
			"response_types":           responses,
			"redirect_uris":            redirects,
			"dpop_bound_access_tokens": c.DPoPBound,
		}
		if c.JWKS != nil {
			document["jwks"] = c.JWKS
		}
		// The server knows these only where the feature is on.
		if c.CertBound {
			document["tls_client_certificate_bound_access_tokens"] = true
		}
		if c.DetailTypes != nil {
			document["authorization_details_types"] = c.DetailTypes
		}
		optional := map[string]string{
			"client_secret": c.Secret, "token_endpoint_auth_method": c.AuthMethod, "scope": strings.Join(scopes, " "),
			"tls_client_auth_subject_dn": c.SubjectDN, "tls_client_auth_san_uri": c.SubjectURI,
		}
		for key, value := range optional {
			if value != "" {
				document[key] = value
			}
		}
		for key, value := range c.Extra {
			document[key] = value
		}
		all[i] = document
	}
	return all
}

func resourceSettings(resources []OIDCResource) []Fields {
	all := make([]Fields, len(resources))
	for i, r := range resources {
		document := Fields{"id": r.ID, "audience": r.ID, "scopes": append([]string{}, r.Scopes...), "format": "opaque"}
		if r.Audience != "" {
			document["audience"] = r.Audience
		}
		if r.JWT {
			document["format"] = "jwt"
		}
		if r.TTL > 0 {
			document["ttl"] = int(r.TTL.Seconds())
		}
		all[i] = document
	}
	return all
}
