package backend

import (
	"errors"
	"maps"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// lives is a mount at a rack in a random life, and what must be true of it.
type lives struct {
	*rapid.T
	m    *mount
	r    *rack
	made int
	held map[int]*heldLease
	// hit are the grants that an operator's kill has meant.
	hit map[string]bool
}

// heldLease is a lease that Vault has not ended.
type heldLease struct {
	*lease
	role, entity string
	ends         time.Time
	// spared is false once an operator's kill may have hit it.
	spared bool
}

// rackLevers are the roles, with what their children hang on.
var rackLevers = map[string]string{"own": "", "login": "login", "also": "login", "account": "account", "shared": "login"}

func (h *lives) entity() string { return rapid.SampledFrom([]string{alice, bob}).Draw(h.T, "entity") }

func (h *lives) role() string {
	return rapid.SampledFrom(slices.Sorted(maps.Keys(rackLevers))).Draw(h.T, "role")
}

func (h *lives) lease() (int, *heldLease) {
	if len(h.held) == 0 {
		return 0, nil
	}
	key := rapid.SampledFrom(slices.Sorted(maps.Keys(h.held))).Draw(h.T, "lease")
	return key, h.held[key]
}

func (h *lives) issue() {
	role, entity := h.role(), h.entity()
	h.m.clock.advance(time.Second) // or it would be one of those that a kill of before has meant
	// Who comes while a kill of the lever is still tried dies with it.
	spared := !h.pending(rackLevers[role])
	l, err := h.m.credsBy(call{path: "creds/" + role, entity: entity})
	if err != nil {
		return
	}
	h.made++
	h.held[h.made] = &heldLease{lease: l, role: role, entity: entity, ends: h.m.clock.Now().Add(l.secret.TTL), spared: spared}
}

// pending reports whether something on the lever is still to be killed.
func (h *lives) pending(lever string) bool {
	for _, id := range h.m.allGrants() {
		g, err := h.m.b.ledger.Get(h.Context(), id)
		require.NoError(h.T, err)
		if lever != "" && rackLevers[g.Role] == lever && h.hit[id] {
			return true
		}
	}
	return false
}

// end is the end of a lease, which Vault tries again if it fails.
func (h *lives) end() {
	key, l := h.lease()
	if l == nil {
		return
	}
	l.spared = false
	if h.m.revoke(l.lease) == nil {
		delete(h.held, key)
	}
}

func (h *lives) kill() {
	role, entity := h.role(), h.entity()
	path := rapid.SampledFrom([]string{"revoke/role/" + role, "revoke/entity/" + entity}).Draw(h.T, "kill")
	hit := map[string]bool{}
	for _, id := range h.m.allGrants() {
		g, err := h.m.b.ledger.Get(h.Context(), id)
		require.NoError(h.T, err)
		if path == "revoke/role/"+g.Role || path == "revoke/entity/"+g.Holder {
			h.hit[id], hit[id], hit[rackLevers[g.Role]] = true, true, true
		}
	}
	for _, l := range h.held {
		lever := rackLevers[l.role]
		l.spared = l.spared && !hit[l.grantID] && (lever == "" || !hit[lever])
	}
	_, _ = h.m.write(path, nil)
	h.m.waitForKills()
}

// pass lets time pass, at which Vault ends leases.
func (h *lives) pass() {
	h.m.clock.advance(time.Duration(rapid.IntRange(1, 300).Draw(h.T, "seconds")) * time.Second)
	for key, l := range h.held {
		if !h.m.clock.Now().Before(l.ends) {
			_ = h.m.revoke(l.lease) // or the sweep does it
			delete(h.held, key)
		}
	}
}

func (h *lives) sweep() {
	if rapid.Bool().Draw(h.T, "by hand") {
		_, _ = h.m.write("sweep", nil)
	} else {
		_ = h.m.periodic()
	}
	h.m.waitForKills()
}

// lie makes storage fail once in a while, during f.
func (h *lives) lie(f func()) func(*rapid.T) {
	return func(*rapid.T) {
		if rapid.IntRange(0, 5).Draw(h.T, "storage") == 0 {
			fails := rapid.SampledFrom([]string{"put", "delete"}).Draw(h.T, "fails")
			h.m.storage.on(func(op, _ string) error {
				if op == fails {
					return errStorage
				}
				return nil
			})
		}
		f()
		h.m.storage.on(nil)
	}
}

func (h *lives) restart() {
	require.NoError(h.T, h.m.b.ledger.Flush(h.Context()))
	h.m.start()
	if rapid.Bool().Draw(h.T, "loaded") {
		require.NoError(h.T, h.m.b.ledger.Load(h.Context()))
	}
}

// crash lets the plugin die in a mint.
func (h *lives) crash() {
	require.NoError(h.T, h.m.b.ledger.Flush(h.Context()))
	h.r.set(func(r *rack) {
		hook := &r.before
		if rapid.Bool().Draw(h.T, "minted") {
			hook = &r.after
		}
		*hook = runtime.Goexit
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = h.m.credsBy(call{path: "creds/own", entity: alice})
	}()
	<-done
	h.r.set(func(r *rack) { r.before, r.after = nil, nil })
	h.m.start()
}

func (h *lives) harm() {
	h.r.set(func(r *rack) {
		switch rapid.IntRange(0, 3).Draw(h.T, "harm") {
		case 0:
			r.stuck = errors.New("down")
		case 1:
			r.deaf = errors.New("down")
		case 2:
			r.lost = 1
		default:
			r.stuck, r.deaf = nil, nil
		}
	})
}

// check: whatever works has a record that leads to its end, and whoever was not meant
// works on.
func (h *lives) check() {
	live := map[string]bool{}
	h.r.set(func(r *rack) {
		for _, c := range r.children {
			live[c.Token] = !c.dead
			if c.dead {
				continue
			}
			_, known, err := h.m.b.ledger.Lookup(h.Context(), c.Name)
			require.NoError(h.T, err)
			require.True(h.T, known, "nobody knows of %s, which works", c.Token)
		}
	})
	for _, l := range h.held {
		require.True(h.T, live[l.token] || !l.spared, "%s of a lease on %q died, and nobody meant it", l.token, rackLevers[l.role])
	}
}

// TestARandomLifeOfLeversAndIntents: through lost answers, crashes, kills and a provider
// and a storage that fail, nothing lives that nobody knows of, nobody dies by the end of
// another's lease, and in the end everything is dead.
func TestARandomLifeOfLeversAndIntents(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r := &rack{}
		h := &lives{T: rt, m: newRack(t, r, "", nil), r: r, held: map[int]*heldLease{}, hit: map[string]bool{}}
		for role, lever := range rackLevers {
			sharing := map[string]any{}
			if role == "shared" {
				sharing["sharing"] = "entity"
			}
			h.m.rackRole(role, lever, sharing)
		}
		rt.Repeat(map[string]func(*rapid.T){
			"issue": h.lie(h.issue), "issue another": h.lie(h.issue), "end": h.lie(h.end), "end another": h.lie(h.end),
			"kill": h.lie(h.kill), "pass": h.lie(h.pass), "sweep": h.lie(h.sweep),
			"restart": func(*rapid.T) { h.restart() }, "crash": func(*rapid.T) { h.crash() }, "harm": func(*rapid.T) { h.harm() },
			"": func(*rapid.T) { h.check() },
		})
		r.set(func(r *rack) { r.stuck, r.deaf, r.lost = nil, nil, 0 })
		for _, l := range h.held {
			require.NoError(rt, h.m.revoke(l.lease))
		}
		for range 4 {
			h.m.clock.advance(11 * time.Minute)
			require.NoError(rt, h.m.b.ledger.Load(rt.Context()))
			require.NoError(rt, h.m.periodic())
			h.m.waitForKills()
		}
		require.Empty(rt, r.live())
		require.Empty(rt, h.m.allGrants())
		require.Empty(rt, h.m.b.ledger.Idle())
		require.Empty(rt, h.m.b.ledger.Totals())
	})
}
