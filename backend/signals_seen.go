package backend

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/signal"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
)

const (
	// seenPrefix is where the events that were handled are remembered, by pages of some
	// hundred: one entry for all would grow beyond what storage takes, and one for each
	// would be a list of as many.
	seenPrefix = "signal-seen/"
	// seenPerPage and seenPages bound what is remembered of one signal. What is forgotten
	// before its time, the oldest, would be handled a second time if it came again.
	seenPerPage = 400
	seenPages   = 250
)

// seenPage is until when some events are remembered, by a hash of their jti, as Unix times.
type seenPage struct {
	Until map[string]int64 `json:"until"`
}

// seenEvents is the memory of the events that were handled: durable, so that one that is
// delivered again after a crash or a change of leader is not handled again. It is safe for
// concurrent use.
type seenEvents struct {
	pages *stored.Keeper[seenPage]
	now   func() time.Time

	mu sync.Mutex // over storage too: who remembers must not miss who forgets
	by map[string]*seenOf
}

// seenOf is what is in memory of one signal.
type seenOf struct {
	until map[string]int64
	pages []string // by age
	sizes map[string]int
}

func newSeenEvents(storage logical.Storage, now func() time.Time) *seenEvents {
	kind := stored.KindOf[seenPage](form.Kind{Name: "memory of security events"})
	return &seenEvents{pages: stored.NewKeeper(storage, seenPrefix, kind), now: now, by: map[string]*seenOf{}}
}

// seenOfSignal is one signal's memory. It implements signal.Memory.
type seenOfSignal struct {
	*seenEvents
	name string
}

func (s *seenEvents) of(name string) seenOfSignal { return seenOfSignal{s, name} }

// Knows implements signal.Memory.
func (s seenOfSignal) Knows(ctx context.Context, id string) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, err := s.load(ctx, s.name)
	if err != nil {
		return false, err
	}
	until, seen := m.until[eventKey(id)]
	return seen && until >= s.now().Unix(), nil
}

// Remember implements signal.Memory.
func (s seenOfSignal) Remember(ctx context.Context, handled []signal.Handled) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, err := s.load(ctx, s.name)
	if err != nil {
		return err
	}
	for some := range slices.Chunk(handled, seenPerPage) {
		if err := s.write(ctx, m, some); err != nil {
			delete(s.by, s.name) // what has been written of it is read again
			return err
		}
	}
	_ = s.tidy(ctx, m) // what is too old is deleted with the next ones
	return nil
}

// write adds to the last page, or begins another. The caller holds mu.
func (s seenOfSignal) write(ctx context.Context, m *seenOf, handled []signal.Handled) error {
	page := ""
	if n := len(m.pages); n > 0 && m.sizes[m.pages[n-1]]+len(handled) <= seenPerPage {
		page = m.pages[n-1]
	}
	begun := page == ""
	if begun {
		page = fmt.Sprintf("%s/%020d", s.name, s.now().UnixNano())
		for slices.Contains(m.pages, page) {
			page += "+"
		}
	}
	size := 0
	err := s.pages.ChangeQuietly(ctx, page, func(before *seenPage) (*seenPage, error) {
		after := &seenPage{Until: map[string]int64{}}
		if before != nil {
			for key, until := range before.Until {
				after.Until[key] = until
			}
		}
		for _, h := range handled {
			after.Until[eventKey(h.ID)] = h.Until.Unix()
		}
		size = len(after.Until)
		return after, nil
	})
	if err != nil {
		return err
	}
	if begun {
		m.pages = append(m.pages, page)
	}
	m.sizes[page] = size
	for _, h := range handled {
		m.until[eventKey(h.ID)] = h.Until.Unix()
	}
	return nil
}

// tidy deletes the pages of which all is past its time, and the oldest of too many. The
// caller holds mu.
func (s seenOfSignal) tidy(ctx context.Context, m *seenOf) error {
	if len(m.pages) == 0 {
		return nil
	}
	oldest := m.pages[0]
	over := len(m.pages) > seenPages
	if !over && len(m.pages) < 2 {
		return nil
	}
	page, err := s.pages.Get(ctx, oldest)
	if err != nil && !stored.Unreadable(err) {
		return err
	}
	if err == nil && !over {
		now := s.now().Unix()
		for _, until := range page.Until {
			if until >= now {
				return nil
			}
		}
	}
	if err := s.pages.Delete(ctx, oldest); err != nil {
		return err
	}
	if page != nil {
		for key := range page.Until {
			delete(m.until, key)
		}
	}
	m.pages = m.pages[1:]
	delete(m.sizes, oldest)
	return nil
}

// load is what is remembered of a signal, read once. The caller holds mu.
func (s *seenEvents) load(ctx context.Context, name string) (*seenOf, error) {
	if m := s.by[name]; m != nil {
		return m, nil
	}
	names, err := s.pages.List(ctx, name+"/")
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	m := &seenOf{until: map[string]int64{}, sizes: map[string]int{}}
	for _, n := range names {
		key := name + "/" + n
		page, err := s.pages.Get(ctx, key)
		if stored.Unreadable(err) {
			continue // what it held is handled a second time if it comes again
		}
		if err != nil {
			return nil, err
		}
		m.pages = append(m.pages, key)
		m.sizes[key] = len(page.Until)
		for id, until := range page.Until {
			m.until[id] = until
		}
	}
	s.by[name] = m
	return m, nil
}

// forget deletes the memory of a signal that is no more.
func (s *seenEvents) forget(ctx context.Context, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.by, name)
	names, err := s.pages.List(ctx, name+"/")
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := s.pages.Delete(ctx, name+"/"+n); err != nil {
			return err
		}
	}
	return nil
}

// Invalidate drops what is in memory of a page that another node has written.
func (s *seenEvents) Invalidate(key string) bool {
	rest, ok := strings.CutPrefix(key, seenPrefix)
	if !ok {
		return false
	}
	name, _, _ := strings.Cut(rest, "/")
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.by, name)
	return true
}

// eventKey is a jti as it is kept: it may be long, and is somebody else's text.
func eventKey(id string) string {
	sum := sha256.Sum256([]byte(id))
	return base64.RawURLEncoding.EncodeToString(sum[:16])
}
