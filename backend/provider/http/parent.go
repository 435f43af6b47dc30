package httpapi

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// Here is all that touches the parent's secrets: what of them is sent, and that none of it
// comes back.

// jwtLife is how long a JWT lives where the definition does not say.
const jwtLife = 5 * time.Minute

// mentioned are the credentials that one of the broker's requests was made with, beside
// what is stored: a session, a borrowed token, JWTs. None of them may be in what comes of it.
type mentioned struct{ all []secret.Text }

func (m *mentioned) add(t secret.Text) {
	if !t.Empty() && !slices.ContainsFunc(m.all, t.Equal) {
		m.all = append(m.all, t)
	}
}

// credentials are the parent's headers, filled.
type credentials struct {
	headers map[string]secret.Text
	// borrowed and session are what is in them that another can be had of; empty for none.
	borrowed secret.Text
	session  *session
}

func (c *credentials) renewable() bool { return !c.borrowed.Empty() || c.session != nil }

// show fills the parent's headers.
func (p *Provider) show(ctx context.Context, m *mentioned) (*credentials, error) {
	return p.shows(ctx, secret.Text{}, m)
}

// showAnother is show after the system has refused what was shown.
func (p *Provider) showAnother(ctx context.Context, refused *credentials, m *mentioned) (*credentials, error) {
	if refused.session != nil {
		p.login.forget(refused.session)
	}
	return p.shows(ctx, refused.borrowed, m)
}

func (p *Provider) shows(ctx context.Context, refused secret.Text, m *mentioned) (*credentials, error) {
	c := &credentials{headers: map[string]secret.Text{}}
	k := &keys{p: p, ctx: ctx, m: m, refused: refused, into: c}
	if p.definition.usesLogin() {
		s, err := p.session(ctx, refused, m)
		if err != nil {
			return nil, err
		}
		c.session = s
	}
	for name, t := range p.definition.Parent.Headers {
		f := &filling{settings: p.settings, username: p.username, parent: k.fill}
		value, err := f.must(t)
		if err != nil {
			return nil, err
		}
		if !isHeaderValue(value) {
			return nil, fault.New(fault.ParentRefused, "the parent credential cannot be sent in the header %s, which takes printable ASCII: write it anew", name)
		}
		c.headers[name] = secret.New(value)
	}
	return c, nil
}

// usesLogin reports whether a header is of what the login gives.
func (d *Definition) usesLogin() bool {
	if d.Parent.Login == nil {
		return false
	}
	for _, t := range d.Parent.Headers {
		if t.uses(rootLogin) {
			return true
		}
	}
	return false
}

// keys fill the parent's expressions for one request.
type keys struct {
	p       *Provider
	ctx     context.Context //nolint:containedctx // it is one call's
	m       *mentioned
	refused secret.Text
	into    *credentials
}

func (k *keys) fill(e *expression) (secret.Text, error) {
	p := k.p
	switch e.root {
	case rootPassword:
		return p.secrets[fieldPassword], nil
	case rootToken:
		return p.secrets[fieldToken], nil
	case rootSecrets:
		return p.named[e.key], nil
	case rootJWT:
		return k.jwt()
	case rootBorrowed:
		return k.borrow()
	case rootLogin:
		if k.into != nil && k.into.session != nil {
			return k.into.session.parts[e.key], nil
		}
	case rootBasic:
		inner, err := parseExpression(cmpOr(e.key, rootPassword))
		if err != nil {
			return secret.Text{}, fault.New(fault.InvalidRequest, "definition: %s", err)
		}
		password, err := k.fill(inner)
		if err != nil {
			return secret.Text{}, err
		}
		basic := secret.New(base64.StdEncoding.EncodeToString([]byte(p.username + ":" + password.Reveal())))
		k.m.add(basic)
		return basic, nil
	}
	return secret.Text{}, missing(e)
}

func (k *keys) borrow() (secret.Text, error) {
	if k.p.deps.Borrowed == nil {
		return secret.Text{}, fault.New(fault.TemporarilyUnavailable, "the provider borrows its credential, and token_provider says of nobody: have an operator write it")
	}
	t, err := k.p.deps.Borrowed(k.ctx, k.refused)
	if err != nil {
		return t, err
	}
	if k.into != nil {
		k.into.borrowed = t
	}
	k.m.add(t)
	return t, nil
}

// jwt signs one for the system.
func (k *keys) jwt() (secret.Text, error) {
	j := k.p.definition.Parent.JWT
	f := &filling{settings: k.p.settings}
	audience, err := f.must(j.Audience)
	if err != nil {
		return secret.Text{}, err
	}
	subject, err := f.must(j.Subject)
	if err != nil {
		return secret.Text{}, err
	}
	life := j.Life
	if life == 0 {
		life = jwtLife
	}
	now := k.p.deps.Now()
	t, err := k.p.deps.Signer.Sign(k.ctx, provider.PurposeAssertion, map[string]any{
		"sub": subject, "aud": audience, "jti": rand.Text(), "iat": now.Unix(), "exp": now.Add(life).Unix(),
	})
	if err != nil {
		return t, err
	}
	k.m.add(t)
	return t, nil
}

// session is what a login has given.
type session struct {
	parts map[string]secret.Text
	until time.Time   // from when on another one is got
	lent  secret.Text // what was borrowed for it, with which it ends; empty for nothing
}

// login keeps the last session, and has at most one login under way.
type login struct {
	mu    sync.Mutex
	last  *session
	going *goingLogin
}

type goingLogin struct {
	done chan struct{}
	m    mentioned // what it was made with
	s    *session
	err  error
}

// loginBudget bounds a login with all its requests.
const loginBudget = time.Minute

func (l *login) forget(s *session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.last == s {
		l.last = nil
	}
}

// session is the present one, or that of a login for which all who come meanwhile wait.
func (p *Provider) session(ctx context.Context, refused secret.Text, m *mentioned) (*session, error) {
	l := &p.login
	s, seen, err := p.lastSession(ctx)
	if s != nil || err != nil {
		s.mention(m)
		return s, err
	}
	l.mu.Lock()
	if s := l.last; s != nil && s != seen { // somebody has logged in meanwhile
		l.mu.Unlock()
		s.mention(m)
		return s, nil
	}
	g := l.going
	if g == nil {
		g = &goingLogin{done: make(chan struct{})}
		l.going = g
		go p.logInFor(context.WithoutCancel(ctx), g, refused)
	}
	l.mu.Unlock()
	select {
	case <-g.done:
	case <-ctx.Done():
		return nil, fault.New(fault.TemporarilyUnavailable, "the login at the system takes too long: try again").Because(ctx.Err())
	}
	for _, t := range g.m.all {
		m.add(t)
	}
	if g.err != nil {
		return nil, g.err
	}
	g.s.mention(m)
	return g.s, nil
}

// logInFor logs in for all who wait for it, on nobody's time: whoever hangs up takes it from
// nobody else.
func (p *Provider) logInFor(ctx context.Context, g *goingLogin, refused secret.Text) {
	ctx, cancel := context.WithTimeout(ctx, loginBudget)
	defer cancel()
	s, err := p.logIn(ctx, refused, &g.m)
	l := &p.login
	l.mu.Lock()
	defer l.mu.Unlock()
	g.s, g.err, l.going = s, err, nil
	if err == nil {
		l.last = s
	}
	close(g.done)
}

// lastSession is the present one, nil if that may not be used any more, and the one that was
// seen to be the last. What was borrowed for it may have been killed or frozen since, or
// replaced.
func (p *Provider) lastSession(ctx context.Context) (s, seen *session, err error) {
	l := &p.login
	l.mu.Lock()
	seen = l.last
	l.mu.Unlock()
	if seen == nil || !p.deps.Now().Before(seen.until) {
		return nil, seen, nil
	}
	if seen.lent.Empty() {
		return seen, seen, nil
	}
	lent, err := p.deps.Borrowed(ctx, secret.Text{})
	if err != nil {
		return nil, seen, err
	}
	if !lent.Equal(seen.lent) {
		l.forget(seen)
		return nil, seen, nil
	}
	return seen, seen, nil
}

// mention is of nil too.
func (s *session) mention(m *mentioned) {
	if s == nil {
		return
	}
	for _, part := range s.parts {
		m.add(part)
	}
}

// logIn makes one request, and one more if what it borrows for that is refused. Nothing is
// minted, so nothing is lost of it.
func (p *Provider) logIn(ctx context.Context, refused secret.Text, m *mentioned) (*session, error) {
	k := &keys{p: p, ctx: ctx, m: m, refused: refused, into: &credentials{}}
	s, err := p.logInWith(ctx, k)
	if fault.CodeOf(err) == fault.ParentRefused && !k.into.borrowed.Empty() && !k.into.borrowed.Equal(refused) {
		k.refused = k.into.borrowed
		s, err = p.logInWith(ctx, k)
	}
	return s, err
}

func (p *Provider) logInWith(ctx context.Context, k *keys) (*session, error) {
	l := p.definition.Parent.Login
	f := &filling{settings: p.settings, username: p.username, parent: k.fill}
	w, err := f.build(l.Step, p.definition.Headers)
	if err != nil {
		return nil, err
	}
	a, err := p.once(ctx, w, &credentials{})
	if err != nil {
		return nil, notLoggedIn(err)
	}
	taken := map[string]any{}
	if err := a.take(l.Step.Take, taken); err != nil {
		return nil, notLoggedIn(err)
	}
	now := p.deps.Now()
	until := now.Add(l.Lasts)
	if l.Ends != nil {
		if v, told := taken[l.Ends.From]; told || l.Lasts == 0 {
			if until, err = l.Ends.when(v, now); err != nil {
				return nil, notLoggedIn(err)
			}
		}
	}
	s := &session{parts: map[string]secret.Text{}, until: until.Add(-until.Sub(now) / 10)}
	for name, v := range taken {
		if l.Ends != nil && name == l.Ends.From {
			continue
		}
		text, ok := plain(v)
		if !ok {
			return nil, notLoggedIn(unread("its " + name + " is neither a text nor a number"))
		}
		s.parts[name] = secret.New(text)
	}
	s.lent = k.into.borrowed
	return s, nil
}

// notLoggedIn is a login that failed: nothing has been minted by it, whatever is known of it.
func notLoggedIn(err error) error {
	code := fault.CodeOf(err)
	if code == fault.ProviderViolation {
		code = fault.TemporarilyUnavailable
	}
	return fault.New(code, "the broker cannot log in at the system: %s", fault.Public(err)).Because(unminted{err})
}

// unminted is an error in which nothing says that something may have been minted.
type unminted struct{ inner error }

func (u unminted) Error() string { return u.inner.Error() }

// As passes on what else steers.
func (u unminted) As(target any) bool {
	wait, ok := target.(*provider.RetryLater)
	return ok && errors.As(u.inner, wait)
}

// guard finds in a text what the parent is: what is stored, and what a request was made
// with.
type guard struct{ whole, inside secret.Search }

// leastInside is from which length on a secret is looked for inside of what the system
// answers: no shorter one is a secret.
const leastInside = 8

func (p *Provider) guard(m *mentioned) guard {
	all := slices.Concat(p.parts, m.all)
	long := slices.DeleteFunc(slices.Clone(all), func(t secret.Text) bool { return len(t.Reveal()) < leastInside })
	return guard{whole: secret.NewSearch(all...), inside: secret.Anywhere(long...)}
}

func (g guard) in(text string) bool { return g.whole.In(text) || g.inside.In(text) }
