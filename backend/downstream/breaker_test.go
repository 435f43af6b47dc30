package downstream

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

// fail lets calls of the kind end so until a rest begins.
func (b *breaker) fail(t require.TestingT, k Kind, o outcome, now time.Time) {
	for range MaxFailures {
		attempt, ok := b.admit(k, now)
		require.True(t, ok)
		if b.end(attempt, o, now) {
			return
		}
	}
	require.Fail(t, "no rest began")
}

var (
	aliceReads = Kind{Mode: "mint", Role: "reader", Holder: alice, Asked: 1}
	bobReads   = Kind{Mode: "mint", Role: "reader", Holder: bob, Asked: 1}
	bobWrites  = Kind{Mode: "mint", Role: "writer", Holder: bob, Asked: 2}
)

func TestRestsDoubleUpToABound(t *testing.T) {
	for name, o := range map[string]outcome{"no answers": unanswered, "failures": failed} {
		t.Run(name, func(t *testing.T) {
			b, now := steadyBreaker(), time.Now()
			b.fail(t, aliceReads, o, now)
			for _, want := range []int{1, 2, 4, 8, 16, 30, 30} {
				until, _ := b.rest(aliceReads)
				require.Equal(t, time.Duration(want)*time.Second, until.Sub(now))
				require.True(t, b.refuses(aliceReads, until.Add(-time.Nanosecond)))
				now = until
				trial, ok := b.admit(aliceReads, now)
				require.True(t, ok)
				_, ok = b.admit(aliceReads, now.Add(time.Hour))
				require.False(t, ok, "one at a time")
				require.True(t, b.end(trial, o, now))
			}
			now, _ = b.rest(aliceReads)
			trial, _ := b.admit(aliceReads, now)
			require.False(t, b.end(trial, answered, now))
			require.False(t, b.open())
			b.fail(t, aliceReads, o, now)
			until, _ := b.rest(aliceReads)
			require.Equal(t, ShortestRest, until.Sub(now), "an answer begins anew")
		})
	}
}

func TestATrialThatSentNothingIsSomebodyElses(t *testing.T) {
	b, now := steadyBreaker(), time.Now()
	b.fail(t, aliceReads, unanswered, now)
	for _, k := range []Kind{aliceReads, bobWrites} {
		until, _ := b.rest(k)
		trial, ok := b.admit(k, until)
		require.True(t, ok)
		require.False(t, b.end(trial, notAsked, until))
		require.True(t, b.open())
		_, ok = b.admit(k, until)
		require.True(t, ok)
	}
}

func TestAFailureSpeaksForThoseWhoMetIt(t *testing.T) {
	now := time.Now()
	cases := map[string]struct {
		met           [MaxFailures]Kind
		refuses, lets []Kind
	}{
		"one caller with one request": {
			[...]Kind{aliceReads, aliceReads, aliceReads, aliceReads, aliceReads},
			[]Kind{aliceReads}, []Kind{bobReads, bobWrites, {Mode: "mint", Role: "reader", Holder: alice, Asked: 3}},
		},
		"one role, whoever comes": {
			[...]Kind{aliceReads, bobReads, aliceReads, bobReads, bobReads},
			[]Kind{aliceReads, bobReads, {Mode: "mint", Role: "reader", Holder: "carol", Asked: 1}}, []Kind{bobWrites},
		},
		"one caller, whatever the role": {
			[...]Kind{bobReads, bobWrites, bobReads, bobWrites, bobWrites},
			[]Kind{bobReads, bobWrites}, []Kind{aliceReads},
		},
		"several callers and roles": {
			[...]Kind{aliceReads, aliceReads, aliceReads, aliceReads, bobWrites},
			[]Kind{aliceReads, bobReads, bobWrites}, []Kind{{Mode: "exchange", Role: "reader", Holder: alice, Asked: 1}},
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			b := steadyBreaker()
			for _, k := range c.met {
				attempt, ok := b.admit(k, now)
				require.True(t, ok)
				b.end(attempt, failed, now)
			}
			for _, k := range c.refuses {
				require.True(t, b.refuses(k, now), "%+v", k)
			}
			for _, k := range c.lets {
				require.False(t, b.refuses(k, now), "%+v", k)
			}
		})
	}
}

func TestTheTransportSpeaksForTheServer(t *testing.T) {
	b, now := steadyBreaker(), time.Now()
	b.fail(t, aliceReads, unanswered, now)
	require.True(t, b.refuses(bobWrites, now))
	require.True(t, b.refuses(Kind{Mode: "exchange"}, now))
}

func TestWhoGoesOnFailingTakesNobodysTrial(t *testing.T) {
	b, now := steadyBreaker(), time.Now()
	b.fail(t, aliceReads, unanswered, now)
	for range 10 {
		now, _ = b.rest(aliceReads)
		hers, ok := b.admit(aliceReads, now)
		require.True(t, ok)
		require.False(t, b.refuses(bobWrites, now), "he need not wait for her")
		b.end(hers, unanswered, now)
		require.False(t, b.refuses(bobWrites, now), "nor rest for her")
	}
	his, ok := b.admit(bobWrites, now)
	require.True(t, ok)
	b.end(his, answered, now)
	require.False(t, b.open())
}

func TestSpreadRestsAreBetweenHalfAndWhole(t *testing.T) {
	b := newBreaker()
	for range 1000 {
		d := b.spread(LongestRest)
		require.GreaterOrEqual(t, d, LongestRest/2)
		require.LessOrEqual(t, d, LongestRest)
	}
}

// someKinds are all kinds of a small world.
func someKinds() (all []Kind) {
	for _, role := range []string{"a", "b"} {
		for _, holder := range []string{"x", "y"} {
			for asked := range uint64(2) {
				all = append(all, Kind{Mode: "mint", Role: role, Holder: holder, Asked: asked})
			}
		}
	}
	return all
}

// breakerModel is what the breaker promises, told by the history alone.
type breakerModel struct {
	b     breaker
	now   time.Time
	calls []attempt // under way
	// trials are those of calls that were let through after a rest and not overtaken
	// since, by whether they had met the failure.
	trials map[bool]int
	// row and silent are how many free calls in a row failed since the last answer or
	// opening, and how many of these without an answer.
	row, silent int
	// met covers all that has failed since the last closing; deaf is true if the
	// transport did it at an opening.
	met  *scope
	deaf bool
}

// TestBreakerKeepsItsPromises: whatever happens in whatever order, it opens only
// after MaxFailures calls without an answer between, refuses nothing that is unlike
// all that has failed (but for the transport), never rests for longer than the bound,
// lets at most one call of each sort through after a rest, and closes with any answer.
func TestBreakerKeepsItsPromises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &breakerModel{b: steadyBreaker(), now: time.Unix(1e9, 0), trials: map[bool]int{}}
		t.Repeat(map[string]func(*rapid.T){
			"time passes": func(t *rapid.T) {
				m.now = m.now.Add(time.Duration(rapid.IntRange(0, int(40*time.Second)).Draw(t, "for")))
			},
			"call": m.call,
			"end":  m.end,
			"mend": func(*rapid.T) { m.b.mend(); m.closed() },
			"":     m.check,
		})
	})
}

func (m *breakerModel) closed() {
	m.row, m.silent, m.trials, m.met, m.deaf = 0, 0, map[bool]int{}, nil, false
}

func (m *breakerModel) call(t *rapid.T) {
	k := rapid.SampledFrom(someKinds()).Draw(t, "kind")
	refused := m.b.refuses(k, m.now)
	attempt, ok := m.b.admit(k, m.now)
	require.Equal(t, !refused, ok)
	if !ok {
		return
	}
	if attempt.trial {
		m.trials[attempt.again]++
	}
	m.calls = append(m.calls, attempt)
}

func (m *breakerModel) end(t *rapid.T) {
	if len(m.calls) == 0 {
		t.Skip("none is under way")
	}
	i := rapid.IntRange(0, len(m.calls)-1).Draw(t, "which")
	o := rapid.SampledFrom([]outcome{notAsked, answered, failed, unanswered, unanswered}).Draw(t, "outcome")
	attempt := m.calls[i]
	m.calls = append(m.calls[:i], m.calls[i+1:]...)
	current, covered := attempt.epoch == m.b.epoch, !m.b.open() || m.b.scope.covers(attempt.kind)
	rests := m.b.end(attempt, o, m.now)
	if attempt.trial && current {
		m.trials[attempt.again]--
	}
	switch {
	case o == answered && covered:
		m.closed()
		require.False(t, m.b.open(), "an answer closes it")
	case o == answered:
		m.row, m.silent = 0, 0
	case o == notAsked || !current:
		require.False(t, rests)
	case attempt.trial:
		require.True(t, rests, "a trial without an answer")
		m.note(attempt.kind)
	default:
		m.free(t, attempt.kind, o, rests)
	}
}

// free is a failure of a call that was no trial.
func (m *breakerModel) free(t *rapid.T, k Kind, o outcome, rests bool) {
	m.note(k)
	m.row++
	if o == unanswered {
		m.silent++
	}
	require.Equal(t, m.row == MaxFailures, rests)
	if rests {
		m.deaf = m.deaf || m.silent == MaxFailures
		m.row, m.silent, m.trials = 0, 0, map[bool]int{}
	}
}

func (m *breakerModel) note(k Kind) {
	s := just(k)
	if m.met != nil {
		s = m.met.with(s)
	}
	m.met = &s
}

func (m *breakerModel) check(t *rapid.T) {
	for again, n := range m.trials {
		require.LessOrEqual(t, n, 1, "again: %v", again)
		require.GreaterOrEqual(t, n, 0)
	}
	for _, k := range someKinds() {
		until, trying := m.b.rest(k)
		require.LessOrEqual(t, until.Sub(m.now), LongestRest)
		if m.b.refuses(k, m.now) {
			require.True(t, m.deaf || m.met != nil && m.met.covers(k), "%+v is refused, and nothing like it has failed", k)
		}
		if trying {
			require.Equal(t, 1, m.trials[m.b.hasMet(k)], "nobody could ever find out that it is back")
		}
	}
}

// TestOneBadCallerKeepsNobodyOut: whatever one caller's requests do, in whichever
// roles, another caller whose requests are answered is kept waiting only for a rest of
// the shortest length after an opening, and for two trials at most.
func TestOneBadCallerKeepsNobodyOut(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b, now := steadyBreaker(), time.Unix(1e9, 0)
		var calls []attempt
		var rested time.Time
		trials, under := 0, 0 // of hers, that keep others waiting
		t.Repeat(map[string]func(*rapid.T){
			"time passes": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(0, int(5*time.Second)).Draw(t, "for")))
			},
			"hers begins": func(t *rapid.T) {
				k := Kind{"mint", rapid.SampledFrom([]string{"a", "b"}).Draw(t, "role"), "x", uint64(rapid.IntRange(0, 3).Draw(t, "asked"))}
				if attempt, ok := b.admit(k, now); ok {
					calls = append(calls, attempt)
					if attempt.trial && !attempt.again {
						trials, under = trials+1, under+1
					}
				}
			},
			"hers ends": func(t *rapid.T) {
				if len(calls) == 0 {
					t.Skip("none")
				}
				attempt := calls[0]
				calls = calls[1:]
				current := attempt.epoch == b.epoch
				if b.end(attempt, rapid.SampledFrom([]outcome{failed, unanswered, unanswered}).Draw(t, "outcome"), now) && !attempt.again {
					rested = now
				}
				if current && attempt.trial && !attempt.again {
					under--
				}
				require.LessOrEqual(t, trials, 2)
			},
			"his": func(t *rapid.T) {
				k := Kind{"mint", rapid.SampledFrom([]string{"a", "b"}).Draw(t, "role"), "y", 9}
				attempt, ok := b.admit(k, now)
				if !ok {
					require.True(t, under > 0 || now.Before(rested.Add(ShortestRest)), "he is kept out")
					return
				}
				b.end(attempt, answered, now)
				if !b.open() {
					trials, under = 0, 0
				}
			},
		})
	})
}
