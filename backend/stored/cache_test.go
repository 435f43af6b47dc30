package stored

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTheCacheNeverKeepsWhatAWriteOverlapped(t *testing.T) {
	c := NewCache[int]()
	value, err := c.Get("k", func() (int, error) {
		c.Drop("k") // a write in the middle of the load
		return 1, nil
	})
	require.NoError(t, err)
	require.Equal(t, 1, value, "the loader may use it")
	value, err = c.Get("k", func() (int, error) { return 2, nil })
	require.NoError(t, err)
	require.Equal(t, 2, value)
	value, err = c.Get("k", func() (int, error) { return 3, nil })
	require.NoError(t, err)
	require.Equal(t, 2, value)
	require.Equal(t, []int{2}, c.Values())
	c.Clear()
	require.Empty(t, c.Values())
	_, err = c.Get("k", func() (int, error) { return 0, errors.New("no") })
	require.Error(t, err)
	value, err = c.Get("k", func() (int, error) { return 4, nil })
	require.NoError(t, err, "an error is not kept")
	require.Equal(t, 4, value)
}

func TestTheCacheKeepsThatThereIsNothingIfItShall(t *testing.T) {
	absent := func() (int, error) { return 0, fmt.Errorf("none of that name: %w", ErrAbsent) }
	present := func() (int, error) { return 1, nil }
	keeps, asks := NewCacheOfAbsent[int](), NewCache[int]()
	for _, c := range []*Cache[int]{keeps, asks} {
		_, err := c.Get("k", absent)
		require.ErrorIs(t, err, ErrAbsent)
		require.Empty(t, c.Values())
	}
	_, err := keeps.Get("k", present)
	require.ErrorIs(t, err, ErrAbsent)
	keeps.Drop("k")
	for _, c := range []*Cache[int]{keeps, asks} {
		value, err := c.Get("k", present)
		require.NoError(t, err)
		require.Equal(t, 1, value)
	}
}

func TestTheCacheUnderManyWritersIsNeverOlderThanStorage(t *testing.T) {
	var stored atomic.Int64
	c := NewCache[int64]()
	together(func(worker int) {
		for range 200 {
			if worker%4 == 0 {
				stored.Add(1)
				c.Drop("k")
				continue
			}
			before := stored.Load()
			value, err := c.Get("k", func() (int64, error) { return stored.Load(), nil })
			assert.NoError(t, err)
			// A writer between its two steps may leave the value one behind.
			assert.GreaterOrEqual(t, value+writers/4, before, fmt.Sprint(worker))
		}
	})
	c.Drop("k")
	value, err := c.Get("k", func() (int64, error) { return stored.Load(), nil })
	require.NoError(t, err)
	require.Equal(t, stored.Load(), value)
}
