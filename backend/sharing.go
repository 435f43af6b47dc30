package backend

import (
	"context"
	"errors"
	"maps"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"golang.org/x/sync/singleflight"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/downstream"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/ending"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
)

// With sharing=entity one child serves one entity's identical requests. Each of them
// gets a lease of its own, whose share is on the grant's record; the child dies with
// the last of them. The shares are a set, so Vault may repeat the end of a lease.
//
// Which children can be joined is in memory only, together with their tokens: after
// a restart the next request mints anew, and the shares on record still end the
// former child. A grant whose child can be joined is changed under its share's lock
// from the copy in memory, which saves a read of storage on every request
// ("sharing=entity" of make bench). The ledger's hold on it, which begins before the
// grant is on record, sees to it that nothing is undone by that: once anybody else has
// changed the grant, or wants its child dead, it cannot be joined any more.

const (
	// maxShares bounds the shares of one child, and so the size of its record.
	maxShares = 128
	// maxShared bounds how many children can be joined, and so what they hold in memory.
	maxShared = 4096
	// maxJoins bounds how often a request finds a child that ends before it joined;
	// then it gets one of its own.
	maxJoins = 5
)

var (
	// errShareOver means that a child cannot be joined any more.
	errShareOver = errors.New("the shared token cannot be joined any more")
	// errLastShare means that nobody is left to whom the child belongs.
	errLastShare = errors.New("the last share of the token has ended")
	// errUnwritten means that whoever had to write a change has not come to its end.
	errUnwritten = errors.New("the lease may not be on record")
	// errSame means that a grant is as it should be already.
	errSame = errors.New("there is nothing to change")
)

// sharedChild is a child that further requests may join.
//
// What several want to change of its record at once is written at once: whoever comes
// while a write is under way waits for it, and goes with all others who wait for it into
// the next one. So a child that many ask for at the same time costs a write for each round
// of storage, and one that nobody else asks for a write for each lease.
type sharedChild struct {
	key, id    string
	child      *provider.Child
	unverified []string
	ledger     *grant.Ledger
	hold       *grant.Hold

	mu   sync.Mutex
	next *batch // for the next write; nil if nobody waits

	writing sync.Mutex // over storage, never over a provider's call
	grant   *grant.Grant
	joined  int64 // how many leases there were
	closed  bool
}

// batch is what one write carries.
type batch struct {
	changes []*change
	done    chan struct{}
}

// change is what one of them wants of the grant. Its edit is called once, by whoever
// writes; one that returns an error has left the grant as it was.
type change struct {
	edit func(*grant.Grant) error
	err  error // to be read when the batch is done; errUnwritten until more is known
}

// change alters the grant as one step towards all others who share it, and returns when
// that is on record. An edit that refuses is left out of the write alone; a write that
// fails fails for all who are in it, who do not know then what is on record.
func (s *sharedChild) change(ctx context.Context, edit func(*grant.Grant) error) error {
	mine := &change{edit: edit, err: errUnwritten}
	b, first := s.enter(mine)
	if first {
		s.write(context.WithoutCancel(ctx), b) // it is the others' too
	}
	<-b.done
	return mine.err
}

// enter takes a change into the next write. Whoever is the first of that has to do it.
func (s *sharedChild) enter(c *change) (b *batch, first bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if first = s.next == nil; first {
		s.next = &batch{done: make(chan struct{})}
	}
	s.next.changes = append(s.next.changes, c)
	return s.next, first
}

// write writes a batch when the one before it is written; whoever comes later is too late
// for it.
func (s *sharedChild) write(ctx context.Context, b *batch) {
	s.writing.Lock()
	defer s.writing.Unlock()
	defer close(b.done)
	s.mu.Lock()
	s.next = nil
	s.mu.Unlock()
	after := s.grant.Clone()
	in, differs := s.edit(after, b.changes)
	var err error
	if differs {
		err = s.ledger.Rewrite(ctx, s.hold, s.grant, after)
	}
	switch {
	case err == nil:
		s.grant = after
	case errors.Is(err, grant.ErrChanged):
		s.closed, err = true, errShareOver
	}
	for _, c := range in {
		c.err = err
	}
}

// edit makes the changes of the grant. It returns those that have to be on record for
// their answer, and whether there is anything to write.
func (s *sharedChild) edit(g *grant.Grant, changes []*change) (in []*change, differs bool) {
	for _, c := range changes {
		if s.closed {
			c.err = errShareOver
			continue
		}
		switch err := c.edit(g); {
		case err == nil:
			in, differs = append(in, c), true
		case errors.Is(err, errSame):
			in = append(in, c)
		default:
			c.err = err
			s.closed = errors.Is(err, errLastShare)
		}
	}
	return in, differs
}

// name is the next share's. A child is joined by nobody but this process, so none is
// given twice. The caller is an edit.
func (s *sharedChild) name() string {
	s.joined++
	return grant.ShareName(s.joined)
}

// close keeps everybody from joining, and waits for who is joining now.
func (s *sharedChild) close() {
	s.ledger.EndHold(s.id)
	s.writing.Lock()
	defer s.writing.Unlock()
	s.closed = true
}

// shares are the children that can be joined. It is safe for concurrent use.
type shares struct {
	flights singleflight.Group

	mu    sync.Mutex
	byKey map[string]*sharedChild
	byID  map[string]*sharedChild
}

func newShares() *shares {
	return &shares{byKey: map[string]*sharedChild{}, byID: map[string]*sharedChild{}}
}

// find is the child for key that lives at least until; nil if there is none.
func (h *shares) find(key string, until time.Time) *sharedChild {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.byKey[key]
	if s == nil || !s.child.ExpiresAt.IsZero() && s.child.ExpiresAt.Before(until) {
		return nil
	}
	return s
}

func (h *shares) of(id string) *sharedChild {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.byID[id]
}

// put lets others join s. What it takes the place of cannot be joined any more.
func (h *shares) put(s *sharedChild) {
	h.mu.Lock()
	former := h.byKey[s.key]
	if former == nil && len(h.byKey) >= maxShared {
		for _, former = range h.byKey {
			break
		}
	}
	if former != nil {
		h.forgetLocked(former)
	}
	h.byKey[s.key], h.byID[s.id] = s, s
	h.mu.Unlock()
	if former != nil {
		former.close()
	}
}

func (h *shares) forgetLocked(s *sharedChild) {
	delete(h.byID, s.id)
	if h.byKey[s.key] == s {
		delete(h.byKey, s.key)
	}
}

// close keeps everybody from joining the grant's child: it is to die.
func (h *shares) close(id string) {
	h.mu.Lock()
	s := h.byID[id]
	if s != nil {
		h.forgetLocked(s)
	}
	h.mu.Unlock()
	if s != nil {
		s.close()
	}
}

// closeAll is for when another node has changed the records.
func (h *shares) closeAll() {
	h.mu.Lock()
	all := maps.Clone(h.byID)
	h.mu.Unlock()
	for id := range all {
		h.close(id)
	}
}

// share serves a request by a child that the entity's identical requests share, and
// mints one where there is none that lives long enough. Requests that come together
// wait for one mint.
func (b *broker) share(ctx context.Context, d *decided, key string) (*logical.Response, error) {
	for range maxJoins {
		s := b.shares.find(key, b.now().Add(d.Lifetime.TTL))
		if s == nil {
			var err error
			if s, err = b.mintShared(ctx, d, key); err != nil {
				return nil, err
			}
		}
		resp, err := b.join(ctx, d, s)
		if !errors.Is(err, errShareOver) {
			return resp, err
		}
		b.shares.close(s.id) // if it is full, the next one is another
	}
	return b.unshared(ctx, d)
}

// mintShared mints once for all who ask for the same at the same time.
func (b *broker) mintShared(ctx context.Context, d *decided, key string) (*sharedChild, error) {
	minted := b.shares.flights.DoChan(key+d.Lifetime.TTL.String(), func() (any, error) {
		// Whoever looked before the last flight's child was there comes here after it.
		if s := b.shares.find(key, b.now().Add(d.Lifetime.TTL)); s != nil {
			return s, nil
		}
		// Nobody's hanging up takes the child from the others.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), downstream.MaxPatience+downstream.MintBudget)
		defer cancel()
		made, err := b.mintGrant(ctx, d, true)
		if err != nil {
			return nil, err // and with the grant the hold is gone
		}
		s := &sharedChild{
			key: key, id: made.grant.ID, child: made.child, grant: made.grant, unverified: made.unverified,
			ledger: b.ledger, hold: made.hold,
		}
		b.shares.put(s)
		return s, nil
	})
	select {
	case result := <-minted:
		s, _ := result.Val.(*sharedChild) // none beside an error
		return s, result.Err
	case <-ctx.Done():
		return nil, hungUp()
	}
}

// join gives the request a lease of its own on the child.
func (b *broker) join(ctx context.Context, d *decided, s *sharedChild) (*logical.Response, error) {
	now := b.now()
	joined := *d
	decision := *d.Decision
	joined.Decision = &decision
	// Whoever waited for a mint has a subject token that is older by that.
	if d.subject != nil {
		joined.Lifetime = d.Lifetime.Until(now, d.subject.ExpiresAt, "subject")
	}
	if joined.Lifetime.TTL < time.Second {
		return nil, errSubjectExpired
	}
	joined.Lifetime = joined.Lifetime.Until(now, s.child.ExpiresAt, "token")
	if joined.Lifetime.TTL < time.Second {
		return nil, errShareOver
	}
	ends := now.Add(joined.Lifetime.TTL)
	asks := ctx
	ctx = context.WithoutCancel(ctx)
	var share string
	var g *grant.Grant
	err := s.change(ctx, func(changed *grant.Grant) error {
		if len(changed.Shares) >= maxShares {
			return errShareOver
		}
		share, g = s.name(), changed
		changed.SetShare(share, ends)
		return nil
	})
	if errors.Is(err, errShareOver) {
		return nil, err
	}
	if err != nil {
		return nil, stored.Fault(err)
	}
	err = b.stillServed(ctx, d, g)
	if err == nil && asks.Err() != nil { // nobody has the lease, so that nobody ends it
		err = hungUp()
	}
	if err != nil {
		return nil, errors.Join(err, b.endShare(ctx, g.ID, share))
	}
	b.meters.joined.WithLabelValues(g.Provider, g.Role).Inc()
	resp := b.answerChild(&joined, &minted{child: s.child, grant: g, unverified: s.unverified})
	resp.Secret.InternalData["share"] = share
	return resp, nil
}

// endShare ends one lease's share, and the child with the last one.
func (b *broker) endShare(ctx context.Context, id, share string) error {
	err := b.changeShared(ctx, id, func(g *grant.Grant) error {
		has := g.HasShare(share)
		switch {
		case len(g.Shares) == 0, has && len(g.Shares) == 1:
			return errLastShare
		case !has:
			return errSame
		}
		g.EndShare(share)
		return nil
	})
	switch {
	case errors.Is(err, grant.ErrGone):
		return nil
	case errors.Is(err, errLastShare):
		return b.killer.Kill(ctx, id, ending.CauseLeaseEnded)
	case err != nil:
		return stored.Fault(err)
	}
	return nil
}

// changeShared alters a grant's record, by way of what is in memory of it if its
// child can be joined.
func (b *broker) changeShared(ctx context.Context, id string, edit func(*grant.Grant) error) error {
	if s := b.shares.of(id); s != nil {
		if err := s.change(ctx, edit); !errors.Is(err, errShareOver) {
			return err
		}
	}
	_, err := b.ledger.Update(ctx, id, edit)
	if errors.Is(err, errSame) {
		return nil
	}
	return err
}
