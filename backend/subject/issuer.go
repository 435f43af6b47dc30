// Package subject verifies the tokens on whose behalf a child token is asked
// for (RFC 8693's subject and actor tokens) and judges their claims: which
// issuers are trusted, whether a token is theirs, what its claims must hold and
// whether the login behind it is good enough (RFC 9470).
//
// It follows RFC 7519 and the practices of RFC 8725: algorithms are listed and
// never taken from the token (3.1), every token is bound to one issuer whose
// keys alone may verify it (3.8), the audience is compared (3.9), keys and URLs
// that a token's header carries are ignored (3.10) and its type is checked
// (3.11). JSON is read strictly: UTF-8, no duplicate members, bounded depth.
//
// The package knows nothing of Vault and stores nothing. The clock is passed in,
// and the only I/O is fetching discovery documents and key sets. Replays of a
// jti are for the caller to remember, see Token.ReplayKey.
package subject

import (
	"bytes"
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/jwks"
)

// The defaults and bounds of an issuer's settings.
const (
	// DefaultClockSkew is what the clock_skew field means when it was not written.
	DefaultClockSkew = 30 * time.Second
	// MaxClockSkew is the largest tolerance that may be set.
	MaxClockSkew = 5 * time.Minute
	// DefaultMaxLifetime holds where max_subject_lifetime is zero. Workload
	// tokens live for minutes to an hour and users' tokens for a day at most;
	// what lives longer, the operator should have named.
	DefaultMaxLifetime = 24 * time.Hour

	maxAudiences  = 64
	maxPEM        = 256 << 10
	maxIdentifier = 2048 // bytes of an issuer, a subject, an audience or a jti
)

// IssuerConfig says who may vouch for subject tokens, as the operator wrote it.
// It holds nothing secret but ProxyPassword. The zero value is no valid configuration.
type IssuerConfig struct {
	// Name is the operator's name for the issuer, as in issuers/<name>.
	Name string `json:"name"`

	// OIDCDiscoveryURL is the issuer's identifier: the discovery document is
	// fetched below it and iss must equal it. Exactly one of OIDCDiscoveryURL,
	// JWKSURL and JWKSPEM is set.
	OIDCDiscoveryURL string `json:"oidc_discovery_url,omitempty"`
	// JWKSURL is where the issuer's keys are fetched.
	JWKSURL string `json:"jwks_url,omitempty"`
	// JWKSPEM holds the keys themselves, as PEM or as a JSON Web Key Set.
	JWKSPEM string `json:"jwks_pem,omitempty"`
	// BoundIssuer is what iss must equal. Beside OIDCDiscoveryURL it may only
	// repeat it. Beside JWKSURL and JWKSPEM it should be set: without it these
	// keys vouch for whatever name their tokens bear, and only VerifyFrom and
	// CheckActor keep them from another issuer's name (RFC 8725 3.8). Whether that is
	// allowed is the caller's to decide, see IssuerURL.
	BoundIssuer string `json:"bound_issuer,omitempty"`

	// BoundAudiences: a token must be for at least one of them (RFC 8725 3.9).
	// Required; compared exactly.
	BoundAudiences []string `json:"bound_audiences"`
	// AllowedAlgorithms are JWS algorithms; empty means DefaultAlgorithms.
	AllowedAlgorithms []string `json:"allowed_algorithms,omitempty"`
	// ClockSkew is by how much the issuer's clock may differ from ours, 0 to
	// MaxClockSkew. Zero is no tolerance; a field's default is the caller's.
	ClockSkew time.Duration `json:"clock_skew,omitempty"`
	// MaxSubjectLifetime bounds exp - iat, or exp - now for a token without iat.
	// Zero means DefaultMaxLifetime; there is no way to turn the bound off.
	MaxSubjectLifetime time.Duration `json:"max_subject_lifetime,omitempty"`

	// EntityClaim is the claim that is the id of the subject's Vault entity. EntityAliasMount
	// are the accessors of auth mounts at which the entity's alias is named as
	// EntityAliasClaim says, which is sub where it is empty. EntityMetadata is by which keys
	// of its metadata the entity is told, with the claim that has the same value. See Ties.
	EntityClaim      string            `json:"entity_claim,omitempty"`
	EntityAliasMount []string          `json:"entity_alias_mount,omitempty"`
	EntityAliasClaim string            `json:"entity_alias_claim,omitempty"`
	EntityMetadata   map[string]string `json:"entity_metadata,omitempty"`

	// CAPEM, Timeout and AllowHTTP as for a provider, see Client.
	CAPEM     string        `json:"ca_pem,omitempty"`
	Timeout   time.Duration `json:"timeout,omitempty"`
	AllowHTTP bool          `json:"allow_http,omitempty"`
	// ProxyPassword is the only secret here, and the proxy's alone.
	ProxyURL      string `json:"proxy_url,omitempty"`
	ProxyUsername string `json:"proxy_username,omitempty"`
	ProxyPassword string `json:"proxy_password,omitempty"`
}

// DefaultAlgorithms are allowed where an issuer names none: those that are
// in wide use and have no known weakness. A fresh slice for each call.
func DefaultAlgorithms() []string {
	return []string{"ES256", "ES384", "RS256", "PS256", "EdDSA"}
}

// Validate says what is wrong with the configuration, as an *fault.Error with
// invalid_request, or nil. It needs no network.
func (c IssuerConfig) Validate() error {
	for _, check := range []func(IssuerConfig) *fault.Error{
		checkKeySource, checkBoundIssuer, checkBoundAudiences, checkAlgorithms, checkTimes,
	} {
		if err := check(c); err != nil {
			return err
		}
	}
	if err := c.checkRelation(); err != nil {
		return err
	}
	if _, err := c.Client(); err != nil {
		return err
	}
	return nil
}

// Client is what reaches this issuer. Its error is an *fault.Error with invalid_request.
func (c IssuerConfig) Client() (*httpclient.Client, error) {
	proxy, err := httpclient.NewProxy(c.ProxyURL, c.ProxyUsername, c.ProxyPassword)
	if err != nil {
		return nil, invalid("%s", err)
	}
	client, err := httpclient.New(httpclient.Options{CAPEM: c.CAPEM, Timeout: c.Timeout, AllowHTTP: c.AllowHTTP, Proxy: proxy})
	if err != nil {
		return nil, invalid("%s", err)
	}
	return client, nil
}

// proxied says why the proxy, if there is one, must not see what is asked at url.
func (c IssuerConfig) proxied(name, url string) *fault.Error {
	if c.ProxyURL == "" || httpclient.IsHTTPS(url) {
		return nil
	}
	return invalid("%s must be https with proxy_url: a proxy reads plain http", name)
}

// IssuerURL is what a token's iss must equal, or "" if nothing binds it.
func (c IssuerConfig) IssuerURL() string {
	if c.OIDCDiscoveryURL != "" {
		return c.OIDCDiscoveryURL
	}
	return c.BoundIssuer
}

// WithDefaults is the configuration with what holds where nothing was written.
func (c IssuerConfig) WithDefaults() IssuerConfig {
	if len(c.AllowedAlgorithms) == 0 {
		c.AllowedAlgorithms = DefaultAlgorithms()
	}
	c.MaxSubjectLifetime = cmp.Or(c.MaxSubjectLifetime, DefaultMaxLifetime)
	c.Timeout = cmp.Or(c.Timeout, httpclient.DefaultTimeout)
	c.BoundIssuer = c.IssuerURL()
	if len(c.EntityAliasMount) > 0 {
		c.EntityAliasClaim = cmp.Or(c.EntityAliasClaim, DefaultAliasClaim)
	}
	return c
}

func checkKeySource(c IssuerConfig) *fault.Error {
	set := 0
	for _, v := range []string{c.OIDCDiscoveryURL, c.JWKSURL, c.JWKSPEM} {
		if v != "" {
			set++
		}
	}
	if set != 1 {
		return invalid("set exactly one of oidc_discovery_url, jwks_url and jwks_pem")
	}
	if c.JWKSURL != "" {
		if err := httpclient.CheckEndpoint(c.JWKSURL, c.AllowHTTP); err != nil {
			return invalid("jwks_url %s", err)
		}
		return c.proxied("jwks_url", c.JWKSURL)
	}
	if c.JWKSPEM != "" {
		return CheckKeys(c.JWKSPEM)
	}
	if c.OIDCDiscoveryURL == "" {
		return nil
	}
	if err := httpclient.CheckURL(c.OIDCDiscoveryURL, c.AllowHTTP); err != nil {
		return invalid("oidc_discovery_url %s", err)
	}
	if err := c.proxied("oidc_discovery_url", c.OIDCDiscoveryURL); err != nil {
		return err
	}
	if strings.Contains(c.OIDCDiscoveryURL, "/.well-known/") {
		return invalid("oidc_discovery_url is the issuer itself; leave out /.well-known and what follows")
	}
	return nil
}

// CheckKeys says what is wrong with jwks_pem, wherever one is configured, or nil. It refuses
// private keys beside what jwks refuses: the configuration is no secret and can be read.
func CheckKeys(document string) *fault.Error {
	if len(document) > maxPEM {
		return invalid("jwks_pem is longer than %d bytes", maxPEM)
	}
	if strings.Contains(document, "PRIVATE KEY-----") {
		return errPrivate()
	}
	if _, err := jwks.Static([]byte(document)); err != nil {
		return invalid("jwks_pem: %s", err)
	}
	if !bytes.HasPrefix(httpclient.Document([]byte(document)), []byte("{")) {
		return nil // it is PEM, of which jwks takes public keys and certificates only
	}
	set, err := form.Object(httpclient.Document([]byte(document)), maxDepth)
	if err != nil {
		return invalid("jwks_pem is not a JSON Web Key Set that can be trusted: %s", err)
	}
	for name, value := range set {
		pem, _ := value.(string) // whose name may be any key's id
		if holdsPrivate(value) || isPrivate(name) && !strings.Contains(pem, "-----BEGIN ") {
			return errPrivate()
		}
	}
	return nil
}

func errPrivate() *fault.Error {
	return invalid("jwks_pem holds a private key: give the public ones only, and replace that key")
}

// isPrivate reports whether a member of a JWK is one of a private or symmetric key's (RFC
// 7518 6.2.2, 6.3.2, 6.4; RFC 8037 2), in the spelling of any reader.
func isPrivate(member string) bool {
	return slices.Contains([]string{"d", "k", "p", "q", "dp", "dq", "qi", "oth", "priv"}, strings.ToLower(member))
}

// holdsPrivate reports whether a private key stands anywhere in value: whoever reads the
// configuration would find it, and not only where keys are looked for.
func holdsPrivate(value any) bool {
	switch v := value.(type) {
	case map[string]any:
		for name, inner := range v {
			if isPrivate(name) || holdsPrivate(inner) {
				return true
			}
		}
	case []any:
		return slices.ContainsFunc(v, holdsPrivate)
	case string:
		return strings.Contains(v, "PRIVATE KEY-----") // escaped in the document
	}
	return false
}

func checkBoundIssuer(c IssuerConfig) *fault.Error {
	switch {
	case c.OIDCDiscoveryURL != "":
		if c.BoundIssuer != "" && c.BoundIssuer != c.OIDCDiscoveryURL {
			return invalid("bound_issuer must be left out or equal oidc_discovery_url: " +
				"discovery binds the keys to that one issuer")
		}
	case c.BoundIssuer != "" && !isIdentifier(c.BoundIssuer):
		return invalid("bound_issuer must be at most %d bytes of printable characters", maxIdentifier)
	}
	return nil
}

func checkBoundAudiences(c IssuerConfig) *fault.Error {
	if len(c.BoundAudiences) == 0 {
		return invalid("bound_audiences is required: " +
			"name the audience that tokens for this broker carry in aud")
	}
	if len(c.BoundAudiences) > maxAudiences {
		return invalid("bound_audiences holds more than %d values", maxAudiences)
	}
	for _, a := range c.BoundAudiences {
		if err := access.CheckTarget(a); err != nil {
			return invalid("bound_audiences: %s", err)
		}
		if strings.Contains(a, "*") {
			return invalid("bound_audiences are compared exactly: a value must not hold a *")
		}
	}
	return nil
}

func checkAlgorithms(c IssuerConfig) *fault.Error {
	if len(c.AllowedAlgorithms) > len(jwks.Algorithms()) {
		return invalid("allowed_algorithms names more algorithms than there are")
	}
	for _, a := range c.AllowedAlgorithms {
		switch {
		case strings.EqualFold(a, "none"):
			return invalid("allowed_algorithms must not hold none: such a token is not signed")
		case strings.HasPrefix(strings.ToUpper(a), "HS"):
			return invalid("allowed_algorithms must not hold an HMAC: whoever can verify could also sign")
		case !slices.Contains(jwks.Algorithms(), jwa.SignatureAlgorithm(a)):
			return invalid("allowed_algorithms holds an unknown algorithm; known are %v", jwks.Algorithms())
		}
	}
	return nil
}

func checkTimes(c IssuerConfig) *fault.Error {
	switch {
	case c.ClockSkew < 0 || c.ClockSkew > MaxClockSkew:
		return invalid("clock_skew must be from 0 to %s", MaxClockSkew)
	case c.MaxSubjectLifetime < 0:
		return invalid("max_subject_lifetime must not be negative")
	case c.Timeout < 0:
		return invalid("timeout must not be negative")
	}
	return nil
}

// algorithms are the allowed ones as jwx names them. Call it on a valid config.
func (c IssuerConfig) algorithms() []jwa.SignatureAlgorithm {
	names := c.AllowedAlgorithms
	if len(names) == 0 {
		names = DefaultAlgorithms()
	}
	algs := make([]jwa.SignatureAlgorithm, 0, len(names))
	for _, n := range names {
		algs = append(algs, jwa.SignatureAlgorithm(n))
	}
	return algs
}

func invalid(format string, args ...any) *fault.Error {
	return fault.New(fault.InvalidRequest, format, args...)
}
