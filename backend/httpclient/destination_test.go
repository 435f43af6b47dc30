package httpclient_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
)

func destinations(t *testing.T, pinned ...string) httpclient.Destinations {
	t.Helper()
	all, err := httpclient.ParseDestinations(pinned)
	require.NoError(t, err)
	return all
}

func TestWhatIsPinnedIsWhereSecretsGo(t *testing.T) {
	whole := []string{"https://as.example.com/tenant-1/token?p=policy", "http://127.0.0.1:8200/revoke", "assertion for https://as.example.com/"}
	api := []string{httpclient.Below("https://git.example.com/api/v3")}
	region := []string{httpclient.BelowAny("https://sts.*.amazonaws.com/")}
	root := []string{httpclient.Below("https://api.example.com:8443")}
	for _, test := range []struct {
		pinned []string
		url    string
		ok     bool
	}{
		{whole, "https://as.example.com/tenant-1/token?p=policy", true},
		{whole, "HTTPS://AS.Example.com:443/tenant-1/token?p=policy", true},
		{whole, "http://127.0.0.1:8200/revoke", true},
		{whole, "http://as.example.com:443/tenant-1/token?p=policy", false},
		{whole, "https://as.example.com/tenant-2/token?p=policy", false},
		{whole, "https://as.example.com/Tenant-1/token?p=policy", false},
		{whole, "https://as.example.com/tenant-1/token?p=other", false},
		{whole, "https://as.example.com/tenant-1/token", false},
		{whole, "https://as.example.com/tenant-1/token?p=policy&tenant=2", false},
		{whole, "https://as.example.com/tenant-1/token/?p=policy", false},
		{whole, "https://as.example.com/tenant-1//token?p=policy", false},
		{whole, "https://as.example.com/x/../tenant-1/token?p=policy", false},
		{whole, "https://as.example.com/tenant%2D1/token?p=policy", false},
		{whole, "https://as.example.com:8443/tenant-1/token?p=policy", false},
		{whole, "https://as.example.com./tenant-1/token?p=policy", false},
		{whole, "https://as.example.com/", false}, // what an assertion is for is no place
		{whole, "http://127.0.0.1:8200/revoke?", false},
		{whole, "http://127.0.0.1:8201/revoke", false},
		{whole, "http://localhost:8200/revoke", false},

		{api, "https://git.example.com/api/v3/app/installations/1/access_tokens", true},
		{api, "https://git.example.com/api/v3/repos/a/b?per_page=100&page=2", true},
		{api, "https://GIT.example.com:443/api/v3/", true},
		{api, "https://git.example.com/api/v3/a;b=c/d", true},
		{api, "https://git.example.com/api/v3/100%25", true},
		{api, "https://git.example.com/api/v3/a%20b/...", true},
		{api, "https://git.example.com/api/v3", false},
		{api, "https://git.example.com/api/v31/app", false},
		{api, "https://git.example.com/api/V3/app", false},
		{api, "https://git.example.com/", false},
		{api, "https://git.example.com/api/v3/../v4/app", false},
		{api, "https://git.example.com/api/v3/..", false},
		{api, "https://git.example.com/api/v3/./app", false},
		{api, "https://git.example.com/api/v3/%2e%2e/v4", false},
		{api, "https://git.example.com/api/v3/%2E./v4", false},
		{api, "https://git.example.com/api/v3/%252e%252e/v4", false},
		{api, "https://git.example.com/api/v3/%25252525252e%25252525252e/v4", false},
		{api, "https://git.example.com/api/v3/a%2Fb", false},
		{api, "https://git.example.com/api/v3/a%252Fb", false},
		{api, "https://git.example.com/api/v3/..%2Fv4", false},
		{api, "https://git.example.com/api/v3/..%5Cv4", false},
		{api, `https://git.example.com/api/v3/..\v4`, false},
		{api, "https://git.example.com/api/v3/..;/v4", false},
		{api, "https://git.example.com/api/v3/..%3Bx/v4", false},
		{api, "https://git.example.com/api/v3//v4", false},
		{api, "https://git.example.com//api/v3/app", false},
		{api, "https://git.example.com/api/v3/a%00", false},
		{api, "https://git.example.com:444/api/v3/app", false},
		{api, "http://git.example.com/api/v3/app", false},
		{api, "https://evil.example.com/api/v3/app", false},
		{api, "https://git.example.com.evil.com/api/v3/app", false},

		{root, "https://api.example.com:8443/anything", true},
		{root, "https://api.example.com/anything", false},

		{region, "https://sts.eu-central-1.amazonaws.com/?Action=AssumeRole", true},
		{region, "https://sts.EU-central-1.amazonaws.com/", true},
		{region, "https://sts..amazonaws.com/", false},
		{region, "https://sts.a.b.amazonaws.com/", false},
		{region, "https://sts.*.amazonaws.com/", false},
		{region, "https://sts.eu_1.amazonaws.com/", false},
		{region, "https://sts.eu-central-1.amazonaws.com.evil.com/", false},
		{region, "https://s3.eu-central-1.amazonaws.com/", false},
		{region, "https://sts.amazonaws.com/", false},
	} {
		req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, test.url, nil)
		if err != nil {
			require.False(t, test.ok, test.url)
			continue
		}
		err = destinations(t, test.pinned...).Allow(req)
		require.Equal(t, test.ok, err == nil, "%s: %v", test.url, err)
	}
}

// An operator's URL is a whole one, whatever it looks like.
func TestNoURLIsAPattern(t *testing.T) {
	for _, odd := range []string{"https://sts.*.example.com/token", "https://as.example.com/*", "https://as.example.com/below /"} {
		for _, other := range []string{"https://sts.a.example.com/token", "https://as.example.com/a", "https://as.example.com/below /x"} {
			u, err := url.Parse(other)
			require.NoError(t, err)
			require.Error(t, destinations(t, odd).Allow(&http.Request{URL: u}), "%s is not %s", other, odd)
		}
	}
	for _, pinned := range []string{
		httpclient.Below("https://sts.*.example.com/"), httpclient.BelowAny("https://*.example.com/"), httpclient.BelowAny("https://sts.*.com/"),
		httpclient.BelowAny("https://sts.a*.example.com/"), httpclient.BelowAny("https://sts.*.*.example.com/"), httpclient.BelowAny("https://sts.example.com/"),
		httpclient.Below("https://as.example.com/?tenant=1"), httpclient.Below("https://as.example.com/a/../b"), httpclient.Below("https://user@as.example.com/"),
		httpclient.Below("as.example.com"), httpclient.Below(""), "https://", "https://a b/",
	} {
		all, err := httpclient.ParseDestinations([]string{pinned})
		require.Error(t, err, pinned)
		require.Empty(t, all, pinned)
	}
}

// However a request is made, its line and its Host header say what was judged.
func TestARequestLeadsWhereItsURLSays(t *testing.T) {
	var reached atomic.Int32
	s := serve(t, func(http.ResponseWriter, *http.Request) { reached.Add(1) })
	c := newClient(t, httpclient.Options{}).To([]string{httpclient.Below(s.URL + "/api/")})
	host := strings.TrimPrefix(s.URL, "http://")
	for name, change := range map[string]func(*http.Request){
		"opaque":                 func(r *http.Request) { r.URL.Opaque = "//" + host + "/admin" },
		"another Host":           func(r *http.Request) { r.Host = "other.example.com" },
		"user information":       func(r *http.Request) { r.URL.User = url.UserPassword("a", "hunter2") },
		"a raw path of its own":  func(r *http.Request) { r.URL.RawPath = "/api/..%2fadmin"; r.URL.Path = "/api/../admin" },
		"no host":                func(r *http.Request) { r.URL.Host = "" },
		"a fragment":             func(r *http.Request) { r.URL.Fragment = "x" },
		"as if from a redirect":  func(r *http.Request) { r.Response = &http.Response{} },
		"another port":           func(r *http.Request) { r.URL.Host = "127.0.0.1:1" },
		"the port behind a user": func(r *http.Request) { r.URL.Host = host + "@127.0.0.1:1" },
	} {
		req := request(t, s.URL+"/api/x")
		change(req)
		ctx, tally := httpclient.Watch(context.Background())
		_, err := c.Do(req.WithContext(ctx))
		require.False(t, failed(t, err).Sent, name)
		require.False(t, tally.Answered() || tally.Failed() || tally.Unanswered(), "%s: it is no exchange", name)
	}
	require.Zero(t, reached.Load())
	ctx, tally := httpclient.Watch(context.Background())
	_, err := c.Do(request(t, s.URL+"/elsewhere").WithContext(ctx))
	require.False(t, failed(t, err).Sent)
	require.True(t, tally.Astray(), "and somebody can tell")
	_, err = c.Do(request(t, s.URL+"/api/x"))
	require.NoError(t, err)
	require.EqualValues(t, 1, reached.Load())
}

// What is public may be anywhere, so nothing goes there that could be a secret.
func TestARequestForAPublicDocumentBringsNothingAlong(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("{}")) }))
	t.Cleanup(s.Close)
	plain := newClient(t, httpclient.Options{})
	bound := plain.To([]string{"https://as.example.com/token"})
	for name, c := range map[string]*httpclient.Client{"of New": plain, "of Public": bound.Public()} {
		get := func(change func(*http.Request)) error {
			req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, s.URL+"/.well-known/openid-configuration", nil)
			require.NoError(t, err)
			req.Header.Set("Accept", "application/json")
			change(req)
			_, err = c.Do(req)
			return err
		}
		require.NoError(t, get(func(*http.Request) {}), name)
		for what, change := range map[string]func(*http.Request){
			"Authorization": func(r *http.Request) { r.Header.Set("Authorization", "Bearer hunter2") },
			"Cookie":        func(r *http.Request) { r.Header.Set("Cookie", "a=hunter2") },
			"a header":      func(r *http.Request) { r.Header["private-token"] = []string{"hunter2"} },
			"a POST":        func(r *http.Request) { r.Method = http.MethodPost },
			"a body":        func(r *http.Request) { r.Body = http.NoBody; r.Body = request(t, s.URL).Body },
			"a user":        func(r *http.Request) { r.URL.User = url.User("hunter2") },
		} {
			require.False(t, failed(t, get(change)).Sent, "%s with %s", name, what)
		}
	}
}
