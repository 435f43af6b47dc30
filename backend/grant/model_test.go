package grant

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// interleaved is a storage that lets the test do something around each list:
// between two steps of the scan.
type interleaved struct {
	ambiguous
	steps atomic.Pointer[chan chan struct{}]
}

func (s *interleaved) List(ctx context.Context, prefix string) ([]string, error) {
	s.step()
	names, err := s.ambiguous.List(ctx, prefix)
	s.step()
	return names, err
}

func (s *interleaved) step() {
	if steps := s.steps.Load(); steps != nil {
		done := make(chan struct{})
		*steps <- done
		<-done
	}
}

// modelHolders are such that the id of one begins like another's.
var modelHolders = []string{"alice", "bob", "carol", NoHolder, "alice.0ns", "alice.n1"}

// history is a ledger and what must be true of it: grants are those that live.
type history struct {
	*rapid.T
	l      *Ledger
	s      *interleaved
	now    time.Time
	made   int
	grants map[string]*Grant
	told   map[string]Told // of each id; the parties are the subject and the actor
	// holds are those of intents that nobody has touched since they were recorded.
	holds map[string]*Hold
}

func (h *history) pick(name string) *Grant {
	if len(h.grants) == 0 {
		return nil
	}
	return h.grants[rapid.SampledFrom(slices.Sorted(maps.Keys(h.grants))).Draw(h.T, name)]
}

func (h *history) later(name string, atMost time.Duration) time.Time {
	return h.now.Add(time.Duration(rapid.Int64Range(0, int64(atMost/time.Second)).Draw(h.T, name)) * time.Second)
}

func (h *history) record() {
	g := h.child(h.name())
	if h.lie(func() error { return h.l.Record(context.Background(), g) }) == nil {
		h.grants[g.ID] = g
		return
	}
	h.failed(g)
}

// failed is what the caller of a write does who does not know whether it was done: the
// token is killed, or the grant is kept.
func (h *history) failed(g *Grant) {
	if rapid.Bool().Draw(h.T, "keep") {
		_ = h.lie(func() error { return h.l.Keep(context.Background(), g) })
		h.grants[g.ID] = g
		return
	}
	require.NoError(h.T, h.l.Remove(context.Background(), g))
	delete(h.grants, g.ID)
}

// name is the id of a grant to come, and its holder.
func (h *history) name() (id, holder string) {
	h.made++
	holder = rapid.SampledFrom(modelHolders).Draw(h.T, "holder")
	mark := ""
	if strings.Contains(holder, ".") && rapid.Bool().Draw(h.T, "marked") { // else it is of a build of before
		mark = dottedMark
	}
	// Few shards, so that the scan meets several records in one.
	random := fmt.Sprintf("%s%x%031x", mark, rapid.IntRange(0, 2).Draw(h.T, "shard"), h.made)
	party := func(name string) Party {
		return Party{ID: rapid.SampledFrom(modelParties).Draw(h.T, name), Issuer: rapid.SampledFrom(modelIssuers).Draw(h.T, name+"'s issuer")}
	}
	of := Told{
		Role: rapid.SampledFrom([]string{"r", "s"}).Draw(h.T, "role"), Provider: "oauth2/p",
		Parties: []Party{party("subject"), party("actor")},
	}
	id = holder + "." + random
	switch rapid.IntRange(0, 3).Draw(h.T, "told") {
	case 0: // of an early build
	case 1: // of a later one
		id += toldBefore(random, of)
	default:
		id += of.text(random)
	}
	h.told[id] = of
	return id, holder
}

// toldBefore is what stood behind the random part when ids told of the parties alone.
func toldBefore(random string, of Told) string {
	text := []byte(partyMark)
	for i, p := range of.Parties {
		if p.ID != "" && (i == 0 || of.Parties[0].ID != p.ID) {
			text = OfParty(p.ID).digest(text, random)
		}
	}
	return string(text)
}

var (
	modelParties = []string{"", "ann", "ben"}
	modelIssuers = []string{"", "idp", "hr"}
)

// draft is a grant of which is known what its id tells.
func (h *history) draft(id, holder string) *Grant {
	of := h.told[id]
	return &Grant{
		ID: id, Holder: holder, Role: of.Role, Provider: of.Provider, IssuedAt: h.now,
		Subject: of.Parties[0].ID, SubjectIssuer: of.Parties[0].Issuer, Actor: of.Parties[1].ID, ActorIssuer: of.Parties[1].Issuer,
	}
}

// child is a grant that has been minted.
func (h *history) child(id, holder string) *Grant {
	g := h.draft(id, holder)
	g.LeaseEnds, g.ExpiresAt = h.later("lease", time.Hour), h.later("expiry", 2*time.Hour)
	if rapid.IntRange(0, 5).Draw(h.T, "kind") > 0 {
		g.Handle = secret.New("h")
		g.Lever = rapid.SampledFrom([]string{"", "", "l", "m"}).Draw(h.T, "lever")
	}
	return g
}

// intend records an intent, whose answer may come, or get lost.
func (h *history) intend() {
	id, holder := h.name()
	g := h.draft(id, holder)
	g.Intent = h.later("deadline", 2*time.Minute)
	hold := h.l.Hold(id)
	if h.lie(func() error { return h.l.Record(context.Background(), g) }) != nil {
		gone, err := h.l.Withdraw(context.Background(), id) // nothing was asked of the provider
		require.NoError(h.T, err)
		require.True(h.T, gone)
		return
	}
	h.grants[id], h.holds[id] = g, hold
}

// answer is that of an intent's mint: it becomes the grant, unless somebody has touched it.
func (h *history) answer() {
	intent := h.pick("answered")
	if intent == nil || !intent.IsIntent() {
		return
	}
	g := h.child(intent.ID, intent.Holder)
	hold := h.holds[g.ID]
	delete(h.holds, g.ID)
	if hold == nil {
		h.failed(g)
		return
	}
	if h.lie(func() error { return h.l.Rewrite(context.Background(), hold, intent, g) }) != nil {
		h.failed(g)
		return
	}
	h.grants[g.ID] = g
}

// withdraw ends an intent of which nothing came; it leaves a grant alone.
func (h *history) withdraw() {
	g := h.pick("withdrawn")
	if g == nil {
		return
	}
	gone, err := false, error(nil)
	if e := h.lie(func() error { gone, err = h.l.Withdraw(context.Background(), g.ID); return err }); e != nil {
		gone, err = h.l.Withdraw(context.Background(), g.ID)
		require.NoError(h.T, err)
	}
	require.Equal(h.T, g.IsIntent(), gone)
	delete(h.holds, g.ID)
	if gone {
		delete(h.grants, g.ID)
	}
}

// release ends the lease of a grant that does not die with it.
func (h *history) release() {
	g := h.pick("released")
	if g == nil || g.IsIntent() {
		return
	}
	got, err := h.l.Update(context.Background(), g.ID, func(g *Grant) error { g.Released = true; return nil })
	require.NoError(h.T, err)
	h.grants[g.ID] = got
}

// lie sometimes lets storage fail, having done what it was told or not.
func (h *history) lie(f func() error) error {
	switch rapid.IntRange(0, 9).Draw(h.T, "storage") {
	case 0:
		return h.s.lying(true, f)
	case 1:
		return h.s.lying(false, f)
	}
	return f()
}

func (h *history) renew() {
	g := h.pick("renewed")
	if g == nil || g.IsIntent() {
		return
	}
	ends := h.later("renewal", time.Hour)
	move := func(g *Grant) error { g.LeaseEnds = ends; return nil }
	if rapid.Bool().Draw(h.T, "seen") {
		h.renewSeen(g, move)
		return
	}
	got, err := h.l.Update(context.Background(), g.ID, move)
	require.NoError(h.T, err)
	h.grants[g.ID] = got
}

// renewSeen renews what was read before something else happened, to that grant perhaps.
func (h *history) renewSeen(g *Grant, move func(*Grant) error) {
	delete(h.holds, g.ID)
	hold := h.l.Hold(g.ID)
	defer h.l.EndHold(g.ID)
	seen, err := h.l.Get(context.Background(), g.ID)
	require.NoError(h.T, err)
	rapid.SampledFrom([]func(){func() {}, h.renew, h.doom, h.remove, h.release}).Draw(h.T, "meanwhile")()
	now, lives := h.grants[g.ID]
	err = h.l.UpdateSeen(context.Background(), hold, seen, move)
	if !lives {
		require.ErrorIs(h.T, err, ErrGone)
		return
	}
	require.NoError(h.T, err)
	after := now.Clone()
	require.NoError(h.T, move(after))
	h.grants[g.ID] = after
}

func (h *history) doom() {
	g := h.pick("doomed")
	if g == nil || g.Handle.Empty() && !g.IsIntent() {
		return
	}
	delete(h.holds, g.ID)
	next := h.later("next", 10*time.Minute)
	doomed := g.Clone()
	final := rapid.IntRange(0, 3).Draw(h.T, "final") == 0
	mark := func(d *Doom) { d.Since, d.Next, d.Attempts, d.Final = h.now, next, d.Attempts+1, final }
	if doomed.Doom == nil {
		doomed.Doom = &Doom{}
	}
	mark(doomed.Doom)
	_ = h.lie(func() error { return h.l.Doom(context.Background(), g, mark) })
	h.grants[g.ID] = doomed
}

func (h *history) remove() {
	g := h.pick("removed")
	if g == nil {
		return
	}
	for range rapid.IntRange(1, 2).Draw(h.T, "times") { // Vault repeats a revoke
		if err := h.lie(func() error { return h.l.Remove(context.Background(), g) }); err != nil {
			// Whoever wanted it tries again; what happened is found out.
			require.NoError(h.T, h.l.Remove(context.Background(), g))
		}
	}
	delete(h.grants, g.ID)
	delete(h.holds, g.ID)
}

// ledger has very little memory, and does one thing at a time.
func (h *history) ledger() *Ledger {
	l := newLedger(h.s, 6, 1)
	l.background = func(f func()) { f() }
	l.index.lately = newLately(2000) // a few records
	return l
}

// restart is a crash once what was in memory only has been written.
func (h *history) restart() {
	require.NoError(h.T, h.l.Flush(context.Background()))
	h.l, h.holds = h.ledger(), map[string]*Hold{}
	steps, loaded := make(chan chan struct{}), make(chan error, 1)
	if rapid.Bool().Draw(h.T, "busy") {
		h.s.steps.Store(&steps)
	}
	go func() { loaded <- h.l.Load(context.Background()) }()
	for {
		select {
		case done := <-steps:
			h.write()
			close(done)
		case err := <-loaded:
			h.s.steps.Store(nil)
			require.NoError(h.T, err)
			return
		}
	}
}

func (h *history) write() {
	rapid.SampledFrom([]func(){func() {}, func() {}, h.record, h.renew, h.doom, h.remove, h.intend, h.answer, h.withdraw, h.release}).Draw(h.T, "meanwhile")()
}

func (h *history) sweep() {
	require.NoError(h.T, h.l.Flush(context.Background()))
	want := []string{}
	for id, g := range h.grants {
		if s := g.Summary(); isDue(&s, h.now) {
			want = append(want, id)
		}
	}
	slices.Sort(want)
	require.Equal(h.T, want, append([]string{}, dueAt(h.T, h.l, h.now)...), "all that is due and nothing else")
	for _, id := range want {
		if rapid.Bool().Draw(h.T, "killed") {
			require.NoError(h.T, h.l.Remove(context.Background(), h.grants[id]))
			delete(h.grants, id)
			delete(h.holds, id)
		}
	}
}

// check holds the counts against the truth. settled means that nothing is in doubt.
func (h *history) check(settled bool) {
	type key struct{ holder, role string }
	want, got := map[key]Count{}, map[key]Count{}
	for _, g := range h.grants {
		c := want[key{g.Holder, g.Role}]
		c.Live++
		if g.Revocable() {
			c.Revocable++
			if g.Doom != nil {
				c.Outbox++
			}
		}
		want[key{g.Holder, g.Role}] = c
	}
	for _, holder := range modelHolders {
		for _, c := range h.l.Counts(holder) {
			require.Equal(h.T, "oauth2/p", c.Provider)
			got[key{holder, c.Role}] = Count{Live: c.Live, Revocable: c.Revocable, Outbox: c.Outbox}
		}
	}
	h.checkLevers(settled)
	h.checkParties(settled)
	if settled {
		require.Equal(h.T, want, got)
		return
	}
	for k, c := range want {
		require.GreaterOrEqual(h.T, got[k].Live, c.Live, "%v", k)
		require.GreaterOrEqual(h.T, got[k].Revocable, c.Revocable, "%v", k)
	}
}

// checkParties holds who has grants of which party, and which these are, against the truth.
func (h *history) checkParties(settled bool) {
	for _, party := range modelParties[1:] {
		want, having := []string{}, map[string]bool{}
		for id, g := range h.grants {
			if g.Subject == party || g.Actor == party {
				want, having[g.Holder] = append(want, id), true
			}
		}
		holders, err := h.l.HoldersWith(context.Background(), party)
		require.NoError(h.T, err)
		if !settled {
			require.Subset(h.T, holders, slices.Collect(maps.Keys(having)), party)
			continue
		}
		require.Equal(h.T, slices.Sorted(maps.Keys(having)), holders, party)
		got := []string{}
		for _, holder := range holders {
			require.NoError(h.T, h.l.WalkWith(context.Background(), holder, OfParty(party), "", func(s *Summary) bool {
				got = append(got, s.ID)
				return true
			}))
		}
		require.ElementsMatch(h.T, want, got, party)
	}
}

// checkLevers holds what hangs on which lever against the truth.
func (h *history) checkLevers(settled bool) {
	want, holders, idle := map[Lever]Hanging{}, map[Lever]map[string]bool{}, []Lever{}
	for _, g := range h.grants {
		if g.Lever == "" || !g.Revocable() {
			continue
		}
		lever := Lever{g.Provider, g.Lever}
		on := want[lever]
		switch {
		case g.Doom != nil:
			on.Doomed++
		case g.Released:
			on.Released++
		default:
			on.Held++
		}
		want[lever] = on
		if holders[lever] == nil {
			holders[lever] = map[string]bool{}
		}
		holders[lever][g.Holder] = true
	}
	for _, name := range []string{"l", "m"} {
		lever := Lever{"oauth2/p", name}
		got := h.l.Hanging(lever)
		if !settled {
			require.GreaterOrEqual(h.T, got.Held, want[lever].Held, "nobody who holds a lever is overlooked")
			continue
		}
		require.Equal(h.T, want[lever], got, name)
		require.Equal(h.T, slices.Sorted(maps.Keys(holders[lever])), h.l.HoldersOn(lever), name)
		if got.Held == 0 && got.Released > 0 {
			idle = append(idle, lever)
		}
		walked := 0
		require.NoError(h.T, h.l.WalkLever(context.Background(), lever, func(s *Summary) bool { walked++; return true }))
		require.Equal(h.T, got.Held+got.Doomed+got.Released, walked)
	}
	if settled {
		require.Equal(h.T, idle, append([]Lever{}, h.l.Idle()...))
	}
}

// TestNothingIsMissedAndNothingComesEarly is a random life of a ledger with very
// little memory, over a storage that fails at times, against a plain map.
func TestNothingIsMissedAndNothingComesEarly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := &history{T: t, s: &interleaved{}, now: noon, grants: map[string]*Grant{}, told: map[string]Told{}, holds: map[string]*Hold{}}
		h.l = h.ledger()
		require.NoError(t, h.l.Load(context.Background()))
		t.Repeat(map[string]func(*rapid.T){
			"record": func(*rapid.T) { h.record() }, "record another": func(*rapid.T) { h.record() },
			"renew": func(*rapid.T) { h.renew() }, "doom": func(*rapid.T) { h.doom() }, "remove": func(*rapid.T) { h.remove() },
			"intend": func(*rapid.T) { h.intend() }, "answer": func(*rapid.T) { h.answer() }, "withdraw": func(*rapid.T) { h.withdraw() },
			"release": func(*rapid.T) { h.release() },
			"restart": func(*rapid.T) { h.restart() }, "sweep": func(*rapid.T) { h.sweep() },
			"invalidate": func(*rapid.T) {
				h.l.Invalidate()
				h.holds = map[string]*Hold{}
				require.NoError(t, h.l.Load(context.Background()))
			},
			"find": func(*rapid.T) { h.find() },
			"time": func(*rapid.T) { h.now = h.later("time", 30*time.Minute) },
			"": func(*rapid.T) {
				h.check(false)
				require.NoError(t, h.l.Flush(context.Background()))
				h.check(true)
				h.walked()
				h.found()
				h.remembered()
			},
		})
	})
}

var modelClues = []Clue{{}, OfRole("r"), OfRole("s"), OfProvider("oauth2/p"), OfProvider("oauth2/q"), OfIssuer("idp"), OfIssuer("hr"), OfParty("ann"), OfParty("ben")}

// having are the ids of the grants that have a clue.
func (h *history) having(of Clue) []string {
	ids := []string{}
	for id, g := range h.grants {
		if s := g.Summary(); of.IsOf(&s) {
			ids = append(ids, id)
		}
	}
	return ids
}

// find looks for a clue while others write, in a ledger that may know nothing yet: what was
// there before and is there afterwards must be found, whatever storage did.
func (h *history) find() {
	if rapid.Bool().Draw(h.T, "storage is down") { // and some are in memory only
		g := h.child(h.name())
		require.Error(h.T, h.s.lying(false, func() error { return h.l.Keep(context.Background(), g) }))
		h.grants[g.ID] = g
	}
	of, l := rapid.SampledFrom(modelClues).Draw(h.T, "clue"), h.l
	before := h.having(of)
	steps, found := make(chan chan struct{}), make(chan []string, 1)
	h.s.steps.Store(&steps)
	go func() {
		ids := []string{}
		_ = l.Find(context.Background(), of, func(s *Summary) bool { ids = append(ids, s.ID); return true })
		found <- ids
	}()
	for {
		select {
		case done := <-steps:
			h.write()
			close(done)
		case got := <-found:
			h.s.steps.Store(nil)
			for _, id := range before {
				if _, lives := h.grants[id]; lives {
					require.Contains(h.T, got, id)
				}
			}
			return
		}
	}
}

// found holds what is found by a clue against the truth, by this ledger and by one that has
// read nothing, as after a crash.
func (h *history) found() {
	of := rapid.SampledFrom(modelClues).Draw(h.T, "found")
	for _, l := range []*Ledger{h.l, h.ledger()} {
		got := []string{}
		require.NoError(h.T, l.Find(context.Background(), of, func(s *Summary) bool { got = append(got, s.ID); return true }))
		require.ElementsMatch(h.T, h.having(of), got, "%v", of)
	}
}

// remembered holds what is in memory of the records against storage.
func (h *history) remembered() {
	stranger := h.ledger()
	for _, generation := range []map[string][]byte{h.l.current().lately.young, h.l.current().lately.old} {
		for id := range generation {
			got, err := h.l.Get(context.Background(), id)
			require.NoError(h.T, err)
			want, err := stranger.Get(context.Background(), id)
			require.NoError(h.T, err, "what is gone is not remembered")
			require.Equal(h.T, want, got)
		}
	}
}

// walked holds what is read from storage, from any place on, against the truth.
func (h *history) walked() {
	holder := rapid.SampledFrom([]string{"alice", NoHolder, "alice.0ns"}).Draw(h.T, "walked")
	want := []string{}
	for id, g := range h.grants {
		if g.Holder == holder {
			want = append(want, id)
		}
	}
	slices.Sort(want)
	after := ""
	if len(want) > 0 && rapid.Bool().Draw(h.T, "from the middle") {
		i := rapid.IntRange(0, len(want)-1).Draw(h.T, "after")
		after, want = want[i], want[i+1:]
	}
	got := []string{}
	require.NoError(h.T, h.l.Walk(context.Background(), holder, after, func(s *Summary) bool { got = append(got, s.ID); return true }))
	require.Equal(h.T, want, got)
}

// TestCountsHoldUnderConcurrency lets many write while others load, list and
// invalidate; at the end memory, a fresh ledger and storage tell the same.
func TestCountsHoldUnderConcurrency(t *testing.T) {
	s := &logical.InmemStorage{}
	for range 100 {
		require.NoError(t, NewLedger(s).Record(t.Context(), newGrant(t, "alice")))
	}
	l := newLedger(s, 50, scanParallel)
	l.joinScan()
	concurrently(8, func(w int) {
		for i := range 24 {
			g := newGrant(t, []string{"alice", "bob", ""}[w%3])
			require.NoError(t, l.Record(context.Background(), g))
			switch i % 6 {
			case 0, 1:
				concurrently(2, func(int) { require.NoError(t, l.Remove(context.Background(), g)) })
			case 2:
				require.NoError(t, l.Doom(context.Background(), g, func(d *Doom) { d.Attempts++ }))
			case 3:
				dueAt(t, l, noon.Add(10*time.Minute))
			case 4:
				if w == 0 {
					l.Invalidate()
				}
			case 5:
				_, err := l.Holders(context.Background())
				require.NoError(t, err)
			}
		}
	})
	require.NoError(t, l.Load(t.Context()))
	due := dueAt(t, l, noon.Add(24*time.Hour))
	fresh := NewLedger(s) // which deletes the pages of the other
	all := everything(t, fresh)
	require.Equal(t, all, everything(t, l))
	for _, holder := range []string{"alice", "bob", NoHolder} {
		require.Equal(t, fresh.Counts(holder), l.Counts(holder), holder)
	}
	require.Len(t, due, len(all))
}

func concurrently(n int, f func(i int)) {
	done := make(chan struct{})
	for i := range n {
		go func() {
			defer func() { done <- struct{}{} }()
			f(i)
		}()
	}
	for range n {
		<-done
	}
}
