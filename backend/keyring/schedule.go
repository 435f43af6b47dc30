package keyring

import (
	"fmt"
	"slices"
	"time"
)

// Advance does what is due: it makes the first keys, makes the successors that the
// terms demand, and forgets what is retired. A ring that was stopped signs again.
// If nothing is due it returns r itself and false.
func (r *Ring) Advance(now time.Time, t Terms) (next *Ring, changed bool, err error) {
	if err := t.check(); err != nil {
		return nil, false, err
	}
	e := r.edit(now)
	e.resume()
	for _, p := range Purposes() {
		e.meet(p, t)
		list := e.keys[p]
		switch {
		case len(list) == 0:
			e.add(p, t, now)
		case len(list) < MaxKeys && !e.pending(p) && list[len(list)-1].due(now, t):
			// A full ring waits until its oldest key is retired.
			e.add(p, t, now.Add(Lead))
		}
	}
	return e.done(r)
}

// Rotate makes new keys for every purpose, which sign when they have been published
// for Lead. It is refused with ErrRefused while the last rotation's are not active
// yet, or while too many old keys have to stay published. In an emergency the old
// keys leave the set at once, with all that they signed, and the new ones sign at
// once.
func (r *Ring) Rotate(now time.Time, t Terms, emergency bool) (*Ring, error) {
	if err := t.check(); err != nil {
		return nil, err
	}
	e := r.edit(now)
	e.resume()
	for _, p := range Purposes() {
		e.meet(p, t)
		list := e.keys[p]
		switch {
		case emergency || len(list) == 0:
			for _, k := range list {
				e.withdrawn = append(e.withdrawn, k.id)
			}
			e.keys[p] = nil
			e.add(p, t, now)
		case e.pending(p):
			return nil, fmt.Errorf("%w: the keys of the last one become active at %s", ErrRefused, list[len(list)-1].activeFrom.UTC().Format(time.RFC3339))
		case len(list) == MaxKeys:
			return nil, fmt.Errorf("%w: what %d earlier keys signed may still live; the first of them is retired at %s", ErrRefused, len(list)-1, e.until(list, 0).UTC().Format(time.RFC3339))
		default:
			e.add(p, t, now.Add(Lead))
		}
	}
	next, _, err := e.done(r)
	return next, err
}

// Stop ends signing. The keys stay published until all that they signed has expired
// for sure, and are forgotten by a Stop after that. Advance takes it back. If nothing
// changes it returns r itself and false.
func (r *Ring) Stop(now time.Time) (next *Ring, changed bool, err error) {
	e := r.edit(now)
	if e.count() == 0 {
		return r, false, nil
	}
	if e.stopped.IsZero() {
		e.stopped, e.changed = now, true
	}
	for _, p := range Purposes() {
		if e.pending(p) { // it has signed nothing
			e.keys[p] = e.keys[p][:len(e.keys[p])-1]
			e.changed = true
		}
		e.forget(p)
	}
	if e.count() == 0 {
		e.stopped = time.Time{}
	}
	return e.done(r)
}

// edition is a ring while it is being changed.
type edition struct {
	keys    map[Purpose][]*key
	stopped time.Time
	// withdrawn is the ring's, and what this edition adds.
	withdrawn []string
	now       time.Time
	changed   bool
	err       error
}

func (r *Ring) edit(now time.Time) *edition {
	e := &edition{keys: map[Purpose][]*key{}, stopped: r.stopped, withdrawn: slices.Clone(r.withdrawn), now: now}
	for p, list := range r.keys {
		e.keys[p] = slices.Clone(list)
	}
	return e
}

func (e *edition) done(before *Ring) (*Ring, bool, error) {
	if e.err != nil || !e.changed {
		return before, false, e.err
	}
	next, err := build(e.keys, e.stopped, e.withdrawn)
	return next, err == nil, err
}

func (e *edition) count() int {
	count := 0
	for _, list := range e.keys {
		count += len(list)
	}
	return count
}

// resume takes a stop back, after what it retired is forgotten.
func (e *edition) resume() {
	if e.stopped.IsZero() {
		return
	}
	for _, p := range Purposes() {
		e.forget(p)
	}
	e.stopped, e.changed = time.Time{}, true
}

// meet brings the keys of the purpose up to the terms without making new ones.
func (e *edition) meet(p Purpose, t Terms) {
	e.forget(p)
	list := e.keys[p]
	if last := len(list) - 1; e.pending(p) && list[last].alg.String() != t.Algorithm {
		list, e.changed = list[:last], true // it has signed nothing
	}
	for i, k := range list {
		signsNoMore := i+1 < len(list) && !e.now.Before(list[i+1].activeFrom)
		if !signsNoMore && k.longestLife < t.LongestLife {
			raised := *k
			raised.longestLife = t.LongestLife
			list[i], e.changed = &raised, true
		}
	}
	e.keys[p] = list
}

// pending reports whether the newest key does not sign yet. The only key does, even
// if the clock says otherwise: it went back.
func (e *edition) pending(p Purpose) bool {
	list := e.keys[p]
	return len(list) > 1 && e.now.Before(list[len(list)-1].activeFrom)
}

// forget drops retired keys, the oldest first.
func (e *edition) forget(p Purpose) {
	list := e.keys[p]
	for len(list) > 0 {
		if until := e.until(list, 0); until.IsZero() || !e.now.After(until) {
			break
		}
		list, e.changed = list[1:], true
	}
	e.keys[p] = list
}

func (e *edition) until(list []*key, i int) time.Time { return until(list, i, e.stopped) }

func (e *edition) add(p Purpose, t Terms, activeFrom time.Time) {
	k, err := generate(p, t, activeFrom)
	if err != nil {
		e.err = err
		return
	}
	e.keys[p] = append(e.keys[p], k)
	e.changed = true
}

// due reports whether the newest key needs a successor now for it to take over in
// time.
func (k *key) due(now time.Time, t Terms) bool {
	return k.alg.String() != t.Algorithm || !now.Before(k.activeFrom.Add(t.Period-Lead))
}

// until is how long the key at i stays published: what it signed last, just before
// its successor took over or the ring was stopped, may live that long. Zero is
// without an end.
func until(list []*key, i int, stopped time.Time) time.Time {
	end := stopped
	if i+1 < len(list) {
		end = list[i+1].activeFrom
	}
	if end.IsZero() {
		return end
	}
	return end.Add(list[i].longestLife + Grace)
}

// published are the keys that are in the set now, by purpose and age.
func (r *Ring) published(now time.Time) []*key {
	var all []*key
	for _, p := range Purposes() {
		list := r.keys[p]
		for i, k := range list {
			if end := until(list, i, r.stopped); end.IsZero() || !now.After(end) {
				all = append(all, k)
			}
		}
	}
	return all
}

// active is the key of the purpose that signs now, or nil. If the clock has gone back to
// before any of them signed, it is the oldest one, which has signed already.
func (r *Ring) active(p Purpose, now time.Time) *key {
	list := r.keys[p]
	if len(list) == 0 || !r.stopped.IsZero() {
		return nil
	}
	for _, k := range slices.Backward(list) {
		if !now.Before(k.activeFrom) {
			return k
		}
	}
	return list[0]
}
