package downstream

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
	// MintBudget bounds the calls (token, introspection, keys).
	MintBudget = 45 * time.Second
	// SettleBudget bounds what comes then: the record, or the kill.
	SettleBudget = 20 * time.Second
	// DrainBudget is how long the end of a mount waits for the mints under way. Beside
	// their two budgets there is time to store a parent that was replaced by a call which
	// took all of its own.
	DrainBudget = MintBudget + SettleBudget + 15*time.Second
	// HaltBudget is the same where the records stay, and Vault waits: a seal, a failover or
	// a reload must not hang on a provider that is slow.
	HaltBudget = 10 * time.Second
)

// Door counts the mints of the mount, whatever their provider. When the mount is disabled
// or moved, or its process ends, it is closed: no mint begins any more, and whoever closed
// it can wait until none is under way. It is safe for concurrent use.
type Door struct {
	mu       sync.Mutex
	inside   map[string]int // mints under way by provider
	count    int
	closed   bool
	closedAt time.Time // by the process's own clock: it bounds a wait
	ended    bool      // it stays closed
	keptAt   time.Time // when Vault last said that the mount stays
	// empty is closed when the last one leaves; nil while nobody waits for that.
	empty chan struct{}

	now     func() time.Time
	tainted func() bool // by Vault, at this moment
}

func newDoor(now func() time.Time, tainted func() bool) *Door {
	return &Door{inside: map[string]int{}, now: now, tainted: tainted}
}

// enter lets a mint begin, unless the door is closed. It is followed by leave.
func (d *Door) enter(ref string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return false
	}
	d.inside[ref]++
	d.count++
	return true
}

func (d *Door) leave(ref string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.inside[ref]--
	d.count--
	if d.count == 0 && d.empty != nil {
		close(d.empty)
		d.empty = nil
	}
}

// Close lets no further mint begin; for good if this engine ends.
func (d *Door) Close(forGood bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.closed {
		d.closedAt = time.Now()
	}
	d.closed, d.ended = true, d.ended || forGood
}

// Open lets mints begin again, unless this engine has ended: the mount stays.
func (d *Door) Open() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = d.ended
}

// State tells whether the door is closed, and whether it stays so.
func (d *Door) State() (closed, ended bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.closed, d.ended
}

// Busy is how many mints are under way.
func (d *Door) Busy() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.count
}

// Drain waits until no mint is under way, but not beyond budget after the closing: a mint
// that began before has used up all of its time by then.
func (d *Door) Drain(ctx context.Context, budget time.Duration) (empty bool) {
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
	return d.Busy() == 0
}

// Whereabouts says in words where mints are under way.
func (d *Door) Whereabouts() string {
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

// ErrLeaving refuses a mint that nobody could kill any more.
var ErrLeaving = fault.New(fault.TemporarilyUnavailable, "the mount is being disabled or moved, or this process of it ends: no token is minted, try again in a moment")

// MintsUnderWay keeps the mount while something may yet come that has to be killed.
func (d *Door) MintsUnderWay() error {
	return fault.New(fault.TemporarilyUnavailable, "the mount cannot be disabled or moved: tokens are being minted (%s), and die as soon as they come: try again", d.Whereabouts())
}

// keptFor is how long Vault's word that the mount stays is believed: each end of a lease
// asks for it.
const keptFor = 5 * time.Second

// Leaving reports whether the mount is being disabled or moved, as Vault has just said.
func (d *Door) Leaving() bool {
	d.mu.Lock()
	now := d.now()
	closed, age := d.closed, now.Sub(d.keptAt)
	d.mu.Unlock()
	switch {
	case closed:
		return true
	case age >= 0 && age < keptFor:
		return false
	case d.tainted():
		return true
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.keptAt = now
	return false
}

// comeInToKill lets a mint begin whose child is to kill others, also while the door is
// closed: nothing could be killed there without it. It is waited for as any other.
func (d *Door) comeInToKill(ref string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ended {
		return ErrLeaving
	}
	d.inside[ref]++
	d.count++
	return nil
}

// comeIn lets a mint begin. A closed door is opened by the first who finds that
// Vault keeps the mount: one that was moved is never told so.
func (d *Door) comeIn(ref string) error {
	if d.enter(ref) {
		return nil
	}
	if _, ended := d.State(); ended || d.tainted() {
		return ErrLeaving
	}
	d.Open()
	if !d.enter(ref) {
		return ErrLeaving
	}
	return nil
}
