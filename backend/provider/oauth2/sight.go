package oauth2

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// A server may answer a client "inactive" of every token, dead or alive (RFC 7662 2.2):
// because the client is not among a token's audience, say, since somebody changed its
// settings. So where nothing but such an answer speaks for a token's death, the server
// must still show this client another token that lives. Which those are is kept in
// memory. None is minted for it: that would be one more token at a server that has just
// refused to revoke one. Where there is none, the kill is tried again, until there is
// one or the token has expired.

const (
	// maxSights bounds the tokens that are kept to look at.
	maxSights = 8
	// maxLooks bounds how many of them one kill asks about.
	maxLooks = 2
)

// sight are the tokens that introspection has last called active. It is safe for
// concurrent use.
type sight struct {
	mu     sync.Mutex
	tokens []sighted // the latest one last
}

type sighted struct {
	token   secret.Text
	expires time.Time
}

// note takes in a token that was seen active.
func (s *sight) note(token secret.Text, expires time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens = append(s.tokens, sighted{token, expires})
	if len(s.tokens) > maxSights {
		s.tokens = slices.Clone(s.tokens[1:])
	}
}

// forget is for a token that is dead.
func (s *sight) forget(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens = slices.DeleteFunc(s.tokens, func(t sighted) bool { return t.token.Equal(secret.New(token)) })
}

// others are the latest tokens that may live at now, without those of h.
func (s *sight) others(h handle, now time.Time) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens = slices.DeleteFunc(s.tokens, func(t sighted) bool { return !t.expires.IsZero() && !now.Before(t.expires) })
	var found []string
	for i := len(s.tokens) - 1; i >= 0 && len(found) < maxLooks; i-- {
		token := s.tokens[i].token.Reveal()
		if !slices.ContainsFunc(h.Tokens, func(d doomed) bool { return d.Token == token }) {
			found = append(found, token)
		}
	}
	return found
}

// sees reports whether introspection shows this client a token that lives, other than
// those of h.
func (p *Provider) sees(ctx context.Context, endpoint string, h handle) bool {
	for _, token := range p.sight.others(h, p.deps.Now()) {
		got, err := p.introspect(ctx, endpoint, token, hintAccess)
		switch {
		case err != nil:
			return false
		case got.active:
			return true
		}
		p.sight.forget(token) // somebody else may have killed it
	}
	return false
}
