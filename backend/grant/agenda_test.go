package grant

import (
	"context"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"
)

func TestAnIssueIsOneWriteAndItsEndOneDelete(t *testing.T) {
	s := &imagined{}
	l := NewLedger(s)
	require.NoError(t, l.Load(t.Context()))
	before := s.calls.Load()
	g := newGrant(t, "alice")
	require.NoError(t, l.Record(t.Context(), g))
	require.EqualValues(t, 1, s.calls.Load()-before)
	require.NoError(t, l.Remove(t.Context(), g))
	require.EqualValues(t, 2, s.calls.Load()-before)
}

func TestAnIssueWithAnIntentIsTwoWrites(t *testing.T) {
	s := &imagined{}
	l := NewLedger(s)
	require.NoError(t, l.Load(t.Context()))
	require.Empty(t, liveIDs(t, l, "alice", "r", noon))
	before := s.calls.Load()
	g := newGrant(t, "alice")
	intent := &Grant{ID: g.ID, Holder: g.Holder, Role: g.Role, Provider: g.Provider, IssuedAt: noon, Intent: noon.Add(time.Minute)}
	hold := l.Hold(g.ID)
	require.NoError(t, l.Record(t.Context(), intent))
	require.Equal(t, map[string]bool{g.ID: true}, liveIDs(t, l, "alice", "r", noon.Add(24*time.Hour)), "it lives, and has no end")
	require.NoError(t, l.Rewrite(t.Context(), hold, intent, g))
	require.EqualValues(t, 2, s.calls.Load()-before)
	require.Equal(t, map[string]bool{g.ID: true}, liveIDs(t, l, "alice", "r", noon), "the two are one")
	require.Empty(t, liveIDs(t, l, "alice", "r", noon.Add(24*time.Hour)))
}

func TestMemoryOfALeverIsOfItsHolders(t *testing.T) {
	l, _ := emptyLedger(t)
	require.NoError(t, l.Load(t.Context()))
	for i := range 300 {
		g := newGrant(t, []string{"alice", "bob", "carol"}[i%3])
		if i%2 == 0 {
			g.Lever = "a session"
		}
		require.NoError(t, l.Record(t.Context(), g))
	}
	x := l.current()
	require.Len(t, x.on, 1, "what hangs on nothing that others could hang on is not kept")
	require.Len(t, x.on[Lever{"oauth2/p", "a session"}].holders, 3)
	require.Equal(t, Hanging{Held: 150}, l.Hanging(Lever{"oauth2/p", "a session"}))
}

// spilled is a ledger with n grants, most of them on pages.
func spilled(t *testing.T, n int) (*Ledger, *logical.InmemStorage, []*Grant) {
	t.Helper()
	s := &logical.InmemStorage{}
	l := newLedger(s, 10, scanParallel)
	l.background = func(f func()) { f() }
	require.NoError(t, l.Load(t.Context()))
	var grants []*Grant
	for range n {
		grants = append(grants, newGrant(t, "alice"))
		require.NoError(t, l.Record(t.Context(), grants[len(grants)-1]))
	}
	pages, err := s.List(t.Context(), pagePrefix+l.current().run+"/")
	require.NoError(t, err)
	require.NotEmpty(t, pages)
	return l, s, grants
}

func TestPagesComeBackWhenTheirTimeHasCome(t *testing.T) {
	l, s, grants := spilled(t, 100)
	require.NoError(t, l.Remove(t.Context(), grants[0]))
	require.Empty(t, dueAt(t, l, noon.Add(30*time.Minute)), "Vault has some time")
	require.Len(t, dueAt(t, l, noon.Add(32*time.Minute)), 99)
	for _, g := range grants[1:] {
		require.NoError(t, l.Remove(t.Context(), g))
	}
	require.Empty(t, dueAt(t, l, noon.Add(time.Hour)))
	require.Empty(t, l.Totals())
	keys, err := logical.CollectKeys(t.Context(), s)
	require.NoError(t, err)
	require.Empty(t, keys, "nothing stays behind")
}

func TestTheOutboxIsFoundOnPages(t *testing.T) {
	l, _, grants := spilled(t, 50)
	for _, g := range grants[:20] {
		require.NoError(t, l.Doom(t.Context(), g, func(d *Doom) { d.Since, d.Next = noon, noon.Add(10*time.Minute) }))
	}
	require.Equal(t, 20, l.Counts("alice")[0].Outbox)
	require.Equal(t, map[string]time.Time{"oauth2/p": time.Unix(noon.Unix(), 0)}, l.OutboxSince())
	due, looked, err := l.Due(t.Context(), Query{
		Now: noon, Early: true, Limit: 1000, Skip: func(string) bool { return false }, Business: func(s *Summary) bool { return s.Doomed },
	})
	require.NoError(t, err)
	require.Len(t, due, 20, "by hand, whatever the backoff")
	require.GreaterOrEqual(t, len(looked), 20)
	for i := range due {
		g, err := l.Get(t.Context(), due[i].ID)
		require.NoError(t, err)
		require.NoError(t, l.Remove(t.Context(), g))
	}
	require.Empty(t, l.OutboxSince())
}

func TestALostPageIsMadeUpFromTheRecords(t *testing.T) {
	for name, harm := range map[string]func(s *logical.InmemStorage, key string) error{
		"gone": func(s *logical.InmemStorage, key string) error { return s.Delete(t.Context(), key) },
		"garbled": func(s *logical.InmemStorage, key string) error {
			return s.Put(t.Context(), &logical.StorageEntry{Key: key, Value: []byte(`{"ids":["x"]}`)})
		},
	} {
		l, s, grants := spilled(t, 40)
		key, ok := l.current().nextPage(noon.Add(time.Hour).UnixMilli(), false)
		require.True(t, ok)
		require.NoError(t, harm(s, key), name)
		_, _, err := l.Due(t.Context(), Query{Now: noon.Add(time.Hour), Limit: 1000, Skip: func(string) bool { return false }, Business: func(*Summary) bool { return true }})
		require.Error(t, err, name)
		require.False(t, l.Loaded(), name)
		require.NoError(t, l.Load(t.Context()))
		require.Len(t, dueAt(t, l, noon.Add(time.Hour)), len(grants), name)
	}
}

func TestPagesThatCannotBeWrittenStayInMemory(t *testing.T) {
	l, s, _ := spilled(t, 20)
	all := len(dueAt(t, l, noon.Add(time.Hour)))
	s.FailPut(true)
	l.current().setRoom(2, false)
	require.Error(t, l.makeRoom(t.Context()))
	s.FailPut(false)
	require.Len(t, dueAt(t, l, noon.Add(time.Hour)), all)
}

func TestDue(t *testing.T) {
	at := func(minutes int) time.Time { return noon.Add(time.Duration(minutes) * time.Minute) }
	for name, c := range map[string]struct {
		s    Summary
		want time.Time
		ever bool
	}{
		"its lease's end, with time for Vault":       {Summary{Revocable: true, LeaseEnds: at(10), ExpiresAt: at(60)}, at(12), true},
		"its expiry, with grace":                     {Summary{Revocable: true, LeaseEnds: at(60), ExpiresAt: at(60)}, at(61), true},
		"no expiry that is known":                    {Summary{Revocable: true, LeaseEnds: at(10)}, at(12), true},
		"the next attempt":                           {Summary{Revocable: true, LeaseEnds: at(10), ExpiresAt: at(60), Doomed: true, Next: at(30)}, at(30), true},
		"an attempt after the expiry":                {Summary{Revocable: true, LeaseEnds: at(10), ExpiresAt: at(20), Doomed: true, Next: at(30)}, at(21), true},
		"nothing can kill it":                        {Summary{LeaseEnds: at(10), ExpiresAt: at(60), Doomed: true}, at(61), true},
		"nothing can kill it, ever":                  {Summary{LeaseEnds: at(10)}, time.Time{}, false},
		"nothing can kill it, and nobody has it":     {Summary{LeaseEnds: at(10), IssuedAt: at(10), Withheld: true}, at(10).Add(EndlessLife), true},
		"nothing can kill it, as the kill has shown": {Summary{LeaseEnds: at(10), IssuedAt: at(1), Doomed: true, Since: at(5), Next: at(6)}, at(5).Add(EndlessLife), true},
		"nobody has it, and it expires":              {Summary{LeaseEnds: at(10), IssuedAt: at(10), Withheld: true, ExpiresAt: at(60)}, at(61), true},
		"an intent, its deadline":                    {Summary{Revocable: true, IssuedAt: at(10), Intent: at(11)}, at(11), true},
		"an intent, the next attempt":                {Summary{Revocable: true, IssuedAt: at(10), Intent: at(11), Doomed: true, Next: at(30)}, at(30), true},
		"released, its expiry":                       {Summary{Revocable: true, Released: true, LeaseEnds: at(10), ExpiresAt: at(60)}, at(61), true},
		"released, and no expiry is known":           {Summary{Revocable: true, Released: true, LeaseEnds: at(10)}, time.Time{}, false},
		"released, the next attempt":                 {Summary{Revocable: true, Released: true, LeaseEnds: at(10), Doomed: true, Next: at(30)}, at(30), true},
		"nobody has it, and it can be killed":        {Summary{Revocable: true, IssuedAt: at(10), Withheld: true, Doomed: true, Next: at(30)}, at(30), true},
	} {
		due, ever := c.s.Due()
		require.Equal(t, c.ever, ever, name)
		if ever {
			require.Equal(t, c.want, due, name)
		}
	}
}

// readOnly is the storage of a node that may not write.
type readOnly struct{ *imagined }

func (readOnly) List(ctx context.Context, prefix string) ([]string, error) {
	if prefix == pagePrefix {
		return []string{"old/"}, nil
	}
	if prefix == pagePrefix+"old/" {
		return []string{"1"}, nil
	}
	return (&imagined{holders: 10, each: 10}).List(ctx, prefix)
}

func (readOnly) Put(context.Context, *logical.StorageEntry) error { return logical.ErrReadOnly }

func (readOnly) Delete(context.Context, string) error { return logical.ErrReadOnly }

func TestANodeThatMayNotWriteReads(t *testing.T) {
	l := newLedger(readOnly{&imagined{}}, 10, scanParallel)
	require.NoError(t, l.Load(t.Context()))
	require.Equal(t, 100, l.Totals()[0].Live)
}
