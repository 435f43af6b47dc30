package httpapi

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// making is one mint: what it is filled with, and what has been made so far.
type making struct {
	p     *Provider
	f     *filling
	m     *mentioned
	undos []*wire // the last one made first
}

// Mint implements provider.Provider: the steps of the definition, in their order. From the
// first one on that can be undone there is a handle, and it goes back beside every error.
func (p *Provider) Mint(ctx context.Context, r provider.Request) (*provider.Child, error) {
	if err := p.admit(r.Access); err != nil {
		return nil, err
	}
	mk := &making{p: p, f: p.fillingOf(r), m: &mentioned{}}
	jwt := &keys{p: p, ctx: ctx, m: mk.m}
	mk.f.parent = jwt.fill // a mint's templates have the JWT alone of what is the parent's
	for _, step := range p.definition.Mint {
		if err := mk.step(ctx, step); err != nil {
			return mk.left(step, err)
		}
	}
	child, unusable := mk.child()
	if child == nil {
		return nil, unusable
	}
	if err := mk.read(child); err != nil {
		return child, cmp.Or(unusable, err)
	}
	return child, cmp.Or(unusable, mk.scrutinize(child))
}

// admit refuses what the definition says cannot be asked for.
func (p *Provider) admit(a access.Access) error {
	for _, dim := range access.AllDimensions() {
		d, known := p.definition.Access[dim]
		code := (&expression{root: string(dim)}).code()
		switch {
		case !known:
			continue
		case d.Required && (a.IsNothing(dim) || a.IsUnbounded(dim)):
			return fault.New(code, "the system needs %s, and there are none: ask for some", dim)
		}
		for _, value := range valuesIn(a, dim) {
			if why := d.refuses(value); why != "" {
				return fault.New(code, "%s: %q %s", dim, value, why)
			}
		}
	}
	return nil
}

// refuses says why a value is none that the system is asked for, or "". To many systems a
// star means more than itself: where it may stand is for the definition to say.
func (d Dimension) refuses(value string) string {
	switch {
	case d.Pattern == nil && strings.Contains(value, "*"):
		return "has a *, which the system may read as all there is: the definition must have a pattern that allows it"
	case d.Pattern != nil && !d.Pattern.MatchString(value):
		return "is not as the definition wants them: " + written(d.Pattern)
	}
	return ""
}

func valuesIn(a access.Access, dim access.Dimension) []string {
	if dim == access.DimPermissions {
		return slices.Sorted(maps.Keys(a.Permissions.Map()))
	}
	set, _ := a.Set(dim)
	values, _ := set.Values()
	return values
}

// step makes one request and reads its answer.
func (mk *making) step(ctx context.Context, s Step) error {
	w, err := mk.f.build(s, mk.p.definition.Headers)
	if err != nil {
		return err
	}
	a, err := mk.p.exchange(ctx, w, mk.m)
	if err != nil {
		return err
	}
	if err := a.take(s.Take, mk.f.taken); err != nil {
		return err
	}
	if s.Undo == nil {
		return nil
	}
	undo, err := mk.f.build(*s.Undo, mk.p.definition.Headers)
	if err != nil { // an id that is none, say: what was made is there
		return unread("what it calls what it has made cannot be used: " + fault.Public(err))
	}
	mk.undos = append([]*wire{undo}, mk.undos...)
	return nil
}

// left is what a mint leaves that ended at a step: what the steps before have made, and
// that one itself if it may have been done and can be undone by what is known of it. If it
// cannot, but can be found, all of it is found, and there is no child.
func (mk *making) left(s Step, err error) (*provider.Child, error) {
	if errors.Is(err, provider.ErrAnswerLost) && s.Undo != nil {
		if s.Find != nil {
			return nil, err
		}
		if undo, unknown := mk.f.build(*s.Undo, mk.p.definition.Headers); unknown == nil {
			mk.undos = append([]*wire{undo}, mk.undos...)
		}
	}
	if len(mk.undos) == 0 {
		return nil, err
	}
	child, unusable := mk.child()
	return child, cmp.Or(unusable, err)
}

// child is one with a handle and nothing else. A handle in which something of the parent's is
// is none: where there is a find there is no child either then, and what was made is found by
// its name as if the answer had been lost.
func (mk *making) child() (*provider.Child, error) {
	child := &provider.Child{Class: mk.p.definition.Class, SelfContained: mk.p.definition.SelfContained}
	if len(mk.undos) == 0 {
		return child, nil
	}
	child.Handle = encodeHandle(mk.undos)
	if !mk.p.guard(mk.m).whole.In(child.Handle.Reveal()) {
		return child, nil
	}
	child.Handle = secret.Text{}
	unusable := fault.New(fault.ProviderViolation, "the system's answer has the parent credential where the definition looks for a name: nothing of it is used")
	if mk.p.definition.finds() {
		return nil, unusable.Because(provider.ErrAnswerLost)
	}
	return child, unusable
}

// read fills in what was answered.
func (mk *making) read(child *provider.Child) error {
	c, f := mk.p.definition.Child, mk.f
	child.Secrets, child.Extra, child.TokenType = map[string]secret.Text{}, map[string]any{}, c.TokenType
	for name, t := range c.Secrets {
		value, err := f.must(t)
		if err != nil {
			return unread("it has no " + name)
		}
		child.Secrets[name] = secret.New(value)
	}
	for name, t := range c.Shown {
		value, found, err := f.text(t)
		if err != nil {
			return unread("it has no " + name)
		}
		if found {
			child.Extra[name] = value
		}
	}
	var err error
	if child.ExpiresAt, err = mk.ends(); err != nil {
		return err
	}
	return mk.granted(child)
}

func (mk *making) ends() (time.Time, error) {
	ends, now := mk.p.definition.Child.Ends, mk.p.deps.Now()
	switch {
	case ends.Never:
		return time.Time{}, nil
	case ends.Asked:
		return mk.f.ends, nil
	case ends.Assumed > 0:
		return now.Add(ends.Assumed), nil
	}
	v, found := mk.f.taken[ends.At.From]
	if !found && ends.At.Never == nil {
		return time.Time{}, unread("it does not say when it ends")
	}
	return ends.At.when(v, now)
}

// granted reads what proves a dimension.
func (mk *making) granted(child *provider.Child) error {
	child.Granted, child.Confirmed = mk.f.access, access.Dimensions{}
	for dim, g := range mk.p.definition.Child.Granted {
		v, found := mk.f.taken[g.From]
		if !found {
			continue // it was optional, and proves nothing
		}
		granted, err := g.read(dim, v, mk.p.definition.Access[dim].Levels)
		if err != nil {
			return unread(fmt.Sprintf("which %s were granted cannot be told: %s", dim, err))
		}
		child.Granted = child.Granted.With(dim, granted)
		child.Confirmed[dim] = true
	}
	return nil
}

var errShape = errors.New("they are not as the definition says")

func (g Granted) read(dim access.Dimension, v any, levels access.Levels) (a access.Access, err error) {
	switch g.As {
	case "map", "level":
		a.Permissions, err = g.permissions(v, levels)
		return a, err
	case "details":
		raw, err := json.Marshal(v)
		if err != nil {
			return a, errShape
		}
		if a.Details, err = access.ParseDetails(raw); err != nil {
			return a, errShape
		}
		return a, nil
	}
	values, err := g.texts(v)
	if err != nil {
		return a, err
	}
	set := access.Exactly(values...)
	return a.With(dim, access.Access{Scopes: set, Audiences: set, Resources: set}), nil
}

func (g Granted) permissions(v any, levels access.Levels) (access.Permissions, error) {
	all := map[string]string{}
	if g.As == "level" {
		level, ok := plain(v)
		if !ok {
			return access.Permissions{}, errShape
		}
		all[g.Name] = level
	} else {
		object, ok := v.(map[string]any)
		if !ok {
			return access.Permissions{}, errShape
		}
		for name, level := range object {
			if all[name], ok = plain(level); !ok {
				return access.Permissions{}, errShape
			}
		}
	}
	permissions, err := access.NewPermissions(levels, all)
	if err != nil {
		return access.Permissions{}, errors.New("one of them is not known to the definition")
	}
	return permissions, nil
}

func (g Granted) texts(v any) ([]string, error) {
	if g.As != "list" {
		s, ok := plain(v)
		if !ok {
			return nil, errShape
		}
		switch g.As {
		case "space":
			return strings.Fields(s), nil
		case "comma":
			var all []string
			for one := range strings.SplitSeq(s, ",") {
				all = append(all, strings.TrimSpace(one))
			}
			return all, nil
		}
		return []string{s}, nil
	}
	list, ok := v.([]any)
	if !ok {
		return nil, errShape
	}
	all := make([]string, len(list))
	for i, element := range list {
		if g.Each.given {
			element, _ = g.Each.Find(element)
		}
		if all[i], ok = plain(element); !ok {
			return nil, errShape
		}
	}
	return all, nil
}

// scrutinize refuses a child in which something of the parent's is, whatever a definition
// or a system has put there.
func (mk *making) scrutinize(child *provider.Child) error {
	g := mk.p.guard(mk.m)
	for name, part := range child.Secrets {
		if g.in(part.Reveal()) {
			return fault.New(fault.ProviderViolation, "the system answered with something that holds a credential of the broker's own in %s, which is handed out to nobody: see what the definition takes of its answers", name)
		}
	}
	for name, value := range child.Extra {
		if text, _ := value.(string); g.in(text) {
			delete(child.Extra, name)
			return fault.New(fault.ProviderViolation, "the system answered with a credential of the broker's own in %s, which is shown", name)
		}
	}
	return nil
}

const handleVersion = 1

// handle is what kills a child: the requests that undo what was made, whole but for who the
// broker is. It names no host: Pinned.Account has that in it. What was written by an
// earlier definition is carried out as it was meant then.
type handle struct {
	Version int     `json:"v"`
	Undo    []*wire `json:"undo"`
}

func encodeHandle(undos []*wire) secret.Text {
	raw, err := json.Marshal(handle{Version: handleVersion, Undo: undos})
	if err != nil { // texts and numbers cannot fail
		return secret.Text{}
	}
	return secret.New(string(raw))
}

func decodeHandle(t secret.Text) (handle, error) {
	var h handle
	unknown := fault.New(fault.InvalidRequest, "the child's handle is not one that this version of the broker knows")
	if json.Unmarshal([]byte(t.Reveal()), &h) != nil || h.Version != handleVersion || len(h.Undo) == 0 {
		return h, unknown
	}
	for _, w := range h.Undo {
		if w == nil || !slices.Contains(methods, w.Method) || !isPath(w.Path) {
			return h, unknown
		}
	}
	return h, nil
}

// Revoke undoes what was made, the last one first. What is gone counts as undone, so a
// revocation that stopped halfway is repeated. What cannot be undone keeps nothing else
// from it.
func (p *revoking) Revoke(ctx context.Context, t secret.Text) error {
	h, err := decodeHandle(t)
	if err != nil {
		return err
	}
	var failed error
	missed := false
	for _, w := range h.Undo {
		_, err := p.exchange(ctx, w, &mentioned{})
		if errors.Is(err, errGone) {
			missed = true
		} else if err != nil {
			failed = errors.Join(failed, err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	if failed == nil && missed {
		failed = p.answers(ctx)
	}
	return first(failed)
}

// answers reports whether it is the system that says that something is gone: a gateway in
// front of it knows nothing either, while there is nothing behind it. Where the definition
// has no check that cannot be told.
func (p *Provider) answers(ctx context.Context) error {
	if p.definition.Check == nil {
		return nil
	}
	if _, err := p.Check(ctx); err != nil {
		return fault.New(fault.TemporarilyUnavailable, "the system knows no such thing, but its check fails as well, so that nobody knows who says so: %s", fault.Public(err)).Because(err)
	}
	return nil
}

// first is the first *fault.Error of those that were joined, with the others behind it.
func first(err error) error {
	var f *fault.Error
	if err == nil || !errors.As(err, &f) {
		return err
	}
	return fault.New(f.Code, "%s", f.Message).Because(err)
}

// Bounds on a search.
const (
	maxPages = 500
	maxItems = 100_000
	maxList  = 8 << 20 // of one page, in bytes
)

// Find implements provider.Finder: what each step has left that can be found, the last one
// first.
func (p *finding) Find(ctx context.Context, t provider.Trace) ([]provider.Found, error) {
	where := map[string]any{}
	if t.Where != "" {
		v, err := form.Object([]byte(t.Where), 4)
		if err != nil {
			return nil, fault.New(fault.InvalidRequest, "where to look for what a mint has left cannot be read")
		}
		where = v
	}
	var found []provider.Found
	for _, step := range slices.Backward(p.definition.Mint) {
		if step.Find == nil {
			continue
		}
		f := &filling{name: p.names.Of(t.GrantID), settings: p.settings, username: p.username, where: where, now: p.deps.Now()}
		all, err := p.search(ctx, step, f)
		if err != nil {
			return nil, err
		}
		found = append(found, all...)
	}
	return found, nil
}

// search goes through the pages of one list.
func (p *finding) search(ctx context.Context, s Step, f *filling) ([]provider.Found, error) {
	w, err := f.build(s.Find.Step, p.definition.Headers)
	if err != nil {
		return nil, err
	}
	ctx = httpclient.UpTo(ctx, maxList)
	var found []provider.Found
	pages := s.Find.pages(w)
	for pages.next() {
		all, err := p.onPage(ctx, s, f, pages.current, pages.read)
		if errors.Is(err, errRepeats) && len(found) > 0 { // it knows no pages, and all of it was read
			return found, nil
		}
		if err != nil {
			return nil, err
		}
		found = append(found, all...)
	}
	if len(found) > 0 { // also in a list that is too long to be read whole
		return found, nil
	}
	for len(found) == 0 && pages.err == nil && pages.back() {
		if found, err = p.onPage(ctx, s, f, pages.current, s.Find.items); err != nil {
			return nil, err
		}
	}
	return found, pages.err
}

// onPage is what is the grant's on one page.
func (p *finding) onPage(ctx context.Context, s Step, f *filling, w *wire, read func(*answer) ([]any, error)) ([]provider.Found, error) {
	a, err := p.exchange(ctx, w, &mentioned{})
	if err != nil {
		return nil, first(err)
	}
	items, err := read(a)
	if err != nil {
		return nil, err
	}
	var found []provider.Found
	for _, item := range items {
		if !s.Find.fits(item, f) {
			continue
		}
		one, err := p.found(s, f, item)
		if err != nil {
			return nil, err
		}
		found = append(found, one)
	}
	return found, nil
}

// fits reports whether an item of the list is the grant's.
func (fd *Find) fits(item any, f *filling) bool {
	for _, t := range fd.Where {
		v, ok := t.At.Find(item)
		same := func(want template, v any) bool {
			text, err := f.must(want)
			s, isText := plain(v)
			return err == nil && isText && text == s
		}
		if !t.fits(v, ok, same) {
			return false
		}
	}
	return true
}

// found is the handle of an item.
func (p *finding) found(s Step, f *filling, item any) (provider.Found, error) {
	f.taken = map[string]any{}
	for name, t := range s.Find.Take {
		v, ok := t.At.Find(item)
		if !ok || v == nil {
			if t.Optional {
				continue
			}
			return provider.Found{}, unread("an item of the list has no " + name)
		}
		f.taken[name] = v
	}
	undo, err := f.build(*s.Undo, p.definition.Headers)
	if err != nil {
		return provider.Found{}, unread("an item of the list cannot be undone: " + fault.Public(err))
	}
	h := encodeHandle([]*wire{undo})
	if p.guard(&mentioned{}).whole.In(h.Reveal()) {
		return provider.Found{}, unread("an item of the list has the parent credential where the definition looks for a name")
	}
	return provider.Found{Handle: h}, nil
}
