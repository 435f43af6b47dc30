package backend

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// rotorType can rotate its parent by itself, unless its system refuses.
type rotorType struct {
	sessionType
	system *rotorSystem
}

func (rotorType) Name() string { return "rotor" }

func (t rotorType) Open(cfg provider.Config, parent provider.Parent, deps provider.Deps) (provider.Provider, error) {
	opened, err := t.sessionType.Open(cfg, parent, deps)
	if err != nil {
		return nil, err
	}
	return &rotor{sessionProvider: opened.(*sessionProvider), system: t.system}, nil
}

type rotorSystem struct {
	mu       sync.Mutex
	rotated  int
	asked    int
	fails    error
	pretends bool // to have rotated
}

func (s *rotorSystem) set(change func(*rotorSystem)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

func (s *rotorSystem) counts() (asked, rotated int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked, s.rotated
}

type rotor struct {
	*sessionProvider
	system *rotorSystem
}

func (p *rotor) Traits() provider.Traits {
	t := p.sessionProvider.Traits()
	t.RotatesAlone = true
	return t
}

func (p *rotor) Rotate(ctx context.Context) (provider.Health, error) {
	p.system.mu.Lock()
	defer p.system.mu.Unlock()
	p.system.asked++
	if p.system.fails != nil || p.system.pretends {
		return provider.Health{}, p.system.fails
	}
	parent, err := p.deps.LoadParent(ctx)
	if err != nil {
		return provider.Health{}, err
	}
	parent.Secrets = maps.Clone(parent.Secrets)
	parent.Secrets["root_key"] = secret.New(fmt.Sprintf("rotated-root-key-%d", p.system.rotated+1))
	if err := p.deps.SaveParent(ctx, parent); err != nil {
		return provider.Health{}, err
	}
	p.system.rotated++
	return provider.Health{Detail: "rotated"}, nil
}

const rotorPeriod = 10 * time.Hour

func newRotorMount(t *testing.T) (*mount, *rotorSystem) {
	t.Helper()
	system := &rotorSystem{}
	m := newEmptyMount(t, setup{types: []provider.Type{rotorType{system: system}}})
	m.hide(rootKey)
	m.must(m.write("providers/rotor/p", map[string]any{"url": "https://rotor.example", "root_key": rootKey, "rotation_period": "10h", "verify_connection": false}))
	return m, system
}

// rotateUntil lets periodic runs come until the system has been asked so often.
func (m *mount) rotateUntil(s *rotorSystem, asked int) {
	m.t.Helper()
	require.NoError(m.t, m.periodic())
	require.Eventually(m.t, func() bool { n, _ := s.counts(); return n == asked }, 20*time.Second, time.Millisecond)
	require.Eventually(m.t, func() bool { // the end is noted after the answer
		u, err := m.b.providers.Upkeep(context.Background(), "rotor/p")
		if err == nil {
			u.Done()
		}
		return err == nil
	}, 20*time.Second, time.Millisecond)
}

func TestAParentIsRotatedOnSchedule(t *testing.T) {
	m, s := newRotorMount(t)
	written := m.must(m.read("providers/rotor/p")).Data
	require.EqualValues(t, rotorPeriod/time.Second, written["rotation_period"])
	require.Equal(t, stamp(m.clock.Now()), written["last_rotation"])

	m.clock.advance(rotorPeriod * 9 / 10)
	m.clock.advance(-time.Minute)
	require.NoError(t, m.periodic())
	asked, _ := s.counts()
	require.Zero(t, asked, "not a tenth before its time")

	m.clock.advance(rotorPeriod/10 + time.Minute)
	m.rotateUntil(s, 1)
	require.NoError(t, m.periodic())
	asked, rotated := s.counts()
	require.Equal(t, []int{1, 1}, []int{asked, rotated}, "once")
	after := m.must(m.read("providers/rotor/p")).Data
	require.Equal(t, stamp(m.clock.Now()), after["last_rotation"])
	require.NotEqual(t, written["root_key_sha256"], after["root_key_sha256"])

	// A new life, as on the node that takes over, goes on where this one was.
	m.start()
	require.NoError(t, m.periodic())
	m.clock.advance(rotorPeriod)
	m.rotateUntil(s, 2)
}

func TestARotationThatFailsIsLoudAndTriedAgain(t *testing.T) {
	m, s := newRotorMount(t)
	s.set(func(s *rotorSystem) {
		s.fails = fault.New(fault.TemporarilyUnavailable, "the system is being repaired")
	})
	m.clock.advance(rotorPeriod)
	m.rotateUntil(s, 1)
	shown := func() map[string]any { return m.must(m.read("providers/rotor/p")).Data }
	require.Eventually(t, func() bool { return shown()["health"] == "rotation_overdue" }, 20*time.Second, time.Millisecond)
	require.Contains(t, shown()["health_detail"], "being repaired")
	require.NoError(t, m.periodic())
	asked, _ := s.counts()
	require.Equal(t, 1, asked, "not at once")
	m.clock.advance(2 * time.Minute)
	require.Contains(t, m.metrics(), `broker_rotation_overdue_seconds{provider="rotor/p"} 120`)
	m.rotateUntil(s, 2)

	s.set(func(s *rotorSystem) { s.fails, s.pretends = nil, true })
	m.clock.advance(time.Hour)
	m.rotateUntil(s, 3)
	require.Eventually(t, func() bool {
		detail, _ := shown()["health_detail"].(string)
		return shown()["health"] == "rotation_overdue" && len(detail) > 0
	}, 20*time.Second, time.Millisecond)
	require.Contains(t, shown()["health_detail"], "the same one is stored")

	s.set(func(s *rotorSystem) { s.pretends = false })
	m.clock.advance(time.Hour)
	m.rotateUntil(s, 4)
	require.Eventually(t, func() bool { return shown()["health"] == "ok" }, 20*time.Second, time.Millisecond)
	require.Contains(t, m.metrics(), `broker_rotation_overdue_seconds{provider="rotor/p"} 0`)
}

func TestRotationPeriodsThatCannotBeKept(t *testing.T) {
	m, s := newRotorMount(t)
	_, err := m.write("providers/oauth2/p", m.providerFields(map[string]any{"rotation_period": "24h"}))
	requireCode(t, err, fault.InvalidRequest, "rotation_period", "oauth2", "rotate")
	_, err = m.write("providers/rotor/p", map[string]any{"rotation_period": "10m"})
	requireCode(t, err, fault.InvalidRequest, "rotation_period must be 1h")

	// What is disabled, or has no period any more, is left alone.
	for _, change := range []map[string]any{{"disabled": true}, {"disabled": false, "rotation_period": 0}} {
		m.must(m.write("providers/rotor/p", change))
		m.clock.advance(2 * rotorPeriod)
		require.NoError(t, m.periodic())
	}
	asked, _ := s.counts()
	require.Zero(t, asked)
}

// Two runs of the periodic function, or an operator beside one, make one rotation.
func TestOneRotationAtATime(t *testing.T) {
	m, s := newRotorMount(t)
	m.clock.advance(rotorPeriod)
	s.mu.Lock() // the system does not answer yet
	require.NoError(t, m.periodic())
	require.NoError(t, m.periodic())
	require.NoError(t, m.periodic())
	s.mu.Unlock()
	m.rotateUntil(s, 1)
	require.NoError(t, m.periodic())
	asked, rotated := s.counts()
	require.Equal(t, []int{1, 1}, []int{asked, rotated})
}

// half prepares the next key, and fails before it becomes the present one.
type halfType struct{ rotorType }

func (t halfType) Open(cfg provider.Config, parent provider.Parent, deps provider.Deps) (provider.Provider, error) {
	opened, err := t.rotorType.Open(cfg, parent, deps)
	if err != nil {
		return nil, err
	}
	return &half{opened.(*rotor)}, nil
}

type half struct{ *rotor }

func (p *half) Rotate(ctx context.Context) (provider.Health, error) {
	p.system.set(func(s *rotorSystem) { s.asked++ })
	parent, err := p.deps.LoadParent(ctx)
	if err != nil {
		return provider.Health{}, err
	}
	parent.Secrets = maps.Clone(parent.Secrets)
	parent.Secrets["root_key_next"] = secret.New("next-root-key-of-the-system")
	if err := p.deps.SaveParent(ctx, parent); err != nil {
		return provider.Health{}, err
	}
	return provider.Health{}, fault.New(fault.TemporarilyUnavailable, "the system does not know the next key yet")
}

func newHalfMount(t *testing.T) (*mount, *rotorSystem) {
	t.Helper()
	system := &rotorSystem{}
	m := newEmptyMount(t, setup{types: []provider.Type{halfType{rotorType{system: system}}}})
	m.hide(rootKey)
	m.must(m.write("providers/rotor/p", map[string]any{"url": "https://rotor.example", "root_key": rootKey, "rotation_period": "10h", "verify_connection": false}))
	return m, system
}

// What has only been prepared is no rotation: it is tried again, and said to fail.
func TestARotationThatStopsInBetweenIsTriedAgain(t *testing.T) {
	m, s := newHalfMount(t)
	written := m.must(m.read("providers/rotor/p")).Data["last_rotation"]
	m.clock.advance(rotorPeriod)
	m.rotateUntil(s, 1)
	require.Eventually(t, func() bool { return m.must(m.read("providers/rotor/p")).Data["health"] == "rotation_overdue" }, 20*time.Second, time.Millisecond)
	require.Equal(t, written, m.must(m.read("providers/rotor/p")).Data["last_rotation"])
	m.clock.advance(2 * time.Minute)
	m.rotateUntil(s, 2)
}

// A write that moves the provider takes no secret along that a rotation has added meanwhile.
func TestAMoveTakesNoSecretAlongThatItDidNotBring(t *testing.T) {
	system := &rotorSystem{}
	var during func()
	m := newEmptyMount(t, setup{types: []provider.Type{movingType{halfType{rotorType{system: system}}, &during}}})
	m.hide(rootKey)
	m.must(m.write("providers/rotor/p", map[string]any{"url": "https://rotor.example", "root_key": rootKey, "verify_connection": false}))
	during = func() {
		during = nil
		_, err := m.write("providers/rotor/p/rotate", nil)
		requireCode(t, err, fault.TemporarilyUnavailable, "next key")
	}
	_, err := m.write("providers/rotor/p", map[string]any{"url": "https://elsewhere.example", "root_key": rootKey})
	requireCode(t, err, fault.InvalidRequest, "meanwhile")
	require.Equal(t, "https://rotor.example", m.must(m.read("providers/rotor/p")).Data["url"])
}

type movingType struct {
	halfType
	during *func()
}

func (t movingType) Configure(ctx context.Context, change provider.Change) (*provider.Pinned, error) {
	if do := *t.during; do != nil {
		do()
	}
	return t.halfType.Configure(ctx, change)
}

// An operator's rotation comes first: the schedule does not make another one of it.
func TestTheScheduleLooksAgainOnceItHasItsTurn(t *testing.T) {
	m, s := newRotorMount(t)
	m.clock.advance(rotorPeriod)
	s.mu.Lock() // the system does not answer yet
	byHand := make(chan error)
	go func() {
		_, err := m.write("providers/rotor/p/rotate", nil)
		byHand <- err
	}()
	require.Eventually(t, func() bool { // the hand has its turn
		ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
		defer cancel()
		u, err := m.b.providers.Upkeep(ctx, "rotor/p")
		if err == nil {
			u.Done()
		}
		return err != nil
	}, 20*time.Second, time.Millisecond)
	waited := make(chan struct{})
	go func() { defer close(waited); m.b.rotateOnSchedule(context.Background(), "rotor/p") }()
	s.mu.Unlock()
	require.NoError(t, <-byHand)
	<-waited
	_, rotated := s.counts()
	require.Equal(t, 1, rotated)
	require.Equal(t, "ok", m.must(m.read("providers/rotor/p")).Data["health"])
}
