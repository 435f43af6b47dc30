package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
)

const (
	httpTimeout = Patience
	maxBody     = 1 << 20

	// redirectURI is where authorization codes are sent. Nobody listens there: the
	// code is read from the redirect itself.
	redirectURI = "http://127.0.0.1/callback"
)

// transport goes past any proxy of the user's: all servers are on this machine.
var transport = &http.Transport{MaxIdleConnsPerHost: 64, IdleConnTimeout: 30 * time.Second}

var httpClient = &http.Client{Transport: transport, Timeout: httpTimeout, CheckRedirect: doNotFollow}

func doNotFollow(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// Introspection is the answer of RFC 7662.
type Introspection struct {
	Active    bool           `json:"active"`
	Scope     string         `json:"scope"`
	ClientID  string         `json:"client_id"`
	Subject   string         `json:"sub"`
	Audience  any            `json:"aud"` // a string or a list of them
	ExpiresAt int64          `json:"exp"`
	All       map[string]any `json:"-"`
}

// Credentials are what a client authenticates with.
type Credentials struct{ ID, Secret string }

// basic is RFC 6749 2.3.1: form-encoded first, then Basic.
func (c Credentials) basic(request *http.Request) {
	if c.ID != "" {
		request.SetBasicAuth(url.QueryEscape(c.ID), url.QueryEscape(c.Secret))
	}
}

func introspect(t TB, endpoint string, as Credentials, token string) Introspection {
	t.Helper()
	return readIntrospection(t, endpoint, postForm(t, endpoint, as, url.Values{"token": {token}}))
}

func readIntrospection(t TB, endpoint string, body []byte) Introspection {
	t.Helper()
	var found Introspection
	for _, into := range []any{&found, &found.All} {
		if err := json.Unmarshal(body, into); err != nil {
			t.Fatalf("introspection at %s: %v in %q", endpoint, err, body)
		}
	}
	return found
}

// postForm returns the body of a 200; everything else ends the test.
func postForm(t TB, endpoint string, as Credentials, form url.Values) []byte {
	t.Helper()
	return postFormWith(t, httpClient, endpoint, as, form)
}

func postFormWith(t TB, client *http.Client, endpoint string, as Credentials, form url.Values) []byte {
	t.Helper()
	request, err := http.NewRequestWithContext(context.Background(), http.MethodPost, endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatalf("%s: %v", endpoint, err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.Header.Set("Accept", "application/json")
	as.basic(request)
	return send(t, client, request)
}

// sendJSON returns the decoded body of a 2xx; everything else ends the test.
func sendJSON(t TB, method, endpoint string, body any) map[string]any {
	t.Helper()
	content, err := json.Marshal(body)
	if err != nil {
		t.Fatalf("%s: %v", endpoint, err)
	}
	request, err := http.NewRequestWithContext(context.Background(), method, endpoint, bytes.NewReader(content))
	if err != nil {
		t.Fatalf("%s: %v", endpoint, err)
	}
	request.Header.Set("Content-Type", "application/json")
	answer := map[string]any{}
	if body := send(t, httpClient, request); len(body) > 0 {
		if err := json.Unmarshal(body, &answer); err != nil {
			t.Fatalf("%s %s: %v in %q", method, endpoint, err, body)
		}
	}
	return answer
}

func send(t TB, client *http.Client, request *http.Request) []byte {
	t.Helper()
	response, err := client.Do(request)
	if err != nil {
		t.Fatalf("%v", err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxBody))
	if err != nil || response.StatusCode >= http.StatusMultipleChoices {
		t.Fatalf("%s %s: %s, %v, %s", request.Method, request.URL, response.Status, err, body)
	}
	return body
}

func clientCredentialsToken(t TB, tokenURL string, as Credentials, scopes, audiences []string) string {
	t.Helper()
	config := clientcredentials.Config{
		ClientID:     as.ID,
		ClientSecret: as.Secret,
		TokenURL:     tokenURL,
		Scopes:       scopes,
		AuthStyle:    oauth2.AuthStyleInHeader,
	}
	if len(audiences) > 0 {
		config.EndpointParams = url.Values{"audience": {strings.Join(audiences, " ")}}
	}
	token, err := config.Token(oauthContext())
	if err != nil {
		t.Fatalf("token for %s: %v", as.ID, err)
	}
	return token.AccessToken
}

func oauthContext() context.Context {
	return context.WithValue(context.Background(), oauth2.HTTPClient, httpClient)
}

// browser is the user's side of an authorization code flow: it keeps cookies and
// stops at every redirect.
type browser struct{ client *http.Client }

func newBrowser(t TB) *browser {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatalf("cookies: %v", err)
	}
	return &browser{&http.Client{Transport: transport, Timeout: httpTimeout, Jar: jar, CheckRedirect: doNotFollow}}
}

// open asks for a page (or posts a form) and returns where it redirects to.
func (b *browser) open(t TB, page string, form url.Values) *url.URL {
	t.Helper()
	method, content := http.MethodGet, ""
	if form != nil {
		method, content = http.MethodPost, form.Encode()
	}
	request, err := http.NewRequestWithContext(context.Background(), method, page, strings.NewReader(content))
	if err != nil {
		t.Fatalf("%s: %v", page, err)
	}
	if form != nil {
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	response, err := b.client.Do(request)
	if err != nil {
		t.Fatalf("%v", err)
	}
	defer response.Body.Close()
	target, err := response.Location()
	if err != nil {
		body, _ := io.ReadAll(io.LimitReader(response.Body, maxBody))
		t.Fatalf("%s: %s instead of a redirect: %s", page, response.Status, body)
	}
	return target
}

// codeFlow gets tokens for a user. login takes the browser from the page that the
// authorization endpoint sends it to, up to the redirect that carries the code.
func codeFlow(t TB, config oauth2.Config, login func(*browser, *url.URL) *url.URL, options ...oauth2.AuthCodeOption) *oauth2.Token {
	t.Helper()
	config.RedirectURL = redirectURI
	config.Endpoint.AuthStyle = oauth2.AuthStyleInHeader
	verifier := oauth2.GenerateVerifier()
	const state = "harness-state"

	b := newBrowser(t)
	options = append(options, oauth2.S256ChallengeOption(verifier))
	first := b.open(t, config.AuthCodeURL(state, options...), nil)
	last := login(b, first)
	code := last.Query().Get("code")
	if code == "" || last.Query().Get("state") != state {
		t.Fatalf("the authorization ended without a code: %s", last)
	}
	token, err := config.Exchange(oauthContext(), code, oauth2.VerifierOption(verifier))
	if err != nil {
		t.Fatalf("exchanging the code: %v", err)
	}
	if token.RefreshToken == "" {
		t.Fatalf("%s gave no refresh token", config.Endpoint.TokenURL)
	}
	return token
}

func mustBe(t TB, active bool, found Introspection) {
	t.Helper()
	if found.Active != active {
		t.Fatalf("the server says active=%t of the token, want %t: %s", found.Active, active, fmt.Sprint(found.All))
	}
}
