package oauth2

import (
	"context"
	"crypto/sha256"
	"errors"
	"sync"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/kit"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// RFC 6749 5.2 has invalid_grant for a refresh token that is no good any more, and
// servers say it also of what was asked for with a good one: a scope to which nobody
// has consented (Entra), a session that must be renewed first. One caller's request
// must not cost all others the parent, nor may one answer that was an accident. So before
// the parent is taken for refused, it is used once more, for nothing in particular, or
// what the operator has named for that (check_scopes, check_audiences).

const (
	// refusedFor is how long a refusal is believed of what was asked for.
	refusedFor = time.Minute
	// maxRefusals bounds how many are remembered; beyond it they are asked again.
	maxRefusals = 64
)

// doubt is for an invalid_grant, in the parent's turn. It returns the reply of its own use
// of the parent, if there was one. Where the refused request had asked for the same, that
// reply answers it; else its token is nobody's and must be killed.
func (p *Provider) doubt(ctx context.Context, parent provider.Parent, asked string, refusal error) (reply, error) {
	now := p.deps.Now()
	sent := parent.Secrets[fieldRefreshToken]
	plain := p.plainly()
	plain.Set("grant_type", grantRefreshToken)
	plain.Set("refresh_token", sent.Reveal())
	again, err := p.ask(ctx, plain, p.post, p.refuse)
	again.own = []secret.Text{sent}
	for _, token := range again.tokens.refresh {
		again.own = append(again.own, secret.New(token))
	}
	saveErr := p.follow(ctx, parent, again, err, true)
	switch code := fault.CodeOf(err); {
	case grantRefused(again, err):
		return again, kit.ParentRefused("%s", message(refusal)).Because(errors.Join(refusal, saveErr, provider.ErrRefusalKnown))
	case saveErr != nil:
		return again, saveErr
	case err == nil && asked == p.plainly().Encode():
		return again, nil
	case err == nil, wantsConsent(again.body), code == fault.InvalidScope, code == fault.InvalidTarget: // which is said of a parent that is accepted
		return again, p.refusals.remember(asked, now, invalid("the provider refuses what was asked for (invalid_grant), although it takes the parent refresh token: ask for other scopes or targets, or let whoever consented to the token consent to these at the provider").Because(refusal))
	}
	return again, p.refusals.remember(asked, now, unavailable("the provider refuses the request (invalid_grant), and it could not be found out whether it still takes the parent refresh token: try again in a minute, and see the provider's check path").Because(err))
}

// refusals are what the server has lately said of what was asked for with the parent.
// It is safe for concurrent use.
type refusals struct {
	mu sync.Mutex
	of map[[sha256.Size]byte]refused // by the form of the request
}

type refused struct {
	until time.Time
	why   error
}

// recent is why the same was refused a little while ago, or nil.
func (r *refusals) recent(asked string, now time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if known, ok := r.of[sha256.Sum256([]byte(asked))]; ok && now.Before(known.until) {
		return known.why
	}
	return nil
}

// remember returns why.
func (r *refusals) remember(asked string, now time.Time, why error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.of == nil || len(r.of) >= maxRefusals {
		r.of = map[[sha256.Size]byte]refused{}
	}
	r.of[sha256.Sum256([]byte(asked))] = refused{now.Add(refusedFor), why}
	return why
}

// forget ends all refusals: an operator has looked.
func (r *refusals) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.of = nil
}
