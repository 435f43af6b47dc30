package httpclient_test

import (
	"context"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
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

func TestDestinationsThatAreNone(t *testing.T) {
	require.Equal(t, "below https://git.example.com/api/v3", httpclient.Below("https://git.example.com/api/v3"))
	require.Equal(t, "below any https://sts.*.amazonaws.com/", httpclient.BelowAny("https://sts.*.amazonaws.com/"))
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

// Whatever comes after the base, and however a server reads it, it stays below.
func FuzzBelow(f *testing.F) {
	for _, rest := range []string{"a/b", "../x", "%2e%2e/x", "a%2Fb", "..;/x", `..\x`, "//x", "a?b=/../", "%252e%252e%252fx", "x;..", "a/.%2e", "%5c..%5c", "@evil.com/", "?#", "..%20/x", "%20../x", "%c0%ae%c0%ae/x", "%ef%bc%8e./x", "..%e2%88%95x", "%25zz%252f..%252fx"} {
		f.Add("https://git.example.com/api/v3/" + rest)
		f.Add(rest)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		u, err := url.Parse(raw)
		if err != nil {
			return
		}
		all, err := httpclient.ParseDestinations([]string{httpclient.Below("https://git.example.com/api/v3")})
		require.NoError(t, err)
		if all.Allow(&http.Request{URL: u}) != nil {
			return
		}
		require.Equal(t, "https", u.Scheme)
		require.Equal(t, "git.example.com", strings.ToLower(u.Hostname()))
		require.Contains(t, []string{"", "443"}, strings.TrimLeft(u.Port(), "0"))
		read := u.EscapedPath()
		for range 10 {
			for _, as := range []string{read, strings.ReplaceAll(read, `\`, "/"), withoutParameters(read), strings.ReplaceAll(read, " ", ""), overlong.Replace(read)} {
				require.True(t, strings.HasPrefix(path.Clean(as)+"/", "/api/v3/"), "%q read as %q", raw, as)
			}
			decoded, err := url.PathUnescape(read)
			if err != nil || decoded == read {
				break
			}
			read = decoded
		}
	})
}

// overlong reads as servers do that do not look whether UTF-8 is the shortest.
var overlong = strings.NewReplacer("\xc0\xae", ".", "\xc0\xaf", "/", "\uff0e", ".", "\uff0f", "/", "\u2215", "/", "\u2024", ".")

func withoutParameters(escaped string) string {
	segments := strings.Split(escaped, "/")
	for i, s := range segments {
		segments[i], _, _ = strings.Cut(s, ";")
	}
	return strings.Join(segments, "/")
}

// Whoever sent something otherwise would be held by none of this.
func TestNobodyElseSendsAnything(t *testing.T) {
	otherwise := regexp.MustCompile(`http\.(Client\{|DefaultClient|DefaultTransport|Transport\{|Get\(|Head\(|Post\(|PostForm\()|net\.(Dial|Dialer\{)|tls\.(Dial|Dialer\{)`)
	files := 0
	require.NoError(t, filepath.WalkDir("..", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		switch {
		case d.IsDir() && slices.Contains([]string{"httpclient", "providertest", "acceptance", "chaos"}, d.Name()):
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go"):
			return nil
		}
		files++
		raw, err := os.ReadFile(name)
		require.NoError(t, err)
		require.Empty(t, otherwise.FindString(string(raw)), name)
		return nil
	}))
	require.Greater(t, files, 50)
}
