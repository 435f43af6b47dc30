package kills

import (
	"maps"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
)

// State is what has become of a grant that was to die.
type State string

// The states, as they stand in records.
const (
	// Pending is not dead: its turn has not come yet, or it failed and is tried again.
	Pending State = "pending"
	// Revoked is dead, as its provider has confirmed.
	Revoked State = "revoked"
	// ExpiryOnly works until it expires, because nothing can kill it.
	ExpiryOnly State = "expiry_only"
	// Expired had died of itself when its turn came.
	Expired State = "expired"
	// Released lives on for now, because others hold what it would die with.
	Released State = "released"
	// Bystander is another's grant that has died with what was killed.
	Bystander State = "bystander"
	// Nothing is a mint whose answer was lost, and of which nothing had come.
	Nothing State = "nothing_minted"
	// Dead was dead when somebody looked: by another kill, by its lease's end, or by this
	// kill before a crash. Its time is not when it died, but when it was dead at the latest.
	Dead State = "dead"
)

// States are all of them, in the order in which a report counts them.
var States = []State{Revoked, Pending, ExpiryOnly, Expired, Dead, Nothing, Released, Bystander}

// final is for what does not change any more.
func (s State) final() bool {
	return s == Revoked || s == Expired || s == Bystander || s == Nothing || s == Dead
}

// lives is for what may be revoked yet.
func (s State) lives() bool { return s == Pending || s == Released }

// Entry is one grant in a record. Of a grant that is in it twice, the later one adds to
// the one before.
type Entry struct {
	ID       string         `json:"id"`
	Role     string         `json:"role,omitempty"`
	Provider string         `json:"provider,omitempty"`
	Class    provider.Class `json:"class,omitempty"`
	// Subject is on whose behalf it was, SubjectIssuer who vouched for that.
	Subject       string `json:"subject,omitempty"`
	SubjectIssuer string `json:"subject_issuer,omitempty"`
	// SelfContained is accepted until Expires by who verifies offline, dead or not.
	SelfContained bool      `json:"self_contained,omitempty"`
	Expires       time.Time `json:"expires,omitzero"`
	State         State     `json:"state"`
	// At is when the state began: when the provider has answered. Zero if it was not tried.
	At time.Time `json:"at,omitzero"`
	// Attempts is how many there were, Error what the last one that failed has met, as
	// callers are told it.
	Attempts int    `json:"attempts,omitempty"`
	Error    string `json:"error,omitempty"`
}

// size is about what it takes in storage.
func (e *Entry) size() int {
	return 160 + len(e.ID) + len(e.Role) + len(e.Provider) + len(e.Subject) + len(e.SubjectIssuer) + len(e.Error)
}

// Describe makes an entry of what is known of a grant.
func Describe(s *grant.Summary) Entry {
	return Entry{
		ID: s.ID, Role: s.Role, Provider: s.Provider, Class: s.Class, Subject: line(s.Subject.ID, maxError), SubjectIssuer: s.Subject.Issuer,
		SelfContained: s.SelfContained, Expires: s.ExpiresAt, State: Pending,
	}
}

// add takes what a later entry of the same grant says. What was the end of it stays.
func (e *Entry) add(later Entry) {
	before := *e
	*e = later
	if e.Provider == "" { // what was said of it before stands
		*e = before
		e.State, e.At, e.Attempts, e.Error = later.State, later.At, later.Attempts, later.Error
	}
	e.Attempts = max(before.Attempts, later.Attempts)
	if e.Error == "" {
		e.Error = before.Error
	}
	if before.State.final() {
		e.State, e.At, e.Attempts, e.Error = before.State, before.At, before.Attempts, before.Error
	}
}

// Until is the latest of some times.
type Until struct {
	At time.Time `json:"at,omitzero"`
	// Endless says that one of them nobody knows.
	Endless bool `json:"endless,omitempty"`
}

func (u *Until) reach(at time.Time) {
	if at.After(u.At) {
		u.At = at
	}
}

func (u *Until) reachExpiry(e *Entry) {
	u.Endless = u.Endless || e.Expires.IsZero()
	u.reach(e.Expires)
}

func (u *Until) join(other Until) {
	u.Endless = u.Endless || other.Endless
	u.reach(other.At)
}

// Exposure is how long what was to die was accepted somewhere.
type Exposure struct {
	// Last is when the last provider has confirmed, Accepted until when what nothing ends
	// sooner is accepted, Pending the same of all that was to die.
	Last     Until `json:"last,omitzero"`
	Accepted Until `json:"accepted,omitzero"`
	Pending  Until `json:"pending,omitzero"`
}

func (x *Exposure) find(e *Entry) { x.Pending.reachExpiry(e) }

// end notes what has become of a grant.
func (x *Exposure) end(e *Entry) {
	switch e.State {
	case Revoked, Dead:
		x.Last.reach(e.At)
	case ExpiryOnly, Expired:
		x.Accepted.reachExpiry(e)
	}
	if e.SelfContained && (e.State == Revoked || e.State == Dead) {
		x.Accepted.reachExpiry(e)
	}
}

func (x *Exposure) join(other Exposure) {
	x.Last.join(other.Last)
	x.Accepted.join(other.Accepted)
	x.Pending.join(other.Pending)
}

// Head is a record but for the entries that lie on pages of their own.
type Head struct {
	ID string `json:"id"`
	// What was to die, as in entity/<id>.
	What  []string `json:"what"`
	Cause string   `json:"cause"`
	By    string   `json:"by,omitempty"`
	Note  string   `json:"note,omitempty"`
	Froze bool     `json:"froze,omitempty"`
	// Event is when that happened to which the kill is the answer, Ordered when the kill
	// became durable, Tried when each of its grants had been tried once: until then it is
	// under way.
	Event   time.Time `json:"event"`
	Ordered time.Time `json:"ordered"`
	Tried   time.Time `json:"tried,omitzero"`
	// Interrupted says that a crash came between, or another node took over: what was told
	// in the last seconds before may be missing.
	Interrupted bool `json:"interrupted,omitempty"`
	// Counts are of all its grants, Unlisted of those of them that it has no entries of.
	Counts   map[State]int `json:"counts,omitempty"`
	Unlisted map[State]int `json:"unlisted,omitempty"`
	Exposure Exposure      `json:"exposure,omitzero"`
	// Bytes is about what all of it takes in storage, Pages how many pages there are beside
	// Rest, which are the last entries.
	Bytes int     `json:"bytes,omitempty"`
	Pages int     `json:"pages,omitempty"`
	Rest  []Entry `json:"rest,omitempty"`
}

// page is a part of a record's entries.
type page struct {
	Entries []Entry `json:"entries"`
}

var (
	headForm = form.Kind{Name: "record of a kill"}
	pageForm = form.Kind{Name: "page of a record of a kill"}
)

// Grants is how many grants the kill meant; bystanders are not among them.
func (h *Head) Grants() int {
	n := 0
	for state, count := range h.Counts {
		if state != Bystander {
			n += count
		}
	}
	return n
}

// The states of a record.
const (
	UnderWay = "under_way"
	Complete = "complete"
)

// State says whether the kill is under way, has tried all and left some pending, or is
// complete.
func (h *Head) State() string {
	switch {
	case h.Tried.IsZero():
		return UnderWay
	case h.Counts[Pending]+h.Counts[Released] > 0:
		return string(Pending)
	}
	return Complete
}

// Until is until when one of the tokens was accepted somewhere, or may be.
func (h *Head) Until() Until {
	until := h.Exposure.Last
	until.join(h.Exposure.Accepted)
	if h.State() != Complete {
		until.join(h.Exposure.Pending)
	}
	return until
}

// accepted is Until where a token of which nobody knows an end is taken to live for as long
// as its record is kept.
func (h *Head) accepted() time.Time {
	until := h.Until()
	if until.Endless {
		until.reach(h.Ordered.Add(grant.EndlessLife))
	}
	return until.At
}

func (h *Head) open() bool { return h.State() != Complete }

// shift counts a grant in another state than before; "" is in none.
func shift(counts map[State]int, from, to State) {
	if from != "" {
		if counts[from]--; counts[from] <= 0 {
			delete(counts, from)
		}
	}
	if to != "" {
		counts[to]++
	}
}

// sum is the counts of both.
func sum(a, b map[State]int) map[State]int {
	total := maps.Clone(a)
	if total == nil {
		total = map[State]int{}
	}
	for state, n := range b {
		total[state] += n
	}
	return total
}
