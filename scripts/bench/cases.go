package main

import (
	"regexp"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
	"github.com/tokenbroker/vault-plugin-secrets-broker/scripts/bench/report"
)

// benchCase is one line of the table.
type benchCase struct {
	name    string
	clients int
	storage harness.Storage
	grants  int     // in the ledger before it begins
	target  float64 // ratio to the floor; 0 for none
	base    string  // name of the case to compare it with
	role    roleWriter
	do      operation
	sweeps  bool // one after the other during the broker's turns
	raw     bool // what is in storage is looked at
}

// usual is how many clients the targets are for.
const usual = 16

// beside is what a full ledger is compared with: an empty one in the same process and
// the same Vault, which a million records slow down whosesoever they are.
const beside = "oauth2, empty ledger beside a full one"

// deathCase has one event kill a thousand grants at two providers: its p50 is the time from
// the event until all are dead. The floor ends as many leases.
const deathCase = "time to death of 1,000 grants"

func cases(grants int) []benchCase {
	return []benchCase{
		{name: "oauth2", clients: usual, target: 0.80, role: mintRole, do: issue},
		{name: "oauth2", clients: 1, role: mintRole, do: issue},
		{name: "oauth2", clients: 64, role: mintRole, do: issue},
		{name: "oauth2", clients: 256, role: mintRole, do: issue},
		{name: "jwt", clients: usual, target: 0.90, role: jwtRole, do: issue},
		{name: "github", clients: usual, target: 0.80, role: githubRole, do: issue},
		{name: "exchange", clients: usual, target: 0.65, role: exchangeRole, do: issue},
		{name: "sharing=entity", clients: usual, target: 0.95, role: sharingRole, do: issue},
		{name: "renew", clients: usual, target: 0.80, role: mintRole, do: renew},
		{name: "revoke", clients: usual, target: 0.80, role: mintRole, do: revoke},
		{name: deathCase, clients: 1, role: twoRoles, do: killAtOnce},
		{name: "oauth2 on raft", clients: usual, storage: harness.Raft, role: mintRole, do: issue},
		{name: "oauth2, full ledger", base: beside, clients: usual, grants: grants, role: mintRole, do: issue},
		{name: beside, clients: usual, grants: grants, role: spareRole, do: issue},
		{name: "oauth2, full ledger, sweeping", base: "oauth2, full ledger", clients: usual, grants: grants, role: mintRole, do: issue, sweeps: true},
		{name: "a subject's grants listed, full ledger", clients: 1, grants: grants, role: subjectsRole, do: listSubject},
		{name: "a subject's grants killed, full ledger", clients: 1, grants: grants, role: subjectsRole, do: killSubject},
		{name: "a role's grants killed after a start, full ledger", clients: 1, grants: grants, role: startsRole, do: killRoleAfterStart},
		{name: "a provider's grants killed after a start, full ledger", clients: 1, grants: grants, role: startsRole, do: killProviderAfterStart},
	}
}

// line is the case without figures yet.
func (c benchCase) line() report.Case {
	storage := "memory"
	if c.storage != harness.Dev {
		storage = string(c.storage)
	}
	return report.Case{Name: c.name, Clients: c.clients, Storage: storage, Grants: c.grants, Target: c.target, Baseline: c.base}
}

func (c benchCase) String() string {
	line := c.line()
	return line.Label()
}

// grouped are the cases that only takes, those together that share a world: filling
// a ledger is too long a work to be done for each.
func grouped(all []benchCase, only *regexp.Regexp) [][]benchCase {
	var groups [][]benchCase
	for _, c := range all {
		if !only.MatchString(c.name) {
			continue
		}
		if last := len(groups) - 1; last >= 0 && c.grants > 0 && groups[last][0].grants == c.grants {
			groups[last] = append(groups[last], c)
			continue
		}
		groups = append(groups, []benchCase{c})
	}
	return groups
}
