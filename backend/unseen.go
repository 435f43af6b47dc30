package backend

import (
	"maps"
	"sync"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
)

// maxUnseen bounds the requests that are remembered, unseenFor for how long: core may refuse
// one in between, and it never comes.
const (
	maxUnseen = 1000
	unseenFor = 5 * time.Minute
)

var errUnseen = fault.New(fault.TemporarilyUnavailable, "it could not be seen whether this is there already: Vault's storage failed, try again")

// unseen are the requests of which it could not be seen whether what they write is there.
// It is safe for concurrent use.
type unseen struct {
	mu  sync.Mutex
	ids map[string]time.Time
}

// note remembers a request by its id, if it has one and there is room.
func (u *unseen) note(id string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.ids) >= maxUnseen {
		maps.DeleteFunc(u.ids, func(_ string, at time.Time) bool { return time.Since(at) > unseenFor })
	}
	if id == "" || len(u.ids) >= maxUnseen {
		return false
	}
	if u.ids == nil {
		u.ids = map[string]time.Time{}
	}
	u.ids[id] = time.Now()
	return true
}

// take reports whether the request is one of them, and forgets it.
func (u *unseen) take(id string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	_, found := u.ids[id]
	delete(u.ids, id)
	return found
}
