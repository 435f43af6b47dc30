package chaos

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
)

// Options configure a run. The zero value is a short one.
type Options struct {
	Seed     uint64
	Duration time.Duration // of the faults; getting ready and settling come on top
	Clients  int           // each with an entity of its own
	// Storage is raft, or file. Vault's file storage is not made for SIGKILL: a
	// write that it cuts short leaves a file behind that Vault takes for a lease,
	// cannot read, and seals itself over.
	Storage  harness.Storage
	Nodes    int // 1, or 3 with raft
	LeaseTTL time.Duration
	Pace     time.Duration // between two requests of one client, on average
	Scrapes  string        // a file for what the metrics are each second; "" for none
}

func (o Options) withDefaults() Options {
	if o.Duration == 0 {
		o.Duration = 30 * time.Second
	}
	if o.Clients == 0 {
		o.Clients = 20
	}
	if o.Storage == harness.Dev {
		o.Storage = harness.Raft
	}
	if o.Nodes > 1 {
		o.Nodes, o.Storage = 3, harness.Raft
	} else {
		o.Nodes = 1
	}
	if o.LeaseTTL == 0 {
		o.LeaseTTL = 10 * time.Second
		if o.Duration > 2*time.Minute {
			o.LeaseTTL = 40 * time.Second
		}
	}
	if o.Pace == 0 {
		o.Pace = 300 * time.Millisecond
	}
	return o
}

const (
	mountPath   = "broker"
	scopePrefix = "task."
	// providerTimeout is what the broker waits for Hydra.
	providerTimeout = 3 * time.Second
)

// role is one role of the broker.
type role struct {
	name, provider string
	shared         bool // by sharing=entity
	behalf         bool // for who brings a user's token
}

// ownProvider signs children of the broker's own.
const ownProvider = "jwt/own"

// line is one provider's way to Hydra.
type line struct {
	name     string
	provider string
	proxy    *harness.Proxy
	door     *Door
}

// world is everything that runs.
type world struct {
	t        harness.TB
	options  Options
	vault    *harness.Vault   // with one node
	cluster  *harness.Cluster // with three
	hydra    *harness.Hydra
	recorder *Recorder
	lines    []line
	roles    []role
	idp      *idp
	root     []*api.Client // one for each node
	clients  []*client
	counts   counters
	history  history
	stuck    error // what ended the faults early

	mu       sync.Mutex
	problems []string
	kills    []kill
}

// newWorld starts the servers and makes providers, roles and agents.
func newWorld(t harness.TB, o Options) *world {
	t.Helper()
	w := &world{t: t, options: o}
	life := max(2*time.Hour, 2*o.Duration+time.Hour)
	w.hydra = harness.StartHydra(t, harness.HydraOptions{
		AccessTokenTTL: life,
		Config:         map[string]any{"strategies": map[string]any{"scope": "wildcard"}, "log": map[string]any{"level": "error"}},
	})
	w.recorder = newRecorder(w.hydra.URL, w.hydra.AdminURL, o.Seed)
	if o.Nodes > 1 {
		w.cluster = harness.StartCluster(t, harness.VaultOptions{})
		w.cluster.Leader(t).Enable(t, mountPath)
	} else {
		w.vault = harness.StartVault(t, harness.VaultOptions{Storage: o.Storage})
		w.vault.Enable(t, mountPath)
	}
	w.root = w.apis(w.leader(t).Token)
	w.connect(life)
	for i := range o.Clients {
		w.clients = append(w.clients, w.newClient(i))
	}
	return w
}

// connect makes two providers, each with a line and a client of its own. One
// believes Hydra, the other asks it again about every mint and every kill.
func (w *world) connect(life time.Duration) {
	t := w.t
	toxiproxy := harness.StartToxiproxy(t)
	broker := w.leader(t).Mount(mountPath)
	for name, more := range map[string]harness.Fields{
		"trusting": {},
		"careful":  {"verify": "introspect", "confirm_revocation": true},
	} {
		door, stop, err := w.recorder.Open(name)
		if err != nil {
			t.Fatalf("recorder: %v", err)
		}
		t.Cleanup(stop)
		proxy := toxiproxy.Proxy(t, name, door.URL)
		parent := w.hydra.CreateClient(t, harness.HydraClient{Scopes: []string{scopePrefix + "*"}, TokenTTL: life})
		fields := harness.Fields{
			"client_id": parent.ID, "client_secret": parent.Secret, "timeout": providerTimeout.String(),
			"token_url": proxy.URL + tokenPath, "revocation_url": proxy.URL + revokePath, "introspection_url": proxy.URL + introspectPath,
		}
		for field, value := range more {
			fields[field] = value
		}
		broker.Write(t, "providers/oauth2/"+name, fields)
		w.lines = append(w.lines, line{name: name, provider: "oauth2/" + name, proxy: proxy, door: door})
		for _, use := range []string{"reader", "writer"} {
			r := role{name: use + "-" + name, provider: "oauth2/" + name}
			broker.Write(t, "roles/"+r.name, harness.Fields{
				"provider": r.provider, "scopes": scopePrefix + "*", "ttl": w.options.LeaseTTL.String(), "max_ttl": life.String(),
			})
			w.roles = append(w.roles, r)
		}
	}
	ttl := w.options.LeaseTTL.String()
	shared := role{name: "sharer", provider: w.lines[0].provider, shared: true}
	broker.Write(t, "roles/"+shared.name, harness.Fields{
		"provider": shared.provider, "scopes": scopePrefix + "*", "ttl": ttl, "max_ttl": life.String(), "sharing": "entity",
	})
	broker.Write(t, "config", harness.Fields{"issuer": "https://broker.chaos.test"})
	broker.Write(t, "providers/"+ownProvider, harness.Fields{"revocation": "token"})
	signed := role{name: "signed", provider: ownProvider}
	broker.Write(t, "roles/"+signed.name, harness.Fields{
		"provider": signed.provider, "scopes": scopePrefix + "*", "audiences": "https://api.chaos.test", "ttl": ttl, "max_ttl": ttl,
	})
	w.idp = newIDP(t)
	w.idp.connect(t, broker)
	behalf := role{name: "behalf", provider: w.lines[0].provider, behalf: true}
	broker.Write(t, "roles/"+behalf.name, harness.Fields{
		"provider": behalf.provider, "scopes": scopePrefix + "*", "ttl": ttl, "max_ttl": life.String(), "subject_issuers": "idp",
	})
	w.roles = append(w.roles, shared, shared, signed, behalf, behalf) // or few requests find a token to share
}

// transport is wide enough for all clients at once.
var transport = &http.Transport{MaxIdleConnsPerHost: 512, IdleConnTimeout: time.Minute}

func (w *world) newClient(i int) *client {
	t, name := w.t, fmt.Sprintf("agent-%d", i)
	session := w.leader(t).Login(t, harness.Agent{
		Name: name,
		Policy: `path "` + mountPath + `/creds/*" { capabilities = ["read", "update"] }
			path "sys/leases/revoke" { capabilities = ["update"] }`,
	})
	return &client{
		name: fmt.Sprintf("c%d", i), entity: session.EntityID, nodes: w.apis(session.Token), roles: w.roles, ttl: w.options.LeaseTTL,
		random: seeded(w.options.Seed, name), counts: &w.counts, alive: w.active, login: w.idp.login,
	}
}

// apis are clients for every node.
func (w *world) apis(token string) []*api.Client {
	var all []*api.Client
	for _, node := range w.nodes() {
		config := api.DefaultConfig()
		config.Address, config.MaxRetries, config.Timeout = node.Addr, 0, callPatience
		config.HttpClient = &http.Client{Transport: transport}
		c, err := api.NewClient(config)
		if err != nil {
			w.t.Fatalf("vault client: %v", err)
		}
		c.ClearNamespace()
		c.SetToken(token)
		all = append(all, c)
	}
	return all
}

func (w *world) nodes() []*harness.Vault {
	if w.cluster != nil {
		return w.cluster.Nodes
	}
	return []*harness.Vault{w.vault}
}

// leader is the node that leads; only the lane of processes may ask while it runs.
func (w *world) leader(t harness.TB) *harness.Vault {
	if w.cluster != nil {
		return w.cluster.Leader(t)
	}
	return w.vault
}

// signedByBroker tells the broker's own children from Hydra's tokens.
func signedByBroker(token string) bool { return strings.HasPrefix(token, "eyJ") }

// active asks whoever made the token: Hydra itself, or the broker.
func (w *world) active(token string) (bool, error) {
	if signedByBroker(token) {
		said, err := w.asRoot(mountPath+"/oauth/introspect", map[string]any{"token": token}, time.Minute)
		active, ok := said["active"].(bool)
		if err == nil && !ok {
			err = fmt.Errorf("introspection at the broker: %v", said)
		}
		return active, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), upstreamTimeout)
	defer cancel()
	form := url.Values{"token": {token}}.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.hydra.AdminURL+introspectPath, strings.NewReader(form))
	if err != nil {
		return false, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return false, err
	}
	var said struct{ Active *bool }
	if err := json.Unmarshal(body, &said); err != nil || said.Active == nil {
		return false, fmt.Errorf("introspection: %s %q", resp.Status, body)
	}
	return *said.Active, nil
}

func (w *world) problem(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.problems = append(w.problems, fmt.Sprintf(format, args...))
}

// lane lets the harness be used outside of the test's own goroutine: what would
// end the test ends the lane's step.
type lane struct {
	harness.TB
	err error
}

// Fatalf implements harness.TB.
func (l *lane) Fatalf(format string, args ...any) {
	l.err = fmt.Errorf(format, args...)
	runtime.Goexit()
}

// attempt runs a step in a goroutine of its own, and returns what was fatal in it.
func attempt(t harness.TB, step func(harness.TB)) error {
	l := &lane{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		step(l)
	}()
	<-done
	return l.err
}
