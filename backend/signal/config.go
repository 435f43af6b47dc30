package signal

import (
	"cmp"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/jwks"
)

// The defaults and bounds of a signal's settings.
const (
	// DefaultPollInterval is the pause between two polls of a transmitter that answers at
	// once; one that holds the poll until there is an event is asked again right away.
	DefaultPollInterval = 10 * time.Second
	// DefaultVerificationInterval is how often a transmitter is asked to send a sign of life.
	DefaultVerificationInterval = 30 * time.Minute

	minPollInterval         = time.Second
	maxPollInterval         = time.Hour
	minVerificationInterval = time.Minute
	maxKeys                 = 256 << 10 // bytes of jwks_pem
)

// Config is a signal as an operator wrote it. The zero value is none.
type Config struct {
	// Issuer is the transmitter's name, which a SET's iss must equal. Alone, it is also
	// where the transmitter is found and its stream set up. With PollURL the stream is the
	// operator's, and without Issuer a SET's iss must be one of the trusted issuers'.
	Issuer   string `json:"issuer,omitempty"`
	PollURL  string `json:"poll_url,omitempty"`
	Audience string `json:"audience,omitempty"`
	// StreamID is the operator's stream, for verification.
	StreamID string `json:"stream_id,omitempty"`
	// JWKSURL or JWKSPEM are the transmitter's keys where discovery does not tell. That the
	// latter are public ones is for whoever stores them to judge.
	JWKSURL string `json:"jwks_url,omitempty"`
	JWKSPEM string `json:"jwks_pem,omitempty"`
	// Token is a secret, and goes to the pinned URLs alone. TokenProvider has one minted
	// instead.
	Token         string          `json:"token,omitempty"`
	TokenProvider string          `json:"token_provider,omitempty"`
	TokenRequest  json.RawMessage `json:"token_request,omitempty"`
	// Events are the actions by kind; empty means DefaultActions.
	Events map[string]string `json:"events,omitempty"`

	PollInterval         time.Duration `json:"poll_interval,omitempty"`
	VerificationInterval time.Duration `json:"verification_interval,omitempty"`
	Disabled             bool          `json:"disabled,omitempty"`

	CAPEM         string        `json:"ca_pem,omitempty"`
	Timeout       time.Duration `json:"timeout,omitempty"`
	AllowHTTP     bool          `json:"allow_http,omitempty"`
	ProxyURL      string        `json:"proxy_url,omitempty"`
	ProxyUsername string        `json:"proxy_username,omitempty"`
	ProxyPassword string        `json:"proxy_password,omitempty"`
}

// Stream is what was found when the signal was written, and is used until it is written
// again: a later change at the transmitter moves neither trust nor the token.
type Stream struct {
	Audiences []string `json:"audiences"`
	PollURL   string   `json:"poll_url"`
	JWKSURL   string   `json:"jwks_url,omitempty"`
	ID        string   `json:"stream_id,omitempty"`
	// Set up is what the transmitter offers beside polling.
	ConfigurationURL string `json:"configuration_url,omitempty"`
	StatusURL        string `json:"status_url,omitempty"`
	VerificationURL  string `json:"verification_url,omitempty"`
	// Created is true if the stream is one that the broker has made, and so may delete.
	Created bool `json:"created,omitempty"`
}

// endpoints are where the token goes.
func (s *Stream) endpoints() []string {
	urls := []string{s.PollURL, s.ConfigurationURL, s.StatusURL, s.VerificationURL}
	return slices.DeleteFunc(urls, func(u string) bool { return u == "" })
}

// Destinations are the URLs to which the token may go.
func (s *Stream) Destinations() []string {
	urls := s.endpoints()
	if s.ID != "" {
		for _, u := range []string{s.ConfigurationURL, s.StatusURL} {
			if u != "" {
				urls = append(urls, ofStream(u, s.ID))
			}
		}
	}
	return urls
}

// WithDefaults is the configuration with what holds where nothing was written.
func (c Config) WithDefaults() Config {
	c.PollInterval = cmp.Or(c.PollInterval, DefaultPollInterval)
	c.VerificationInterval = cmp.Or(c.VerificationInterval, DefaultVerificationInterval)
	c.Timeout = cmp.Or(c.Timeout, httpclient.DefaultTimeout)
	if len(c.Events) == 0 {
		c.Events = DefaultActions()
	}
	return c
}

// Validate says what is wrong with the configuration, as an *fault.Error with
// invalid_request, or nil. It needs no network.
func (c Config) Validate() error {
	for _, check := range []func(Config) *fault.Error{checkSource, checkURLs, checkToken, checkTimes} {
		if err := check(c); err != nil {
			return err
		}
	}
	if _, err := ParseActions(c.Events); err != nil {
		return err
	}
	_, err := c.client(0)
	return err
}

// client is what reaches the transmitter, for exchanges that last so much longer than others.
func (c Config) client(longer time.Duration) (*httpclient.Client, error) {
	proxy, err := httpclient.NewProxy(c.ProxyURL, c.ProxyUsername, c.ProxyPassword)
	if err != nil {
		return nil, invalid("%s", err)
	}
	timeout := cmp.Or(c.Timeout, httpclient.DefaultTimeout) + longer
	client, err := httpclient.New(httpclient.Options{CAPEM: c.CAPEM, Timeout: timeout, AllowHTTP: c.AllowHTTP, Proxy: proxy})
	if err != nil {
		return nil, invalid("%s", err)
	}
	return client, nil
}

func checkSource(c Config) *fault.Error {
	switch {
	case c.Issuer == "" && c.PollURL == "":
		return invalid("set issuer, from which the stream is found, or poll_url and audience")
	case c.PollURL != "" && c.Audience == "":
		return invalid("poll_url needs audience: what the aud of the stream's events is")
	case c.PollURL == "" && (c.StreamID != "" || c.JWKSURL != "" || c.JWKSPEM != ""):
		return invalid("stream_id, jwks_url and jwks_pem are for a stream that somebody else has set up: they need poll_url")
	case c.JWKSURL != "" && c.JWKSPEM != "":
		return invalid("set jwks_url or jwks_pem, not both")
	case c.Issuer == "" && c.JWKSURL+c.JWKSPEM != "":
		return invalid("jwks_url and jwks_pem need issuer: what iss must equal in what these keys sign")
	case c.Issuer != "" && !isIdentifier(c.Issuer), c.Audience != "" && !isIdentifier(c.Audience), c.StreamID != "" && !isIdentifier(c.StreamID):
		return invalid("issuer, audience and stream_id must be printable and of at most %d bytes", maxIdentifier)
	case len(c.JWKSPEM) > maxKeys:
		return invalid("jwks_pem is longer than %d bytes", maxKeys)
	}
	if c.JWKSPEM != "" {
		if _, err := jwks.Static([]byte(c.JWKSPEM)); err != nil {
			return invalid("jwks_pem: %s", err)
		}
	}
	return nil
}

// discovers reports whether the transmitter's metadata is asked for.
func (c Config) discovers() bool { return c.Issuer != "" && c.JWKSURL+c.JWKSPEM == "" }

func checkURLs(c Config) *fault.Error {
	if c.discovers() {
		if err := httpclient.CheckURL(c.Issuer, c.AllowHTTP); err != nil {
			return invalid("issuer %s", err)
		}
		if strings.Contains(c.Issuer, "/.well-known/") {
			return invalid("issuer is the transmitter itself; leave out /.well-known and what follows")
		}
		if c.ProxyURL != "" && !httpclient.IsHTTPS(c.Issuer) {
			return invalid("issuer must be https with proxy_url: a proxy reads plain http")
		}
	}
	for name, u := range map[string]string{"poll_url": c.PollURL, "jwks_url": c.JWKSURL} {
		if u == "" {
			continue
		}
		if err := httpclient.CheckEndpoint(u, c.AllowHTTP); err != nil {
			return invalid("%s %s", name, err)
		}
		if c.ProxyURL != "" && !httpclient.IsHTTPS(u) {
			return invalid("%s must be https with proxy_url: a proxy reads plain http", name)
		}
	}
	return nil
}

func checkToken(c Config) *fault.Error {
	switch {
	case c.Token != "" && c.TokenProvider != "":
		return invalid("set token or token_provider, not both")
	case c.Token == "" && c.TokenProvider == "":
		return invalid("set token, the bearer token of the stream, or token_provider, which has one minted")
	case len(c.TokenRequest) > 0 && c.TokenProvider == "":
		return invalid("token_request says what is asked of token_provider, which is not set")
	case strings.ContainsFunc(c.Token, func(r rune) bool { return r <= ' ' || r > '~' }):
		return invalid("token is no bearer token: it holds blanks, line ends or characters beyond ASCII")
	}
	return nil
}

func checkTimes(c Config) *fault.Error {
	switch {
	case c.PollInterval != 0 && (c.PollInterval < minPollInterval || c.PollInterval > maxPollInterval):
		return invalid("poll_interval must be from %s to %s", minPollInterval, maxPollInterval)
	case c.VerificationInterval != 0 && c.VerificationInterval < minVerificationInterval:
		return invalid("verification_interval must be at least %s", minVerificationInterval)
	case c.Timeout < 0 || c.Timeout > time.Minute:
		return invalid("timeout must be at most %s", time.Minute)
	}
	return nil
}

func invalid(format string, args ...any) *fault.Error {
	return fault.New(fault.InvalidRequest, format, args...)
}
