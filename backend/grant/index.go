package grant

import (
	"math"
	"slices"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unique"
)

// Count is how many grants of a role and a provider a holder has.
type Count struct {
	Role, Provider string
	// Live are those that are not known to be dead, Revocable those of them that
	// something can kill, and Outbox those of these whose kill failed and is retried.
	Live, Revocable, Outbox int
}

// index is what the ledger keeps in memory of the records. Invalidate replaces it
// by another. Its lock is never held over storage.
type index struct {
	// run names the pages of this index in storage.
	run string

	mu      sync.Mutex
	holders map[string]*holding
	// outbox counts the grants in the outbox by provider and the second since which they are.
	outbox     map[outboxAt]int
	unreadable map[string]struct{}
	newer      error // of a record that only a newer version of the plugin reads
	scan       [buckets]progress
	scanned    bool
	yields     atomic.Int64 // of the scan to a Find

	agenda
	levers
	parties parties
	live    map[liveKey]*liveSet

	lately *lately // has a lock of its own
}

// outboxAt is a provider and a second since which some of its grants are in the outbox.
type outboxAt struct {
	provider string
	second   int64
}

// holding is how many grants a holder has.
type holding struct {
	name   string
	counts []Count
}

// countedAs is what a grant has been counted as.
type countedAs struct {
	// since is since when it is in the outbox, in milliseconds, or zero.
	since     int64
	revocable bool
	hangs     hangs
}

func (s *Summary) countedAs() countedAs {
	return countedAs{since: s.outboxSince(), revocable: s.Revocable, hangs: s.hangs()}
}

// progress is how far the scan is in one bucket. It visits units, the shards of
// the folders, in order; what lies before the unit that it is at has been counted.
type progress struct {
	done          bool
	folder, shard string
	// seen are the ids of the unit at hand that have been counted.
	seen map[string]struct{}
	// late are ids that were counted because they were written, before the scan came
	// to them.
	late map[string]struct{}
}

func newIndex(run string, room int) *index {
	x := &index{
		run: run, holders: map[string]*holding{}, outbox: map[outboxAt]int{}, unreadable: map[string]struct{}{},
		live: map[liveKey]*liveSet{}, agenda: newAgenda(room), levers: newLevers(), parties: newParties(), lately: newLately(latelyRoom),
	}
	for i := range x.scan {
		x.scan[i].late = map[string]struct{}{}
	}
	return x
}

// enter takes in a grant as it is on record now. before is as it was until now,
// nil if it was not on record. It reports whether the agenda needs room.
func (x *index) enter(g, before *Grant) (full bool) {
	s := g.Summary()
	x.mu.Lock()
	defer x.mu.Unlock()
	was, counted := x.surely(s.ID)
	if !counted && before != nil && x.counted(s.ID) {
		former := before.Summary()
		was, counted = former.countedAs(), true
	}
	if !counted {
		x.count(&s, 1)
		x.note(s.ID)
	}
	is := s.countedAs()
	x.move(&s, was, is)
	x.entries[s.ID] = entry{due: s.dueMilli(), countedAs: is, sure: true}
	if s.Doomed {
		delete(x.suspects, s.ID)
	}
	x.keepLive(&s)
	return len(x.entries) > x.room
}

// howCounted reports whether the grant is counted for certain, without storage, and as
// what.
func (x *index) howCounted(id string) (is countedAs, counted bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.surely(id)
}

// surely is howCounted for callers that hold mu. An entry that came back from a page
// may be of a grant that died meanwhile.
func (x *index) surely(id string) (is countedAs, counted bool) {
	e, known := x.entries[id]
	if !known || !e.sure {
		return countedAs{}, false
	}
	return e.countedAs, true
}

// leave forgets a grant that is gone. counted says that it was counted when it was
// last on record, and was as what.
func (x *index) leave(s *Summary, was countedAs, counted bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if counted && x.counted(s.ID) {
		x.move(s, was, countedAs{})
		x.count(s, -1)
	}
	x.dropLocked(s.ID)
	if at, ok := addressOf(s.ID); ok {
		delete(x.scan[at.bucket].late, s.ID)
	}
	if set := x.live[liveKey{s.Holder, s.Role}]; set != nil {
		delete(set.ids, s.ID)
	}
}

// drop forgets the appointment of a grant that is gone.
func (x *index) drop(id string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.dropLocked(id)
}

func (x *index) dropLocked(id string) {
	delete(x.entries, id)
	delete(x.suspects, id)
}

// counted reports whether a grant that is on record has been counted. The caller
// holds mu.
func (x *index) counted(id string) bool {
	if x.scanned {
		return true
	}
	at, ok := addressOf(id)
	if !ok {
		return false
	}
	p := &x.scan[at.bucket]
	_, seen := p.seen[id]
	_, late := p.late[id]
	return seen || late || p.passed(at)
}

func (p *progress) passed(at address) bool {
	return p.done || at.folder < p.folder || (at.folder == p.folder && at.shard < p.shard)
}

// note keeps in mind that a grant was counted, so that the scan does not count it
// again. The caller holds mu.
func (x *index) note(id string) {
	at, ok := addressOf(id)
	if x.scanned || !ok {
		return
	}
	p := &x.scan[at.bucket]
	switch {
	case p.passed(at):
	case at.folder == p.folder && at.shard == p.shard:
		p.seen[id] = struct{}{}
	default:
		p.late[id] = struct{}{}
	}
}

// count adds n grants that live. The caller holds mu.
func (x *index) count(s *Summary, n int32) {
	has := x.holders[s.Holder]
	if has == nil {
		has = &holding{name: strings.Clone(s.Holder)} // not the whole of what it was cut from
		x.holders[has.name] = has
	}
	x.parties.add(s, has, n)
	i := find(has.counts, s)
	if i < 0 {
		i = len(has.counts)
		// The same few names need not be held by each holder.
		has.counts = append(has.counts, Count{Role: unique.Make(s.Role).Value(), Provider: unique.Make(s.Provider).Value()})
	}
	has.counts[i].Live += int(n)
	if has.counts[i].Live == 0 {
		has.counts[i] = has.counts[len(has.counts)-1]
		has.counts = has.counts[:len(has.counts)-1]
	}
	if len(has.counts) == 0 {
		delete(x.holders, s.Holder)
	}
}

// countsOf are the holder's. The caller holds mu.
func (x *index) countsOf(holder string) []Count {
	if has := x.holders[holder]; has != nil {
		return has.counts
	}
	return nil
}

func find(counts []Count, s *Summary) int {
	for i := range counts {
		if counts[i].Role == s.Role && counts[i].Provider == s.Provider {
			return i
		}
	}
	return -1
}

// move notes as what a counted grant stands from now on. The caller holds mu.
func (x *index) move(s *Summary, from, to countedAs) {
	if from == to {
		return
	}
	x.hang(s, from.hangs, to.hangs)
	counts := x.countsOf(s.Holder)
	i := find(counts, s)
	if i < 0 {
		return
	}
	for _, move := range []struct {
		countedAs
		n int
	}{{from, -1}, {to, 1}} {
		if move.revocable {
			counts[i].Revocable += move.n
		}
		if move.since == 0 {
			continue
		}
		counts[i].Outbox += move.n
		at := outboxAt{counts[i].Provider, move.since / time.Second.Milliseconds()}
		if x.outbox[at] += move.n; x.outbox[at] == 0 {
			delete(x.outbox, at)
		}
	}
}

// outboxSince is since when the grant is in the outbox, in milliseconds, or zero.
func (s *Summary) outboxSince() int64 {
	if !s.Doomed || !s.Revocable {
		return 0
	}
	return max(1, s.Since.UnixMilli())
}

// dueMilli is when the grant is due, in milliseconds.
func (s *Summary) dueMilli() int64 {
	if due, ever := s.Due(); ever {
		return due.UnixMilli()
	}
	return math.MaxInt64
}

// selectHolders returns the holders of which a count matches, ordered.
func (x *index) selectHolders(match func(Count) bool) []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	var out []string
	for holder, has := range x.holders {
		if slices.ContainsFunc(has.counts, match) {
			out = append(out, holder)
		}
	}
	sort.Strings(out)
	return out
}
