package backend

import (
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// limitsAge is how long the mount's lease limits are believed. Asking costs two
// calls over Vault's plugin protocol, a third of all that an issue makes ("oauth2"
// of make bench); core itself applies a tuned limit to the lease at once.
const limitsAge = 5 * time.Second

// leaseLimits are the mount's default and maximal lease as Vault last told them.
// It is safe for concurrent use.
type leaseLimits struct {
	mu         sync.Mutex
	ttl, most  time.Duration
	askedUntil time.Time
}

// get asks Vault, or remembers. Over the plugin protocol the answer to a failed
// call is 0: that is passed on, so that nothing is granted on it, and not kept.
func (l *leaseLimits) get(system logical.SystemView, now time.Time) (ttl, most time.Duration) {
	l.mu.Lock()
	ttl, most = l.ttl, l.most
	fresh := now.Before(l.askedUntil) && !l.askedUntil.After(now.Add(limitsAge)) // a clock may go back
	l.mu.Unlock()
	if fresh {
		return ttl, most
	}
	ttl, most = system.DefaultLeaseTTL(), system.MaxLeaseTTL()
	if ttl <= 0 || most <= 0 {
		return 0, 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ttl, l.most, l.askedUntil = ttl, most, now.Add(limitsAge)
	return ttl, most
}
