package chaos

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
)

// Report are a run's counts.
type Report struct {
	Options Options

	Minted, Given, Renewed, Revoked int64
	Checked                         int64 // revocations that were checked at once
	RenewFailed, RevokeFailed       int64
	Outcomes                        map[Outcome]int
	Faults                          map[Kind]int
	Kills                           int            // SIGKILLs of plugin and Vault
	KilledBy                        map[string]int // grants, by the cause in the broker's log
	Lost                            int            // lost answers in the broker's log
	Withheld                        int            // answers that the recorder kept back after the work
	Shared, Sharers                 int            // tokens that were shared, and the requests that got one of them
	Signed                          int            // tokens of the broker's own

	Active, Held int
	Explained    map[Reason]int
	Unexplained  []string
	Violations   []string
}

func (w *world) report(e *evidence, v *verdict) *Report {
	r := &Report{
		Options: w.options, Minted: int64(len(e.mints)),
		Given: w.counts.issued.Load(), Renewed: w.counts.renewed.Load(), Revoked: w.counts.revoked.Load(), Checked: w.counts.checked.Load(),
		RenewFailed: w.counts.renewFailed.Load(), RevokeFailed: w.counts.revokeFailed.Load(),
		Outcomes: map[Outcome]int{}, Faults: map[Kind]int{}, KilledBy: e.logged.killedBy, Lost: len(e.logged.lost),
		Active: v.active, Held: v.held, Explained: v.explained, Unexplained: v.unexplained, Violations: v.violations,
	}
	for i := range e.requests {
		r.Outcomes[e.requests[i].Outcome]++
	}
	r.countKinds(e.requests)
	for i := range e.windows {
		r.Faults[e.windows[i].Kind]++
	}
	r.Kills = r.Faults[KillPlugin] + r.Faults[KillVault] + r.Faults[KillVaultAlone]
	for _, m := range e.mints {
		if m.Withheld != "" {
			r.Withheld++
		}
	}
	return r
}

func (r *Report) countKinds(requests []Request) {
	tokens := map[string]bool{}
	for i := range requests {
		switch one := &requests[i]; {
		case one.Outcome != Given:
		case one.Shared:
			r.Sharers++
			tokens[one.Token] = true
		case one.Provider == ownProvider:
			r.Signed++
		}
	}
	r.Shared = len(tokens)
}

// Print writes the counts, and fails the test if anything is unexplained.
func (r *Report) Print(t harness.TB) {
	t.Helper()
	o := r.Options
	t.Logf("fault run: seed %d, %s, %d clients, %s storage, %d node(s)", o.Seed, o.Duration, o.Clients, o.Storage, o.Nodes)
	t.Logf("  tokens       %d minted, %d given to clients, %d answers withheld by the server's faults, %d lost as the broker says", r.Minted, r.Given, r.Withheld, r.Lost)
	t.Logf("  of these     %d were shared by %d requests, %d signed by the broker itself", r.Shared, r.Sharers, r.Signed)
	t.Logf("  requests     %s", counts(r.Outcomes))
	t.Logf("  leases       %d renewed (%d refused or failed), %d revoked (%d failed at first), %d of these checked at once", r.Renewed, r.RenewFailed, r.Revoked, r.RevokeFailed, r.Checked)
	t.Logf("  kills        %d SIGKILLs of plugin or Vault", r.Kills)
	t.Logf("  faults       %s", counts(r.Faults))
	t.Logf("  grants killed by cause: %s", counts(r.KilledBy))
	explained := 0
	for _, n := range r.Explained {
		explained += n
	}
	t.Logf("  still active at the server: %d = %d held + %d explained + %d unexplained", r.Active, r.Held, explained, len(r.Unexplained))
	t.Logf("  explained    %s", counts(r.Explained))
	t.Logf("  violations   %d", len(r.Violations))
	if bad := slices.Concat(r.Unexplained, r.Violations); len(bad) > 0 {
		const shown = 40
		t.Fatalf("%d tokens are unexplained, %d other violations (seed %d):\n%s", len(r.Unexplained), len(r.Violations), o.Seed, strings.Join(bad[:min(len(bad), shown)], "\n"))
	}
}

// counts is "n of this, m of that", the most frequent first.
func counts[K ~string](of map[K]int) string {
	keys := make([]K, 0, len(of))
	for k := range of {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b K) int {
		if of[a] != of[b] {
			return of[b] - of[a]
		}
		return strings.Compare(string(a), string(b))
	})
	parts := make([]string, len(keys))
	for i, k := range keys {
		parts[i] = fmt.Sprintf("%d %s", of[k], k)
	}
	if len(parts) == 0 {
		return "none"
	}
	return strings.Join(parts, ", ")
}
