package downstream

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// lineModel holds a line against its promises.
type lineModel struct {
	l       line
	inside  []Kind
	waiting []*waiter      // in the order in which they came
	behind  map[sharer]int // of sharers that hold nothing: how many may still go before
}

// TestLineKeepsItsPromises: whatever happens in whatever order, no more are inside than
// there are places, nobody waits who could be in, each sharer's come in their order,
// and one that holds nothing waits for one turn of each of the others at most.
func TestLineKeepsItsPromises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &lineModel{l: newLine(rapid.IntRange(1, 12).Draw(t, "places")), behind: map[sharer]int{}}
		t.Repeat(map[string]func(*rapid.T){
			"join":    m.join,
			"leave":   m.leave,
			"abandon": m.abandon,
			"dismiss": m.dismiss,
			"":        m.check,
		})
	})
}

func (m *lineModel) join(t *rapid.T) {
	k := Kind{Holder: fmt.Sprint(rapid.IntRange(0, 4).Draw(t, "who"))}
	rows := len(m.l.rows)
	w := m.l.join(k)
	m.waiting = append(m.waiting, w)
	m.settle(t)
	if _, known := m.behind[k.sharer()]; m.l.held[k.sharer()] == 0 && !known {
		m.behind[k.sharer()] = rows
	}
}

func (m *lineModel) leave(t *rapid.T) {
	if len(m.inside) == 0 {
		t.Skip("nobody is inside")
	}
	i := rapid.IntRange(0, len(m.inside)-1).Draw(t, "which")
	k := m.inside[i]
	m.inside = append(m.inside[:i], m.inside[i+1:]...)
	m.l.leave(k.sharer())
	for s := range m.behind {
		m.behind[s]--
	}
	m.settle(t)
	for s, turns := range m.behind {
		require.GreaterOrEqual(t, turns, 0, "%v was passed over", s)
	}
}

// settle takes in those whose turn has come.
func (m *lineModel) settle(t *rapid.T) {
	overtaken := map[sharer]bool{}
	rest := m.waiting[:0]
	for _, w := range m.waiting {
		s := w.kind.sharer()
		select {
		case err := <-w.turn:
			require.NoError(t, err)
			require.False(t, overtaken[s], "out of order")
			m.inside = append(m.inside, w.kind)
			delete(m.behind, s)
		default:
			overtaken[s] = true
			rest = append(rest, w)
		}
	}
	m.waiting = rest
}

func (m *lineModel) abandon(t *rapid.T) {
	if len(m.waiting) == 0 {
		t.Skip("nobody waits")
	}
	i := rapid.IntRange(0, len(m.waiting)-1).Draw(t, "which")
	require.True(t, m.l.abandon(m.waiting[i]))
	require.False(t, m.l.abandon(m.waiting[i]))
	m.waiting = append(m.waiting[:i], m.waiting[i+1:]...)
	m.forgetIdle()
}

func (m *lineModel) dismiss(t *rapid.T) {
	who := fmt.Sprint(rapid.IntRange(0, 4).Draw(t, "who"))
	sent := errors.New("sent away")
	m.l.dismiss(func(k Kind) error {
		if k.Holder == who {
			return sent
		}
		return nil
	})
	rest := m.waiting[:0]
	for _, w := range m.waiting {
		if w.kind.Holder == who {
			require.Equal(t, sent, <-w.turn)
			continue
		}
		rest = append(rest, w)
	}
	m.waiting = rest
	m.forgetIdle()
}

// forgetIdle drops the promises to those who do not wait any more.
func (m *lineModel) forgetIdle() {
	waits := map[sharer]bool{}
	for _, w := range m.waiting {
		waits[w.kind.sharer()] = true
	}
	for s := range m.behind {
		if !waits[s] {
			delete(m.behind, s)
		}
	}
}

func (m *lineModel) check(t *rapid.T) {
	require.Len(t, m.inside, m.l.inside)
	require.LessOrEqual(t, m.l.inside, m.l.places)
	held := map[sharer]int{}
	for _, k := range m.inside {
		held[k.sharer()]++
	}
	require.Equal(t, held, m.l.held)
	waiting := 0
	for _, r := range m.l.rows {
		require.NotEmpty(t, r.waiting)
		require.False(t, mayTake(m.l.held[r.who], m.l.places-m.l.inside), "%v could be in", r.who)
		waiting += len(r.waiting)
	}
	require.Len(t, m.waiting, waiting)
}

func TestOneAloneMayHaveMostOfWhatThereIs(t *testing.T) {
	l := newLine(MaxMinting)
	n := 0
	for ; l.enter(sharer{holder: alice}); n++ {
	}
	require.Equal(t, maxAlone, n)
	require.True(t, l.enter(sharer{holder: bob}))
}

func TestCallersWithoutAnEntityShareByRole(t *testing.T) {
	require.Equal(t, Kind{Role: "a", Holder: alice}.sharer(), Kind{Role: "b", Holder: alice}.sharer())
	require.NotEqual(t, Kind{Role: "a", Holder: "none"}.sharer(), Kind{Role: "b", Holder: "none"}.sharer())
}
