package decision_test

import (
	"slices"
	"strings"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/condition"
)

// view is what a condition sees, in Go.
type view struct {
	entity, team                 string // "" if there is none
	groups                       []string
	scopes, audiences, resources []string
	permissions                  map[string]string
	ttl                          time.Duration
	remote                       string
	claimedTeam                  string // "" if there is none
	now                          time.Time
}

// judged is a condition with the same in Go, by which the decision's use of it is
// checked. program is compiled once: what varies is what it is asked about.
type judged struct {
	expr    string
	program *condition.Program
	met     func(view) bool
}

// conditions look at each of the variables, in the positive and the negative.
var conditions = compiled(
	judged{expr: `identity.metadata["team"] == "red"`, met: func(v view) bool { return v.entity != "" && v.team == "red" }},
	judged{expr: `"ops" in identity.groups`, met: func(v view) bool { return v.entity != "" && slices.Contains(v.groups, "ops") }},
	judged{expr: `!("contractors" in identity.groups)`, met: func(v view) bool { return v.entity != "" && !slices.Contains(v.groups, "contractors") }},
	judged{expr: `request.scopes.all(s, s != "b")`, met: func(v view) bool { return !slices.Contains(v.scopes, "b") }},
	judged{expr: `size(request.audiences) <= 1`, met: func(v view) bool { return len(v.audiences) <= 1 }},
	judged{expr: `request.resources.exists(r, r.startsWith("https://a.test/"))`, met: func(v view) bool {
		return slices.ContainsFunc(v.resources, func(r string) bool { return strings.HasPrefix(r, "https://a.test/") })
	}},
	judged{expr: `request.permissions.all(k, request.permissions[k] == "read")`, met: func(v view) bool {
		for _, level := range v.permissions {
			if level != "read" {
				return false
			}
		}
		return true
	}},
	judged{expr: `request.ttl <= duration("10m")`, met: func(v view) bool { return v.ttl <= 10*time.Minute }},
	judged{expr: `request.remote_addr == "10.0.0.7"`, met: func(v view) bool { return v.remote == "10.0.0.7" }},
	judged{expr: `now < timestamp("2026-03-01T12:30:00Z")`, met: func(v view) bool { return v.now.Before(noon.Add(30 * time.Minute)) }},
	judged{expr: `subject.claims.team == identity.metadata["team"]`, met: func(v view) bool {
		return v.entity != "" && v.team != "" && v.team == v.claimedTeam
	}},
	judged{expr: `subject.claims.team == "blue" || request.ttl < duration("2m")`, met: func(v view) bool {
		return v.claimedTeam == "blue" || v.ttl < 2*time.Minute
	}},
)

func compiled(list ...judged) []judged {
	for i := range list {
		program, err := condition.Compile(list[i].expr)
		if err != nil {
			panic(err)
		}
		list[i].program = program
	}
	return list
}
