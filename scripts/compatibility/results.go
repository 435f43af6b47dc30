package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// result is what came of all stories in one server.
type result struct {
	Server  string            `json:"server"` // as it calls itself
	Date    string            `json:"date"`
	Plugin  string            `json:"plugin"` // the commit that it was built of
	Seconds int               `json:"seconds"`
	Failed  []string          `json:"failed"`
	LeftOut map[string]string `json:"left_out"` // with the reason
	Passed  []string          `json:"passed"`
}

// take reads the events of go test -json. Stories are the tests that are part of no other.
func (r *result) take(events io.Reader) error {
	r.Passed, r.Failed, r.LeftOut = []string{}, []string{}, map[string]string{}
	last := map[string]string{} // what a story said last
	begun := map[string]bool{}
	for decoder := json.NewDecoder(events); ; {
		var e struct{ Action, Test, Output string }
		if err := decoder.Decode(&e); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return fmt.Errorf("go test -json: %w", err)
		}
		switch {
		case e.Test == "" && e.Action == "fail" && len(r.Failed) == 0 && len(begun) == 0:
			r.Failed = append(r.Failed, "what all stories share") // such as a secret in the logs
		case e.Test == "" || strings.Contains(e.Test, "/"):
		case e.Action == "run":
			begun[e.Test] = true
		case e.Action == "output" && !frame.MatchString(e.Output):
			last[e.Test] = strings.TrimSpace(location.ReplaceAllString(e.Output, ""))
		case e.Action == "pass":
			r.Passed = append(r.Passed, e.Test)
			delete(begun, e.Test)
		case e.Action == "fail":
			r.Failed = append(r.Failed, e.Test)
			delete(begun, e.Test)
		case e.Action == "skip":
			r.LeftOut[e.Test] = last[e.Test]
			delete(begun, e.Test)
		}
	}
	r.Failed = append(r.Failed, slices.Collect(maps.Keys(begun))...) // the process ended before they did
	slices.Sort(r.Passed)
	slices.Sort(r.Failed)
	if len(r.Passed)+len(r.Failed) == 0 {
		return errors.New("no story was run")
	}
	return nil
}

// frame are the lines that go test itself puts around a story's.
var frame = regexp.MustCompile(`^\s*(=== |--- )`)

// location is where in the code a line was logged.
var location = regexp.MustCompile(`^\s*\S+\.go:\d+: `)

// results are in the order of servers' names and versions.
type results []result

func parse(content io.Reader) (all results, err error) {
	err = json.NewDecoder(content).Decode(&all)
	return all, err
}

func (all results) encode(to io.Writer) error {
	encoder := json.NewEncoder(to)
	encoder.SetIndent("", "  ")
	return encoder.Encode(all)
}

// with has r in place of what the same server's result was.
func (all results) with(r result) results {
	all = slices.DeleteFunc(slices.Clone(all), func(old result) bool { return old.Server == r.Server })
	all = append(all, r)
	slices.SortFunc(all, func(a, b result) int { return slices.Compare(order(a.Server), order(b.Server)) })
	return all
}

var numbers = regexp.MustCompile(`\d+`)

// order sorts names as texts and versions as numbers.
func order(server string) []string {
	return []string{numbers.ReplaceAllStringFunc(server, func(n string) string { return fmt.Sprintf("%08s", n) })}
}

// tables are those of the page, by name.
func (all results) tables() map[string]string {
	return map[string]string{"runs": all.runs(), "questions": all.answers()}
}

// runs says of each server what was run in it.
func (all results) runs() string {
	var b strings.Builder
	b.WriteString("| server | run on | plugin of commit | passed | failed | left out | took |\n|---|---|---|---|---|---|---|\n")
	for _, r := range all {
		failed := "none"
		if len(r.Failed) > 0 {
			failed = "**" + strings.Join(r.Failed, ", ") + "**"
		}
		leftOut := "none"
		if len(r.LeftOut) > 0 {
			var reasons []string
			for _, story := range slices.Sorted(maps.Keys(r.LeftOut)) {
				reasons = append(reasons, story+": "+r.LeftOut[story])
			}
			leftOut = strings.Join(reasons, "; ")
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %d | %s | %s | %d:%02d min |\n",
			r.Server, r.Date, r.Plugin, len(r.Passed), failed, leftOut, r.Seconds/60, r.Seconds%60)
	}
	return b.String()
}

// answers says what came of the stories that answer an operator's questions.
func (all results) answers() string {
	var b strings.Builder
	b.WriteString("| what holds there | stories |")
	for _, r := range all {
		b.WriteString(" " + r.Server + " |")
	}
	b.WriteString("\n|---|---|" + strings.Repeat("---|", len(all)) + "\n")
	for _, q := range questions {
		fmt.Fprintf(&b, "| %s | `%s` |", q.what, strings.Join(q.stories, "` `"))
		for _, r := range all {
			b.WriteString(" " + r.answer(q) + " |")
		}
		b.WriteString("\n")
	}
	return b.String()
}

func (r result) answer(q question) string {
	for _, story := range q.stories {
		if slices.Contains(r.Failed, story) {
			return "**no**"
		}
	}
	for _, story := range q.stories {
		if !slices.Contains(r.Passed, story) {
			return "not run"
		}
	}
	return "yes"
}

// question is what somebody asks of a server before running the broker in it.
type question struct {
	what    string
	stories []string // that all have to pass
}

var questions = []question{
	{"It registers, and is held to the version that it says", []string{"TestVaultHoldsThePluginToItsVersion"}},
	{"Every command of these documents works, with their policies", []string{"TestTheDocumentsRun"}},
	{"A token lives as long as its lease, which is renewed", []string{"TestTokenWorksUntilItsLeaseIsRevoked", "TestLeaseExpiresAndTheTokenWithIt", "TestRenewalMovesTheEnd", "TestTokensDieWithTheLoginThatAskedForThem"}},
	{"A failed revocation is not given up", []string{"TestFailedRevocationIsReportedAndSweptLater", "TestVaultsOwnRetryFindsTheTokenDead", "TestOutageLongerThanVaultsPatience"}},
	{"Who is disabled or deleted is refused, and loses what is held", []string{"TestWhoLeavesIsRefusedAtOnce", "TestDisabledAndDeletedEntitiesLoseWhatTheyHold", "TestOffboarding", "TestAPersonLeaves"}},
	{"Kill switch and freeze, also of a mint in flight", []string{"TestRevokeKillsWhatIsNamedAndNothingElse", "TestAThousandTokensOfOneEntityDieWithinTenSeconds", "TestFreezeStopsAlsoTheMintInFlight"}},
	{"Disabling the mount kills what lives, or fails and can be undone", []string{"TestDisablingTheMountKillsWhatLives", "TestMountIsNotDisabledWhileItsProviderIsDead", "TestAFailedDisableIsUndoneByMovingTheMount"}},
	{"Promises outlive restarts, seals and crashes", []string{"TestPromisesOutliveDisastersOnFiles", "TestPromisesOutliveDisastersOnRaft"}},
	{"A cluster goes on without its leader", []string{"TestClusterGoesOnWhenItsLeaderDies", "TestAFailoverLosesNoEvent", "TestEveryNodeOfAClusterServesTheSameKeys"}},
	{"The plugin is upgraded under live grants", []string{"TestPromisesOutliveAnUpgrade"}},
	{"Roles know entities, groups and how somebody logged in", []string{"TestRolesAskWho", "TestLoginByJWT"}},
	{"Anybody reads the issuer's keys; introspection answers on the wire", []string{"TestVerifiersDiscoverTheBrokersKeys", "TestIntrospectionAndRevocationOnTheWire"}},
	{"Refusals keep their status and say what to do", []string{"TestRefusalsOverHTTP", "TestARefusalOnTheWire", "TestRefusalsByTheCommandLine"}},
	{"The audit log tells all and no secret; wrapped answers work", []string{"TestAuditLogTellsTheWholeStoryAndNoSecret", "TestWrappedAnswersWork"}},
	{"Quotas hold across crashes", []string{"TestQuotasAreExactAcrossCrashes", "TestQuotaHoldsWhenThePluginDiesInABurst"}},
	{"OpenAPI, path-help and metrics", []string{"TestOpenAPIDescribesEveryPathAndField", "TestPathHelp", "TestMetricsByHTTP"}},
}
