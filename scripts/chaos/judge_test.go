package chaos

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func at(seconds float64) time.Time { return noon.Add(time.Duration(seconds * float64(time.Second))) }

// scene is a token that was asked for at 0, minted from 1 to 2 and given at 3; it
// is active, on record and leased. A case changes what it is about.
type scene struct {
	mint    *Mint
	request *Request
	*evidence
}

func newScene() *scene {
	s := &scene{
		mint: &Mint{Scope: "task.a", Line: "trusting", Token: "token", Arrived: at(1), Left: at(2)},
		request: &Request{
			Scope: "task.a", Entity: "ann", Role: "reader", Provider: "oauth2/trusting",
			Began: at(0), Ended: at(3), Outcome: Given, Token: "token", Lease: "lease", Grant: "ann.1",
		},
		evidence: &evidence{
			logged: &logged{}, active: map[string]bool{"token": true}, grants: map[string][]string{"task.a": {"ann.1"}}, leases: map[string]bool{"lease": true},
		},
	}
	s.mints = []*Mint{s.mint}
	return s
}

// lose makes the client's request fail, with nothing on record.
func (s *scene) lose(outcome Outcome) {
	s.request.Outcome, s.request.Token, s.request.Lease, s.request.Grant = outcome, "", "", ""
	s.grants, s.leases = map[string][]string{}, map[string]bool{}
}

// fail makes the request fail, and the broker log that an answer was lost.
func (s *scene) fail() {
	s.lose(Failed)
	s.logged.lost = []lostAnswer{{at: at(2.2), provider: "oauth2/trusting", role: "reader"}}
}

func (s *scene) window(kind Kind, line string, from, to float64) {
	s.windows = append(s.windows, Window{Kind: kind, Line: line, Began: at(from), Ended: at(to)})
}

// giveUp makes the client hang up early; the line breaks, and the broker logs
// that an answer of the provider was lost.
func (s *scene) giveUp(provider string) {
	s.lose(GaveUp)
	s.request.Ended = at(0.2)
	s.window(CutShort, "trusting", 1.5, 2.5)
	s.logged.lost = []lostAnswer{{at: at(2.2), provider: provider, role: "reader"}}
}

// repeat adds a second mint for the same request, from 2.5 to 2.8, which is the
// one that was given.
func (s *scene) repeat() {
	s.mints = append(s.mints, &Mint{Scope: "task.a", Line: "trusting", Token: "second", Arrived: at(2.5), Left: at(2.8)})
	s.request.Token = "second"
	s.active["second"] = true
}

func TestJudge(t *testing.T) {
	for name, c := range map[string]struct {
		change      func(*scene)
		held        int
		explained   Reason
		unexplained string
		violation   string
	}{
		"held by right":         {change: func(*scene) {}, held: 1},
		"its grant is gone":     {change: func(s *scene) { s.grants = nil }, unexplained: "active without its grant"},
		"its lease is gone":     {change: func(s *scene) { s.leases = nil }, unexplained: "active without its lease", violation: "has no lease"},
		"its lease was revoked": {change: func(s *scene) { s.request.Revoked = true }, unexplained: "although its lease was revoked"},
		"minted for nobody":     {change: func(s *scene) { s.mint.Scope = "task.b" }, unexplained: "for nobody's request"},
		"an outage explains no given token": {
			change:      func(s *scene) { s.leases = nil; s.window(Cut, "trusting", 0, 9); s.window(KillVault, "", 1.5, 1.5) },
			unexplained: "active without its lease", violation: "has no lease",
		},

		"withheld":                  {change: func(s *scene) { s.fail(); s.mint.Withheld = HangUp }, explained: ByRecorder},
		"lost on a broken line":     {change: func(s *scene) { s.fail(); s.window(Reset, "trusting", 1.9, 2.1) }, explained: ByNetwork},
		"the other line broke":      {change: func(s *scene) { s.fail(); s.window(Reset, "careful", 1.9, 2.1) }, unexplained: "active and nobody's"},
		"the line broke earlier":    {change: func(s *scene) { s.fail(); s.window(Reset, "trusting", 0, 0.5) }, unexplained: "active and nobody's"},
		"the line broke afterwards": {change: func(s *scene) { s.fail(); s.window(Reset, "trusting", 3.1, 4) }, unexplained: "active and nobody's"},
		"half a body with the token is no loss": {
			change: func(s *scene) { s.fail(); s.window(HalfBody, "trusting", 0, 4) }, unexplained: "active and nobody's",
		},
		"a living plugin had the answer": {
			change: func(s *scene) { s.lose(Refused); s.window(Reset, "trusting", 1.9, 2.1) }, unexplained: "active and nobody's",
		},
		"a failure, and no answer was lost": {
			change: func(s *scene) { s.lose(Failed); s.window(Reset, "trusting", 1.9, 2.1) }, unexplained: "active and nobody's",
		},
		"a failure, and another role's answer was lost": {
			change:      func(s *scene) { s.fail(); s.logged.lost[0].role = "writer"; s.window(Reset, "trusting", 1.9, 2.1) },
			unexplained: "active and nobody's",
		},
		"a failure, and an answer had been lost before": {
			change:      func(s *scene) { s.fail(); s.logged.lost[0].at = at(0.9); s.window(Reset, "trusting", 1.9, 2.1) },
			unexplained: "active and nobody's",
		},
		"a refusal, and another's answer was lost": {
			change:      func(s *scene) { s.fail(); s.request.Outcome = Refused; s.window(Reset, "trusting", 1.9, 2.1) },
			unexplained: "active and nobody's",
		},
		"logged within the clock's precision": {
			change: func(s *scene) {
				s.fail()
				s.mint.Arrived, s.logged.lost[0].at = at(1.0005), at(1)
				s.window(Reset, "trusting", 1, 2.1)
			},
			explained: ByNetwork,
		},
		"cut off while the request was on its way": {
			change:    func(s *scene) { s.fail(); s.logged.lost[0].at = at(0.995); s.window(Cut, "trusting", 0.99, 2.1) },
			explained: ByNetwork,
		},
		"cut off, and an answer had been lost long before": {
			change:      func(s *scene) { s.fail(); s.logged.lost[0].at = at(0.5); s.window(Cut, "trusting", 0.99, 2.1) },
			unexplained: "active and nobody's",
		},
		"the server was slow": {
			change:    func(s *scene) { s.fail(); s.mint.Left = s.mint.Arrived.Add(providerTimeout) },
			explained: BySlowness,
		},
		"the plugin died with the answer":   {change: func(s *scene) { s.lose(Broken); s.window(KillPlugin, "", 2.5, 2.5) }, explained: ByDeath},
		"the plugin died before it asked":   {change: func(s *scene) { s.lose(Broken); s.window(KillPlugin, "", -1, -1) }, unexplained: "active and nobody's"},
		"the plugin died after the request": {change: func(s *scene) { s.lose(Refused); s.window(KillPlugin, "", 3.1, 3.1) }, unexplained: "active and nobody's"},
		"the leader stepped down":           {change: func(s *scene) { s.lose(Refused); s.window(StepDown, "", 2, 5) }, explained: ByDeath},
		"a death explains nothing that is on record": {
			change:      func(s *scene) { s.lose(Broken); s.grants["task.a"] = []string{"ann.2"}; s.window(KillVault, "", 2, 2) },
			unexplained: "active and nobody's", violation: "has no lease",
		},
		"the client gave up and the line broke later": {
			change: func(s *scene) { s.giveUp("oauth2/trusting") }, explained: ByNetwork,
		},
		"the client gave up, and another answer was lost": {
			change: func(s *scene) { s.giveUp("oauth2/careful") }, unexplained: "active and nobody's",
		},
		"the client gave up, that is all": {change: func(s *scene) { s.lose(GaveUp); s.request.Ended = at(0.2) }, unexplained: "active and nobody's"},

		"Vault asked again after a death": {
			change: func(s *scene) { s.repeat(); s.window(KillPlugin, "", 2.2, 2.2) }, held: 1, explained: ByDeath,
		},
		"asked again without a death": {
			change: func(s *scene) { s.repeat(); s.window(Reset, "trusting", 1, 3) }, held: 1, unexplained: "active and nobody's",
		},
		"asked again, and the death came later": {
			change: func(s *scene) { s.repeat(); s.window(KillPlugin, "", 2.9, 2.9) }, held: 1, unexplained: "active and nobody's",
		},

		"survived a kill": {
			change: func(s *scene) { s.kills = []kill{{Kind: RevokeRole, Role: "reader", Began: at(4), Answered: at(5)}} },
			held:   1, violation: "survived revoke/role",
		},
		"issued while a kill ran": {
			change: func(s *scene) { s.kills = []kill{{Kind: RevokeRole, Role: "reader", Began: at(2), Answered: at(5)}} },
			held:   1,
		},
		"of another role": {
			change: func(s *scene) { s.kills = []kill{{Kind: RevokeRole, Role: "writer", Began: at(4), Answered: at(5)}} },
			held:   1,
		},
		"in flight when the freeze came": {
			change: func(s *scene) {
				s.kills = []kill{{Kind: FreezeEntity, Entity: "ann", Began: at(1.2), Answered: at(1.5), Frozen: true, Thawed: at(1.6)}}
			},
			held: 1, violation: "survived freeze entity",
		},
		"given while frozen": {
			change: func(s *scene) {
				s.kills = []kill{{Kind: FreezeEntity, Entity: "ann", Began: at(-3), Answered: at(-2), Frozen: true, Thawed: at(9)}}
			},
			held: 1, violation: "had stopped that",
		},
		"of a disabled entity": {
			change: func(s *scene) { s.kills = []kill{{Kind: Disable, Entity: "ann", Began: at(60), Answered: at(61)}} },
			held:   1, violation: "survived entity disabled",
		},
		"dead without a reason": {
			change: func(s *scene) { s.active = nil; s.grants = nil }, violation: "nobody wanted that",
		},
		"dead by the operator": {
			change: func(s *scene) {
				s.active, s.grants = nil, nil
				s.kills = []kill{{Kind: RevokeEntity, Entity: "ann", Began: at(4), Answered: at(5)}}
			},
		},
		"dead because the client let it lapse": {change: func(s *scene) { s.active, s.grants = nil, nil; s.request.Dropped = true }},
		"still pending": {
			change: func(s *scene) { s.pending = []string{"ann.1"} }, held: 1, violation: "still pending",
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene()
			c.change(s)
			s.requests = []Request{*s.request}
			v := judge(s.evidence)
			require.Equal(t, c.held, v.held, "held")
			explained := map[Reason]int{}
			if c.explained != "" {
				explained[c.explained] = 1
			}
			require.Equal(t, explained, v.explained)
			requireOne(t, c.unexplained, v.unexplained)
			requireOne(t, c.violation, v.violations)
			require.Equal(t, v.active, v.held+len(v.explained)+len(v.unexplained))
		})
	}
}

func requireOne(t *testing.T, want string, found []string) {
	t.Helper()
	if want == "" {
		require.Empty(t, found)
		return
	}
	require.Len(t, found, 1)
	require.Contains(t, found[0], want)
}

// shareIt makes a second request of the same client get the same token, with a lease of
// its own.
func (s *scene) shareIt() *Request {
	s.request.Shared = true
	second := *s.request
	second.Began, second.Ended, second.Lease = at(5), at(6), "second lease"
	s.leases["second lease"] = true
	return &second
}

// TestJudgeOfWhatIsShared: a shared token may live while one of its leases does, and a
// kill that a later request undoes is found.
func TestJudgeOfWhatIsShared(t *testing.T) {
	for name, c := range map[string]struct {
		change      func(s *scene, second *Request)
		held        int
		explained   int
		unexplained string
		violation   string
	}{
		"held by both": {change: func(*scene, *Request) {}, held: 1},
		"held by the second alone": {
			change: func(s *scene, _ *Request) {
				s.request.Revoked, s.request.RevokeAsked = true, true
				delete(s.leases, "lease")
			}, held: 1,
		},
		"held by nobody": {
			change: func(s *scene, second *Request) {
				s.request.Revoked, second.Revoked = true, true
				s.leases, s.grants = map[string]bool{}, nil
			},
			unexplained: "active without its grant",
		},
		"dead under the second": {
			change: func(s *scene, _ *Request) {
				s.request.Dropped = true
				delete(s.leases, "lease")
				s.active, s.grants = nil, nil
			},
			violation: "nobody wanted that",
		},
		"joined after its kill": {
			change: func(s *scene, _ *Request) {
				s.request.Dropped = true
				delete(s.leases, "lease")
				s.kills = []kill{{Kind: RevokeRole, Role: "reader", Began: at(4), Answered: at(4.5)}}
			},
			held: 1, violation: "survived revoke/role",
		},
		"a new one beside it after a kill": {
			change: func(s *scene, second *Request) {
				s.kills = []kill{{Kind: RevokeRole, Role: "reader", Began: at(4), Answered: at(4.5)}}
				s.mints = append(s.mints, &Mint{Scope: "task.a", Line: "trusting", Token: "another", Arrived: at(5.2), Left: at(5.4)})
				second.Token, second.Grant = "another", "ann.2"
				s.active = map[string]bool{"another": true}
				s.grants = map[string][]string{"task.a": {"ann.2"}}
			},
			held: 1,
		},
		"a mint of the second that was lost": {
			change: func(s *scene, second *Request) {
				s.mints = append(s.mints, &Mint{Scope: "task.a", Line: "trusting", Token: "another", Arrived: at(5.2), Left: at(5.4), Withheld: HangUp})
				second.Outcome, second.Token, second.Lease, second.Grant = Failed, "", "", ""
				delete(s.leases, "second lease")
				s.active["another"] = true
			},
			held: 1, explained: 1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene()
			second := s.shareIt()
			c.change(s, second)
			s.requests = []Request{*s.request, *second}
			v := judge(s.evidence)
			require.Equal(t, c.held, v.held, "held")
			explained := 0
			for _, n := range v.explained {
				explained += n
			}
			require.Equal(t, c.explained, explained)
			requireOne(t, c.unexplained, v.unexplained)
			requireOne(t, c.violation, v.violations)
		})
	}
}

// TestJudgeOfWhatTheBrokerSigned: nothing explains one that is active and not held.
func TestJudgeOfWhatTheBrokerSigned(t *testing.T) {
	own := func() *scene {
		s := newScene()
		s.request.Provider = ownProvider
		s.requests = []Request{*s.request}
		s.mints = signed(s.requests)
		return s
	}
	require.Equal(t, 1, judge(own().evidence).held)

	s := own()
	s.grants, s.leases = nil, nil
	s.window(KillPlugin, "", 0, 9)
	requireOne(t, "active without its grant", judge(s.evidence).unexplained)

	s = own()
	s.kills = []kill{{Kind: Emergency, Provider: ownProvider, Began: at(4), Answered: at(5)}}
	requireOne(t, "survived emergency rotation", judge(s.evidence).violations)
	s.active = nil
	require.Empty(t, judge(s.evidence).violations, "it is dead as it was to be")
}
