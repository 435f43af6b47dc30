// Package providertest is the suite that every provider type passes, and what its tests
// need to open one.
package providertest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// Subject is one provider under test, and what the suite must know of the world
// that it works in.
type Subject struct {
	Provider provider.Provider
	// Type is the provider's.
	Type provider.Type
	// Request is one that the downstream system grants.
	Request provider.Request
	// Patterns is one with a pattern in each dimension of Traits.Expands, of which the
	// system has something; it is for types that expand any.
	Patterns provider.Request
	// Store holds the parent.
	Store *ParentStore
	// Alive says whether a child is accepted downstream, and Minted how many were
	// ever issued there.
	Alive  func(c *provider.Child) bool
	Minted func() int
	// Echo makes the downstream system refuse everything with a text that repeats
	// what it was sent.
	Echo func()
	// Stall makes it do its work and never answer.
	Stall func()
	// OutlivesCaller is true of providers whose mint is finished, within their own
	// timeout, even if the caller gives up, because abandoning it would lose the
	// parent.
	OutlivesCaller bool

	ctx context.Context // watched
}

// Run is the suite that every provider type passes. newSubject is called for each
// test, with a downstream system of its own.
func Run(t *testing.T, newSubject func(t *testing.T) Subject) {
	for name, test := range map[string]func(*testing.T, Subject){
		"traits make sense":             testTraits,
		"a child is what it says":       testMint,
		"one mint is one child":         testOneMint,
		"nothing is not everything":     testNothing,
		"patterns become values":        testPatterns,
		"a revoked child is dead":       testRevoke,
		"what has a name is found":      testFind,
		"a broken handle is an error":   testBrokenHandles,
		"many at once":                  testConcurrency,
		"a caller who has left":         testCancelledBefore,
		"a caller who leaves meanwhile": testCancelledMeanwhile,
		"no secret in any error":        testErrors,
		"a check leaves nothing behind": testCheck,
		"a rotation that cannot be":     testRotate,
	} {
		t.Run(name, func(t *testing.T) {
			s := newSubject(t)
			sendNothingOtherwise(t)
			var tally *httpclient.Tally
			s.ctx, tally = httpclient.Watch(context.Background())
			test(t, s)
			if tally.Astray() {
				t.Error("a request was to leave the pinned destinations (Pinned.Destinations), and was not sent")
			}
		})
	}
}

// sendNothingOtherwise fails the test if anything is sent by net/http's own client, which
// knows no pinned destinations, instead of Deps.Client.
func sendNothingOtherwise(t *testing.T) {
	before := http.DefaultTransport
	http.DefaultTransport = stray{t}
	t.Cleanup(func() { http.DefaultTransport = before })
}

type stray struct{ t *testing.T }

// RoundTrip implements http.RoundTripper.
func (s stray) RoundTrip(r *http.Request) (*http.Response, error) {
	s.t.Errorf("a request to %s did not go through Deps.Client", r.URL.Host)
	return nil, errors.New("not sent")
}

// mint makes a child of another grant each time.
func (s Subject) mint(t *testing.T) *provider.Child {
	t.Helper()
	return s.mintFor(t, s.another().GrantID)
}

func (s Subject) mintFor(t *testing.T, grantID string) *provider.Child {
	t.Helper()
	s.Request.GrantID = grantID
	child, err := s.Provider.Mint(s.ctx, s.Request)
	if err != nil || child == nil {
		t.Fatalf("mint: %v, %v", child, err)
	}
	return child
}

var grants atomic.Int64

// another is the request for a grant that has not been asked for yet: a system may take
// each name once.
func (s Subject) another() provider.Request {
	r := s.Request
	r.GrantID += fmt.Sprintf("-%d", grants.Add(1))
	return r
}

// traits are those for the children of the suite's request.
func (s Subject) traits() provider.Traits {
	if varying, ok := s.Provider.(provider.Varying); ok {
		return varying.TraitsFor(provider.ModeMint, s.Request.Parameters)
	}
	return s.Provider.Traits()
}

// Token makes a Subject's Alive of what a system says of a token.
func Token(active func(token string) bool) func(*provider.Child) bool {
	return func(c *provider.Child) bool { return active(c.Token().Reveal()) }
}

// checker is a Provider of which a check proves something.
func (s Subject) checker() (provider.Checker, bool) {
	checker, ok := s.Provider.(provider.Checker)
	trusted, may := s.Provider.(provider.Trusted)
	return checker, ok && (!may || trusted.Unprovable() == "")
}

// parent are the parent's secrets.
func (s Subject) parent() []secret.Text {
	return slices.Collect(maps.Values(s.Store.Parent().Secrets))
}

// parts are the child's secrets.
func parts(c *provider.Child) []secret.Text {
	return slices.Collect(maps.Values(c.Secrets))
}

func testTraits(t *testing.T, s Subject) {
	traits := s.traits()
	if !slices.Contains([]provider.Class{provider.ClassToken, provider.ClassLever, provider.ClassExpiry}, traits.Class) {
		t.Errorf("unknown class %q", traits.Class)
	}
	if _, revokes := s.Provider.(provider.Revoker); !revokes && traits.Class != provider.ClassExpiry {
		t.Errorf("class %s without a Revoker", traits.Class)
	}
	if err := provider.CheckAnswer(s.Type.Answer()); err != nil {
		t.Errorf("the type's answer: %v", err)
	}
	if traits.Life.Within(s.Request.TTL) != s.Request.TTL {
		t.Errorf("the suite asks for a life of %s, and the traits say that this cannot be had: %+v", s.Request.TTL, traits.Life)
	}
	if traits.Class == provider.ClassExpiry && traits.Endless {
		t.Error("children that neither end nor can be killed serve no role")
	}
	for _, d := range access.AllDimensions() {
		if !traits.Askable[d] && !traits.Checkable[d] && traits.Hints[d] == "" {
			t.Errorf("no hint for %s, which can neither be asked for nor checked", d)
		}
		if !s.Request.Access.IsNothing(d) && !traits.Askable[d] && !traits.Checkable[d] {
			t.Errorf("the suite's request has %s, which the provider knows nothing of", d)
		}
	}
}

func testMint(t *testing.T, s Subject) {
	child := s.mint(t)
	traits := s.traits()
	if !s.Alive(child) {
		t.Error("the child does not work")
	}
	if why := provider.AnswerOf(s.Type, traits).Violation(child); why != "" {
		t.Error(why)
	}
	if (child.TokenType == "") != child.Token().Empty() {
		t.Errorf("token type %q: a token has one, and nothing else has", child.TokenType)
	}
	if child.ExpiresAt.IsZero() && (traits.Class == provider.ClassExpiry || !traits.Endless) {
		t.Error("no end, and the traits do not say so")
	}
	if child.Class != traits.Class {
		t.Errorf("a child of class %s, and the traits say %s", child.Class, traits.Class)
	}
	if excess := child.Granted.Excess(s.Request.Access); len(excess) > 0 {
		t.Errorf("more than asked: %v", excess)
	}
	for d := range child.Confirmed {
		if !traits.Checkable[d] {
			t.Errorf("%s is confirmed and not checkable", d)
		}
	}
	for name, value := range child.Extra {
		if value == nil {
			t.Errorf("extra %s is nil", name)
		}
	}
	testSecrecy(t, s, child)
}

// testSecrecy: the parent is nowhere in a child, and the child's own secrets are where
// they belong.
func testSecrecy(t *testing.T, s Subject, child *provider.Child) {
	parent := secret.NewSearch(s.parent()...)
	for name, part := range child.Secrets {
		if parent.In(part.Reveal()) {
			t.Errorf("the parent is in the child's %s", name)
		}
	}
	if parent.In(child.Handle.Reveal()) {
		t.Error("the parent is in the handle")
	}
	all := secret.NewSearch(append(s.parent(), parts(child)...)...)
	for what, shown := range map[string]any{"extra": child.Extra, "what was granted": child.Granted.Flat(), "the lever": child.Lever,
		"the types": []string{child.TokenType, child.IssuedTokenType}, "unverified": child.Unverified, "the issuer": child.Issuer} {
		if all.In(fmt.Sprint(shown)) {
			t.Errorf("a secret in %s", what)
		}
	}
	printed := fmt.Sprintf("%v %+v %#v", child, *child, *child)
	for name, part := range child.Secrets {
		if strings.Contains(printed, part.Reveal()) {
			t.Errorf("printing a child shows its %s", name)
		}
	}
}

func testOneMint(t *testing.T, s Subject) {
	before := s.Minted()
	s.mint(t)
	if got := s.Minted() - before; got != 1 {
		t.Errorf("%d children for one mint", got)
	}
}

// testNothing: what each role must have a ceiling in is never left out, which most systems
// take for all that there is.
func testNothing(t *testing.T, s Subject) {
	before := s.Minted()
	for d := range s.traits().Required {
		r := s.Request
		r.Access = r.Access.With(d, access.Access{})
		child, err := s.Provider.Mint(s.ctx, r)
		if err == nil || child != nil {
			t.Errorf("a request without %s was granted: %v", d, child)
			continue
		}
		classified(t, err)
	}
	if s.Minted() != before {
		t.Error("something was minted for nothing in particular")
	}
}

// testPatterns: what a type makes of a role's patterns are values, within them, and
// nothing that it made on the way there lives on.
func testPatterns(t *testing.T, s Subject) {
	expands := s.traits().Expands
	if len(expands) == 0 {
		t.Skip("it expands no patterns")
	}
	for d := range expands {
		if s.Patterns.Access.Enumerable(d) {
			t.Fatalf("the suite's request for patterns has none in %s", d)
		}
	}
	before := s.Minted()
	child, err := s.Provider.Mint(s.ctx, s.Patterns)
	if err != nil {
		t.Fatalf("mint: %v", err)
	}
	for d := range expands {
		if !child.Granted.Enumerable(d) || child.Granted.IsNothing(d) {
			t.Errorf("%s are no values", d)
		}
		if !child.Confirmed[d] {
			t.Errorf("%s were expanded, and what came of that is not proven", d)
		}
		if excess := child.Granted.ExcessIn(d, s.Patterns.Access); len(excess) > 0 {
			t.Errorf("more than the patterns allow: %v", excess)
		}
	}
	if own := s.Minted() - before - 1; own != s.Store.Discarded() || len(s.Store.Left()) > 0 {
		t.Errorf("of %d tokens of the type's own %d were discarded, and %d of these live", own, s.Store.Discarded(), len(s.Store.Left()))
	}
}

func testRevoke(t *testing.T, s Subject) {
	revoker, ok := s.Provider.(provider.Revoker)
	if !ok || s.traits().Class == provider.ClassExpiry {
		t.Skip("nothing is revoked")
	}
	child := s.mint(t)
	s.Request.GrantID += "0" // no two grants have one id
	other := s.mint(t)
	for range 3 { // already gone is success
		if err := revoker.Revoke(s.ctx, child.Handle); err != nil {
			t.Fatalf("revoke: %v", err)
		}
	}
	if s.Alive(child) {
		t.Error("a revoked child works")
	}
	if together := child.Class == provider.ClassLever && child.Lever != "" && child.Lever == other.Lever; !together && !s.Alive(other) {
		t.Errorf("class %s, lever %q, but another child died with it", child.Class, child.Lever)
	}
	s.mint(t) // the parent lives
}

// testFind: a child is found by the id of its grant alone, and not by another's.
func testFind(t *testing.T, s Subject) {
	finder, ok := s.Provider.(provider.Finder)
	if !ok {
		t.Skip("its children have no names")
	}
	find := func(id string) []provider.Found {
		t.Helper()
		trace := provider.Trace{GrantID: id}
		if locating, ok := finder.(provider.Locating); ok {
			r := s.Request
			r.GrantID = id
			where, err := locating.Where(r)
			if err != nil {
				t.Fatalf("where: %v", err)
			}
			trace.Where = where
		}
		found, err := finder.Find(s.ctx, trace)
		if err != nil {
			t.Fatalf("find: %v", err)
		}
		return found
	}
	const holder = "7a3c1b52-90de-4f61-8a55-0123456789ab.WxYz1."
	const id = holder + "n00112233445566778899aabbccddeeff"
	if found := find(id); len(found) > 0 {
		t.Errorf("%d children of a grant that is none yet", len(found))
	}
	child := s.mintFor(t, id)
	other := s.mintFor(t, holder+"n00112233445566778899aabbccddee00")
	found := find(id)
	if len(found) == 0 {
		t.Error("the child is not found")
	}
	for _, f := range found {
		if f.Lever != child.Lever {
			t.Errorf("found on the lever %q, and minted on %q", f.Lever, child.Lever)
		}
		if err := finder.Revoke(s.ctx, f.Handle); err != nil {
			t.Errorf("revoke: %v", err)
		}
	}
	if s.Alive(child) {
		t.Error("what was found and killed was not the child")
	}
	if together := child.Lever != "" && child.Lever == other.Lever; !together && !s.Alive(other) {
		t.Error("another grant's child was found too")
	}
}

func testBrokenHandles(t *testing.T, s Subject) {
	revoker, ok := s.Provider.(provider.Revoker)
	if !ok {
		t.Skip("nothing is revoked")
	}
	for _, text := range []string{"", "nonsense", "{}", "[]", "null", `{"v":9999}`, `{"v":"1"}`} {
		err := revoker.Revoke(s.ctx, secret.New(text))
		if err == nil {
			t.Errorf("the handle %q was revoked", text)
		}
		classified(t, err)
	}
}

func testConcurrency(t *testing.T, s Subject) {
	const many = 16
	children := make([]*provider.Child, many)
	var wg sync.WaitGroup
	for i := range many {
		wg.Go(func() {
			child, err := s.Provider.Mint(s.ctx, s.another())
			if err != nil {
				t.Errorf("mint: %v", err)
				return
			}
			children[i] = child
		})
	}
	wg.Wait()
	children = slices.DeleteFunc(children, func(c *provider.Child) bool { return c == nil })
	revoker, ok := s.Provider.(provider.Revoker)
	if class := s.traits().Class; class != provider.ClassLever {
		testApart(t, children) // a lever may be that the system gives equal tokens to several
	}
	if !ok || s.traits().Class == provider.ClassExpiry {
		return
	}
	for _, child := range children {
		wg.Go(func() {
			if err := revoker.Revoke(s.ctx, child.Handle); err != nil {
				t.Errorf("revoke: %v", err)
			}
		})
	}
	wg.Wait()
	for _, child := range children {
		if s.Alive(child) {
			t.Error("a revoked child works")
		}
	}
}

// testApart: no two children have a secret in common.
func testApart(t *testing.T, children []*provider.Child) {
	t.Helper()
	seen := map[string]bool{}
	for _, child := range children {
		for name, part := range child.Secrets {
			if seen[part.Reveal()] {
				t.Errorf("two mints answered the same %s", name)
			}
			seen[part.Reveal()] = true
		}
	}
}

func testCancelledBefore(t *testing.T, s Subject) {
	ctx, cancel := context.WithCancel(s.ctx)
	cancel()
	before := s.Minted()
	child, err := s.Provider.Mint(ctx, s.Request)
	if err == nil || child != nil || s.Minted() != before {
		t.Errorf("minted for a caller who has left: %v, %v", child, err)
	}
	classified(t, err)
}

// promptly is for what happens at once, on a machine that is busy; a provider that
// stalls does so for longer.
const promptly = 30 * time.Second

func testCancelledMeanwhile(t *testing.T, s Subject) {
	s.Stall()
	ctx, leave := context.WithCancel(s.ctx)
	defer leave()
	before, left, over := s.Minted(), make(chan time.Time, 1), make(chan struct{})
	go func() {
		defer leave()
		// Its work is done: what it does not do is answer.
		for s.Minted() == before {
			select {
			case <-over:
				return
			case <-time.After(time.Millisecond):
			}
		}
		left <- time.Now()
	}()
	child, err := s.Provider.Mint(ctx, s.Request)
	ended := time.Now()
	close(over)
	if len(left) == 0 {
		t.Fatalf("it does not stall: %v, %v", child, err)
	}
	if took := ended.Sub(<-left); took > promptly && !s.OutlivesCaller {
		t.Errorf("the caller waited for another %s", took)
	}
	classified(t, err)
	if child == nil && !errors.Is(err, provider.ErrAnswerLost) {
		t.Errorf("the provider minted, and the error does not say that it may have: %v", err)
	}
}

func testErrors(t *testing.T, s Subject) {
	child := s.mint(t)
	known := append(s.parent(), parts(child)...)
	s.Echo()
	var failures []error
	_, err := s.Provider.Mint(s.ctx, s.Request)
	failures = append(failures, err)
	if revoker, ok := s.Provider.(provider.Revoker); ok && !child.Handle.Empty() {
		failures = append(failures, revoker.Revoke(s.ctx, child.Handle))
	}
	if checker, ok := s.checker(); ok {
		_, err := checker.Check(s.ctx)
		failures = append(failures, err)
	}
	for _, err := range failures {
		classified(t, err)
		walk(err, func(e error) {
			for _, text := range []string{e.Error(), fmt.Sprintf("%+v", e)} {
				for _, value := range known {
					if strings.Contains(text, value.Reveal()) {
						t.Errorf("a secret in the error %T", e)
					}
				}
			}
		})
	}
}

func testCheck(t *testing.T, s Subject) {
	checker, ok := s.checker()
	if !ok {
		t.Skip("it cannot be checked")
	}
	before := s.Minted()
	health, err := checker.Check(s.ctx)
	if err != nil {
		t.Fatalf("check: %v", err)
	}
	if health.Detail == "" {
		t.Error("the check does not say what it proved")
	}
	if minted := s.Minted() - before; minted != len(health.Children) {
		t.Errorf("the check minted %d tokens and handed over %d", minted, len(health.Children))
	}
	for _, child := range health.Children {
		if child.Handle.Empty() {
			continue
		}
		if err := s.Provider.(provider.Revoker).Revoke(s.ctx, child.Handle); err != nil {
			t.Errorf("revoke: %v", err)
		}
		if s.Alive(child) {
			t.Error("a child of the check lives")
		}
	}
}

// testRotate expects that newSubject gave the parent nothing to rotate to: types
// that make their next credential themselves skip this by succeeding.
func testRotate(t *testing.T, s Subject) {
	rotator, ok := s.Provider.(provider.Rotator)
	if !ok {
		t.Skip("it cannot be rotated")
	}
	before := s.Store.Parent()
	if _, err := rotator.Rotate(s.ctx); err != nil {
		classified(t, err)
		for name, value := range before.Secrets {
			if !s.Store.Parent().Secrets[name].Equal(value) {
				t.Errorf("a failed rotation changed %s", name)
			}
		}
	}
	s.mint(t)
}

// classified checks that err is an *fault.Error that says what to do.
func classified(t *testing.T, err error) {
	t.Helper()
	var f *fault.Error
	switch {
	case err == nil:
		t.Error("an error was expected")
	case !errors.As(err, &f):
		t.Errorf("%T is no *fault.Error: %v", err, err)
	case len(f.Message) < 10:
		t.Errorf("%q says nothing", f.Message)
	}
}

// walk visits err and everything that it wraps.
func walk(err error, visit func(error)) {
	if err == nil {
		return
	}
	visit(err)
	switch e := err.(type) {
	case interface{ Unwrap() error }:
		walk(e.Unwrap(), visit)
	case interface{ Unwrap() []error }:
		for _, inner := range e.Unwrap() {
			walk(inner, visit)
		}
	}
}
