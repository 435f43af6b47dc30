package ending

import (
	"sync"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
)

// queue knows the grants that the runs have found and have yet to try. It is safe for
// concurrent use.
type queue struct {
	mu      sync.Mutex
	grants  map[string]int // by id; how many runs have it
	waiting map[string]int // by provider; how many wait there
}

func newQueue() *queue {
	return &queue{grants: map[string]int{}, waiting: map[string]int{}}
}

// add notes that so many more runs have the grant, or with -1 one less.
func (q *queue) add(s *grant.Summary, delta int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.grants[s.ID] += delta; q.grants[s.ID] == 0 {
		delete(q.grants, s.ID)
	}
	if q.waiting[s.Provider] += delta; q.waiting[s.Provider] == 0 {
		delete(q.waiting, s.Provider)
	}
}

// full reports whether so many of a provider's grants wait that the sweep adds no more:
// they are due again with the next one.
func (q *queue) full(ref string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.waiting[ref] >= maxQueued
}

// has reports whether a run has the grant already.
func (q *queue) has(id string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.grants[id] > 0
}

// len is how many grants the runs have yet to try.
func (q *queue) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.grants)
}
