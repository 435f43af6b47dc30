package downstream

import (
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
)

// Settings are the fields that every type of provider has.
type Settings struct {
	CAPEM     string        `json:"ca_pem,omitempty"`
	Timeout   time.Duration `json:"timeout,omitempty"`
	RateLimit float64       `json:"rate_limit,omitempty"`
	AllowHTTP bool          `json:"allow_http,omitempty"`
	// ProxyPassword is the proxy's alone, and no part of the parent.
	ProxyURL      string `json:"proxy_url,omitempty"`
	ProxyUsername string `json:"proxy_username,omitempty"`
	ProxyPassword string `json:"proxy_password,omitempty"`

	MaxTTL       time.Duration `json:"max_ttl,omitempty"`
	AllowedRoles []string      `json:"allowed_roles,omitempty"`
	Disabled     bool          `json:"disabled,omitempty"`
	// WriteAhead is verify_connection=false, which is stored so that its default is none.
	WriteAhead bool `json:"write_ahead,omitempty"`
	// RotationPeriod is how old the parent may become; zero is as old as it likes.
	RotationPeriod time.Duration `json:"rotation_period,omitempty"`
	// Deleting marks a provider that goes once nothing of it is left to kill.
	Deleting bool `json:"deleting,omitempty"`
}

// settingsFields are the fields that every type of provider has, beside its name.
var settingsFields = stored.Fields[Settings]{
	{Name: "ca_pem", In: func(s *Settings) any { return &s.CAPEM }, Description: "PEM certificates that replace the system's roots for this provider's TLS."},
	{Name: "timeout", In: func(s *Settings) any { return &s.Timeout }, Default: int(httpclient.DefaultTimeout / time.Second), Description: "How long one call to the provider may take, at most 60s (of a mint with all its calls at most 45s), and how long a mint waits for its place before it, at most 30s."},
	{Name: "rate_limit", Unset: "unlimited", In: func(s *Settings) any { return &s.RateLimit }, Description: "Requests per second towards the provider, checks and rotations included, and each request of a call of several; unlimited if unset. Revocations, and what has begun, go first."},
	{Name: "allow_http", In: func(s *Settings) any { return &s.AllowHTTP }, Description: "Permits plain http beyond loopback. Never in production."},
	{Name: "proxy_url", In: func(s *Settings) any { return &s.ProxyURL }, Description: "HTTP proxy, http or https, through which alone the provider is reached, by CONNECT: every URL must then be https. Its certificate may be signed by the system's roots or those of ca_pem. The environment's proxy is never used."},
	{Name: "proxy_username", In: func(s *Settings) any { return &s.ProxyUsername }, Description: "Username at the proxy, which gets it in plain http only on this machine or with allow_http=true."},
	{Name: "proxy_password", Secret: true, In: func(s *Settings) any { return &s.ProxyPassword }, Description: "Password at the proxy. It is sent to the proxy alone."},
	{Name: "max_ttl", Unset: "the mount's limit", In: func(s *Settings) any { return &s.MaxTTL }, Description: "The longest lease on any child of this provider; the mount's limit if unset."},
	{Name: "allowed_roles", In: func(s *Settings) any { return &s.AllowedRoles }, Default: []string{"*"}, Description: "Globs of the names of the roles that may use the provider."},
	{Name: "rotation_period", Unset: "never", In: func(s *Settings) any { return &s.RotationPeriod }, Description: "How old the parent credential may become before the broker rotates it, 1h or more, where nobody has to do a part of it by hand, as at gitlab with token_next; refused elsewhere. Up to a tenth earlier, so that not all are rotated at once. A failure shows in health and metrics, and is tried again; the former credential stays until the next one works. Default: never."},
	{Name: "verify_connection", In: func(s *Settings) any { return negated{&s.WriteAhead} }, Default: true, Description: "Proves the parent credential live, as check does, when a write brings it or has it sent elsewhere, before it replaces the one before. False writes it as it is, also while the provider is down."},
	{Name: "disabled", In: func(s *Settings) any { return &s.Disabled }, Description: "Stops new grants. What lives can still be renewed and killed."},
}

// negated is a setting that is stored as its opposite.
type negated struct{ in *bool }

func (n negated) Type() framework.FieldType { return framework.TypeBool }
func (n negated) Set(written any) error     { *n.in = written == false; return nil }
func (n negated) Get() any                  { return !*n.in }

// ShownFields are what Settings.Show shows.
func ShownFields() map[string]*framework.FieldSchema {
	fields := settingsFields.Shown()
	fields["name"] = &framework.FieldSchema{Type: framework.TypeString, Description: "Name of the provider."}
	return fields
}

// CommonFields are the fields of every type of provider.
func CommonFields() map[string]*framework.FieldSchema {
	fields := settingsFields.Schema()
	fields["name"] = &framework.FieldSchema{Type: framework.TypeString, Description: "Name of the provider."}
	return fields
}

// merge takes the common fields that the request brought. What was stored before is not
// judged again.
func (s *Settings) merge(d *framework.FieldData) error {
	before := *s
	if err := settingsFields.Merge(s, d); err != nil {
		return err
	}
	s.Deleting = s.Deleting && s.Disabled
	if s.ProxyURL == "" && before.ProxyURL != "" {
		s.ProxyUsername, s.ProxyPassword = "", ""
	}
	if s.RateLimit != before.RateLimit && (s.RateLimit < 0 || s.RateLimit > 1e6) {
		return fault.New(fault.InvalidRequest, "rate_limit must be between 0 and 1000000 requests per second")
	}
	if s.RotationPeriod != before.RotationPeriod && s.RotationPeriod != 0 && s.RotationPeriod < minRotationPeriod {
		return fault.New(fault.InvalidRequest, "rotation_period must be 1h or more, or 0 for never")
	}
	if _, err := access.ParseGlobs(s.AllowedRoles); err != nil {
		return fault.New(fault.InvalidRequest, "allowed_roles: %s", err)
	}
	if s.CAPEM != before.CAPEM {
		return CheckCAPEM(s.CAPEM)
	}
	return nil
}

// CheckCAPEM refuses a bundle into which a private key was pasted: whoever may read the
// configuration could read it.
func CheckCAPEM(pem string) error {
	if strings.Contains(pem, "PRIVATE KEY-----") {
		return fault.New(fault.InvalidRequest, "ca_pem holds a private key: write the certificates alone, and replace that key")
	}
	return nil
}

// Show adds the settings to a response, with the defaults of what nobody has written.
func (s Settings) Show(data map[string]any) {
	s.Timeout, s.AllowedRoles = s.timeout(), s.allowedRoles()
	settingsFields.Show(&s, data)
}

// Words are what the settings' numbers mean, the defaults included.
func (s Settings) Words() map[string]string {
	s.Timeout = s.timeout()
	return settingsFields.Words(&s)
}

func (s Settings) allowedRoles() []string {
	if s.AllowedRoles == nil {
		return []string{"*"}
	}
	return s.AllowedRoles
}

// Client is what calls the provider.
func (s Settings) Client() (*httpclient.Client, error) {
	if s.Timeout < 0 || s.Timeout > maxTimeout {
		return nil, fmt.Errorf("timeout must be between 0 and %s", maxTimeout)
	}
	proxy, err := httpclient.NewProxy(s.ProxyURL, s.ProxyUsername, s.ProxyPassword)
	if err != nil {
		return nil, err
	}
	return httpclient.New(httpclient.Options{CAPEM: s.CAPEM, Timeout: s.Timeout, AllowHTTP: s.AllowHTTP, Proxy: proxy})
}

// timeout is how long one call may take.
func (s Settings) timeout() time.Duration {
	if s.Timeout == 0 {
		return httpclient.DefaultTimeout
	}
	return s.Timeout
}

// patience is how long a mint may wait for its place.
func (s Settings) patience() time.Duration { return min(s.timeout(), MaxPatience) }

// MaxPatience leaves a mint time for its call within the 90 s that Vault gives a
// request: a token that comes after that is killed, and was minted for nothing.
const MaxPatience = 30 * time.Second

// maxTimeout keeps one call well within the 90 s that Vault gives a revocation.
const maxTimeout = 60 * time.Second
