package backend

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func steadyBreaker() breaker {
	b := newBreaker()
	b.spread = func(d time.Duration) time.Duration { return d }
	return b
}

// fail lets calls go unanswered until a rest begins.
func (b *breaker) fail(t require.TestingT, now time.Time) {
	for range maxFailures {
		ticket, ok := b.admit(now)
		require.True(t, ok)
		if b.end(ticket, unanswered, now) {
			return
		}
	}
	require.Fail(t, "no rest began")
}

func TestRestsDoubleUpToABound(t *testing.T) {
	b, now := steadyBreaker(), time.Now()
	b.fail(t, now)
	for _, want := range []int{1, 2, 4, 8, 16, 30, 30} {
		require.Equal(t, time.Duration(want)*time.Second, b.until.Sub(now))
		require.True(t, b.refuses(b.until.Add(-time.Nanosecond)))
		now = b.until
		trial, ok := b.admit(now)
		require.True(t, ok)
		_, ok = b.admit(now.Add(time.Hour))
		require.False(t, ok, "one at a time")
		require.True(t, b.end(trial, unanswered, now))
	}
	now = b.until
	trial, _ := b.admit(now)
	require.False(t, b.end(trial, answered, now))
	require.False(t, b.open())
	b.fail(t, now)
	require.Equal(t, shortestRest, b.until.Sub(now), "an answer begins anew")
}

func TestATrialThatSentNothingIsSomebodyElses(t *testing.T) {
	b, now := steadyBreaker(), time.Now()
	b.fail(t, now)
	trial, ok := b.admit(b.until)
	require.True(t, ok)
	require.False(t, b.end(trial, notAsked, b.until))
	require.True(t, b.open())
	_, ok = b.admit(b.until)
	require.True(t, ok)
}

func TestSpreadRestsAreBetweenHalfAndWhole(t *testing.T) {
	b := newBreaker()
	for range 1000 {
		d := b.spread(longestRest)
		require.GreaterOrEqual(t, d, longestRest/2)
		require.LessOrEqual(t, d, longestRest)
	}
}

// breakerModel is what the breaker promises, told by the history alone.
type breakerModel struct {
	b     breaker
	now   time.Time
	calls []ticket // under way
	trial int      // of these, let through after a rest and not overtaken since
	// row is how many calls in a row went unanswered since the last answer or rest.
	row int
}

// TestBreakerKeepsItsPromises: whatever happens in whatever order, it opens only
// after maxFailures calls without an answer between, never rests for longer than the
// bound, lets at most one call through after a rest, and closes with any answer.
func TestBreakerKeepsItsPromises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &breakerModel{b: steadyBreaker(), now: time.Unix(1e9, 0)}
		t.Repeat(map[string]func(*rapid.T){
			"time passes": func(t *rapid.T) {
				m.now = m.now.Add(time.Duration(rapid.IntRange(0, int(40*time.Second)).Draw(t, "for")))
			},
			"call": m.call,
			"end":  m.end,
			"mend": func(*rapid.T) { m.b.mend(); m.row, m.trial = 0, 0 },
			"":     m.check,
		})
	})
}

func (m *breakerModel) call(t *rapid.T) {
	open, refused := m.b.open(), m.b.refuses(m.now)
	ticket, ok := m.b.admit(m.now)
	require.Equal(t, !refused, ok)
	require.Equal(t, ok && open, ticket.trial)
	if !ok {
		require.True(t, open)
		require.True(t, m.now.Before(m.b.until) || m.trial == 1, "refused without a reason")
		return
	}
	if ticket.trial {
		m.trial++
	}
	m.calls = append(m.calls, ticket)
}

func (m *breakerModel) end(t *rapid.T) {
	if len(m.calls) == 0 {
		t.Skip("none is under way")
	}
	i := rapid.IntRange(0, len(m.calls)-1).Draw(t, "which")
	o := rapid.SampledFrom([]outcome{notAsked, answered, unanswered, unanswered}).Draw(t, "outcome")
	ticket := m.calls[i]
	m.calls = append(m.calls[:i], m.calls[i+1:]...)
	before, current := m.b, ticket.epoch == m.b.epoch
	rests := m.b.end(ticket, o, m.now)
	if ticket.trial && current || o == answered {
		m.trial = 0
	}
	switch {
	case o == answered:
		m.row = 0
		require.False(t, m.b.open(), "an answer closes it")
	case o == unanswered && current && !before.open():
		m.row++
		require.Equal(t, m.row == maxFailures, rests)
	case o == unanswered && current:
		require.True(t, rests, "a trial without an answer")
	default:
		require.False(t, rests)
		require.Equal(t, before.open(), m.b.open())
		require.Equal(t, before.until, m.b.until)
	}
	if rests {
		m.row = 0
	}
}

func (m *breakerModel) check(t *rapid.T) {
	require.LessOrEqual(t, m.trial, 1)
	require.LessOrEqual(t, m.b.until.Sub(m.now), longestRest)
	require.False(t, m.b.refuses(m.now.Add(longestRest)) && m.trial == 0, "nobody could ever find out that it is back")
}
