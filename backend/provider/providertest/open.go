package providertest

import (
	"context"
	"encoding/json"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// ParentStore stands for the storage of one parent credential.
type ParentStore struct {
	mu     sync.Mutex
	parent provider.Parent
	fail   error // of saves
	unread error // of loads
	saves  int
	turn   chan struct{}
	left   []*provider.Child // those that were to be discarded and live

	discarded int
}

// NewParentStore holds parent.
func NewParentStore(parent provider.Parent) *ParentStore {
	return &ParentStore{parent: parent, turn: make(chan struct{}, 1)}
}

// Parent is what is stored.
func (s *ParentStore) Parent() provider.Parent {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.parent
}

// Write is an operator's write of the credential.
func (s *ParentStore) Write(secrets map[string]string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.parent = provider.Parent{Secrets: Secrets(secrets), Serial: s.parent.Serial + 1}
}

// FailSaves makes every save fail with err, or succeed again with nil.
func (s *ParentStore) FailSaves(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = err
}

// FailLoads makes every load fail with err, or succeed again with nil.
func (s *ParentStore) FailLoads(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unread = err
}

// Saves is how many saves succeeded.
func (s *ParentStore) Saves() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.saves
}

// Left are the children that were to be discarded and could not be killed.
func (s *ParentStore) Left() []*provider.Child {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.left
}

// Discarded is how many children were to be discarded.
func (s *ParentStore) Discarded() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.discarded
}

func (s *ParentStore) discard(c *provider.Child, dead bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.discarded++
	if !dead {
		s.left = append(s.left, c)
	}
}

// Load implements provider.Deps.LoadParent.
func (s *ParentStore) Load(context.Context) (provider.Parent, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.parent, s.unread
}

// Save implements provider.Deps.SaveParent.
func (s *ParentStore) Save(ctx context.Context, p provider.Parent) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.fail != nil:
		return s.fail
	case p.Serial != s.parent.Serial:
		return provider.ErrParentChanged
	}
	p.Secrets = maps.Clone(p.Secrets)
	s.parent = p
	s.saves++
	return nil
}

// Turn implements provider.Deps.Turn.
func (s *ParentStore) Turn(ctx context.Context) (func(), error) {
	select {
	case s.turn <- struct{}{}:
		return func() { <-s.turn }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Setup is what a test wants opened.
type Setup struct {
	Type provider.Type
	// Fields that are no secret, by name, and Secrets.
	Fields  map[string]any
	Secrets map[string]string
	CAPEM   string
	Timeout time.Duration
	Now     func() time.Time
	// Signer is the broker as an issuer; nil is one that is not configured.
	Signer provider.Signer
	// Borrowed is what the provider has of another one; nil for nothing.
	Borrowed func(ctx context.Context, refused secret.Text) (secret.Text, error)
	// Before is what an earlier write has pinned, and Former are the fields that it stored.
	Before provider.Pinned
	Former map[string]any
}

// Configure judges the setup as an operator's first write.
func (s Setup) Configure(ctx context.Context) (*provider.Pinned, error) {
	config, err := s.config()
	if err != nil {
		return nil, err
	}
	client, err := s.client()
	if err != nil {
		return nil, err
	}
	config.Pinned = s.Before
	var former json.RawMessage
	if s.Former != nil {
		if former, err = json.Marshal(s.Former); err != nil {
			return nil, err
		}
	}
	return s.Type.Configure(ctx, provider.Change{
		Config:  config,
		Former:  former,
		Parent:  provider.Parent{Secrets: Secrets(s.Secrets)},
		Written: s.written(),
		Client:  client,
	})
}

// Open configures and opens the setup; the test ends if it cannot be.
func (s Setup) Open(t testing.TB) (provider.Provider, *ParentStore) {
	t.Helper()
	s.Secrets = s.generated(t)
	store := NewParentStore(provider.Parent{Secrets: Secrets(s.Secrets), Serial: 1})
	return s.OpenOn(t, store), store
}

// generated are the secrets, with those that the type makes itself.
func (s Setup) generated(t testing.TB) map[string]string {
	t.Helper()
	all := maps.Clone(s.Secrets)
	generator, ok := s.Type.(provider.Generator)
	if !ok {
		return all
	}
	config, err := s.config()
	if err != nil {
		t.Fatal(err)
	}
	made, err := generator.Generate(provider.Change{Config: config, Parent: provider.Parent{Secrets: Secrets(all)}, Written: s.written()})
	if err != nil {
		t.Fatalf("generate: %v", err)
	}
	for name, value := range made {
		if all == nil {
			all = map[string]string{}
		}
		all[name] = value.Reveal()
	}
	return all
}

// OpenOn is Open on a parent that is stored already.
func (s Setup) OpenOn(t testing.TB, store *ParentStore) provider.Provider {
	t.Helper()
	pinned, err := s.Configure(context.Background())
	if err != nil {
		t.Fatalf("configure: %v", err)
	}
	config, err := s.config()
	if err != nil {
		t.Fatal(err)
	}
	config.Pinned = *pinned
	client, err := s.client()
	if err != nil {
		t.Fatal(err)
	}
	now := s.Now
	if now == nil {
		now = time.Now
	}
	var p provider.Provider
	p, err = s.Type.Open(config, store.Parent(), provider.Deps{
		Client:     client.To(pinned.Destinations),
		Logger:     hclog.NewNullLogger(),
		Now:        now,
		LoadParent: store.Load,
		SaveParent: store.Save,
		Turn:       store.Turn,
		Signer:     s.signer(),
		Borrowed:   s.Borrowed,
		Discard: func(ctx context.Context, c *provider.Child) {
			err := p.(provider.Revoker).Revoke(context.WithoutCancel(ctx), c.Handle)
			store.discard(c, err == nil)
		},
	})
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	return p
}

func (s Setup) config() (provider.Config, error) {
	raw, err := json.Marshal(s.Fields)
	return provider.Config{Name: "test", Fields: raw}, err
}

func (s Setup) client() (*httpclient.Client, error) {
	timeout := s.Timeout
	if timeout == 0 {
		timeout = 5 * time.Second
	}
	return httpclient.New(httpclient.Options{CAPEM: s.CAPEM, Timeout: timeout})
}

func (s Setup) written() map[string]bool {
	written := map[string]bool{}
	for name := range s.Fields {
		written[name] = true
	}
	for name := range s.Secrets {
		written[name] = true
	}
	return written
}

// Secrets wraps values.
func Secrets(values map[string]string) map[string]secret.Text {
	wrapped := map[string]secret.Text{}
	for name, value := range values {
		wrapped[name] = secret.New(value)
	}
	return wrapped
}
