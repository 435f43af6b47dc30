// Package lease keeps the lease of a child while it is needed, and ends it.
package lease

import (
	"context"
	"sync"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/cmd/tokenbroker/internal/fail"
	"github.com/tokenbroker/vault-plugin-secrets-broker/cmd/tokenbroker/internal/vault"
)

// Vault is what a lease needs of a client.
type Vault interface {
	Renew(ctx context.Context, child *vault.Child) (ends time.Time, renewable bool, err error)
	Revoke(ctx context.Context, leaseID string) error
}

const (
	// callTimeout bounds one renewal, so that there is time for another one.
	callTimeout = 15 * time.Second
	// gain is by how much a renewal must move the end: less is the end of all renewing.
	gain = time.Second
	// retryAtLeast and retryAtMost bound the pause after a renewal that found nobody.
	retryAtLeast = 200 * time.Millisecond
	retryAtMost  = 15 * time.Second
)

// Lease is a child whose end can move.
type Lease struct {
	vault Vault
	child *vault.Child

	mu      sync.Mutex
	ends    time.Time
	checked time.Time // when Vault has last said that it lives
	final   bool      // it can't be renewed any more
}

// New begins to look after a child; nothing happens by itself.
func New(v Vault, child *vault.Child) *Lease {
	return &Lease{vault: v, child: child, ends: child.Ends, checked: time.Now(), final: !child.Renewable}
}

// Child is what was handed out. Its Ends is that of the beginning: see Ends.
func (l *Lease) Child() *vault.Child { return l.child }

// Ends is when the token dies unless the lease is renewed.
func (l *Lease) Ends() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ends
}

// Final reports whether the end can't be moved any more.
func (l *Lease) Final() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.final
}

// Checked is when Vault has last said that the lease lives.
func (l *Lease) Checked() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.checked
}

// Renew moves the end as far as it goes. An error other than fail.Unavailable says that
// the lease, and so the token, has ended.
func (l *Lease) Renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	ends, renewable, err := l.vault.Renew(ctx, l.child)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.final = !renewable || ends.Before(l.ends.Add(gain))
	l.checked = time.Now()
	l.ends = ends
	return nil
}

// Keep renews from half of the lease's time on, until ctx ends, and then returns nil. It
// returns before if the lease can be kept no longer: half of its last time before its
// end, so that another can be had in its place, or at once if it has ended before its time,
// or at its end if nobody could be asked. The error says why.
func (l *Lease) Keep(ctx context.Context) error {
	for {
		ends := l.Ends()
		if !wait(ctx, time.Until(ends)/2) {
			return nil
		}
		if l.Final() {
			return fail.New(fail.Refused, "the lease of role %s cannot be renewed beyond %s", l.child.Role, ends.Format(time.TimeOnly))
		}
		for {
			err := l.Renew(ctx)
			if err == nil {
				break
			}
			if ctx.Err() != nil {
				return nil //nolint:nilerr // nobody wants the lease any more
			}
			left := time.Until(ends)
			if fail.KindOf(err) != fail.Unavailable || left <= 0 {
				return err
			}
			if !wait(ctx, min(max(left/8, retryAtLeast), retryAtMost)) {
				return nil
			}
		}
	}
}

// Revoke ends the lease, and asks again until ctx ends as long as nobody answers.
func (l *Lease) Revoke(ctx context.Context) error {
	if l.child.LeaseID == "" {
		return nil // of what was handed on nothing can be ended
	}
	for pause := retryAtLeast; ; pause = min(2*pause, retryAtMost) {
		err := l.vault.Revoke(ctx, l.child.LeaseID)
		if err == nil || fail.KindOf(err) != fail.Unavailable || time.Now().After(l.Ends()) {
			return err
		}
		if !wait(ctx, pause) {
			return err
		}
	}
}

// wait reports whether the time has passed, and not ctx ended.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
