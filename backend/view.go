package backend

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
)

// recentFor is how long what Vault says of the mount and of this node is believed.
// Each answer costs a call over Vault's plugin protocol, and an issue wants four of
// them: the framework asks whether this node may serve, the decision how long a lease
// may be. They were two thirds of an issue's calls ("jwt" of make bench). Core itself
// applies a tuned limit to the lease at once, and a node that becomes the active one
// makes its engines anew; what one that cannot write any more has minted meanwhile is
// killed, because its record finds storage closed.
const recentFor = 5 * time.Second

// recentView is Vault's side of a mount. It is safe for concurrent use.
type recentView struct {
	logical.SystemView
	now func() time.Time

	defaultTTL, maxTTL recent[time.Duration]
	replication        recent[consts.ReplicationState]
	local              recent[bool]
}

// Setup implements logical.Backend.
func (b *broker) Setup(ctx context.Context, conf *logical.BackendConfig) error {
	ours := *conf
	if conf.System != nil {
		ours.System = &recentView{SystemView: conf.System, now: b.now}
	}
	return b.Backend.Setup(ctx, &ours)
}

// DefaultLeaseTTL implements logical.SystemView; 0 if Vault did not say.
func (v *recentView) DefaultLeaseTTL() time.Duration {
	return v.defaultTTL.get(v.now(), v.SystemView.DefaultLeaseTTL, positive)
}

// MaxLeaseTTL implements logical.SystemView; 0 if Vault did not say.
func (v *recentView) MaxLeaseTTL() time.Duration {
	return v.maxTTL.get(v.now(), v.SystemView.MaxLeaseTTL, positive)
}

func positive(d time.Duration) bool { return d > 0 }

// ReplicationState implements logical.SystemView; consts.ReplicationUnknown if Vault
// did not say.
func (v *recentView) ReplicationState() consts.ReplicationState {
	return v.replication.get(v.now(), v.SystemView.ReplicationState, func(s consts.ReplicationState) bool {
		return s != consts.ReplicationUnknown
	})
}

// LocalMount implements logical.SystemView; false also if Vault did not say, which
// serves nothing that should not be served.
func (v *recentView) LocalMount() bool {
	return v.local.get(v.now(), v.SystemView.LocalMount, func(bool) bool { return true })
}

// isFresh reports whether an answer that is believed for age, until then, still is. A
// clock that goes back makes nothing last longer.
func isFresh(until time.Time, age time.Duration, now time.Time) bool {
	return now.Before(until) && !until.After(now.Add(age))
}

// recent is one answer of Vault's. A call over the plugin protocol that failed gives
// the zero value: answered tells it from an answer, if that can be told, and it is
// passed on, not kept.
type recent[T any] struct {
	mu    sync.Mutex
	value T
	until time.Time
}

func (r *recent[T]) get(now time.Time, ask func() T, answered func(T) bool) T {
	r.mu.Lock()
	value, fresh := r.value, isFresh(r.until, recentFor, now)
	r.mu.Unlock()
	if fresh {
		return value
	}
	value = ask()
	if answered(value) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.value, r.until = value, now.Add(recentFor)
	}
	return value
}
