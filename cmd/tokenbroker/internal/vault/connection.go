// Package vault is what tokenbroker says to Vault or OpenBao.
package vault

import (
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/vault/api"
	"github.com/hashicorp/vault/api/cliconfig"
	"golang.org/x/net/http/httpproxy"

	"github.com/tokenbroker/vault-plugin-secrets-broker/cmd/tokenbroker/internal/fail"
)

// Connection is all that is needed to speak to Vault as somebody. It can be handed to
// another process of the same user, which need not have the same environment.
type Connection struct {
	// Environment has the variables of Vault's own command, as VAULT_…, and the proxies'.
	Environment map[string]string `json:"environment"`
	Token       string            `json:"token"`
	Mount       string            `json:"mount"`
}

var proxies = []string{"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"}

// paths are variables that name files, which another process may look for from elsewhere.
var paths = []string{api.EnvVaultCACert, api.EnvVaultCAPath, api.EnvVaultClientCert, api.EnvVaultClientKey, "VAULT_CONFIG_PATH"}

// ours reports whether a variable tells how to speak to Vault.
func ours(name string) bool {
	return strings.HasPrefix(name, "VAULT_") || strings.HasPrefix(name, "BAO_") || slices.Contains(proxies, name)
}

// IsToken reports whether a variable holds a login of Vault's or OpenBao's.
func IsToken(name string) bool { return name == "VAULT_TOKEN" || name == "BAO_TOKEN" }

// FromEnvironment reads what Vault's and OpenBao's own commands read. Of a pair such as
// BAO_ADDR and VAULT_ADDR the first counts, as it does for OpenBao's command.
func FromEnvironment(environ []string, mount string) (Connection, error) {
	c := Connection{Environment: map[string]string{}, Mount: strings.Trim(mount, "/")}
	if c.Mount == "" {
		return c, fail.New(fail.Usage, "--mount is empty: where is the engine mounted?")
	}
	bao := map[string]string{}
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		switch rest, isBao := strings.CutPrefix(name, "BAO_"); {
		case value == "" || !ours(name):
		case isBao:
			bao["VAULT_"+rest] = value
		default:
			c.Environment[name] = value
		}
	}
	for name, value := range bao {
		c.Environment[name] = value
	}
	if c.Environment["VAULT_CONFIG_PATH"] == "" {
		if home, err := os.UserHomeDir(); err == nil {
			if path := filepath.Join(home, ".bao"); isFile(path) && !isFile(filepath.Join(home, ".vault")) {
				c.Environment["VAULT_CONFIG_PATH"] = path
			}
		}
	}
	for _, name := range paths {
		if path := c.Environment[name]; path != "" {
			absolute, err := filepath.Abs(path)
			if err != nil {
				return c, fail.New(fail.Config, "%s: %s", name, err)
			}
			c.Environment[name] = absolute
		}
	}
	c.Token = c.Environment[api.EnvVaultToken]
	delete(c.Environment, api.EnvVaultToken)
	// Of the answers' wrapping decides the role.
	delete(c.Environment, api.EnvVaultWrapTTL)
	return c, nil
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// Login asks the token helper, or reads ~/.vault-token, unless there is a token.
func (c *Connection) Login() error {
	if c.Token != "" {
		return nil
	}
	var err error
	c.during(func() {
		helper, failed := cliconfig.DefaultTokenHelper()
		if failed != nil {
			err = fail.New(fail.Config, "the token helper cannot be used: %s: look at token_helper in ~/.vault or ~/.bao, or set VAULT_TOKEN", failed)
			return
		}
		token, failed := helper.Get()
		if failed != nil {
			err = fail.New(fail.Config, "the token helper %s: %s", helper.Path(), failed)
		}
		c.Token = strings.TrimSpace(token)
	})
	if err == nil && c.Token == "" && c.Environment[api.EnvVaultAgentAddr] == "" {
		err = fail.New(fail.Config, "not logged in: set VAULT_TOKEN (or BAO_TOKEN), or run vault login")
	}
	return err
}

// environment guards the process's own, which api reads.
var environment sync.Mutex

// during runs do with the connection's variables alone.
func (c *Connection) during(do func()) {
	environment.Lock()
	defer environment.Unlock()
	before := map[string]string{}
	for _, entry := range os.Environ() {
		if name, value, _ := strings.Cut(entry, "="); ours(name) && !slices.Contains(proxies, name) {
			before[name] = value
			_ = os.Unsetenv(name)
		}
	}
	for name, value := range c.Environment {
		if !slices.Contains(proxies, name) {
			_ = os.Setenv(name, value)
		}
	}
	defer func() {
		for name := range c.Environment {
			if !slices.Contains(proxies, name) {
				_ = os.Unsetenv(name)
			}
		}
		for name, value := range before {
			_ = os.Setenv(name, value)
		}
	}()
	do()
}

// Open makes a client. Nothing is asked yet.
func (c *Connection) Open() (*Client, error) {
	var raw *api.Client
	var err error
	c.during(func() {
		config := api.DefaultConfig()
		if config.Error != nil {
			err = config.Error
			return
		}
		// A creds request whose answer was lost may have made a token: whoever repeats it
		// must know. The client repeats nothing by itself unless it was told to.
		if c.Environment[api.EnvVaultMaxRetries] == "" {
			config.MaxRetries = 0
		}
		if transport, ok := config.HttpClient.Transport.(*http.Transport); ok &&
			c.Environment[api.EnvVaultProxyAddr] == "" && c.Environment[api.EnvHTTPProxy] == "" {
			transport.Proxy = c.proxy()
		}
		raw, err = api.NewClient(config)
	})
	if err != nil {
		return nil, fail.New(fail.Config, "how to speak to Vault: %s", err)
	}
	raw.SetToken(c.Token)
	raw.SetWrappingLookupFunc(func(string, string) string { return "" })
	return &Client{api: raw, mount: c.Mount}, nil
}

// proxy is that of the connection's environment: net/http remembers for ever the one
// that it has seen first.
func (c *Connection) proxy() func(*http.Request) (*url.URL, error) {
	first := func(names ...string) string {
		for _, name := range names {
			if value := c.Environment[name]; value != "" {
				return value
			}
		}
		return ""
	}
	choose := (&httpproxy.Config{
		HTTPProxy: first("HTTP_PROXY", "http_proxy"), HTTPSProxy: first("HTTPS_PROXY", "https_proxy"), NoProxy: first("NO_PROXY", "no_proxy"),
	}).ProxyFunc()
	return func(r *http.Request) (*url.URL, error) { return choose(r.URL) }
}
