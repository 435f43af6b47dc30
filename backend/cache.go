package backend

import (
	"maps"
	"slices"
	"sync"
)

// cache keeps what was read from storage and compiled. A value whose loading
// overlapped a drop is used by its loader and not kept, so that a write is never
// followed by an older value.
type cache[T any] struct {
	mu         sync.Mutex
	generation uint64
	items      map[string]T
}

func newCache[T any]() *cache[T] { return &cache[T]{items: map[string]T{}} }

// get returns the kept value, or what load returns. No lock is held over load.
func (c *cache[T]) get(key string, load func() (T, error)) (T, error) {
	c.mu.Lock()
	value, ok := c.items[key]
	generation := c.generation
	c.mu.Unlock()
	if ok {
		return value, nil
	}
	value, err := load()
	if err != nil {
		return value, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.generation == generation {
		c.items[key] = value
	}
	return value, nil
}

// values are all that are kept.
func (c *cache[T]) values() []T {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Collect(maps.Values(c.items))
}

func (c *cache[T]) drop(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.generation++
	delete(c.items, key)
}

func (c *cache[T]) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.generation++
	c.items = map[string]T{}
}
