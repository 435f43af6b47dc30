package fake

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

func pkcs1(key *rsa.PrivateKey) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}))
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	if body != nil {
		_ = json.NewEncoder(w).Encode(body)
	}
}

// recorder keeps what was answered.
type recorder struct {
	http.ResponseWriter
	status int
	body   bytes.Buffer
}

// WriteHeader implements http.ResponseWriter.
func (r *recorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (r *recorder) Write(p []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	r.body.Write(p)
	return r.ResponseWriter.Write(p)
}

func (g *GitHub) serve(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(body))
	rec := &recorder{ResponseWriter: w}
	defer func() {
		e := Exchange{Request: r, Body: body, Status: rec.status, Header: rec.Header().Clone(), Response: rec.body.Bytes()}
		g.Change(func() { g.requests = append(g.requests, e) })
		if g.options.Observe != nil {
			g.options.Observe(e)
		}
	}()
	respond := g.handle(r, body)
	respond(rec, r)
}

// handle does the work of a request, and returns what answers it.
func (g *GitHub) handle(r *http.Request, body []byte) Fault {
	g.mu.Lock()
	defer g.mu.Unlock()
	date := g.now().UTC().Format(http.TimeFormat)
	path := strings.TrimPrefix(r.URL.Path, g.options.Base)
	step := stepOf(r.Method, path, body)
	g.counts[step]++
	respond := g.before[step]
	if respond == nil {
		respond = g.work(step, r, path, body)
		if after := g.after[step]; after != nil {
			respond = after
		}
	}
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Date", date)
		respond(w, r)
	}
}

func stepOf(method, path string, body []byte) Step {
	switch {
	case path == "/app":
		return ReadApp
	case path == "/installation/repositories":
		return List
	case path == "/installation/token":
		return Revoke
	case method == http.MethodPost && !bytes.Contains(body, []byte("repositor")) && bytes.Contains(body, []byte(`{"metadata":"read"}`)):
		return MintReader
	case method == http.MethodPost:
		return Mint
	}
	return LookUp
}

func (g *GitHub) work(step Step, r *http.Request, path string, body []byte) Fault {
	if r.Header.Get("User-Agent") == "" {
		return Say(http.StatusForbidden, "Request forbidden by administrative rules. Please make sure your request has a User-Agent header")
	}
	bearer := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	if step == List || step == Revoke {
		return g.withToken(step, r, bearer)
	}
	a, refusal := g.appOf(bearer)
	if refusal != nil {
		return refusal
	}
	if step == ReadApp {
		return reply(http.StatusOK, a.describe())
	}
	in := g.find(a, strings.Split(strings.Trim(path, "/"), "/"))
	switch {
	case in == nil:
		return Say(http.StatusNotFound, "Not Found")
	case step == LookUp:
		return reply(http.StatusOK, in.describe())
	case in.Suspended:
		return Say(http.StatusForbidden, "This installation has been suspended")
	}
	return g.mint(in, body)
}

func reply(status int, body any) Fault {
	return func(w http.ResponseWriter, _ *http.Request) { answer(w, status, body) }
}

// appOf verifies the App's JWT, as strictly as GitHub does.
func (g *GitHub) appOf(bearer string) (*App, Fault) {
	undecoded := Say(http.StatusUnauthorized, "A JSON web token could not be decoded")
	parsed, err := jwt.ParseSigned(bearer, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil {
		return nil, undecoded
	}
	for _, a := range g.apps {
		for _, key := range a.keys {
			var claims jwt.Claims
			if parsed.Claims(key, &claims) != nil {
				continue
			}
			switch now := g.now(); {
			case claims.Issuer != a.ID && claims.Issuer != a.ClientID:
				return nil, Say(http.StatusUnauthorized, "'Issuer' claim ('iss') must be an Integer or a client id")
			case claims.IssuedAt == nil || claims.IssuedAt.Time().After(now):
				return nil, Say(http.StatusUnauthorized, "'Issued at' claim ('iat') must be an Integer representing the time that the assertion was issued")
			case claims.Expiry == nil || !claims.Expiry.Time().After(now):
				return nil, Say(http.StatusUnauthorized, "'Expiration time' claim ('exp') must be a numeric value representing the future time at which the assertion expires")
			case claims.Expiry.Time().After(now.Add(10 * time.Minute)):
				return nil, Say(http.StatusUnauthorized, "'Expiration time' claim ('exp') is too far in the future")
			}
			a.jwts[bearer] = true
			return a, nil
		}
	}
	return nil, undecoded
}

// find is the App's installation that the path names.
func (g *GitHub) find(a *App, path []string) *Installation {
	kind := map[string]string{"orgs": "organization", "users": "user", "enterprises": "enterprise"}[path[0]]
	for _, in := range g.installations {
		byID := path[0] == "app" && len(path) > 2 && in.ID == path[2]
		byName := len(path) > 2 && path[2] == "installation" && in.Kind == kind && strings.EqualFold(in.Owner, path[1])
		if in.app == a && (byID || byName) {
			return in
		}
	}
	return nil
}

func account(login, kind string) map[string]any {
	url := "https://api.github.com/users/" + login
	return map[string]any{
		"login": login, "id": 1, "node_id": "MDQ6VXNlcjE=", "avatar_url": "https://github.com/images/error/octocat_happy.gif", "gravatar_id": "",
		"url": url, "html_url": "https://github.com/" + login, "followers_url": url + "/followers", "following_url": url + "/following{/other_user}",
		"gists_url": url + "/gists{/gist_id}", "starred_url": url + "/starred{/owner}{/repo}", "subscriptions_url": url + "/subscriptions",
		"organizations_url": url + "/orgs", "repos_url": url + "/repos", "events_url": url + "/events{/privacy}",
		"received_events_url": url + "/received_events", "type": kind, "site_admin": false,
	}
}

func (a *App) describe() map[string]any {
	id, _ := strconv.Atoi(a.ID)
	return map[string]any{
		"id": id, "slug": a.Slug, "client_id": a.ClientID, "node_id": "MDExOkludGVncmF0aW9uMQ==", "owner": account("octocat", "User"), "name": a.Slug,
		"description": "", "external_url": "https://example.com", "html_url": "https://github.com/apps/" + a.Slug,
		"created_at": "2017-07-08T16:18:44-04:00", "updated_at": "2017-07-08T16:18:44-04:00",
		"permissions": map[string]string{"metadata": "read"}, "events": []string{"push"}, "installations_count": 1,
	}
}

func (i *Installation) describe() map[string]any {
	id, _ := strconv.Atoi(i.ID)
	appID, _ := strconv.Atoi(i.app.ID)
	target, who := map[string]string{"organization": "Organization", "user": "User", "enterprise": "Enterprise"}[i.Kind], account(i.Owner, "Organization")
	if i.Kind == "enterprise" {
		who = map[string]any{
			"id": 1, "slug": i.Owner, "name": i.Owner, "node_id": "MDEwOkVudGVycHJpc2Ux", "avatar_url": "https://github.com/images/error/octocat_happy.gif",
			"html_url": "https://github.com/enterprises/" + i.Owner, "created_at": "2019-01-26T19:01:12Z", "updated_at": "2019-01-26T19:14:43Z",
		}
	}
	described := map[string]any{
		"id": id, "account": who, "repository_selection": "selected", "access_tokens_url": "https://api.github.com/app/installations/" + i.ID + "/access_tokens",
		"repositories_url": "https://api.github.com/installation/repositories", "html_url": "https://github.com/organizations/x/settings/installations/" + i.ID,
		"app_id": appID, "client_id": i.app.ClientID, "target_id": 1, "target_type": target, "permissions": i.Permissions, "events": []string{"push"},
		"created_at": "2018-02-09T20:51:14Z", "updated_at": "2018-02-09T20:51:14Z", "single_file_name": nil,
		"app_slug": i.app.Slug, "suspended_at": nil, "suspended_by": nil,
	}
	if i.Suspended {
		described["suspended_at"], described["suspended_by"] = "2026-02-09T20:51:14Z", account("octocat", "User")
	}
	return described
}

func (g *GitHub) mint(in *Installation, body []byte) Fault {
	var asked struct {
		Repositories  []string          `json:"repositories"`
		RepositoryIDs []int64           `json:"repository_ids"`
		Permissions   map[string]string `json:"permissions"`
	}
	if len(body) > 0 && json.Unmarshal(body, &asked) != nil {
		return Say(http.StatusBadRequest, "Problems parsing JSON")
	}
	t := &token{in: in, permissions: map[string]string{}, ends: g.now().Add(time.Hour).Truncate(time.Second)}
	for name, level := range asked.Permissions {
		if rank(in.Permissions[name]) < rank(level) || rank(level) < 0 {
			return Say(http.StatusUnprocessableEntity, "The permissions requested are not granted to this installation.")
		}
		t.permissions[name] = level
	}
	if len(asked.Permissions) == 0 {
		t.permissions = maps.Clone(in.Permissions)
	}
	if t.permissions["metadata"] == "" {
		t.permissions["metadata"] = "read"
	}
	if !g.choose(t, asked.Repositories, asked.RepositoryIDs) {
		return Say(http.StatusUnprocessableEntity, "There is at least one repository that does not exist or is not accessible to the parent installation.")
	}
	g.minted++
	text := "ghs_" + rand.Text() + rand.Text()[:10]
	g.tokens[text] = t
	described := map[string]any{
		"token": text, "expires_at": t.ends.UTC().Format(time.RFC3339), "permissions": t.permissions, "repository_selection": "all",
	}
	if t.repositories != nil {
		described["repository_selection"] = "selected"
		described["repositories"] = describeAll(in.Owner, t.repositories, 0, len(t.repositories))
	}
	return reply(http.StatusCreated, described)
}

// choose gives the token the repositories that were asked for, by name or id; false if
// there is one that the installation has not.
func (g *GitHub) choose(t *token, names []string, ids []int64) bool {
	if len(names)+len(ids) > 500 {
		return false
	}
	if len(names)+len(ids) > 0 {
		t.repositories = map[string]int64{}
	}
	known := 0
	for name, id := range t.in.Repositories {
		byName := slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, name) })
		if byName || slices.Contains(ids, id) {
			t.repositories[name] = id
			known++
		}
	}
	return known == len(names)+len(ids)
}

// Repository is how GitHub describes a repository.
func Repository(owner, name string, id int64) json.RawMessage {
	return json.RawMessage(strings.NewReplacer("OWNER", owner, "NAME", name, "REPOSITORY_ID", fmt.Sprint(id)).Replace(repositoryJSON))
}

func describeAll(owner string, repositories map[string]int64, from, to int) []json.RawMessage {
	all := []json.RawMessage{}
	for i, name := range slices.Sorted(maps.Keys(repositories)) {
		if i < from || i >= to {
			continue
		}
		all = append(all, Repository(owner, name, repositories[name]))
	}
	return all
}

// withToken serves what installation tokens are for.
func (g *GitHub) withToken(step Step, r *http.Request, bearer string) Fault {
	t := g.tokens[bearer]
	switch {
	case t == nil || !g.now().Before(t.ends):
		return Say(http.StatusUnauthorized, "Bad credentials")
	case t.in.Suspended:
		return Say(http.StatusForbidden, "This installation has been suspended")
	case step == Revoke:
		delete(g.tokens, bearer)
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }
	}
	has := t.repositories
	if has == nil {
		has = t.in.Repositories
	}
	size, page := number(r, "per_page", 30), number(r, "page", 1)
	return reply(http.StatusOK, map[string]any{
		"total_count": len(has), "repository_selection": "selected", "repositories": describeAll(t.in.Owner, has, (page-1)*size, page*size),
	})
}

func number(r *http.Request, name string, usual int) int {
	if n, err := strconv.Atoi(r.URL.Query().Get(name)); err == nil {
		return n
	}
	return usual
}
