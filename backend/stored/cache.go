package stored

import (
	"errors"
	"sync"
)

// Cache keeps what was made of stored entries, such as what was compiled or opened. What
// was made while something was dropped is used by who made it and not kept, so that a
// write is never followed by an older value. It is safe for concurrent use.
type Cache[V any] struct {
	absent bool // is kept too

	mu         sync.Mutex
	generation uint64
	items      map[string]kept[V]
}

// kept is a value, or that there is none.
type kept[V any] struct {
	value  V
	absent error
}

// NewCache keeps values. That there is nothing of a name (ErrAbsent) is found out each
// time: so it is for names that anybody may ask for.
func NewCache[V any]() *Cache[V] { return &Cache[V]{items: map[string]kept[V]{}} }

// NewCacheOfAbsent also keeps that there is nothing of a name, which is for names that
// come from configuration alone: else whoever asks for many of them fills the memory.
func NewCacheOfAbsent[V any]() *Cache[V] {
	return &Cache[V]{items: map[string]kept[V]{}, absent: true}
}

// Get returns the kept value, or what load returns. No lock is held over load, and
// several may load at once. No error of load is kept but ErrAbsent.
func (c *Cache[V]) Get(name string, load func() (V, error)) (V, error) {
	c.mu.Lock()
	item, ok := c.items[name]
	generation := c.generation
	c.mu.Unlock()
	if ok {
		return item.value, item.absent
	}
	value, err := load()
	if err != nil && !(c.absent && errors.Is(err, ErrAbsent)) {
		return value, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.generation == generation {
		c.items[name] = kept[V]{value: value, absent: err}
	}
	return value, err
}

// Values are all that are kept, in no order.
func (c *Cache[V]) Values() []V {
	c.mu.Lock()
	defer c.mu.Unlock()
	values := make([]V, 0, len(c.items))
	for _, item := range c.items {
		if item.absent == nil {
			values = append(values, item.value)
		}
	}
	return values
}

// Drop forgets what was made of one name. It has the signature that Keeper.OnChange takes.
func (c *Cache[V]) Drop(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.generation++
	delete(c.items, name)
}

// Clear forgets everything: for what was made of many entries.
func (c *Cache[V]) Clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.generation++
	c.items = map[string]kept[V]{}
}
