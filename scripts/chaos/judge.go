package chaos

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Reason is why a token that is active and nobody's may be so.
type Reason string

// The reasons, from the certain to the likely.
const (
	ByRecorder Reason = "the answer was withheld by the server's fault"
	ByNetwork  Reason = "the answer was lost on a broken line"
	BySlowness Reason = "the server took longer than the broker waits"
	ByDeath    Reason = "plugin or Vault died meanwhile"
)

// verdict is what the evidence proves.
type verdict struct {
	// active tokens are held, explained or unexplained.
	active, held int
	explained    map[Reason]int
	unexplained  []string
	// violations are what else must not be.
	violations []string
}

const (
	// transit is how long a request may travel to the recorder on a line that is
	// not slowed, and on a machine that is busy.
	transit = time.Second
	// slack is how long a toxic's end may take to be one.
	slack = 300 * time.Millisecond
	// hungUpFor is how long the broker goes on for a client that has hung up.
	hungUpFor = 2*providerTimeout + 2*time.Second
)

// judge weighs the evidence.
func judge(e *evidence) *verdict {
	v := &verdict{explained: map[Reason]int{}, violations: e.violations}
	byScope := map[string][]*Request{} // several where they share
	for i := range e.requests {
		byScope[e.requests[i].Scope] = append(byScope[e.requests[i].Scope], &e.requests[i])
	}
	following := nextMints(e.mints, byScope)
	for _, m := range e.mints {
		if !e.active[m.Token] {
			continue
		}
		v.active++
		r := m.askedBy(byScope[m.Scope])
		if r == nil {
			v.unexplained = append(v.unexplained, fmt.Sprintf("%s: minted for nobody's request", m.Scope))
			continue
		}
		if problem := e.heldByAny(m, byScope[m.Scope]); problem == "" {
			v.held++
		} else if reason := e.explain(m, byScope[m.Scope], following[m]); reason != "" {
			v.explained[reason]++
		} else {
			v.unexplained = append(v.unexplained, problem+": "+e.describe(m, r))
		}
	}
	for _, id := range e.pending {
		v.violations = append(v.violations, fmt.Sprintf("grant %s is still pending", id))
	}
	v.checkRequests(e)
	v.checkGrants(e, byScope)
	return v
}

// nextMints tells which mint followed for the same request: when a plugin dies,
// Vault repeats the request once.
func nextMints(mints []*Mint, byScope map[string][]*Request) map[*Mint]*Mint {
	next, last := map[*Mint]*Mint{}, map[*Request]*Mint{}
	for _, m := range mints { // in the order in which they left
		r := m.askedBy(byScope[m.Scope])
		if r == nil {
			continue
		}
		if before := last[r]; before != nil {
			next[before] = m
		}
		last[r] = m
	}
	return next
}

// askedBy is the request that the token was minted for, of those with its scope, which
// come from one client, one after the other: the last that had begun. nil if there is
// none.
func (m *Mint) askedBy(requests []*Request) *Request {
	var by *Request
	for _, r := range requests {
		if by == nil || !r.Began.After(m.Arrived) {
			by = r
		}
	}
	return by
}

// heldByAny is "" if one of the requests holds the active token by right, or says why
// not.
func (e *evidence) heldByAny(m *Mint, requests []*Request) string {
	problem := ""
	for _, r := range requests {
		why := e.holds(m, r)
		if why == "" {
			return ""
		}
		if problem == "" || r.Token == m.Token {
			problem = why
		}
	}
	return problem
}

// holds is "" if the active token is its client's by right, or says why not.
func (e *evidence) holds(m *Mint, r *Request) string {
	switch {
	case r.Token != m.Token:
		return "active and nobody's"
	case !slices.Contains(e.grants[m.Scope], r.Grant), !r.Shared && len(e.grants[m.Scope]) != 1:
		return "active without its grant"
	case !e.leases[r.Lease]:
		return "active without its lease"
	case r.Revoked:
		return "active although its lease was revoked"
	}
	return ""
}

// explain names the fault that kept the broker from the token, or "". The requests are
// all with its scope.
func (e *evidence) explain(m *Mint, requests []*Request, next *Mint) Reason {
	r := m.askedBy(requests)
	var given []string
	for _, one := range requests {
		if one.Token == m.Token {
			return "" // the answer was not lost
		}
		given = append(given, one.Grant)
	}
	for _, id := range e.grants[m.Scope] {
		if !slices.Contains(given, id) {
			return "" // nor was it here: this is its record
		}
	}
	// While the token, or what the broker does about it, was on its way.
	from, to := m.Arrived.Add(-transit), r.Ended
	if r.Outcome == GaveUp {
		to = m.Left.Add(hungUpFor)
	}
	if from.Before(r.Began) {
		from = r.Began
	}
	if next != nil && next.Arrived.Before(to) {
		to = next.Arrived
	}
	switch {
	case m.Withheld != "":
		return ByRecorder
	case e.died(from, to):
		return ByDeath
	case next != nil:
		return "" // only a death makes Vault ask again
	case r.Outcome != Failed && r.Outcome != GaveUp, !e.saidLost(r, e.loseFrom(m), to):
		return "" // a living plugin had the answer
	case e.broken(m.Line, m.Arrived, to):
		return ByNetwork
	case m.Left.Sub(m.Arrived) > providerTimeout-transit:
		return BySlowness
	}
	return ""
}

// loseFrom is from when on the broker may have lost the answer: a line that was cut while
// the request was on it is noticed at both ends, and by the broker perhaps first.
func (e *evidence) loseFrom(m *Mint) time.Time {
	if e.broken(m.Line, m.Arrived, m.Arrived) {
		return m.Arrived.Add(-slack)
	}
	return m.Arrived
}

func (e *evidence) died(from, to time.Time) bool {
	for _, w := range e.windows {
		switch w.Kind {
		case KillPlugin, KillVault, KillVaultAlone, StepDown:
			if w.overlaps(from, to) {
				return true
			}
		}
	}
	return false
}

// saidLost reports whether the broker has logged a lost answer: its client is told no
// more than that the request failed, and one that has given up not even that. The log's
// clock is cut to logPrecision.
func (e *evidence) saidLost(r *Request, from, to time.Time) bool {
	return slices.ContainsFunc(e.logged.lost, func(l lostAnswer) bool {
		return l.provider == r.Provider && l.role == r.Role && !l.at.Before(from.Truncate(logPrecision)) && !l.at.After(to)
	})
}

// broken reports whether a toxic was on the line. The recorder's own faults are
// none: of these it knows exactly.
func (e *evidence) broken(line string, from, to time.Time) bool {
	for _, w := range e.windows {
		switch w.Kind {
		case Cut, Slow, Trickle, Reset, ResetUpstream, Silence, SilenceUp, CutShort:
			if w.Line == line && w.overlaps(from.Add(-slack), to) {
				return true
			}
		}
	}
	return false
}

// checkRequests looks for grants that outlived what should have killed them, and
// for those that died although nobody wanted that.
func (v *verdict) checkRequests(e *evidence) {
	asked := map[string]time.Time{}
	for _, m := range e.mints {
		asked[m.Token] = m.Arrived
	}
	for i := range e.requests {
		r := &e.requests[i]
		if r.Outcome != Given {
			continue
		}
		active := e.active[r.Token]
		wanted := r.RevokeAsked || r.Dropped || r.ends()
		for j := range e.kills {
			k := &e.kills[j]
			if !k.covers(r) {
				continue
			}
			wanted = wanted || !r.Began.After(k.over())
			switch {
			case active && k.killed(r, asked[r.Token]):
				v.violations = append(v.violations, fmt.Sprintf("%s (asked %s, given %s) survived %s of %s, answered %s, thawed %s",
					r.Scope, r.Began.Format(clock), r.Ended.Format(clock), k.Kind, k.Began.Format(clock), k.Answered.Format(clock), k.Thawed.Format(clock)))
			case k.refuses(r):
				v.violations = append(v.violations, fmt.Sprintf("%s was given although %s had stopped that at %s", r.Scope, k.Kind, k.Answered.Format(clock)))
			}
		}
		if !active && !wanted && e.leases[r.Lease] {
			v.violations = append(v.violations, fmt.Sprintf("%s is dead, its lease is alive, and nobody wanted that: asked %s, given %s, grant %s, %s",
				r.Scope, r.Began.Format(clock), r.Ended.Format(clock), r.Grant, cmp.Or(e.logged.deaths[r.Grant], "of whose death the broker has said nothing")))
		}
	}
}

// killed reports whether the deed must have ended this grant, for which the
// server was asked at that time.
func (k *kill) killed(r *Request, asked time.Time) bool {
	switch {
	case k.Kind == Disable:
		return true // sooner or later, and now it is later
	case k.Answered.IsZero():
		return false
	case k.Frozen:
		return asked.Before(k.Answered) // also what was being minted
	}
	return r.Ended.Before(k.Began)
}

// refuses reports whether the grant must not have been made.
func (k *kill) refuses(r *Request) bool {
	if k.Answered.IsZero() || !r.Began.After(k.Answered) {
		return false
	}
	return k.Kind == Disable || (k.Frozen && r.Ended.Before(k.Thawed))
}

// over is until when the deed may have killed what was issued before.
func (k *kill) over() time.Time {
	switch {
	case k.Kind == Disable:
		return time.Now()
	case k.Answered.IsZero():
		return k.Began.Add(2 * time.Minute)
	}
	return k.Answered
}

// checkGrants: what is in the ledger in the end belongs to somebody who holds it.
func (v *verdict) checkGrants(e *evidence, byScope map[string][]*Request) {
	for scope, ids := range e.grants {
		for _, id := range ids {
			if !slices.ContainsFunc(byScope[scope], func(r *Request) bool { return r.Grant == id && e.leases[r.Lease] }) {
				v.violations = append(v.violations, fmt.Sprintf("grant %s (%s) is in the ledger and has no lease", id, scope))
			}
		}
	}
}

const clock = "15:04:05.000"

func (e *evidence) describe(m *Mint, r *Request) string {
	text := fmt.Sprintf("%s of %s on %s: asked %s, arrived %s, left %s, client ended %s (%s", m.Scope, r.Role, m.Line,
		r.Began.Format(clock), m.Arrived.Format(clock), m.Left.Format(clock), r.Ended.Format(clock), r.Outcome)
	if r.Error != "" {
		text += ": " + r.Error
	}
	text += fmt.Sprintf("), grant %q, in the ledger %v, lease alive %t, revoked %t", r.Grant, e.grants[m.Scope], e.leases[r.Lease], r.Revoked)
	for _, w := range e.windows {
		if w.overlaps(m.Arrived.Add(-5*time.Second), r.Ended.Add(5*time.Second)) && (w.Line == "" || w.Line == m.Line) {
			text += fmt.Sprintf("; %s %s-%s %s", w.Kind, w.Began.Format(clock), w.Ended.Format(clock), w.About)
		}
	}
	return text
}
