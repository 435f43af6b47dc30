package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"
)

// Mint is one token that Hydra really minted.
type Mint struct {
	Scope string // nobody else asks for it
	Line  string
	Token string
	// Arrived is when the request came to the recorder, Left when the answer was
	// handed to the network, or withheld.
	Arrived, Left time.Time
	// Withheld is the recorder's own fault that kept the token from the broker;
	// "" if the whole token went out.
	Withheld Kind
}

// Recorder stands next to Hydra and passes requests on to it.
type Recorder struct {
	public, admin string
	client        *http.Client
	random        *rand.Rand // under mu

	mu       sync.Mutex
	mints    []*Mint
	requests int
	problems []string
}

// upstreamTimeout is far beyond what the broker waits: the recorder must learn
// what became of every request.
const upstreamTimeout = 2 * time.Minute

const maxBody = 1 << 20

func newRecorder(public, admin string, seed uint64) *Recorder {
	return &Recorder{
		public: public, admin: admin, random: seeded(seed, "recorder"),
		client: &http.Client{
			Timeout:       upstreamTimeout,
			Transport:     &http.Transport{MaxIdleConnsPerHost: 256, IdleConnTimeout: time.Minute},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// Door is one way to the recorder, whose answers can be spoilt.
type Door struct {
	Name, URL string

	recorder *Recorder
	mu       sync.Mutex
	fault    Kind
}

// Open listens on loopback until close.
func (r *Recorder) Open(name string) (door *Door, stop func(), err error) {
	listener, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	door = &Door{Name: name, URL: "http://" + listener.Addr().String(), recorder: r}
	server := &http.Server{Handler: door, ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(listener) }()
	return door, func() { _ = server.Close() }, nil
}

// Spoil makes the door misbehave from now on; "" ends it.
func (d *Door) Spoil(kind Kind) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault = kind
}

func (d *Door) current() Kind {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.fault
}

// ServeHTTP passes a request on, or spoils it.
func (d *Door) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	arrived, fault := time.Now(), d.current()
	body, err := io.ReadAll(io.LimitReader(req.Body, maxBody))
	if err != nil {
		panic(http.ErrAbortHandler) // the request did not arrive whole
	}
	switch fault {
	case ErrorInstead:
		http.Error(w, "spoilt", http.StatusInternalServerError)
		return
	case Busy:
		w.Header().Set("Retry-After", "1")
		http.Error(w, "spoilt", http.StatusTooManyRequests)
		return
	}
	answer, err := d.recorder.forward(req, body)
	if err != nil {
		d.recorder.problem("%s %s: %v", req.Method, req.URL.Path, err)
		panic(http.ErrAbortHandler)
	}
	cut := d.recorder.cutAt(len(answer.body))
	mint := d.recorder.note(d.Name, req.URL.Path, body, answer, arrived)
	if mint != nil {
		mint.Withheld = withheld(fault, mint.Token, answer.body[:cut])
		defer d.recorder.add(mint)
	}
	answer.deliver(w, fault, cut)
}

// withheld says whether a fault keeps the token from the broker. Of half a body
// that holds the whole token the broker has to make something.
func withheld(fault Kind, token string, half []byte) Kind {
	switch {
	case fault == ErrorAfter, fault == HangUp, fault == HalfBody && !bytes.Contains(half, []byte(strconv.Quote(token))):
		return fault
	}
	return ""
}

type answer struct {
	status int
	header http.Header
	body   []byte
}

// forward asks Hydra, whether or not somebody still waits for the answer.
func (r *Recorder) forward(req *http.Request, body []byte) (*answer, error) {
	ctx := context.WithoutCancel(req.Context())
	base := r.public
	if req.URL.Path == introspectPath {
		base = r.admin
	}
	out, err := http.NewRequestWithContext(ctx, req.Method, base+req.URL.RequestURI(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"Authorization", "Content-Type", "Accept"} {
		if value := req.Header.Get(name); value != "" {
			out.Header.Set(name, value)
		}
	}
	resp, err := r.client.Do(out)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	return &answer{status: resp.StatusCode, header: resp.Header, body: content}, err
}

const (
	tokenPath      = "/oauth2/token"
	revokePath     = "/oauth2/revoke"
	introspectPath = "/admin/oauth2/introspect"
)

// note makes a Mint of a token answer, nil if it is none.
func (r *Recorder) note(line, path string, form []byte, a *answer, arrived time.Time) *Mint {
	r.mu.Lock()
	r.requests++
	r.mu.Unlock()
	if path != tokenPath {
		return nil
	}
	var minted struct {
		AccessToken string `json:"access_token"`
	}
	if a.status != http.StatusOK || json.Unmarshal(a.body, &minted) != nil || minted.AccessToken == "" {
		if a.status < http.StatusBadRequest {
			r.problem("a token answer that is none: %d %q", a.status, a.body)
		}
		return nil
	}
	values, err := url.ParseQuery(string(form))
	if err != nil {
		r.problem("a token was minted for %q", form)
	}
	return &Mint{Scope: values.Get("scope"), Line: line, Token: minted.AccessToken, Arrived: arrived}
}

func (r *Recorder) add(m *Mint) {
	m.Left = time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mints = append(r.mints, m)
}

// Mints are all tokens so far.
func (r *Recorder) Mints() []*Mint {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]*Mint(nil), r.mints...)
}

func (r *Recorder) problem(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.problems = append(r.problems, fmt.Sprintf(format, args...))
}

// Problems are what kept the recorder from knowing what Hydra did.
func (r *Recorder) Problems() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.problems...)
}

// cutAt chooses where half a body ends.
func (r *Recorder) cutAt(size int) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if size == 0 {
		return 0
	}
	return r.random.IntN(size)
}

// deliver answers, as well as the fault lets it.
func (a *answer) deliver(w http.ResponseWriter, fault Kind, cut int) {
	switch fault {
	case ErrorAfter:
		http.Error(w, "spoilt", http.StatusInternalServerError)
		return
	case HangUp:
		panic(http.ErrAbortHandler)
	}
	for _, name := range []string{"Content-Type", "Cache-Control", "Pragma", "Retry-After"} {
		if value := a.header.Get(name); value != "" {
			w.Header().Set(name, value)
		}
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(a.body)))
	w.WriteHeader(a.status)
	if fault != HalfBody {
		cut = len(a.body)
	}
	_, _ = w.Write(a.body[:cut])
	if fault != HalfBody {
		return
	}
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}
