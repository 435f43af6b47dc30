package backend

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// rack is a system whose children have names, by which they can be found, and hang on
// levers where the role says so. It is a type of provider in one piece with the system.
type rack struct {
	// nameless is a rack whose children cannot be found.
	nameless, sweepPulls bool
	now                  func() time.Time

	mu       sync.Mutex
	children []*racked
	// lost is how many answers get lost once the child is there, double that a mint
	// leaves two children of that name.
	lost   int
	double bool
	// refused is what a mint answers with, having made nothing.
	refused error
	// deaf and stuck are what keeps Find and Revoke from working.
	deaf, stuck error
	// poisoned is what keeps Revoke from working by the handles of some tokens.
	poisoned map[string]error
	// life is how long children live; lever, if set, what they hang on, whatever the role
	// says; apart gives each a lever of its own, with a name.
	life  time.Duration
	lever string
	apart bool
	// shelf is where children are, and can be found, "" for anywhere.
	shelf string
	// before and after are called in a mint, when there is no child yet and when there is,
	// finding when something is looked for, killing and killed in a kill, before the child is
	// dead and when it is.
	before, after            func()
	finding, killing, killed func()
	finds, revokes           int
}

// racked is one child.
type racked struct {
	Token, Name, Lever string
	dead               bool
}

func (r *rack) Name() string { return "rack" }

func (r *rack) Fields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{"account": {Type: framework.TypeString, Description: "Whose children they are."}}
}

func (r *rack) Parameters() map[string]string {
	return map[string]string{"lever": "What all children of the role hang on."}
}

func (r *rack) Answer() map[string]*framework.FieldSchema { return provider.TokenField() }

func (r *rack) Configure(_ context.Context, change provider.Change) (*provider.Pinned, error) {
	var fields struct{ Account string }
	if err := json.Unmarshal(change.Config.Fields, &fields); err != nil {
		return nil, err
	}
	return &provider.Pinned{Account: fields.Account}, nil
}

func (r *rack) Open(provider.Config, provider.Parent, provider.Deps) (provider.Provider, error) {
	if r.nameless {
		return rackProvider{r}, nil
	}
	return rackFinder{rackProvider{r}}, nil
}

type rackProvider struct{ *rack }

type rackFinder struct{ rackProvider }

func (r rackProvider) Traits() provider.Traits {
	return provider.Traits{Class: provider.ClassLever, SweepPulls: r.sweepPulls, Askable: access.Dimensions{access.DimScopes: true}, Ceiling: access.Everything()}
}

func (r rackProvider) Mint(_ context.Context, req provider.Request) (*provider.Child, error) {
	r.call(&r.before)
	r.mu.Lock()
	if r.refused != nil {
		defer r.mu.Unlock()
		return nil, r.refused
	}
	var made *racked
	for range r.copies() {
		made = &racked{Token: fmt.Sprintf("racked-%d-secret", len(r.children)), Name: req.GrantID, Lever: req.Parameters["lever"]}
		if r.lever != "" {
			made.Lever = r.lever
		}
		if r.apart {
			made.Lever = fmt.Sprintf("login %d", len(r.children))
		}
		r.children = append(r.children, made)
	}
	lost := r.lost > 0
	r.lost = max(0, r.lost-1)
	expires := r.now().Add(cmp.Or(r.life, 24*time.Hour))
	r.mu.Unlock()
	r.call(&r.after)
	if lost {
		return nil, fault.New(fault.TemporarilyUnavailable, "the answer was lost").Because(provider.ErrAnswerLost)
	}
	class := provider.ClassToken
	if made.Lever != "" {
		class = provider.ClassLever
	}
	return &provider.Child{
		Secrets: provider.OneToken(secret.New(made.Token)), Granted: req.Access, Class: class, Lever: made.Lever,
		ExpiresAt: expires, Handle: handleOf(made),
	}, nil
}

// copies is how many children a mint makes. The caller holds mu.
func (r *rack) copies() int {
	if r.double {
		return 2
	}
	return 1
}

// call runs a hook once.
func (r rackProvider) call(hook *func()) {
	r.mu.Lock()
	f := *hook
	*hook = nil
	r.mu.Unlock()
	if f != nil {
		f()
	}
}

func handleOf(c *racked) secret.Text {
	raw, _ := json.Marshal(c)
	return secret.New(string(raw))
}

func (r rackProvider) Revoke(_ context.Context, handle secret.Text) error {
	var of racked
	if err := json.Unmarshal([]byte(handle.Reveal()), &of); err != nil {
		return err
	}
	r.call(&r.killing)
	defer r.call(&r.killed)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.revokes++
	if err := cmp.Or(r.stuck, r.poisoned[of.Token]); err != nil {
		return err
	}
	for _, c := range r.children {
		c.dead = c.dead || c.Token == of.Token || of.Lever != "" && c.Lever == of.Lever
	}
	return nil
}

// Where: on one shelf, and nobody finds it on another.
func (r rackFinder) Where(provider.Request) (string, error) { return r.shelf, nil }

func (r rackFinder) Find(_ context.Context, t provider.Trace) (found []provider.Found, err error) {
	r.call(&r.finding)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.finds++
	if r.deaf != nil {
		return nil, r.deaf
	}
	for _, c := range r.children {
		if c.Name == t.GrantID && !c.dead && t.Where == r.shelf {
			found = append(found, provider.Found{Handle: handleOf(c), Lever: c.Lever})
		}
	}
	return found, nil
}

// set changes what the system does from now on.
func (r *rack) set(f func(*rack)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(r)
}

// live are the tokens that work.
func (r *rack) live() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	tokens := []string{}
	for _, c := range r.children {
		if !c.dead {
			tokens = append(tokens, c.Token)
		}
	}
	return tokens
}

func (r *rack) works(l *lease) bool { return slices.Contains(r.live(), l.token) }

// called is how often it was asked to kill and to find, since the last time.
func (r *rack) called() (revokes, finds int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	revokes, finds = r.revokes, r.finds
	r.revokes, r.finds = 0, 0
	return revokes, finds
}

// newRack is a mount with the provider rack/p and the role r, of alice's and bob's, whose
// children hang on the lever, if any.
func newRack(t testing.TB, r *rack, lever string, role map[string]any) *mount {
	t.Helper()
	m := newEmptyMount(t, setup{types: []provider.Type{r}})
	r.now = m.clock.Now
	require.NoError(t, m.b.ledger.Load(t.Context()))
	m.must(m.write("providers/rack/p", map[string]any{"account": "one"}))
	m.rackRole("r", lever, role)
	return m
}

func (m *mount) rackRole(name, lever string, different map[string]any) {
	m.t.Helper()
	fields := map[string]any{"provider": "rack/p", "scopes": "read", "ttl": 600, "max_ttl": 7200}
	if lever != "" {
		fields["parameters"] = map[string]any{"lever": lever}
	}
	for k, v := range different {
		fields[k] = v
	}
	m.must(m.write("roles/"+name, fields))
}

// to is a grant to the entity.
func (m *mount) to(entity string) *lease {
	m.t.Helper()
	l, err := m.credsBy(call{entity: entity})
	require.NoError(m.t, err)
	return l
}

// counted are the numbers of a kill's answer, but for the exposure.
func counted(resp *logical.Response) map[string]any {
	delete(resp.Data, "residual_exposure_seconds")
	delete(resp.Data, "frozen")
	delete(resp.Data, "kill_id")
	return resp.Data
}

func counts(revoked, pending, bystanders int) map[string]any {
	return map[string]any{"revoked": revoked, "pending": pending, "expiry_only": 0, "bystanders": bystanders}
}
