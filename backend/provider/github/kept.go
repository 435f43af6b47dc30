package github

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
)

// maxKept bounds how many values are kept: of an App as many as roles name installations.
const maxKept = 256

// kept are values that are looked up once, by whoever comes first, and kept. It is safe for
// concurrent use; the zero value keeps none. A lookup has a bound of its own and does not
// end with whoever has begun it: others wait for it too, and the next one finds what came
// of it.
type kept[V comparable] struct {
	flights singleflight.Group

	mu  sync.Mutex
	all map[string]V
}

// has is what is kept.
func (k *kept[V]) has(key string) (V, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	v, ok := k.all[key]
	return v, ok
}

// forget drops a value, unless another one has taken its place.
func (k *kept[V]) forget(key string, value V) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.all[key] == value {
		delete(k.all, key)
	}
}

// begin looks the value up, if nobody does, and keeps it.
func (k *kept[V]) begin(ctx context.Context, key string, within time.Duration, look func(context.Context) (V, error)) <-chan singleflight.Result {
	return k.flights.DoChan(key, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), within)
		defer cancel()
		v, err := look(ctx)
		if err != nil {
			return v, err
		}
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.all == nil || len(k.all) >= maxKept {
			k.all = map[string]V{}
		}
		k.all[key] = v
		return v, nil
	})
}

// look is begin and waits, as long as the caller does.
func (k *kept[V]) look(ctx context.Context, key string, within time.Duration, look func(context.Context) (V, error)) (V, error) {
	select {
	case result := <-k.begin(ctx, key, within, look):
		found, _ := result.Val.(V)
		return found, result.Err
	case <-ctx.Done():
		var none V
		return none, fault.New(fault.TemporarilyUnavailable, "GitHub is still being asked what this needs: try again").Because(ctx.Err())
	}
}
