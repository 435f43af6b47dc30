// Package fake is GitHub's API for Apps, as an HTTP server: as much of it as the broker
// uses, with what GitHub's own description says of each answer, which package conformance
// checks.
package fake

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	_ "embed"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// repositoryJSON is how GitHub describes a repository: the example of its description
// (npm @octokit/openapi, MIT), with marks for what differs.
//
//go:embed repository.json
var repositoryJSON string

// Step is one kind of request.
type Step string

// The steps.
const (
	ReadApp    Step = "GET app"
	LookUp     Step = "GET installation"
	Mint       Step = "POST access_tokens"
	MintReader Step = "POST access_tokens for reading the list"
	List       Step = "GET repositories"
	Revoke     Step = "DELETE token"
)

// Fault is what GitHub does instead of answering.
type Fault func(w http.ResponseWriter, r *http.Request)

// Options are what a GitHub is made with.
type Options struct {
	Now func() time.Time
	// Base is the path of the API, such as /api/v3 on an Enterprise Server.
	Base string
	// Observe sees each request and its answer; nil for nobody.
	Observe func(Exchange)
}

// Exchange is one request, and what was answered; Status is 0 if nothing was.
type Exchange struct {
	Request  *http.Request
	Body     []byte
	Status   int
	Header   http.Header
	Response []byte
}

// GitHub has Apps, which are installed in accounts. It is safe for concurrent use.
type GitHub struct {
	// URL is where its API is.
	URL string

	options Options

	mu            sync.Mutex
	apps          []*App
	installations map[string]*Installation // by id
	tokens        map[string]*token
	minted        int
	lastID        int64
	made          int           // keys
	ahead         time.Duration // its clock
	before, after map[Step]Fault
	requests      []Exchange
	counts        map[Step]int
}

// App is one of GitHub's.
type App struct {
	ID, ClientID, Slug string
	// PrivateKey is in PEM, PKCS#1 as GitHub gives it.
	PrivateKey string

	keys []*rsa.PublicKey
	jwts map[string]bool
}

// Installation is an App in an account.
type Installation struct {
	ID string
	// Kind is organization, user or enterprise.
	Kind, Owner  string
	Permissions  map[string]string
	Repositories map[string]int64 // ids by the name without its owner
	Suspended    bool

	app *App
}

type token struct {
	in           *Installation
	permissions  map[string]string
	repositories map[string]int64 // nil for all
	ends         time.Time
}

// New starts a GitHub, which ends with the test.
func New(t testing.TB, o Options) *GitHub {
	t.Helper()
	if o.Now == nil {
		o.Now = time.Now
	}
	g := &GitHub{
		options: o, installations: map[string]*Installation{}, tokens: map[string]*token{}, lastID: 1000,
		before: map[Step]Fault{}, after: map[Step]Fault{}, counts: map[Step]int{},
	}
	server := httptest.NewServer(http.HandlerFunc(g.serve))
	t.Cleanup(server.Close)
	g.URL = server.URL + o.Base
	return g
}

// Snapshot is what a GitHub remembers, so that one of another test can go on with it: its
// Apps, each with the one key that it was made with, where they are installed, and their
// tokens. The address is another one then.
type Snapshot struct {
	URL           string
	Apps          []*App
	Installations []SnapshotOfInstallation
	Tokens        map[string]SnapshotOfToken
	LastID        int64
}

// SnapshotOfInstallation is an Installation, of the App that the number says.
type SnapshotOfInstallation struct {
	Installation
	App int
}

// SnapshotOfToken is a token of the installation with that id.
type SnapshotOfToken struct {
	Installation string
	Permissions  map[string]string
	Repositories map[string]int64
	Ends         time.Time
}

// Snapshot is what it remembers now.
func (g *GitHub) Snapshot() Snapshot {
	g.mu.Lock()
	defer g.mu.Unlock()
	taken := Snapshot{URL: g.URL, Apps: slices.Clone(g.apps), Tokens: map[string]SnapshotOfToken{}, LastID: g.lastID}
	for _, in := range g.installations {
		taken.Installations = append(taken.Installations, SnapshotOfInstallation{*in, slices.Index(g.apps, in.app)})
	}
	for text, t := range g.tokens {
		taken.Tokens[text] = SnapshotOfToken{t.in.ID, t.permissions, t.repositories, t.ends}
	}
	return taken
}

// Resume starts a GitHub that remembers what the snapshot holds.
func Resume(t testing.TB, from Snapshot, o Options) *GitHub {
	t.Helper()
	g := New(t, o)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.apps, g.lastID = from.Apps, from.LastID
	for _, a := range g.apps {
		block, _ := pem.Decode([]byte(a.PrivateKey))
		private, err := x509.ParsePKCS1PrivateKey(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		a.keys, a.jwts = []*rsa.PublicKey{&private.PublicKey}, map[string]bool{}
	}
	for _, in := range from.Installations {
		in.app = g.apps[in.App]
		g.installations[in.ID] = &in.Installation
	}
	for text, of := range from.Tokens {
		g.tokens[text] = &token{g.installations[of.Installation], of.Permissions, of.Repositories, of.Ends}
	}
	return g
}

// NewApp registers an App.
func (g *GitHub) NewApp(slug string) *App {
	g.mu.Lock()
	defer g.mu.Unlock()
	a := &App{ID: g.nextID(), Slug: slug, ClientID: "Iv23li" + rand.Text()[:14], jwts: map[string]bool{}}
	a.PrivateKey = g.addKey(a)
	g.apps = append(g.apps, a)
	return a
}

// Apps are all of them.
func (g *GitHub) Apps() []*App {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.apps)
}

// NewKey makes another private key of the App's.
func (g *GitHub) NewKey(a *App) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.addKey(a)
}

// DeleteKey deletes the App's oldest key.
func (g *GitHub) DeleteKey(a *App) {
	g.mu.Lock()
	defer g.mu.Unlock()
	a.keys = a.keys[1:]
}

// Install installs the App in an account, in which it has these repositories.
func (g *GitHub) Install(a *App, kind, owner string, permissions map[string]string, repositories ...string) *Installation {
	g.mu.Lock()
	defer g.mu.Unlock()
	in := &Installation{ID: g.nextID(), Kind: kind, Owner: owner, Permissions: maps.Clone(permissions), Repositories: map[string]int64{}, app: a}
	for _, name := range repositories {
		g.lastID++
		in.Repositories[name] = g.lastID
	}
	g.installations[in.ID] = in
	return in
}

// Reinstall gives the installation another id, and ends its tokens.
func (g *GitHub) Reinstall(in *Installation) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.installations, in.ID)
	maps.DeleteFunc(g.tokens, func(_ string, t *token) bool { return t.in == in })
	in.ID = g.nextID()
	g.installations[in.ID] = in
}

// Change changes what there is.
func (g *GitHub) Change(change func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	change()
}

// SetAhead has its clock go ahead of the one that it was made with.
func (g *GitHub) SetAhead(by time.Duration) { g.Change(func() { g.ahead = by }) }

func (g *GitHub) nextID() string {
	g.lastID++
	return fmt.Sprint(g.lastID)
}

func (g *GitHub) now() time.Time { return g.options.Now().Add(g.ahead) }

// Alive reports whether the token is good for something.
func (g *GitHub) Alive(text string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	t := g.tokens[text]
	return t != nil && g.now().Before(t.ends) && !t.in.Suspended
}

// Can reports whether the token has the permission, at that level, in the repository.
func (g *GitHub) Can(text, repository, permission, level string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	t := g.tokens[text]
	if t == nil || !g.now().Before(t.ends) {
		return false
	}
	owner, name, _ := strings.Cut(repository, "/")
	_, has := t.in.Repositories[name]
	if t.repositories != nil {
		_, has = t.repositories[name]
	}
	return has && owner == t.in.Owner && rank(t.permissions[permission]) >= rank(level)
}

func rank(level string) int { return slices.Index([]string{"read", "write", "admin"}, level) }

// Minted is how many tokens were ever made, those for reading the list included; Living
// how many of them are alive.
func (g *GitHub) Minted() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.minted
}

// Living is how many tokens are alive.
func (g *GitHub) Living() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.tokens)
}

// JWTs is how many different ones the App has sent.
func (g *GitHub) JWTs(a *App) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(a.jwts)
}

// Count is how many requests of the kind came.
func (g *GitHub) Count(step Step) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.counts[step]
}

// Requests are all that came.
func (g *GitHub) Requests() []Exchange {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.requests)
}

// HangUp is a Fault of which nothing arrives.
func HangUp(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

// Stall is a Fault that never comes.
func Stall(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// Say is a Fault that answers with that status and message, as GitHub's errors are.
func Say(status int, message string, headers ...string) Fault {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i+1 < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		answer(w, status, map[string]any{"message": message, "documentation_url": "https://docs.github.com/rest", "status": fmt.Sprint(status)})
	}
}

// Answer is a Fault that answers with that body.
func Answer(status int, body string) Fault {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// Before has a step do nothing but the fault, nil for what it does else.
func (g *GitHub) Before(step Step, f Fault) { g.Change(func() { g.before[step] = f }) }

// After has a step do its work, and then the fault instead of answering.
func (g *GitHub) After(step Step, f Fault) { g.Change(func() { g.after[step] = f }) }

// Echo has every request refused with a text that repeats what was sent.
func (g *GitHub) Echo() {
	f := func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		answer(w, http.StatusBadRequest, map[string]any{"message": r.URL.String() + r.Header.Get("Authorization") + string(body)})
	}
	for _, step := range []Step{ReadApp, LookUp, Mint, MintReader, List, Revoke} {
		g.Before(step, f)
	}
}

func (g *GitHub) addKey(a *App) string {
	private := key(g.made)
	g.made++
	a.keys = append(a.keys, &private.PublicKey)
	return pkcs1(private)
}

var (
	making sync.Mutex
	made   []*rsa.PrivateKey
)

// key is the nth key of every GitHub: making one takes long.
func key(n int) *rsa.PrivateKey {
	making.Lock()
	defer making.Unlock()
	for len(made) <= n {
		private, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			panic(err)
		}
		made = append(made, private)
	}
	return made[n]
}
