// Package fake is as much of GitLab as the type gitlab talks to, as an HTTP server: tokens
// of projects, groups, service accounts and users, which end at the beginning of a day, can
// end and replace themselves, and have a family. Its answers have the members of the
// vendor's pages, which the module of bootstrap/conformance holds against the vendor's own
// client.
package fake

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// The people and places that there are.
const (
	// Admin is a user who may make tokens of everything.
	Admin = int64(1)
	// Maintainer may make those of the project Project and of the groups.
	Maintainer = int64(5)
	// Account is a service account of the group Top.
	Account = int64(57)

	// Project is in the group Group.
	Project = "top/sub/app.x"
	// Group is in the group Top.
	Group = "top/sub"
	// Top is a top-level group.
	Top = "top"
)

// Fault is what the server does instead of answering.
type Fault func(w http.ResponseWriter, r *http.Request)

// HangUp is a Fault of which nothing arrives.
func HangUp(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

// Stall is a Fault that never comes.
func Stall(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// Status is a Fault that is a status and a message.
func Status(status int, message string) Fault {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string]any{"message": message})
	}
}

// Token is one token.
type Token struct {
	ID, User    int64
	Name, Value string
	Scopes      []string
	Level       int64
	Place       string // projects/7, groups/3, or "" for a user's own
	Granular    []map[string]any
	Made, Ends  time.Time
	Revoked     bool
	family      int64
}

// Server is one instance. It is safe for concurrent use.
type Server struct {
	// URL is its address.
	URL string
	// Fine is false for an instance whose answers do not show granular_scopes (before 19.6).
	Fine bool
	// Record is told of each exchange that is no fault; nil for nobody.
	Record func(request *http.Request, body []byte, status int, answer []byte)

	now func() time.Time

	mu       sync.Mutex
	tokens   []*Token
	projects map[string]int64
	groups   map[string]int64
	members  map[string]map[int64]int64 // the access level of a user in a place
	minted   int
	wider    bool
	blind    bool
	all      Fault
	before   map[string]Fault // instead of the work, by method and a part of the path
	after    map[string]Fault // instead of the answer
	calls    []string
}

// New starts an instance, which ends with the test.
func New(t testing.TB, now func() time.Time) *Server {
	t.Helper()
	s := &Server{
		Fine: true, now: now, before: map[string]Fault{}, after: map[string]Fault{},
		projects: map[string]int64{Project: 7, "top/other": 8}, groups: map[string]int64{Top: 2, Group: 3},
		members: map[string]map[int64]int64{"projects/7": {Maintainer: 40}, "projects/8": {Maintainer: 30}, "groups/3": {Maintainer: 50}, "groups/2": {Maintainer: 50}},
	}
	server := httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(server.Close)
	s.URL = server.URL
	return s
}

// Snapshot is what an instance remembers of its tokens, so that one of another test, at
// another address, can go on with it.
type Snapshot struct {
	URL    string
	Tokens []SnapshotOfToken
}

// SnapshotOfToken is a Token with its family.
type SnapshotOfToken struct {
	Token
	Family int64
}

// Snapshot is what it remembers now.
func (s *Server) Snapshot() Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	taken := Snapshot{URL: s.URL}
	for _, t := range s.tokens {
		taken.Tokens = append(taken.Tokens, SnapshotOfToken{*t, t.family})
	}
	return taken
}

// Resume starts an instance that remembers what the snapshot holds.
func Resume(t testing.TB, from Snapshot, now func() time.Time) *Server {
	t.Helper()
	s := New(t, now)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, of := range from.Tokens {
		of.family = of.Family
		s.tokens = append(s.tokens, &of.Token)
	}
	return s
}

// Personal makes a token of a user's, with an end in so many days, 0 for none.
func (s *Server) Personal(user int64, days int, scopes ...string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.make(user, "of the operator")
	t.Scopes = scopes
	if days > 0 {
		t.Ends = s.today().AddDate(0, 0, days)
	}
	return t.Value
}

func (s *Server) today() time.Time { return s.now().UTC().Truncate(24 * time.Hour) }

func (s *Server) make(user int64, name string) *Token {
	t := &Token{ID: int64(len(s.tokens) + 100), User: user, Name: name, Value: "glpat-" + rand.Text(), Made: s.now()}
	t.family = t.ID
	s.tokens = append(s.tokens, t)
	return t
}

// Before has requests of a method whose path has the part do nothing but the fault, nil
// for what they do else.
func (s *Server) Before(method, part string, f Fault) { s.fault(s.before, method+" "+part, f) }

// After has them do their work, and then the fault instead of answering.
func (s *Server) After(method, part string, f Fault) { s.fault(s.after, method+" "+part, f) }

func (s *Server) fault(of map[string]Fault, key string, f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f == nil {
		delete(of, key)
		return
	}
	of[key] = f
}

// Echo has every request refused with a text that repeats what was sent.
func (s *Server) Echo() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		Status(http.StatusBadRequest, r.URL.String()+r.Header.Get("Private-Token")+string(body))(w, r)
	}
}

// Wider has tokens granted more than was asked for.
func (s *Server) Wider() { s.locked(func() { s.wider = true }) }

// NoSearch makes it an old one, which lists all tokens of a place whatever is searched for.
func (s *Server) NoSearch() { s.locked(func() { s.blind = true }) }

// Rename gives a project another path; the former one leads to it.
func (s *Server) Rename(from, to string) {
	s.locked(func() { s.projects[to] = s.projects[from]; delete(s.projects, from); s.projects["-moved-"+from] = 0 })
}

// Dismiss takes the user's membership of everything away.
func (s *Server) Dismiss(user int64) {
	s.locked(func() {
		for _, of := range s.members {
			delete(of, user)
		}
	})
}

// Kill ends a token behind everybody's back.
func (s *Server) Kill(value string) {
	s.locked(func() {
		if t := s.find(value); t != nil {
			t.Revoked = true
		}
	})
}

func (s *Server) locked(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// Alive reports whether a token is accepted.
func (s *Server) Alive(value string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.find(value)
	return t != nil && s.active(t)
}

// Get is a copy of a token.
func (s *Server) Get(value string) Token {
	s.mu.Lock()
	defer s.mu.Unlock()
	return *s.find(value)
}

// Replace is what the holder of a token can do: it ends, and the answer is the next one.
func (s *Server) Replace(value string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.replace(s.find(value), s.today().AddDate(1, 0, -1)).Value
}

// Minted is how many tokens were made over the API, Active how many of these live, and
// Calls what was asked since the last time.
func (s *Server) Minted() (n int) { s.locked(func() { n = s.minted }); return n }

// Active counts living tokens that the broker has named.
func (s *Server) Active() (n int) {
	s.locked(func() {
		for _, t := range s.tokens {
			if strings.HasPrefix(t.Name, "broker-") && s.active(t) {
				n++
			}
		}
	})
	return n
}

// Calls are the requests since it was asked last, as method and path.
func (s *Server) Calls() (calls []string) {
	s.locked(func() { calls, s.calls = s.calls, nil })
	return calls
}

func (s *Server) find(value string) *Token {
	for _, t := range s.tokens {
		if t.Value == value && value != "" {
			return t
		}
	}
	return nil
}

func (s *Server) active(t *Token) bool {
	return !t.Revoked && (t.Ends.IsZero() || s.now().Before(t.Ends))
}

func (s *Server) replace(t *Token, ends time.Time) *Token {
	t.Revoked = true
	next := s.make(t.User, t.Name)
	next.Scopes, next.Level, next.Place, next.Granular, next.family, next.Ends = t.Scopes, t.Level, t.Place, t.Granular, t.family, ends
	return next
}

// answer is what a request comes to.
type answer struct {
	status int
	body   any
}

func message(status int, text string) answer {
	return answer{status, map[string]any{"message": text}}
}

var (
	unauthorized = message(http.StatusUnauthorized, "401 Unauthorized")
	notFound     = message(http.StatusNotFound, "404 Not Found")
	done         = answer{status: http.StatusNoContent}
)

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(body))
	a, f := s.handle(r)
	if f != nil {
		f(w, r)
		return
	}
	var shown []byte
	if a.body != nil {
		shown, _ = json.Marshal(a.body)
	}
	if s.Record != nil {
		s.Record(r, body, a.status, shown)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(a.status)
	_, _ = w.Write(shown)
}

func (s *Server) handle(r *http.Request) (answer, Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all != nil {
		return answer{}, s.all
	}
	line := r.Method + " " + strings.TrimPrefix(r.URL.EscapedPath(), "/api/v4")
	s.calls = append(s.calls, line)
	if f := match(s.before, line); f != nil {
		return answer{}, f
	}
	return s.work(r), match(s.after, line)
}

func match(faults map[string]Fault, line string) Fault {
	for key, f := range faults {
		method, part, _ := strings.Cut(key, " ")
		if strings.HasPrefix(line, method+" ") && strings.Contains(line, part) {
			return f
		}
	}
	return nil
}

func (s *Server) work(r *http.Request) answer {
	by := s.find(r.Header.Get("Private-Token"))
	path := strings.Split(strings.TrimPrefix(r.URL.EscapedPath(), "/api/v4/"), "/")
	if by == nil || !s.active(by) {
		return unauthorized
	}
	body := map[string]any{}
	if raw, _ := io.ReadAll(r.Body); len(raw) > 0 && json.Unmarshal(raw, &body) != nil {
		return message(http.StatusBadRequest, "body is no JSON")
	}
	last := path[len(path)-1]
	switch {
	case path[0] == "personal_access_tokens" && len(path) > 1 && path[1] == "self":
		return s.ofSelf(by, r.Method, len(path) == 3, body)
	case !slices.Contains(by.Scopes, "api"):
		return answer{http.StatusForbidden, map[string]any{"error": "insufficient_scope", "scope": "api"}}
	case r.Method == http.MethodPost && (last == "access_tokens" || last == "personal_access_tokens"):
		return s.create(by, path, body)
	case r.Method == http.MethodGet && (last == "access_tokens" || last == "personal_access_tokens"):
		return s.list(by, path, r.URL.Query())
	case r.Method == http.MethodDelete:
		return s.end(by, path)
	case r.Method == http.MethodGet && len(path) == 2:
		return s.show(by, path)
	}
	return notFound
}

func (s *Server) ofSelf(by *Token, method string, rotate bool, body map[string]any) answer {
	switch {
	case rotate && !slices.Contains(by.Scopes, "api") && !slices.Contains(by.Scopes, "self_rotate"):
		return message(http.StatusForbidden, "403 Forbidden")
	case rotate:
		ends := s.today().AddDate(0, 0, 7)
		if asked, ok := body["expires_at"].(string); ok {
			ends, _ = time.Parse(time.DateOnly, asked)
		}
		return answer{http.StatusOK, s.shown(s.replace(by, ends), true)}
	case method == http.MethodDelete:
		by.Revoked = true
		return done
	}
	return answer{http.StatusOK, s.shown(by, false)}
}

// place is what a path's first two parts mean; "" if nobody sees it.
func (s *Server) place(path []string) (place, full string) {
	of := map[string]map[string]int64{"projects": s.projects, "groups": s.groups}[path[0]]
	name, err := url.PathUnescape(path[1])
	if err != nil || of == nil {
		return "", ""
	}
	for full, id := range of {
		if id != 0 && (strings.EqualFold(full, name) || strconv.FormatInt(id, 10) == name) {
			return path[0] + "/" + strconv.FormatInt(id, 10), full
		}
	}
	return "", ""
}

func (s *Server) show(by *Token, path []string) answer {
	if name, _ := url.PathUnescape(path[1]); path[0] == "projects" {
		if _, moved := s.projects["-moved-"+name]; moved {
			return message(http.StatusMovedPermanently, "moved")
		}
	}
	place, full := s.place(path)
	if place == "" || !s.sees(by, place) {
		return notFound
	}
	id, _ := strconv.ParseInt(place[strings.Index(place, "/")+1:], 10, 64)
	if path[0] == "groups" {
		return answer{http.StatusOK, map[string]any{"id": id, "name": full, "full_path": full, "web_url": "https://gitlab.example.com/groups/" + full}}
	}
	return answer{http.StatusOK, map[string]any{"id": id, "name": full, "path_with_namespace": full, "web_url": "https://gitlab.example.com/" + full}}
}

func (s *Server) sees(by *Token, place string) bool {
	return by.User == Admin || s.members[place][by.User] > 0
}

var resourceScopes = []string{"api", "read_api", "read_repository", "write_repository", "read_registry", "write_registry", "create_runner", "manage_runner", "ai_features", "k8s_proxy", "self_rotate"}

func (s *Server) create(by *Token, path []string, body map[string]any) answer {
	name, _ := body["name"].(string)
	t := &Token{Name: name, User: by.User}
	var bad *answer
	switch {
	case path[0] == "user":
		bad = s.fine(t, body)
	case path[0] == "users":
		t.User, _ = strconv.ParseInt(path[1], 10, 64)
		if by.User != Admin {
			return message(http.StatusForbidden, "403 Forbidden")
		}
		bad = scoped(t, body, append(slices.Clone(resourceScopes), "read_user"))
	case len(path) == 5 && path[2] == "service_accounts":
		if place, _ := s.place(path); place == "" || !s.sees(by, place) || path[3] != strconv.FormatInt(Account, 10) {
			return notFound
		}
		t.User = Account
		bad = scoped(t, body, append(slices.Clone(resourceScopes), "read_user"))
	default:
		bad = s.ofPlace(by, t, path, body)
	}
	ends, err := time.Parse(time.DateOnly, fmt.Sprint(body["expires_at"]))
	switch {
	case bad != nil:
		return *bad
	case name == "" || err != nil:
		return message(http.StatusBadRequest, "name or expires_at is missing")
	case ends.After(s.today().AddDate(0, 0, 365)):
		return message(http.StatusBadRequest, "Expiration date must be before the limit")
	}
	made := s.make(t.User, name)
	made.Scopes, made.Level, made.Place, made.Granular, made.Ends = t.Scopes, t.Level, t.Place, t.Granular, ends
	s.minted++
	if s.wider {
		made.Scopes = append(made.Scopes, "api")
	}
	return answer{http.StatusCreated, s.shown(made, true)}
}

func (s *Server) ofPlace(by, t *Token, path []string, body map[string]any) *answer {
	place, _ := s.place(path)
	if place == "" || !s.sees(by, place) {
		return &notFound
	}
	level := int64(40)
	if asked, ok := body["access_level"].(float64); ok {
		level = int64(asked)
	}
	own := s.members[place][by.User]
	if by.User == Admin {
		own = 50
	}
	if own < 40 || level > own {
		no := message(http.StatusBadRequest, "User does not have permission to create "+strings.TrimSuffix(path[0], "s")+" access token")
		return &no
	}
	t.Place, t.Level, t.User = place, level, int64(len(s.tokens)+9000) // a bot of its own
	return scoped(t, body, resourceScopes)
}

func scoped(t *Token, body map[string]any, known []string) *answer {
	list, _ := body["scopes"].([]any)
	for _, scope := range list {
		if !slices.Contains(known, fmt.Sprint(scope)) {
			no := answer{http.StatusBadRequest, map[string]any{"error": "scopes does not have a valid value"}}
			return &no
		}
		t.Scopes = append(t.Scopes, fmt.Sprint(scope))
	}
	if len(list) == 0 {
		no := answer{http.StatusBadRequest, map[string]any{"error": "scopes is missing"}}
		return &no
	}
	return nil
}

func (s *Server) fine(t *Token, body map[string]any) *answer {
	list, _ := body["granular_scopes"].([]any)
	if len(list) == 0 || body["scopes"] != nil {
		no := answer{http.StatusBadRequest, map[string]any{"error": "scopes does not have a valid value"}}
		return &no
	}
	t.Scopes = []string{"granular"}
	for _, e := range list {
		entry, _ := e.(map[string]any)
		ids, _ := entry["project_ids"].([]any)
		for _, id := range ids {
			t.Granular = append(t.Granular, map[string]any{"access": entry["access"], "permissions": entry["permissions"], "project_id": id, "group_id": nil})
		}
	}
	return nil
}

// shown is a token as answers have it.
func (s *Server) shown(t *Token, value bool) map[string]any {
	shown := map[string]any{
		"id": t.ID, "name": t.Name, "revoked": t.Revoked, "created_at": t.Made.UTC().Format("2006-01-02T15:04:05.000Z"), "description": nil,
		"scopes": t.Scopes, "user_id": t.User, "last_used_at": nil, "active": s.active(t), "expires_at": nil,
	}
	if !t.Ends.IsZero() {
		shown["expires_at"] = t.Ends.Format(time.DateOnly)
	}
	if t.Place != "" {
		shown["access_level"] = t.Level
	}
	if len(t.Granular) > 0 && s.Fine {
		shown["granular_scopes"] = t.Granular
	}
	if value {
		shown["token"] = t.Value
	}
	return shown
}

// within are the tokens that a collection lists to who asks.
func (s *Server) within(by *Token, path []string) ([]*Token, bool) {
	var all []*Token
	switch {
	case path[0] == "personal_access_tokens":
		for _, t := range s.tokens {
			if by.User == Admin || t.User == by.User {
				all = append(all, t)
			}
		}
		return all, true
	case len(path) >= 5 && path[2] == "service_accounts":
		place, _ := s.place(path)
		for _, t := range s.tokens {
			if t.User == Account {
				all = append(all, t)
			}
		}
		return all, place != "" && s.sees(by, place)
	}
	place, _ := s.place(path)
	for _, t := range s.tokens {
		if t.Place == place {
			all = append(all, t)
		}
	}
	return all, place != "" && s.sees(by, place)
}

func (s *Server) list(by *Token, path []string, q url.Values) answer {
	all, seen := s.within(by, path)
	if !seen {
		return notFound
	}
	listed := []any{}
	for _, t := range all {
		if (s.blind || strings.Contains(t.Name, q.Get("search"))) && (q.Get("state") != "active" || s.active(t)) {
			listed = append(listed, s.shown(t, false))
		}
	}
	size, page := whole(q, "per_page", 20), whole(q, "page", 1)
	from := min((page-1)*size, len(listed))
	return answer{http.StatusOK, listed[from:min(from+size, len(listed))]}
}

func whole(q url.Values, name string, usual int) int {
	if n, err := strconv.Atoi(q.Get(name)); err == nil && n > 0 {
		return n
	}
	return usual
}

func (s *Server) end(by *Token, path []string) answer {
	all, seen := s.within(by, path)
	if !seen {
		return notFound
	}
	for _, t := range all {
		if strconv.FormatInt(t.ID, 10) == path[len(path)-1] && (s.active(t) || path[0] == "personal_access_tokens") {
			t.Revoked = true
			return done
		}
	}
	if path[0] == "personal_access_tokens" && by.User != Admin {
		return unauthorized
	}
	return notFound
}
