package backend

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/person"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/subject"
)

const (
	logoffPrefix = "logoff/"
	// mostLogoffs bounds memory and storage.
	mostLogoffs = 100_000
)

// logoff says that tokens about somebody that were issued up to a moment are taken no more.
type logoff struct {
	UpTo time.Time `json:"up_to"`
	// Until is when all of those have expired.
	Until time.Time `json:"until"`
}

// logoffs keep a kill on the word of a security event from being undone by whoever still has
// a token of the session that has ended: it verifies until it expires. They are by what
// the event names somebody by, and all in memory, where each exchange looks. It is safe for
// concurrent use.
type logoffs struct {
	kept *stored.Keeper[logoff]
	now  func() time.Time

	loading sync.Mutex // one reader of storage at a time

	mu     sync.Mutex
	loaded bool
	// generation counts what another node has written: what was read before is not kept.
	generation uint64
	by         map[string]logoff
}

func newLogoffs(storage logical.Storage, now func() time.Time) *logoffs {
	l := &logoffs{kept: stored.NewKeeper(storage, logoffPrefix, stored.KindOf[logoff](form.Kind{Name: "end of a session"})), now: now, by: map[string]logoff{}}
	l.kept.OnChange(func(string) { l.forget() })
	return l
}

// Invalidate makes what another node has written be read again.
func (l *logoffs) Invalidate(key string) bool { return l.kept.Invalidate(key) }

func (l *logoffs) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.loaded = false
	l.generation++
}

// logoffKey is where what ties somebody is kept.
func logoffKey(t person.Tie) string {
	key := t.Key()
	return eventKey(string(key[:]))
}

// add takes tokens about whoever has the tie no more, if they were issued up to a moment.
// It is durable when it returns. full reports that there are too many already.
func (l *logoffs) add(ctx context.Context, tie person.Tie, upTo, until time.Time) (full bool, err error) {
	if err := l.load(ctx); err != nil {
		return false, err
	}
	key := logoffKey(tie)
	l.mu.Lock()
	before, known := l.by[key]
	full = !known && len(l.by) >= mostLogoffs
	l.mu.Unlock()
	if full || known && !upTo.After(before.UpTo) && !until.After(before.Until) {
		return full, nil
	}
	var after logoff
	err = l.kept.ChangeQuietly(ctx, key, func(before *logoff) (*logoff, error) {
		after = logoff{UpTo: upTo, Until: until}
		if before != nil {
			after = logoff{UpTo: later(upTo, before.UpTo), Until: later(until, before.Until)}
		}
		return &after, nil
	})
	if err != nil {
		l.forget() // it may have been written all the same
		return false, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.by[key] = after
	return false, nil
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// check says which of the tokens are of a session that has ended.
func (l *logoffs) check(ctx context.Context, tokens ...*subject.Token) (reasons []*fault.Error, err error) {
	for _, t := range tokens {
		if t == nil {
			continue
		}
		if err := l.load(ctx); err != nil {
			return nil, err
		}
		if l.ended(t) {
			reasons = append(reasons, fault.New(fault.InvalidGrant, "the session that the token is of has ended, as the issuer's security events say: log in again, and bring a token that was issued since"))
		}
	}
	return reasons, nil
}

func (l *logoffs) ended(t *subject.Token) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.by) == 0 {
		return false
	}
	for _, tie := range append([]person.Tie{person.Subject(t.Issuer, t.Subject)}, t.Person...) {
		// A token that does not say when it was issued may be of before.
		if off, known := l.by[logoffKey(tie)]; known && !t.IssuedAt.After(off.UpTo) {
			return true
		}
	}
	return false
}

// load reads what is stored, once.
func (l *logoffs) load(ctx context.Context) error {
	l.mu.Lock()
	loaded := l.loaded
	l.mu.Unlock()
	if loaded {
		return nil
	}
	l.loading.Lock()
	defer l.loading.Unlock()
	l.mu.Lock()
	loaded, generation := l.loaded, l.generation
	l.mu.Unlock()
	if loaded {
		return nil
	}
	keys, err := l.kept.List(ctx, "")
	if err != nil {
		return err
	}
	by := make(map[string]logoff, len(keys))
	for _, key := range keys {
		off, err := l.kept.Get(ctx, key)
		switch {
		case errors.Is(err, stored.ErrAbsent):
		case stored.Unreadable(err): // somebody's session has ended, and nobody knows until when
			by[key] = logoff{UpTo: l.now(), Until: l.now().Add(subject.DefaultMaxLifetime)}
		case err != nil:
			return err
		default:
			by[key] = *off
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for key, off := range l.by { // what was added while it was read; the sweep forgets what is over
		if read, known := by[key]; !known || off.UpTo.After(read.UpTo) {
			by[key] = off
		}
	}
	l.by = by
	l.loaded = l.generation == generation
	return nil
}

// sweep forgets what no token is of any more, as far as ctx allows.
func (l *logoffs) sweep(ctx context.Context) error {
	if err := l.load(ctx); err != nil {
		return err
	}
	now := l.now()
	var over []string
	l.mu.Lock()
	for key, off := range l.by {
		if now.After(off.Until) {
			over = append(over, key)
		}
	}
	l.mu.Unlock()
	for _, key := range over {
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the slice is over, the next sweep goes on
		}
		err := l.kept.ChangeQuietly(ctx, key, func(before *logoff) (*logoff, error) {
			if before != nil && !now.After(before.Until) {
				return nil, stored.ErrUnchanged
			}
			return nil, nil
		})
		if err != nil && !stored.Unreadable(err) {
			return err
		}
		l.mu.Lock()
		delete(l.by, key)
		l.mu.Unlock()
	}
	return nil
}
