// Package systems has servers that answer as the products of testdata/http do, or as their
// vendors document it: only ids, names, secrets and times are their own.
package systems

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
)

// Script is one system.yaml, as testdata/http/README.md has it. A key that is not known here
// fails the test.
type Script struct {
	Sources  []string          `yaml:"sources"`
	Provider map[string]any    `yaml:"provider"` // fields, beside base_url and preset
	Secrets  map[string]string `yaml:"secrets"`
	Request  Request           `yaml:"request"`
	Known    map[string]string `yaml:"known"`    // headers that show the parent
	Signed   string            `yaml:"signed"`   // the broker's JWT, in a login or instead
	Stranger Answer            `yaml:"stranger"` // what others get
	Routes   []Route           `yaml:"routes"`
	Refusals []Refusal         `yaml:"refusals"`
}

// Request is what is asked for.
type Request struct {
	Scopes      []string          `yaml:"scopes"`
	Audiences   []string          `yaml:"audiences"`
	Resources   []string          `yaml:"resources"`
	Permissions map[string]string `yaml:"permissions"`
	Parameters  map[string]string `yaml:"parameters"`
}

// Answer is one that was given.
type Answer struct {
	Status int               `yaml:"status"`
	Body   any               `yaml:"body"`
	Put    map[string]string `yaml:"put"`   // what becomes of a value: id, name, secret, echo <where>, until <unit>
	Items  string            `yaml:"items"` // of a list
}

// Route is a call and what it does.
type Route struct {
	Call   string `yaml:"call"`
	Answer Answer `yaml:"answer"`
	Login  bool   `yaml:"login"` // with the broker's JWT
	// Makes, Ends and Lists are kinds of things; without one the answer stays as it is.
	Makes string `yaml:"makes"`
	Name  string `yaml:"name"`  // where in the request
	Taken Answer `yaml:"taken"` // to a name that is there already
	Until struct {
		At string `yaml:"at"`
		As string `yaml:"as"`
	} `yaml:"until"`
	Ends     string `yaml:"ends"`
	By       string `yaml:"by"` // where in the request the id or name is; {id} in the path
	Gone     Answer `yaml:"gone"`
	Lists    string `yaml:"lists"`
	Matching struct {
		Query  string `yaml:"query"`
		Behind string `yaml:"behind"`
	} `yaml:"matching"`
	Page struct {
		Number string `yaml:"number"`
		Size   string `yaml:"size"`
		First  int    `yaml:"first"`
	} `yaml:"page"`
	Item any               `yaml:"item"`
	Put  map[string]string `yaml:"put"`
}

// Refusal is what the product answers to a call, and what the broker makes of it.
type Refusal struct {
	Call   string `yaml:"call"`
	Status int    `yaml:"status"`
	Body   any    `yaml:"body"`
	Code   string `yaml:"code"`
}

// MostItems is how many things are on a page, whatever was asked for, so that there are several.
const MostItems = 2

// Read reads the script in a folder of testdata/http.
func Read(t testing.TB, folder string) Script {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(folder, "system.yaml"))
	require.NoError(t, err)
	decoder := yaml.NewDecoder(bytes.NewReader(raw))
	decoder.KnownFields(true)
	var s Script
	require.NoError(t, decoder.Decode(&s))
	require.NotEmpty(t, s.Sources)
	return s
}

type thing struct {
	kind, id, name, secret, of string
	until                      time.Time
	ended                      bool
}

// System is such a server. It is safe for concurrent use.
type System struct {
	Script
	t   testing.TB
	URL string
	now func() time.Time

	mu       sync.Mutex
	things   []*thing
	secrets  int
	wire     strings.Builder
	echo     bool
	stall    chan struct{}     // closed at the end
	instead  map[string]Answer // by call
	hangUpAt string            // a call that is done and not answered
	between  func()            // called once, behind a page
}

// Start starts a server that ends with the test.
func Start(t testing.TB, s Script, now func() time.Time) *System {
	t.Helper()
	sys := &System{Script: s, t: t, now: now, instead: map[string]Answer{}}
	server := httptest.NewServer(sys)
	t.Cleanup(server.Close)
	t.Cleanup(func() {
		if sys.stall != nil {
			close(sys.stall)
		}
	})
	sys.URL = server.URL
	return sys
}

// asked is one request, read.
type asked struct {
	path map[string]string
	url  *url.URL
	json any
	form url.Values
	raw  string
}

// at is what the request has there: at a JSON Pointer in its body, or in its form.
func (a asked) at(where string) any {
	if name, ok := strings.CutPrefix(where, "form "); ok {
		return a.form.Get(name)
	}
	p, err := form.ParsePointer(where)
	if err != nil {
		return nil
	}
	v, _ := p.Find(a.json)
	return v
}

// ServeHTTP implements http.Handler.
func (s *System) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	s.record(r, body)
	if s.echo {
		s.mu.Unlock()
		http.Error(w, fmt.Sprintf("%s %s %v %s", r.Method, r.URL, r.Header, body), http.StatusBadRequest)
		return
	}
	before := s.secrets
	status, answer, call := s.serve(r, body)
	stall, hangUp := s.stall, s.hangUpAt != "" && s.hangUpAt == call
	if s.secrets == before {
		stall = nil // what it stalls with is the child
	}
	s.mu.Unlock()
	switch {
	case stall != nil:
		select {
		case <-stall:
		case <-r.Context().Done():
		}
	case hangUp:
		panic(http.ErrAbortHandler)
	}
	if answer != nil {
		w.Header().Set("Content-Type", "application/json")
	}
	w.WriteHeader(status)
	_, _ = w.Write(answer)
}

// record writes the request down as it came, without what Go's client adds.
func (s *System) record(r *http.Request, body []byte) {
	query, _ := url.QueryUnescape(r.URL.RawQuery)
	target := r.URL.EscapedPath()
	if query != "" {
		target += "?" + query
	}
	fmt.Fprintf(&s.wire, "%s %s\n", r.Method, target)
	for _, name := range slices.Sorted(maps.Keys(r.Header)) {
		if !slices.Contains([]string{"User-Agent", "Content-Length", "Accept-Encoding"}, name) {
			fmt.Fprintf(&s.wire, "%s: %s\n", name, strings.Join(r.Header[name], ", "))
		}
	}
	if len(body) > 0 {
		fmt.Fprintf(&s.wire, "\n%s\n", body)
	}
	s.wire.WriteString("\n")
}

func (s *System) serve(r *http.Request, body []byte) (status int, answer []byte, call string) {
	a := asked{url: r.URL, raw: string(body)}
	if strings.HasPrefix(r.Header.Get("Content-Type"), "application/x-www-form-urlencoded") {
		a.form, _ = url.ParseQuery(string(body))
	} else if len(body) > 0 {
		a.json, _ = form.Object(body, 32)
	}
	for i := range s.Routes {
		found := &s.Routes[i]
		if a.path = found.matches(r); a.path == nil {
			continue
		}
		if other, ok := s.instead[found.Call]; ok {
			return s.say(other, nil, a, found.Call)
		}
		if !s.isKnown(found, r, body) {
			return s.say(s.Stranger, nil, a, found.Call)
		}
		return s.do(found, a)
	}
	s.t.Errorf("nothing answers %s %s", r.Method, r.URL)
	return http.StatusNotImplemented, nil, ""
}

func (s *System) isKnown(to *Route, r *http.Request, body []byte) bool {
	if to.Login || len(s.Known) == 0 {
		return bytes.Contains(body, []byte(s.Signed))
	}
	for name, value := range s.Known {
		if r.Header.Get(name) != value {
			return false
		}
	}
	return true
}

// matches returns what is in the path, nil if the route is another.
func (r *Route) matches(request *http.Request) map[string]string {
	method, path, _ := strings.Cut(r.Call, " ")
	want, got := strings.Split(path, "/"), strings.Split(request.URL.EscapedPath(), "/")
	if request.Method != method || len(want) != len(got) {
		return nil
	}
	found := map[string]string{}
	for i, segment := range want {
		name, isName := strings.CutPrefix(segment, "{")
		switch {
		case isName:
			found[strings.TrimSuffix(name, "}")], _ = url.PathUnescape(got[i])
		case segment != got[i]:
			return nil
		}
	}
	return found
}

func (s *System) do(r *Route, a asked) (int, []byte, string) {
	switch {
	case r.Makes != "":
		return s.make(r, a)
	case r.Ends != "":
		by := a.path["id"]
		if r.By != "" {
			by = fmt.Sprint(a.at(r.By))
		}
		for _, one := range s.things {
			if one.kind == r.Ends && !s.isEnded(one) && (one.id == by || one.name == by) {
				one.ended = true
				return s.say(r.Answer, one, a, r.Call)
			}
		}
		return s.say(r.Gone, nil, a, r.Call)
	case r.Lists != "":
		return s.list(r, a)
	}
	return s.say(r.Answer, nil, a, r.Call)
}

func (s *System) make(r *Route, a asked) (int, []byte, string) {
	one := &thing{kind: r.Makes, id: strconv.Itoa(len(s.things) + 1), of: a.path["of"]}
	if _, ok := get(r.Answer.Body, whereIs("id", r.Answer.Put)).(string); ok {
		one.id = "id-" + one.id
	}
	if r.Name != "" {
		one.name = fmt.Sprint(a.at(r.Name))
		if r.Taken.Status != 0 && slices.ContainsFunc(s.things, func(other *thing) bool { return other.name == one.name && other.kind == one.kind && !s.isEnded(other) }) {
			return s.say(r.Taken, nil, a, r.Call)
		}
	}
	if slices.Contains(slices.Collect(maps.Values(r.Answer.Put)), "secret") {
		s.secrets++
		one.secret = fmt.Sprintf("child-%d-0123456789abcdef", s.secrets)
	}
	one.until = s.end(r.Until.As, a.at(r.Until.At))
	s.things = append(s.things, one)
	return s.say(r.Answer, one, a, r.Call)
}

// end is when something ends for which that was asked.
func (s *System) end(as string, asked any) time.Time {
	text := fmt.Sprint(asked)
	number, _ := strconv.Atoi(strings.TrimSuffix(text, "s"))
	switch as {
	case "":
		return time.Time{}
	case "hour":
		return s.now().Add(time.Hour)
	case "seconds":
		return s.now().Add(time.Duration(number) * time.Second)
	case "days":
		return s.now().AddDate(0, 0, number)
	case "duration":
		d, err := time.ParseDuration(text)
		require.NoError(s.t, err)
		return s.now().Add(d)
	}
	end, err := time.Parse(map[string]string{"rfc3339": time.RFC3339, "date": time.DateOnly}[as], text)
	require.NoError(s.t, err)
	return end
}

func (s *System) isEnded(one *thing) bool {
	return one.ended || one.of != "" && slices.ContainsFunc(s.things, func(owner *thing) bool { return owner.id == one.of && owner != one && owner.ended })
}

func (s *System) list(r *Route, a asked) (int, []byte, string) {
	query := a.url.Query()
	var items []any
	for _, one := range s.things {
		wanted := strings.TrimPrefix(query.Get(r.Matching.Query), r.Matching.Behind)
		if one.kind != r.Lists || s.isEnded(one) || r.Matching.Query != "" && !strings.Contains(one.name, wanted) {
			continue
		}
		items = append(items, s.fill(r.Item, r.Put, one, a))
	}
	if r.Page.Number != "" {
		page, _ := strconv.Atoi(query.Get(r.Page.Number))
		size, _ := strconv.Atoi(query.Get(r.Page.Size))
		size = min(max(size, 1), MostItems)
		first := min(max(page-r.Page.First, 0)*size, len(items))
		items = items[first:min(first+size, len(items))]
	}
	if items == nil {
		items = []any{}
	}
	body := s.fill(r.Answer.Body, nil, nil, a)
	set(&body, r.Answer.Items, items)
	if between := s.between; between != nil {
		s.between = nil
		between()
	}
	return s.say(Answer{Status: r.Answer.Status, Body: body}, nil, a, r.Call)
}

func (s *System) say(this Answer, about *thing, a asked, call string) (int, []byte, string) {
	if this.Body == nil {
		return this.Status, nil, call
	}
	raw, err := json.Marshal(s.fill(this.Body, this.Put, about, a))
	require.NoError(s.t, err)
	return this.Status, raw, call
}

// fill is a copy of what was documented, with the thing's own values in it.
func (s *System) fill(documented any, put map[string]string, about *thing, a asked) any {
	raw, err := json.Marshal(documented)
	require.NoError(s.t, err)
	var body any
	require.NoError(s.t, json.Unmarshal(raw, &body))
	for where, what := range put {
		word, arg, _ := strings.Cut(what, " ")
		var v any
		switch word {
		case "id":
			v = about.id
			if _, number := get(body, where).(float64); number {
				v, _ = strconv.Atoi(about.id)
			}
		case "name":
			v = about.name
		case "secret":
			v = about.secret
		case "echo":
			v = a.at(arg)
		case "until":
			v = written(about.until, s.now(), arg)
		default:
			s.t.Errorf("%q is put nowhere", what)
		}
		set(&body, where, v)
	}
	return body
}

func written(until, now time.Time, as string) any {
	switch as {
	case "seconds":
		return int64(until.Sub(now).Seconds())
	case "unix":
		return until.Unix()
	case "unix_ms":
		return until.UnixMilli()
	case "offset":
		return until.UTC().Format("2006-01-02T15:04:05-0700")
	default:
		return until.UTC().Format("2006-01-02T15:04:05+00:00")
	}
}

func whereIs(what string, put map[string]string) string {
	for where, is := range put {
		if is == what {
			return where
		}
	}
	return ""
}

func get(v any, where string) any {
	p, err := form.ParsePointer(where)
	if err != nil {
		return nil
	}
	v, _ = p.Find(v)
	return v
}

// set writes a value where a JSON Pointer leads.
func set(v *any, where string, to any) {
	if where == "" {
		*v = to
		return
	}
	steps := strings.Split(where, "/")[1:]
	at := *v
	for _, step := range steps[:len(steps)-1] {
		at = at.(map[string]any)[step]
	}
	at.(map[string]any)[steps[len(steps)-1]] = to
}

// Alive reports whether the system takes that secret.
func (s *System) Alive(secret string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.things, func(one *thing) bool { return one.secret == secret && !s.isEnded(one) })
}

// Left is how many things have not been ended.
func (s *System) Left() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, one := range s.things {
		if !s.isEnded(one) {
			n++
		}
	}
	return n
}

// Minted is how many secrets were made.
func (s *System) Minted() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.secrets
}

// Asked is what has been asked since it was last called, byte for byte but for what Go's
// client adds.
func (s *System) Asked() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := s.wire.String()
	s.wire.Reset()
	return text
}

// Echo makes it refuse everything with a text that repeats what it was sent.
func (s *System) Echo() { s.with(func() { s.echo = true }) }

// Stall makes it make secrets and never answer.
func (s *System) Stall() { s.with(func() { s.stall = make(chan struct{}) }) }

// HangUp makes it do a call and not answer; "" ends that.
func (s *System) HangUp(call string) { s.with(func() { s.hangUpAt = call }) }

// Instead has it answer a call otherwise, without doing anything.
func (s *System) Instead(call string, with Answer) { s.with(func() { s.instead[call] = with }) }

// Forget has it know the parent no more.
func (s *System) Forget() {
	s.with(func() {
		for name := range s.Known {
			s.Known[name] = "another"
		}
	})
}

// EndFirstBehindAPage has the thing that was made first end as soon as a page has been read.
func (s *System) EndFirstBehindAPage() {
	s.with(func() { s.between = func() { s.things[0].ended = true } })
}

func (s *System) with(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}
