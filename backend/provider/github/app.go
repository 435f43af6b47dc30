package github

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/kit"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// GitHub takes a JWT that ends ten minutes from now at most, by its own clock, and advises
// to let it begin a minute ago.
const (
	jwtLife  = 9 * time.Minute
	jwtSince = time.Minute
)

// appKey is one private key of the App, with the JWT that it has signed last.
type appKey struct {
	field   string
	private *kit.SigningKey
	jwt     kit.Reused
}

// algorithm is the only one that GitHub takes.
const algorithm = "RS256"

// keysOf are the parent's keys: the current one, and the next one if there is one. Its
// errors are *fault.Error.
func keysOf(parent provider.Parent) ([]*appKey, error) {
	var keys []*appKey
	for _, field := range []string{fieldPrivateKey, fieldNextKey} {
		text := parent.Secrets[field]
		if text.Empty() && field == fieldNextKey {
			continue
		}
		key, err := kit.ParseSigningKey(text.Reveal(), algorithm)
		switch {
		case err != nil:
			return nil, kit.Invalid(field, "%s", err)
		case key.Algorithm != algorithm:
			return nil, kit.Invalid(field, "is no RSA key, as GitHub makes them for an App")
		}
		keys = append(keys, &appKey{field: field, private: key})
	}
	return keys, nil
}

// candidates are the keys to try: the one that GitHub took last first.
func (p *Provider) candidates() []*appKey {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.keys) > 1 && p.working == p.keys[1] {
		return []*appKey{p.keys[1], p.keys[0]}
	}
	return p.keys
}

// next is the key that follows; nil if there is none.
func (p *Provider) next() *appKey {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.keys) < 2 {
		return nil
	}
	return p.keys[1]
}

// adopt is for a parent that was loaded or stored.
func (p *Provider) adopt(parent provider.Parent) {
	keys, err := keysOf(parent)
	if err != nil {
		p.deps.Logger.Error("the stored private key is not readable", "error", err)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keys, p.working = keys, nil
}

// asApp sends one request as the App, by the key that works. Only what GitHub has refused
// for its JWT is sent again, by the other key: nothing came of that.
func (p *Provider) asApp(ctx context.Context, method, path string, body []byte) (resp *httpclient.Response, err error) {
	for _, key := range p.candidates() {
		resp, err = p.asKey(ctx, key, method, path, body)
		if err != nil {
			return nil, err
		}
		if resp.Status != http.StatusUnauthorized {
			p.mu.Lock()
			p.working = key
			p.mu.Unlock()
			return resp, nil
		}
	}
	return resp, nil
}

// asKey is asApp by that key. A JWT that is refused is made anew once if the clocks differ.
func (p *Provider) asKey(ctx context.Context, key *appKey, method, path string, body []byte) (*httpclient.Response, error) {
	for again := false; ; again = true {
		token, err := key.jwt.Get(p.theirNow(), func() (secret.Text, time.Time, error) { return p.sign(key) })
		if err != nil {
			return nil, fault.New(fault.TemporarilyUnavailable, "the App's JWT could not be signed: write %s anew", key.field).Because(err)
		}
		resp, err := p.send(ctx, method, path, token, body)
		if err != nil || resp.Status != http.StatusUnauthorized {
			return resp, err
		}
		key.jwt.Forget()
		if again || !p.setClock(resp) {
			return resp, nil
		}
	}
}

// isOurs reports whether the text is a JWT by which GitHub knows the App.
func (p *Provider) isOurs(text string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.ContainsFunc(p.keys, func(key *appKey) bool { return key.jwt.Is(secret.New(text)) })
}

// sign makes the JWT by which GitHub knows the App.
func (p *Provider) sign(key *appKey) (secret.Text, time.Time, error) {
	now := p.theirNow()
	ends := now.Add(jwtLife)
	token, err := key.private.Sign(map[string]any{"typ": "JWT"}, map[string]any{
		"iss": p.settings.app(), "iat": now.Add(-jwtSince).Unix(), "exp": ends.Unix(),
	})
	return token, ends, err
}

// Clocks that differ by less than leastAhead have no JWT refused; one that differs by more
// than mostAhead is for an operator to mend.
const (
	leastAhead = 20 * time.Second
	mostAhead  = time.Hour
)

// theirNow is the time by GitHub's clock, as far as it is known to differ.
func (p *Provider) theirNow() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.deps.Now().Add(p.ahead)
}

// setClock learns by how much GitHub's clock is ahead of the broker's, from the Date of an
// answer that has refused a JWT. It reports whether that may have been why.
func (p *Provider) setClock(resp *httpclient.Response) bool {
	ahead, known := p.aheadBy(resp)
	p.mu.Lock()
	defer p.mu.Unlock()
	if !known || (ahead-p.ahead).Abs() < leastAhead || ahead.Abs() > mostAhead {
		return false
	}
	p.deps.Logger.Warn("GitHub's clock and the broker's differ, and a JWT was refused: it is made by GitHub's", "github_ahead", ahead.String())
	p.ahead = ahead
	return true
}

func (p *Provider) aheadBy(resp *httpclient.Response) (time.Duration, bool) {
	date, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		return 0, false
	}
	return date.Sub(p.deps.Now()).Truncate(time.Second), true
}
