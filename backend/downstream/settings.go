package downstream

import (
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
)

// Settings are the fields that every type of provider has.
type Settings struct {
	CAPEM        string        `json:"ca_pem,omitempty"`
	Timeout      time.Duration `json:"timeout,omitempty"`
	RateLimit    float64       `json:"rate_limit,omitempty"`
	AllowHTTP    bool          `json:"allow_http,omitempty"`
	MaxTTL       time.Duration `json:"max_ttl,omitempty"`
	AllowedRoles []string      `json:"allowed_roles,omitempty"`
	Disabled     bool          `json:"disabled,omitempty"`
	// Deleting marks a provider that goes once nothing of it is left to kill.
	Deleting bool `json:"deleting,omitempty"`
}

// CommonFields are the fields of every type of provider.
func CommonFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"name":          {Type: framework.TypeString, Description: "Name of the provider."},
		"ca_pem":        {Type: framework.TypeString, Description: "PEM certificates that replace the system's roots for this provider's TLS."},
		"timeout":       {Type: framework.TypeDurationSecond, Description: "How long one call to the provider may take, at most 60s (of a mint with all its calls at most 45s), and how long a mint waits for its place before it, at most 30s. Default 10s."},
		"rate_limit":    {Type: framework.TypeFloat, Description: "Requests per second towards the provider; unlimited if unset. Revocations go before mints."},
		"allow_http":    {Type: framework.TypeBool, Description: "Permits plain http beyond loopback. Never in production."},
		"max_ttl":       {Type: framework.TypeDurationSecond, Description: "The longest lease on any child of this provider; the mount's limit if unset."},
		"allowed_roles": {Type: framework.TypeCommaStringSlice, Description: "Globs of the names of the roles that may use the provider. Default *: every role."},
		"disabled":      {Type: framework.TypeBool, Description: "Stops new grants. What lives can still be renewed and killed."},
	}
}

// merge takes the common fields that the request brought.
func (s *Settings) merge(d *framework.FieldData) error {
	if v, ok := d.GetOk("ca_pem"); ok {
		s.CAPEM = v.(string)
		if err := CheckCAPEM(s.CAPEM); err != nil {
			return err
		}
	}
	if v, ok := d.GetOk("timeout"); ok {
		s.Timeout = time.Duration(v.(int)) * time.Second
	}
	if v, ok := d.GetOk("rate_limit"); ok {
		s.RateLimit = v.(float64)
		if s.RateLimit < 0 || s.RateLimit > 1e6 {
			return fault.New(fault.InvalidRequest, "rate_limit must be between 0 and 1000000 requests per second")
		}
	}
	if v, ok := d.GetOk("allow_http"); ok {
		s.AllowHTTP = v.(bool)
	}
	if v, ok := d.GetOk("max_ttl"); ok {
		s.MaxTTL = time.Duration(v.(int)) * time.Second
		if s.MaxTTL < 0 {
			return fault.New(fault.InvalidRequest, "max_ttl must not be negative")
		}
	}
	if v, ok := d.GetOk("allowed_roles"); ok {
		s.AllowedRoles = v.([]string)
		if _, err := access.ParseGlobs(s.AllowedRoles); err != nil {
			return fault.New(fault.InvalidRequest, "allowed_roles: %s", err)
		}
	}
	if v, ok := d.GetOk("disabled"); ok {
		s.Disabled = v.(bool)
		if !s.Disabled {
			s.Deleting = false
		}
	}
	return nil
}

// CheckCAPEM refuses a bundle that somebody has pasted too much of: whoever may
// read the configuration would read it.
func CheckCAPEM(pem string) error {
	if strings.Contains(pem, "PRIVATE KEY-----") {
		return fault.New(fault.InvalidRequest, "ca_pem holds a private key: write the certificates alone, and replace that key")
	}
	return nil
}

// Show adds the settings to a response.
func (s Settings) Show(data map[string]any) {
	if s.CAPEM != "" {
		data["ca_pem"] = s.CAPEM
	}
	data["timeout"] = int64(s.timeout() / time.Second)
	data["rate_limit"] = s.RateLimit
	data["allow_http"] = s.AllowHTTP
	data["max_ttl"] = int64(s.MaxTTL / time.Second)
	data["allowed_roles"] = s.allowedRoles()
	data["disabled"] = s.Disabled
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
	return httpclient.New(httpclient.Options{CAPEM: s.CAPEM, Timeout: s.Timeout, AllowHTTP: s.AllowHTTP})
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
