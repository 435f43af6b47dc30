package providertest

import (
	"context"
	"sync"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// Signer stands for the broker as an issuer: it remembers what it was to sign, and
// answers with Token. It is safe for concurrent use.
type Signer struct {
	URL   string
	Token string

	mu     sync.Mutex
	signed []Signed
}

// Signed is one call of Sign.
type Signed struct {
	Purpose provider.Purpose
	Claims  map[string]any
}

var _ provider.Signer = (*Signer)(nil)

// Issuer implements provider.Signer.
func (s *Signer) Issuer(context.Context) (string, time.Duration, error) { return s.URL, time.Hour, nil }

// Sign implements provider.Signer.
func (s *Signer) Sign(_ context.Context, purpose provider.Purpose, claims map[string]any) (secret.Text, error) {
	if s.Token == "" {
		return secret.Text{}, fault.New(fault.TemporarilyUnavailable, "config issuer is not set")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.signed = append(s.signed, Signed{purpose, claims})
	return secret.New(s.Token), nil
}

// Signed are the calls so far.
func (s *Signer) Signed() []Signed {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.signed
}

// signer is the setup's, or one without a key.
func (s Setup) signer() provider.Signer {
	if s.Signer == nil {
		return &Signer{}
	}
	return s.Signer
}
