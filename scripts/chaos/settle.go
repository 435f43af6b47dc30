package chaos

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"
	"golang.org/x/sync/errgroup"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
)

// evidence is everything that the verdict rests on.
type evidence struct {
	mints    []*Mint
	requests []Request
	windows  []Window
	kills    []kill
	// active is what Hydra, or the broker of its own, said of each token.
	active map[string]bool
	// grants are the ids of the grants in the ledger, by scope.
	grants map[string][]string
	// pending are the grants whose revocation had not succeeded.
	pending []string
	// leases are those that Vault has.
	leases map[string]bool
	// logged is what the broker reported.
	logged *logged
	// violations were seen while it ran.
	violations []string
}

const (
	settleTimeout = 3 * time.Minute
	askParallel   = 8
)

// settle waits until nothing is left to be done, and then asks everybody.
//
// A grant without a lease ends when its lease would have ended: so after one
// lease's life without new grants, the sweep has the last word. What the clients
// hold they renew until all have been asked.
func (w *world) settle(t harness.TB) *evidence {
	t.Helper()
	w.awaitEvents(t)
	quiet := time.Now().Add(w.options.LeaseTTL + 2*time.Second)
	for time.Now().Before(quiet) {
		w.sweep(t)
		time.Sleep(time.Second)
	}
	harness.Eventually(t, settleTimeout, "the sweep finds nothing more to do", func() error {
		if counts := w.sweep(t); counts["killed"] != "0" || counts["pending"] != "0" {
			return fmt.Errorf("it says %v", counts)
		}
		return nil
	})
	e := &evidence{active: map[string]bool{}, grants: map[string][]string{}}
	w.endLeases(t)
	w.listGrants(t, e)
	e.leases = w.leases(t)
	for _, c := range w.clients {
		requests, violations := c.history()
		e.requests = append(e.requests, requests...)
		e.violations = append(e.violations, violations...)
	}
	e.mints = append(w.recorder.Mints(), signed(e.requests)...)
	w.askAll(t, e)
	e.windows = w.history.all()
	var files []string
	for _, node := range w.nodes() {
		files = append(files, node.LogFile())
	}
	var err error
	if e.logged, err = readLogs(files); err != nil {
		t.Fatalf("Vault's log: %v", err)
	}
	e.violations = append(e.violations, e.logged.bad...)
	w.mu.Lock()
	defer w.mu.Unlock()
	e.kills = append(slices.Clone(w.kills), w.idp.kills()...)
	e.violations = append(e.violations, w.problems...)
	e.violations = append(e.violations, w.recorder.Problems()...)
	return e
}

// sweep runs one by hand and returns its counts.
func (w *world) sweep(t harness.TB) map[string]string {
	t.Helper()
	data, err := w.asRoot(mountPath+"/sweep", nil, settleTimeout)
	if err != nil {
		t.Fatalf("sweep: %v", err)
	}
	counts := map[string]string{}
	for name, count := range data {
		counts[name] = fmt.Sprint(count)
	}
	return counts
}

// endLeases revokes every lease that nobody renews any more. With the faults
// over, Vault must succeed with each, whatever the broker has done about its
// token meanwhile.
func (w *world) endLeases(t harness.TB) {
	t.Helper()
	held := map[string]bool{}
	for _, c := range w.clients {
		requests, _ := c.history()
		for _, r := range requests {
			held[r.Lease] = held[r.Lease] || !r.Dropped
		}
	}
	for lease := range w.leases(t) {
		if held[lease] {
			continue
		}
		if _, err := w.asRoot("sys/leases/revoke", map[string]any{"lease_id": lease, "sync": true}, time.Minute); err != nil {
			w.problem("Vault cannot revoke the lease %s after the faults: %v", lease, err)
		}
	}
}

// leases are all that Vault has of the mount.
func (w *world) leases(t harness.TB) map[string]bool {
	t.Helper()
	all := map[string]bool{}
	for _, role := range w.roles { // some are there twice, which changes nothing
		prefix := mountPath + "/creds/" + role.name + "/"
		for _, key := range w.list(t, "sys/leases/lookup/"+prefix, nil) {
			all[prefix+key] = true
		}
	}
	return all
}

// list is one page of a list.
func (w *world) list(t harness.TB, path string, query map[string][]string) []string {
	t.Helper()
	if query == nil {
		query = map[string][]string{}
	}
	query["list"] = []string{"true"}
	var secret *api.Secret
	harness.Eventually(t, time.Minute, "Vault lists "+path, func() (err error) {
		secret, err = w.root[0].Logical().ReadWithData(path, query)
		return err
	})
	if secret == nil {
		return nil
	}
	found, _ := secret.Data["keys"].([]any)
	keys := make([]string, len(found))
	for i, key := range found {
		keys[i] = fmt.Sprint(key)
	}
	return keys
}

// listGrants reads the whole ledger.
func (w *world) listGrants(t harness.TB, e *evidence) {
	t.Helper()
	for after := ""; ; {
		page := w.list(t, mountPath+"/grants", map[string][]string{"after": {after}})
		for _, id := range page {
			secret, err := w.root[0].Logical().Read(mountPath + "/grants/" + id)
			if err != nil {
				t.Fatalf("grant %s: %v", id, err)
			}
			if secret == nil {
				continue // it ended meanwhile
			}
			if secret.Data["pending"] == true {
				e.pending = append(e.pending, id)
			}
			scope := scopeIn(secret.Data["granted"])
			e.grants[scope] = append(e.grants[scope], id)
		}
		if len(page) == 0 {
			return
		}
		after = page[len(page)-1]
	}
}

// scopeIn is the one scope among what was granted.
func scopeIn(granted any) string {
	all, _ := granted.([]any)
	for _, one := range all {
		if scope, ok := strings.CutPrefix(fmt.Sprint(one), "scope:"); ok {
			return scope
		}
	}
	return ""
}

// signed are the tokens that the broker has signed itself and somebody has got. Of
// the others only a grant is left, if anything.
func signed(requests []Request) []*Mint {
	var mints []*Mint
	for i := range requests {
		if r := &requests[i]; r.Outcome == Given && r.Provider == ownProvider {
			mints = append(mints, &Mint{Scope: r.Scope, Line: ownProvider, Token: r.Token, Arrived: r.Began, Left: r.Ended})
		}
	}
	return mints
}

// askAll asks about every token that was ever minted.
func (w *world) askAll(t harness.TB, e *evidence) {
	t.Helper()
	answers := make([]bool, len(e.mints))
	var group errgroup.Group
	group.SetLimit(askParallel)
	for i, m := range e.mints {
		group.Go(func() (err error) {
			answers[i], err = w.active(m.Token)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatalf("asking whether a token lives: %v", err)
	}
	for i, m := range e.mints {
		e.active[m.Token] = answers[i]
	}
}
