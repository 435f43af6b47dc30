package oauth2

import (
	"context"
	"errors"
	"net/url"
	"sync"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// A rotating refresh token can be used once. So its uses stand in a queue (the
// parent's turn), whoever is at the front reads what is stored, and whatever the
// server gives in its place is stored before the next one's turn, and before the
// child is handed out.

// saveTimeout bounds storing a parent, which outlives the request that caused it.
const saveTimeout = 15 * time.Second

// successors are parents that could not be stored when they came, by the
// fingerprint of the stored refresh token that they follow. They are kept for
// the life of the process, across every Provider opened on the same parent.
type successors struct {
	mu sync.Mutex
	of map[string]provider.Parent
}

// unsaved is the process's own, because Providers come and go with every edit of
// their configuration while the server remembers which token it gave last. The
// key is the token itself, so mounts do not meet here unless they share one.
var unsaved successors

func (s *successors) get(refreshToken secret.Text) (provider.Parent, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	parent, ok := s.of[refreshToken.Fingerprint()]
	return parent, ok
}

func (s *successors) put(refreshToken secret.Text, parent provider.Parent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.of == nil {
		s.of = map[string]provider.Parent{}
	}
	s.of[refreshToken.Fingerprint()] = parent
}

func (s *successors) drop(refreshToken secret.Text) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.of, refreshToken.Fingerprint())
}

// leastTime is what a use of the refresh token has, however little time its caller
// has left.
const leastTime = 15 * time.Second

// toTheEnd is a context that does not end when the caller gives up, and has what time
// the caller has left, or leastTime.
func toTheEnd(ctx context.Context) (context.Context, context.CancelFunc) {
	left := leastTime
	if deadline, ok := ctx.Deadline(); !ok {
		return context.WithCancel(context.WithoutCancel(ctx))
	} else if until := time.Until(deadline); until > left {
		left = until
	}
	return context.WithTimeout(context.WithoutCancel(ctx), left)
}

// refresh uses the parent's refresh token once (RFC 6749 6). The exchange and
// the saving are finished even if the caller gives up meanwhile: abandoning them
// would lose the next refresh token, and with it the parent. The client's
// timeout and the caller's deadline, if that is not too near, bound them.
func (p *Provider) refresh(ctx context.Context, form url.Values, send sender, despite bool) (reply, error) {
	asked := form.Encode()
	if err := p.refusals.recent(asked, p.deps.Now()); err != nil && !despite {
		return reply{}, err
	}
	release, err := p.deps.Turn(ctx)
	if err != nil {
		return reply{}, unavailable("another request is refreshing this provider's parent token: try again").Because(err)
	}
	defer release()
	if err := ctx.Err(); err != nil {
		return reply{}, unavailable("the request was given up before the provider was asked").Because(err)
	}
	// Whoever was before us in the queue may have found it out.
	if err := p.refusals.recent(asked, p.deps.Now()); err != nil && !despite {
		return reply{}, err
	}
	parent, err := p.loadParent(ctx)
	if err != nil {
		return reply{}, err
	}
	if parent.Refused != "" && !despite {
		return reply{}, refusedForGood(parent.Refused)
	}
	sent := parent.Secrets[fieldRefreshToken]
	form.Set("grant_type", grantRefreshToken)
	form.Set("refresh_token", sent.Reveal())
	use, cancel := toTheEnd(ctx)
	defer cancel()
	got, err := p.ask(use, form, send, p.refuse)
	got.own = []secret.Text{sent}
	for _, token := range got.tokens.refresh {
		got.own = append(got.own, secret.New(token))
	}
	if err != nil && wantsConsent(got.body) {
		err = p.refusals.remember(asked, p.deps.Now(), err)
	}
	// A proof is the caller's, and servers call also a bad one invalid_grant
	// (oidc-provider does): that must not cost everybody the parent.
	blame := !p.settings.DPoP || despite
	if blame && grantRefused(got, err) {
		return p.doubt(use, parent, asked, err)
	}
	if err == nil && despite {
		p.refusals.forget()
	}
	if saveErr := p.follow(ctx, parent, got, err, blame); saveErr != nil && err == nil {
		err = saveErr
	}
	return got, err
}

// loadParent reads the parent at the beginning of a turn. A successor that could
// not be stored before is stored now; without that nothing is sent, so that
// never more than one refresh token hangs in memory.
func (p *Provider) loadParent(ctx context.Context) (provider.Parent, error) {
	parent, err := p.deps.LoadParent(ctx)
	if err != nil {
		return parent, unavailable("the parent credential could not be read from storage: try again").Because(err)
	}
	stored := parent.Secrets[fieldRefreshToken]
	next, waiting := unsaved.get(stored)
	if waiting {
		// Only what the server said is carried over. An operator may have changed
		// the other secrets since; one who wrote this token again wants it tried.
		parent = withRefreshToken(parent, next.Secrets[fieldRefreshToken])
		if next.Serial == parent.Serial {
			parent.Refused = next.Refused
		}
		if err := p.saveParent(ctx, stored, parent); err != nil {
			return parent, err
		}
	}
	p.setParent(parent)
	return parent, nil
}

// grantRefused reports whether the answer calls the refresh token no good any more.
func grantRefused(got reply, failed error) bool {
	return failed != nil && len(got.tokens.access) == 0 && got.status < 500 && refusesParent(got.body) != ""
}

// follow stores what a use of parent's refresh token led to: the next refresh
// token, or that the server refuses this one for good, where nobody but the parent
// is to blame.
func (p *Provider) follow(ctx context.Context, parent provider.Parent, got reply, failed error, blame bool) error {
	sent := parent.Secrets[fieldRefreshToken]
	cleared := failed == nil && parent.Refused != ""
	if failed == nil {
		parent.Refused = ""
	}
	if next, ok := p.successor(got); ok && !next.Equal(sent) {
		return p.saveParent(ctx, sent, withRefreshToken(parent, next))
	}
	if cleared {
		return p.saveParent(ctx, sent, parent)
	}
	if blame && grantRefused(got, failed) {
		parent.Refused = refusesParent(got.body) + " at " + p.deps.Now().UTC().Format(time.RFC3339)
		return p.saveParent(ctx, sent, parent)
	}
	return nil
}

// successor is the refresh token that replaces the one that was sent (RFC 6749
// 6). It is taken also from a success that broke off or is otherwise unusable:
// the server has forgotten the old one all the same.
func (p *Provider) successor(got reply) (secret.Text, bool) {
	given := got.tokens.next
	if _, failed := failureIn(got.body); failed || !succeeded(got.status) || given == "" {
		return secret.Text{}, false
	}
	next := secret.New(given)
	if len(given) > maxToken || !printable(given) {
		return secret.Text{}, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, name := range allSecretFields {
		if s := p.parent.Secrets[name]; !s.Empty() && s.Equal(next) {
			return secret.Text{}, false
		}
	}
	return next, true
}

// succeeds reports whether a refresh token in the answer is the next parent, and
// not a child.
func (p *Provider) succeeds(got reply) bool {
	return p.settings.Grant == grantRefreshToken && !got.exchanged
}

// saveParent stores parent, which follows the one with the refresh token stored.
// If that fails the parent is kept in memory and saved on the next occasion. If
// an operator wrote another refresh token meanwhile, that one stands.
func (p *Provider) saveParent(ctx context.Context, stored secret.Text, parent provider.Parent) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), saveTimeout)
	defer cancel()
	err := p.deps.SaveParent(ctx, parent)
	for range maxRebases {
		if !errors.Is(err, provider.ErrParentChanged) {
			break
		}
		parent, err = p.rebase(ctx, stored, parent)
	}
	switch {
	case errors.Is(err, errReplaced):
		unsaved.drop(stored)
		return nil
	case err != nil:
		unsaved.put(stored, parent)
		p.deps.Logger.Error("the parent credential could not be stored and is kept in memory until it can", "error", err)
		return unavailable("the provider's next refresh token could not be stored: try again").Because(err)
	}
	unsaved.drop(stored)
	p.setParent(parent)
	return nil
}

// maxRebases bounds how often an operator may write between our load and save.
const maxRebases = 5

var errReplaced = errors.New("an operator replaced the refresh token")

// rebase is for a save that came after an operator's write. If that brought other
// secrets but left the refresh token alone, what the server gave in its place
// still follows it, and is saved on top. A refusal is not: the write cleared it.
func (p *Provider) rebase(ctx context.Context, stored secret.Text, parent provider.Parent) (provider.Parent, error) {
	current, err := p.deps.LoadParent(ctx)
	next := parent.Secrets[fieldRefreshToken]
	switch {
	case errors.Is(err, provider.ErrParentChanged): // it is gone
		return parent, errReplaced
	case err != nil:
		return parent, err
	case !current.Secrets[fieldRefreshToken].Equal(stored), next.Equal(stored):
		return current, errReplaced
	}
	parent = withRefreshToken(current, next)
	return parent, p.deps.SaveParent(ctx, parent)
}

func withRefreshToken(parent provider.Parent, token secret.Text) provider.Parent {
	secrets := map[string]secret.Text{fieldRefreshToken: token}
	for name, value := range parent.Secrets {
		if name != fieldRefreshToken {
			secrets[name] = value
		}
	}
	parent.Secrets = secrets
	return parent
}

func refusedForGood(why string) *fault.Error {
	return unavailable("the provider has refused the parent refresh token (%s): write a new refresh_token to the provider, or prove by its check path that this one works again", why)
}
