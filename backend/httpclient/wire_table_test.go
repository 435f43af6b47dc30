package httpclient_test

import (
	"bytes"
	"context"
	"net/http"
	"net/url"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// table runs each row of testdata/wire/network/<file>; an unknown key fails.
func table[Row any](t *testing.T, file string, named func(Row) (name, why string), run func(*testing.T, Row)) {
	t.Helper()
	raw, err := os.ReadFile("../../testdata/wire/network/" + file)
	require.NoError(t, err)
	var rows []Row
	dec := yaml.NewDecoder(bytes.NewReader(raw))
	dec.KnownFields(true)
	require.NoError(t, dec.Decode(&rows))
	require.NotEmpty(t, rows)
	seen := map[string]bool{}
	for _, row := range rows {
		name, why := named(row)
		require.False(t, name == "" || why == "" || seen[name], "%q needs a name of its own and a reason", name)
		seen[name] = true
		t.Run(name, func(t *testing.T) { run(t, row) })
	}
}

type urlRow struct {
	Name, Why, URL string
	OK, Plain      bool // without and with allow_http
}

func TestCheckURL(t *testing.T) {
	table(t, "urls.yaml", func(r urlRow) (string, string) { return r.Name, r.Why }, func(t *testing.T, r urlRow) {
		for allowHTTP, ok := range map[bool]bool{false: r.OK, true: r.Plain} {
			err := httpclient.CheckURL(r.URL, allowHTTP)
			require.Equal(t, ok, err == nil, "allow_http=%v: %v", allowHTTP, err)
		}
	})
	require.Error(t, httpclient.CheckURL("https://as.example.com/"+string(bytes.Repeat([]byte("a"), 2048)), true))
}

type proxyRow struct {
	Name, Why, URL, Username, Password string
	OK, Plain                          bool // without and with allow_http
}

func TestCheckProxy(t *testing.T) {
	table(t, "proxies.yaml", func(r proxyRow) (string, string) { return r.Name, r.Why }, func(t *testing.T, r proxyRow) {
		p := httpclient.Proxy{URL: r.URL, Username: r.Username, Password: secret.New(r.Password)}
		for allowHTTP, ok := range map[bool]bool{false: r.OK, true: r.Plain} {
			err := httpclient.CheckProxy(p, allowHTTP)
			require.Equal(t, ok, err == nil, "allow_http=%v: %v", allowHTTP, err)
			_, newErr := httpclient.New(httpclient.Options{Proxy: &p, AllowHTTP: allowHTTP})
			require.Equal(t, ok, newErr == nil)
			if err != nil {
				require.ErrorContains(t, err, "proxy_")
			}
		}
	})
}

type destinationRow struct {
	Name, Why           string
	Pinned, Goes, Stays []string
}

func TestWhatIsPinnedIsWhereSecretsGo(t *testing.T) {
	table(t, "destinations.yaml", func(r destinationRow) (string, string) { return r.Name, r.Why }, func(t *testing.T, r destinationRow) {
		all := destinations(t, r.Pinned...)
		allowed := func(raw string) bool {
			u, err := url.Parse(raw)
			if err != nil {
				return false
			}
			req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, raw, nil)
			return err == nil && u.User == nil && all.Allow(req) == nil
		}
		for _, raw := range r.Goes {
			require.True(t, allowed(raw), raw)
		}
		for _, raw := range r.Stays {
			require.False(t, allowed(raw), raw)
		}
		require.NotEmpty(t, r.Stays)
	})
}
