package harness

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"golang.org/x/oauth2"
)

// HydraOptions configures StartHydra. All of it is optional.
type HydraOptions struct {
	AccessTokenTTL time.Duration  // default one hour; a client may have its own
	Config         map[string]any // top-level keys that replace the harness's own
}

// Hydra is a running Ory Hydra, with its data in a file of the test's.
//
// It gets one request at a time. On SQLite its writes fail when they meet, and it
// answers 200 to a revocation that failed so: fosite's WriteRevocationResponse
// shows no error but two. One in twenty tokens would survive its revocation.
type Hydra struct {
	URL      string // the issuer
	AdminURL string

	dir, config string
	process     *server
	queues      []*queue

	signing sync.Mutex
	signs   bool // has keys for JWTs, under signing
}

// StartHydra starts a Hydra that ends with the test.
func StartHydra(t TB, options HydraOptions) *Hydra {
	t.Helper()
	public, admin := freePort(t), freePort(t)
	turn := &sync.Mutex{}
	queues := []*queue{newQueue(t, turn, public), newQueue(t, turn, admin)}
	dir := t.TempDir()
	h := &Hydra{
		URL: queues[0].URL, AdminURL: queues[1].URL, queues: queues,
		dir: dir, config: filepath.Join(dir, "hydra.json"),
	}
	if options.AccessTokenTTL == 0 {
		options.AccessTokenTTL = time.Hour
	}
	config := map[string]any{
		"dsn": "sqlite://" + filepath.Join(dir, "hydra.sqlite") + "?_fk=true&_journal_mode=WAL&_busy_timeout=20000&_synchronous=OFF",
		"serve": map[string]any{
			"public": map[string]any{"host": "127.0.0.1", "port": public},
			"admin":  map[string]any{"host": "127.0.0.1", "port": admin},
		},
		"urls": map[string]any{
			"self": map[string]any{"issuer": h.URL},
			// Nobody listens there: RefreshToken reads the challenge from the redirect.
			"login":   h.URL + "/harness/login",
			"consent": h.URL + "/harness/consent",
		},
		"secrets": map[string]any{"system": []string{"only-for-tests-only-for-tests-32"}},
		"ttl":     map[string]any{"access_token": options.AccessTokenTTL.String()},
		"oauth2": map[string]any{
			// Stretching public test secrets would only slow every request down.
			"hashers": map[string]any{"pbkdf2": map[string]any{"iterations": 1}},
		},
		"log": map[string]any{"level": "info"},
	}
	for key, value := range options.Config {
		config[key] = value
	}
	content, err := json.MarshalIndent(config, "", "  ")
	if err != nil {
		t.Fatalf("hydra configuration: %v", err)
	}
	if err := os.WriteFile(h.config, content, 0o600); err != nil {
		t.Fatalf("hydra configuration: %v", err)
	}
	start(t, "hydra-migration", dir, executable(t, "", "hydra", "servers"), "migrate", "sql", "up", "--yes", "-e", "-c", h.config).finish(t)
	h.launch(t)
	return h
}

func (h *Hydra) launch(t TB) {
	t.Helper()
	h.process = start(t, "hydra", h.dir, executable(t, "", "hydra", "servers"), "serve", "all", "--dev", "--sqa-opt-out", "-c", h.config)
	for _, q := range h.queues {
		q.open(t)
	}
	h.process.await(t, "it is ready", answersOK(h.AdminURL+"/health/ready"))
	h.process.await(t, "it answers", answersOK(h.URL+"/.well-known/openid-configuration"))
}

// HydraClient describes a client. All of it is optional: by default Hydra makes up
// an id and a secret, and the grant is client_credentials.
type HydraClient struct {
	ID         string
	Secret     string
	Grants     []string // such as authorization_code, refresh_token
	Scopes     []string // offline is added with refresh_token
	Audiences  []string
	AuthMethod string         // default client_secret_basic
	JWT        bool           // access tokens are JWTs
	TokenTTL   time.Duration  // of client-credentials and refreshed tokens
	Extra      map[string]any // further members of Hydra's client document
}

// CreateClient registers a client and returns its credentials.
func (h *Hydra) CreateClient(t TB, c HydraClient) Credentials {
	t.Helper()
	if c.Grants == nil {
		c.Grants = []string{"client_credentials"}
	}
	for _, grant := range c.Grants {
		if grant == "refresh_token" {
			c.Scopes = append([]string{"offline"}, c.Scopes...)
		}
	}
	document := map[string]any{
		"grant_types":    c.Grants,
		"response_types": []string{"code"},
		"redirect_uris":  []string{redirectURI},
		"scope":          strings.Join(c.Scopes, " "),
		"audience":       c.Audiences,
	}
	if c.JWT {
		h.giveKeys(t)
	}
	optional := map[string]string{"client_id": c.ID, "client_secret": c.Secret, "token_endpoint_auth_method": c.AuthMethod}
	if c.JWT {
		optional["access_token_strategy"] = "jwt"
	}
	if c.TokenTTL > 0 {
		optional["client_credentials_grant_access_token_lifespan"] = c.TokenTTL.String()
		optional["refresh_token_grant_access_token_lifespan"] = c.TokenTTL.String()
	}
	for key, value := range optional {
		if value != "" {
			document[key] = value
		}
	}
	for key, value := range c.Extra {
		document[key] = value
	}
	created := sendJSON(t, http.MethodPost, h.AdminURL+"/admin/clients", document)
	id, _ := created["client_id"].(string)
	secret, _ := created["client_secret"].(string)
	return Credentials{ID: id, Secret: secret}
}

// giveKeys gives Hydra, once, the keys that it signs access and ID tokens with. Those that
// it makes itself, when first asked for such a token or for its key set, have 4096 bits:
// on a busy machine that takes longer than the ten seconds that Hydra has for an answer.
func (h *Hydra) giveKeys(t TB) {
	t.Helper()
	h.signing.Lock()
	defer h.signing.Unlock()
	if h.signs {
		return
	}
	for _, set := range []string{"hydra.jwt.access-token", "hydra.openid.id-token"} {
		private, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatalf("hydra's keys: %v", err)
		}
		key, err := jwk.FromRaw(private)
		if err == nil {
			err = errors.Join(key.Set(jwk.KeyIDKey, "key-of-"+set), key.Set(jwk.AlgorithmKey, jwa.RS256), key.Set(jwk.KeyUsageKey, jwk.ForSignature))
		}
		if err != nil {
			t.Fatalf("hydra's keys: %v", err)
		}
		sendJSON(t, http.MethodPut, h.AdminURL+"/admin/keys/"+set, map[string]any{"keys": []any{key}})
	}
	h.signs = true
}

// SetSecret changes a client's secret; the old one is refused from now on.
func (h *Hydra) SetSecret(t TB, id, secret string) {
	t.Helper()
	patchClient(t, h, id, "/client_secret", secret)
}

// SetJWKS changes the keys of a client with private_key_jwt.
func (h *Hydra) SetJWKS(t TB, id string, jwks any) {
	t.Helper()
	patchClient(t, h, id, "/jwks", jwks)
}

// SetTokenTTL changes the life of the client-credentials tokens to come.
func (h *Hydra) SetTokenTTL(t TB, id string, ttl time.Duration) {
	t.Helper()
	patchClient(t, h, id, "/client_credentials_grant_access_token_lifespan", ttl.String())
}

func patchClient(t TB, h *Hydra, id, path string, value any) {
	t.Helper()
	sendJSON(t, http.MethodPatch, h.AdminURL+"/admin/clients/"+url.PathEscape(id),
		[]map[string]any{{"op": "replace", "path": path, "value": value}})
}

// DeleteClient removes a client together with its tokens.
func (h *Hydra) DeleteClient(t TB, id string) {
	t.Helper()
	sendJSON(t, http.MethodDelete, h.AdminURL+"/admin/clients/"+url.PathEscape(id), nil)
}

// Token gets a client-credentials token without the broker.
func (h *Hydra) Token(t TB, client Credentials, scopes, audiences []string) string {
	t.Helper()
	return clientCredentialsToken(t, h.URL+"/oauth2/token", client, scopes, audiences)
}

// RefreshToken gets the refresh token of UserTokens.
func (h *Hydra) RefreshToken(t TB, client Credentials, scopes, audiences []string) string {
	t.Helper()
	return h.UserTokens(t, client, scopes, audiences).RefreshToken
}

// HydraUser is who logs in.
const HydraUser = "test-user"

// UserTokens gets an access and a refresh token by an authorization code flow, in
// which the user agrees to everything. The client needs the grants
// authorization_code and refresh_token.
func (h *Hydra) UserTokens(t TB, client Credentials, scopes, audiences []string) *oauth2.Token {
	t.Helper()
	scopes = append([]string{"offline"}, scopes...)
	config := oauth2.Config{
		ClientID:     client.ID,
		ClientSecret: client.Secret,
		Scopes:       scopes,
		Endpoint:     oauth2.Endpoint{AuthURL: h.URL + "/oauth2/auth", TokenURL: h.URL + "/oauth2/token"},
	}
	accept := func(what, challenge string, body map[string]any) string {
		t.Helper()
		endpoint := h.AdminURL + "/admin/oauth2/auth/requests/" + what + "/accept?" + what + "_challenge=" + url.QueryEscape(challenge)
		next, _ := sendJSON(t, http.MethodPut, endpoint, body)["redirect_to"].(string)
		return next
	}
	return codeFlow(t, config, func(b *browser, login *url.URL) *url.URL {
		next := accept("login", login.Query().Get("login_challenge"), map[string]any{"subject": HydraUser})
		consent := b.open(t, next, nil)
		next = accept("consent", consent.Query().Get("consent_challenge"), map[string]any{
			"grant_scope":                 scopes,
			"grant_access_token_audience": audiences,
		})
		return b.open(t, next, nil)
	}, oauth2.SetAuthURLParam("audience", strings.Join(audiences, " ")))
}

// TrustIssuer lets assertions of the issuer (RFC 7523 2.1) about any subject be
// redeemed for the scopes; jwk is its public key.
func (h *Hydra) TrustIssuer(t TB, issuer string, jwk map[string]any, scopes ...string) {
	t.Helper()
	sendJSON(t, http.MethodPost, h.AdminURL+"/admin/trust/grants/jwt-bearer/issuers", map[string]any{
		"issuer": issuer, "allow_any_subject": true, "scope": scopes, "jwk": jwk,
		"expires_at": time.Now().Add(24 * time.Hour).UTC().Format(time.RFC3339),
	})
}

// Introspect asks Hydra about a token.
func (h *Hydra) Introspect(t TB, token string) Introspection {
	t.Helper()
	return introspect(t, h.AdminURL+"/admin/oauth2/introspect", Credentials{}, token)
}

// MustBeActive fails the test unless Hydra accepts the token.
func (h *Hydra) MustBeActive(t TB, token string) {
	t.Helper()
	mustBe(t, true, h.Introspect(t, token))
}

// MustBeInactive fails the test unless Hydra refuses the token.
func (h *Hydra) MustBeInactive(t TB, token string) {
	t.Helper()
	mustBe(t, false, h.Introspect(t, token))
}

// Revoke kills a token without the broker.
func (h *Hydra) Revoke(t TB, client Credentials, token string) {
	t.Helper()
	postForm(t, h.URL+"/oauth2/revoke", client, url.Values{"token": {token}})
}

// Stop ends Hydra before the test does, to show what happens without it.
func (h *Hydra) Stop(TB) {
	h.process.stop()
	for _, q := range h.queues {
		q.close()
	}
}

// Restart ends Hydra, unless Stop did, and starts it again with its data at the
// same URL.
func (h *Hydra) Restart(t TB) {
	t.Helper()
	h.Stop(t)
	h.launch(t)
}
