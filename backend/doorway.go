package backend

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
)

// The time that a mint may take, from its place before the provider until its child is
// on record or dead. Vault gives a mount that is being disabled one last run of 90 s:
// who closes the mount to mints and waits that long has seen the end of each.
const (
	// mintBudget bounds the calls (token, introspection, keys).
	mintBudget = 45 * time.Second
	// settleBudget bounds what comes then: the record, or the kill.
	settleBudget = 20 * time.Second
	// drainBudget is how long is waited for the mints under way. The rest is for a
	// parent that must be stored although the calls took all of their time.
	drainBudget = mintBudget + settleBudget + 15*time.Second
	// haltBudget takes its place where the records stay, and Vault waits: a seal, a
	// failover or a reload must not hang on a provider that is slow.
	haltBudget = 10 * time.Second
)

// doorway is through which every mint of the mount goes, whatever its provider. When
// the mount is disabled or moved, or its process ends, it is closed, and whoever
// closed it can wait until all are out. It is safe for concurrent use.
type doorway struct {
	mu       sync.Mutex
	inside   map[string]int // mints under way by provider
	count    int
	closed   bool
	closedAt time.Time    // by the process's own clock: it bounds a wait
	ended    bool         // it stays closed
	asked    recent[bool] // whether the mount is tainted
	// empty is closed when the last one leaves; nil while nobody waits for that.
	empty chan struct{}
}

func newDoorway() *doorway { return &doorway{inside: map[string]int{}} }

// enter lets a mint begin, unless the doorway is closed. It is followed by leave.
func (d *doorway) enter(ref string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return false
	}
	d.inside[ref]++
	d.count++
	return true
}

func (d *doorway) leave(ref string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.inside[ref]--
	d.count--
	if d.count == 0 && d.empty != nil {
		close(d.empty)
		d.empty = nil
	}
}

// close lets no further mint begin; for good if this engine ends.
func (d *doorway) close(forGood bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.closed {
		d.closedAt = time.Now()
	}
	d.closed, d.ended = true, d.ended || forGood
}

// open lets mints begin again, unless this engine has ended: the mount stays.
func (d *doorway) open() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = d.ended
}

func (d *doorway) state() (closed, ended bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.closed, d.ended
}

// busy is how many mints are under way.
func (d *doorway) busy() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.count
}

// drain waits until no mint is under way, until budget after the closing: what began
// before that has ended by then, or never will within anybody's patience.
func (d *doorway) drain(ctx context.Context, budget time.Duration) (empty bool) {
	d.mu.Lock()
	if d.count == 0 {
		d.mu.Unlock()
		return true
	}
	if d.empty == nil {
		d.empty = make(chan struct{})
	}
	out, left := d.empty, budget-time.Since(d.closedAt)
	d.mu.Unlock()
	timer := time.NewTimer(max(left, 0))
	defer timer.Stop()
	select {
	case <-out:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	return d.busy() == 0
}

// whereabouts says in words where mints are under way.
func (d *doorway) whereabouts() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var at []string
	for _, ref := range slices.Sorted(maps.Keys(d.inside)) {
		if n := d.inside[ref]; n > 0 {
			at = append(at, fmt.Sprintf("%d at %s", n, ref))
		}
	}
	return strings.Join(at, ", ")
}

var errLeaving = fault.New(fault.TemporarilyUnavailable, "the mount is being disabled or moved, or this process of it ends: no token is minted")

// leaving reports whether the mount is being disabled or moved, as Vault has just said:
// every end of a lease wants to know.
func (b *broker) leaving() bool {
	closed, _ := b.door.state()
	return closed || b.door.asked.get(b.now(), b.System().Tainted, func(tainted bool) bool { return !tainted })
}

// comeIn lets a mint begin. A closed doorway is opened by the first who finds that
// Vault keeps the mount: one that was moved is never told so.
func (b *broker) comeIn(ref string) error {
	if b.door.enter(ref) {
		return nil
	}
	if _, ended := b.door.state(); ended || b.System().Tainted() {
		return errLeaving
	}
	b.door.open()
	if !b.door.enter(ref) {
		return errLeaving
	}
	return nil
}
