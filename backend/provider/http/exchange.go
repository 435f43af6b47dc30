package httpapi

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/kit"
)

// maxDepth bounds how deep an answer nests.
const maxDepth = 32

// errGone is that the system knows no such thing (any more).
var errGone = errors.New("there is no such thing at the system")

// answer is what the system said. Its JSON is read when somebody asks for it.
type answer struct {
	status int
	header http.Header
	body   []byte

	read bool
	v    any
	err  error
}

// json is the body, read strictly; an error if it is no JSON.
func (a *answer) json() (any, error) {
	if !a.read {
		a.v, a.err = form.Value(httpclient.Document(a.body), maxDepth)
		a.read = true
	}
	return a.v, a.err
}

// at is a value in the answer.
func (a *answer) at(p pointer) (any, bool) {
	v, err := a.json()
	if err != nil {
		return nil, false
	}
	return p.Find(v)
}

// fits reports whether the condition holds.
func (c Condition) fits(a *answer) bool {
	switch {
	case len(c.Status) == 0 && a.status/100 != 2:
		return false
	case len(c.Status) > 0 && !slices.Contains(c.Status, a.status):
		return false
	}
	for _, t := range c.Where {
		v, found := a.at(t.At)
		if !t.fits(v, found, nil) {
			return false
		}
	}
	return true
}

// fits reports whether a value is as the test wants it. same compares with a template; nil
// where there is none.
func (t Test) fits(v any, found bool, same func(template, any) bool) bool {
	switch {
	case t.Exists != nil:
		return *t.Exists == (found && v != nil)
	case t.Contains != "":
		s, ok := v.(string)
		return found && ok && strings.Contains(s, t.Contains)
	case !found:
		return false
	}
	return slices.ContainsFunc(t.Is, func(want any) bool {
		if text, ok := want.(template); ok {
			return same != nil && same(text, v)
		}
		return equalScalars(v, want)
	})
}

// equalScalars compares numbers by their value.
func equalScalars(a, b any) bool {
	x, isNumber := numberText(a)
	y, both := numberText(b)
	if isNumber && both {
		x, _ = form.CanonicalNumber(x)
		y, _ = form.CanonicalNumber(y)
		return x == y
	}
	return isScalar(a) && isScalar(b) && !isNumber && !both && a == b
}

// exchange sends one request and returns what the system answered, if that is a success.
// errGone is in the chain if it says that there is nothing; provider.ErrAnswerLost if it
// may have done what was asked all the same. No text of the system's is passed on.
//
// A credential that the system refuses, and of which another can be had, is tried once
// more: by its own word nothing has come of the first request.
func (p *Provider) exchange(ctx context.Context, w *wire, m *mentioned) (*answer, error) {
	if w.Alone {
		return p.once(ctx, w, nil)
	}
	shown, err := p.show(ctx, m)
	if err != nil {
		return nil, err
	}
	a, err := p.once(ctx, w, shown)
	if fault.CodeOf(err) != fault.ParentRefused || !shown.renewable() {
		return a, err
	}
	if shown, err = p.showAnother(ctx, shown, m); err != nil {
		return nil, err
	}
	return p.once(ctx, w, shown)
}

// once is one request, and what its answer means.
func (p *Provider) once(ctx context.Context, w *wire, shown *credentials) (*answer, error) {
	req, err := w.request(ctx, p.base)
	if err != nil {
		return nil, fault.New(fault.InvalidRequest, "definition: a request cannot be made: a path might lead elsewhere")
	}
	if shown != nil {
		for name, value := range shown.headers {
			req.Header.Set(name, value.Reveal())
		}
	}
	resp, err := p.deps.Client.Do(req)
	if err != nil {
		return nil, kit.Lost(err, false)
	}
	a := &answer{status: resp.Status, header: resp.Header, body: resp.Body}
	success := Condition{}
	if w.Success != nil {
		success = *w.Success
	}
	switch {
	case w.Gone != nil && w.Gone.fits(a):
		return a, fault.New(fault.TemporarilyUnavailable, "the system knows no such thing (any more)").Because(errGone)
	case w.Alone && resp.Status == http.StatusUnauthorized:
		return nil, fault.New(fault.TemporarilyUnavailable, "the system does not take what it has made (HTTP 401), and the definition does not say what that means")
	}
	if refused := p.refusal(a, resp); refused != nil {
		return nil, refused
	}
	if success.fits(a) {
		return a, nil
	}
	if resp.Status/100 == 2 {
		return nil, unread("it is no success by what the definition says of one")
	}
	return nil, kit.Refusal(resp, p.deps.Now(), p.parts...)
}

// refusal is what the definition says of an answer; nil for nothing.
func (p *Provider) refusal(a *answer, resp *httpclient.Response) error {
	for _, r := range p.definition.Refusals {
		if r.fits(a) {
			f := fault.New(r.Code, "%s (HTTP %d)", r.Says, a.status)
			if wait := kit.RetryAfter(resp, p.deps.Now()); wait != nil {
				f = f.Because(wait)
			}
			return f
		}
	}
	return nil
}

// unread is a success that cannot be read. What it speaks of may be there.
func unread(why string) *fault.Error {
	return fault.New(fault.ProviderViolation, "the system's answer cannot be used: %s", why).Because(provider.ErrAnswerLost)
}

// take reads what later templates need.
func (a *answer) take(all map[string]Taking, into map[string]any) error {
	for name, t := range all {
		v, found := a.taking(t)
		if !found && !t.Optional {
			return unread("it has no " + name + " where the definition says")
		}
		if found {
			into[name] = v
		}
	}
	return nil
}

func (a *answer) taking(t Taking) (any, bool) {
	if t.Header != "" {
		v := a.header.Get(t.Header)
		return v, v != ""
	}
	v, found := a.at(t.At)
	return v, found && v != nil && v != ""
}

// rfc3339 are the layouts of what systems call that.
var rfc3339 = []string{time.RFC3339, "2006-01-02T15:04:05-0700", "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02 15:04:05 -0700", "2006-01-02 15:04:05 MST"}

// when is a time in an answer; zero where that says that there is none. now is when it came.
func (m *Moment) when(v any, now time.Time) (time.Time, error) {
	if slices.ContainsFunc(m.Never, func(never any) bool { return equalScalars(v, never) }) || v == nil && m.Never != nil {
		return time.Time{}, nil
	}
	s, ok := plain(v)
	if !ok {
		return time.Time{}, unread("when it ends is no time")
	}
	switch m.As {
	case "rfc3339":
		for _, layout := range rfc3339 {
			if at, err := time.Parse(layout, s); err == nil {
				return at, nil
			}
		}
	case "date":
		if at, err := time.Parse(time.DateOnly, s); err == nil {
			return at, nil
		}
	case "unix", "unix_ms":
		if n, ok := form.WholeNumber(s); ok && n > 0 && n < 1e14 {
			if m.As == "unix_ms" {
				return time.UnixMilli(n).UTC(), nil
			}
			if n < 1e11 {
				return time.Unix(n, 0).UTC(), nil
			}
		}
	default:
		unit := map[string]time.Duration{"seconds": time.Second, "minutes": time.Minute, "hours": time.Hour, "days": 24 * time.Hour}[m.As]
		if n, ok := form.WholeNumber(s); ok && n > 0 && n <= int64(100*365*24*time.Hour/unit) {
			return now.Add(time.Duration(n) * unit), nil
		}
	}
	return time.Time{}, unread("when it ends cannot be read as " + m.As)
}
