package keyring

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// TestPromisesHoldWhateverHappens runs a ring through anything that its owner and
// time can do to it.
func TestPromisesHoldWhateverHappens(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &model{ring: &Ring{}, now: epoch, terms: usual, since: map[string]time.Time{}, exempt: map[string]bool{}, purposes: map[string]Purpose{}}
		m.advance(t)
		t.Repeat(map[string]func(*rapid.T){
			"":          m.check,
			"advance":   m.advance,
			"rotate":    m.rotate,
			"emergency": m.emergency,
			"stop":      m.stop,
			"store":     m.store,
			"configure": m.configure,
			"sign":      m.sign,
			"sign more": m.sign,
			"minutes":   func(t *rapid.T) { m.wait(t, time.Hour) },
			"days":      func(t *rapid.T) { m.wait(t, 20*24*time.Hour) },
		})
	})
}

// model is what the ring must not contradict.
type model struct {
	ring  *Ring
	now   time.Time
	terms Terms
	// stopped since the last advance or rotation.
	stopped bool

	tokens []signed
	// since is when a key was first published, and exempt are the keys that may sign
	// at once.
	since    map[string]time.Time
	exempt   map[string]bool
	purposes map[string]Purpose
}

type signed struct {
	purpose Purpose
	token   string
	expires time.Time
}

func (m *model) become(t *rapid.T, next *Ring, emergency bool) {
	first := map[Purpose]bool{}
	for _, p := range Purposes() {
		first[p] = len(kids(m.ring, p, m.now)) == 0
	}
	m.ring = next
	for _, k := range next.Published(m.now) {
		if _, known := m.since[k.ID]; !known {
			m.since[k.ID] = m.now
			m.exempt[k.ID] = emergency || first[k.Purpose]
		}
		if before, known := m.purposes[k.ID]; known {
			require.Equal(t, before, k.Purpose)
		}
		m.purposes[k.ID] = k.Purpose
	}
}

func (m *model) advance(t *rapid.T) {
	next, changed, err := m.ring.Advance(m.now, m.terms)
	require.NoError(t, err)
	m.become(t, next, false)
	m.stopped = false
	again, twice, err := next.Advance(m.now, m.terms)
	require.NoError(t, err)
	require.False(t, twice, "nothing is due twice (%t)", changed)
	require.Same(t, next, again)
}

func (m *model) rotate(t *rapid.T) {
	next, err := m.ring.Rotate(m.now, m.terms, false)
	if err != nil {
		require.ErrorIs(t, err, ErrRefused)
		return
	}
	m.become(t, next, false)
	m.stopped = false
}

func (m *model) emergency(t *rapid.T) {
	next, err := m.ring.Rotate(m.now, m.terms, true)
	require.NoError(t, err)
	m.tokens = nil
	m.become(t, next, true)
	m.stopped = false
}

func (m *model) stop(t *rapid.T) {
	next, _, err := m.ring.Stop(m.now)
	require.NoError(t, err)
	m.become(t, next, false)
	m.stopped = true
}

func (m *model) store(t *rapid.T) {
	raw, err := m.ring.Encode()
	require.NoError(t, err)
	m.ring, err = Decode(raw)
	require.NoError(t, err)
}

// configure changes the terms, which become known to the ring at once or later.
func (m *model) configure(t *rapid.T) {
	m.terms = Terms{
		Algorithm:   rapid.SampledFrom([]string{"ES256", "EdDSA"}).Draw(t, "algorithm"),
		LongestLife: time.Duration(rapid.IntRange(1, 10*24*60).Draw(t, "life")) * time.Minute,
		Period:      Lead + time.Duration(rapid.IntRange(1, 60*24*60).Draw(t, "period"))*time.Minute,
	}
	if rapid.Bool().Draw(t, "at once") {
		m.advance(t)
	}
}

func (m *model) sign(t *rapid.T) {
	p := rapid.SampledFrom(Purposes()).Draw(t, "purpose")
	life := time.Duration(rapid.Int64Range(1, int64(m.terms.LongestLife/time.Second)).Draw(t, "seconds")) * time.Second
	k := m.ring.active(p, m.now)
	token, err := m.ring.Sign(p, m.now, claimsUntil(m.now.Add(life)))
	if err != nil {
		if k == nil {
			require.True(t, m.stopped)
			require.ErrorIs(t, err, ErrNoKey)
			return
		}
		require.ErrorIs(t, err, ErrClaims)
		require.Greater(t, life, k.longestLife, "the ring has not heard of the new terms")
		return
	}
	require.Equal(t, p, m.purposes[k.id])
	if !m.exempt[k.id] {
		require.GreaterOrEqual(t, m.now.Sub(m.since[k.id]), Lead, "a key signs that not everybody can know")
	}
	m.tokens = append(m.tokens, signed{purpose: p, token: token, expires: m.now.Add(life)})
}

// wait lets time pass, and looks at every token once more just as it expires.
func (m *model) wait(t *rapid.T, longest time.Duration) {
	later := m.now.Add(time.Duration(rapid.Int64Range(1, int64(longest/time.Second)).Draw(t, "seconds")) * time.Second)
	var left []signed
	for _, s := range m.tokens {
		if s.expires.After(later) {
			left = append(left, s)
		} else {
			m.verifiable(t, s, s.expires)
		}
	}
	m.tokens, m.now = left, later
}

func (m *model) verifiable(t *rapid.T, s signed, at time.Time) {
	payload, err := m.ring.Verify(s.purpose, s.token, at)
	require.NoError(t, err, "signed until %s, verified at %s", s.expires, at)
	require.JSONEq(t, fmt.Sprintf(`{"sub":"somebody","exp":%d}`, s.expires.Unix()), string(payload))
}

func (m *model) check(t *rapid.T) {
	for _, s := range m.tokens {
		m.verifiable(t, s, m.now)
	}
	for _, p := range Purposes() {
		require.LessOrEqual(t, len(m.ring.keys[p]), MaxKeys)
		if !m.stopped {
			require.NotNil(t, m.ring.active(p, m.now))
		}
	}
}
