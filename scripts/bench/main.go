// Command bench measures what the broker costs beyond what Vault itself does. The
// floor is an engine that only leases a random secret (bootstrap/floor); it and the
// broker take turns in the same Vault, under the same closed loop (load), and the
// ratio of a round is what counts: machines differ, and so do minutes. With -base an
// earlier build of the broker has its turn in each round too, on a mount of its own in
// the same Vault, and each case is judged by whether it has become slower. The provider
// is an authorization server without latency (bootstrap/fastauth), a process of its
// own. Each case has a Vault of its own, so that none pays for the leases of another.
//
// What is counted for each call: storage calls are those that Vault's telemetry
// counts at its barrier (sys/metrics, vault.barrier.put and so on), which sees what
// every plugin and core ask for, in a cache or not; the floor's, which makes none of
// its own, are taken off in the report. Provider calls are what the authorization
// server says it has answered. CPU and memory are the kernel's word (/proc).
//
// Figures go to standard output as a table and to -json as data; `make bench-chart`
// draws that.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/scripts/bench/report"
)

// settings are how long and how much. The zero value is not usable.
type settings struct {
	only *regexp.Regexp // names of the cases
	base string         // file of a plugin to compare with, if any
	// profiles is where profiles of the turns are written, "" for none.
	profiles string
	quick    bool
	rounds   int
	turn     time.Duration // of one engine in a round
	warmUp   time.Duration // of one engine before the rounds
	// The cases with a full ledger have fewer rounds, and longer turns.
	longRounds int
	longTurn   time.Duration
	leases     int // that renewals go around and revocations end, in a turn
	callers    int // entities
	grants     int // in the ledger of the cases that have it full
	holders    int // entities that hold them
}

// full is what `make bench` runs; quick shows in a minute that all of it works.
func full() settings {
	return settings{
		only: regexp.MustCompile(""), rounds: 15, turn: 2 * time.Second, warmUp: 2 * time.Second,
		longRounds: 5, longTurn: 20 * time.Second,
		leases: 2000, callers: 64, grants: 1_000_000, holders: 10_000,
	}
}

func quick() settings {
	s := full()
	s.quick, s.rounds, s.turn, s.warmUp = true, 1, 500*time.Millisecond, 100*time.Millisecond
	s.longTurn = s.turn
	s.leases, s.grants, s.holders = 100, 2000, 50
	return s
}

func main() {
	s := full()
	json := flag.String("json", "bin/bench.json", "file for the figures")
	only := flag.String("run", "", "run only the cases whose `name` matches this expression")
	flag.IntVar(&s.rounds, "rounds", s.rounds, "rounds of each case; floor and broker take turns in each")
	flag.DurationVar(&s.turn, "turn", s.turn, "how long each engine's turn is")
	flag.DurationVar(&s.longTurn, "long-turn", s.longTurn, "the same in the cases with a full ledger")
	flag.DurationVar(&s.warmUp, "warm-up", s.warmUp, "how long each engine warms up before the rounds")
	flag.IntVar(&s.leases, "leases", s.leases, "leases that are renewed, or revoked, in one turn")
	flag.IntVar(&s.callers, "callers", s.callers, "entities that the requests come from")
	flag.IntVar(&s.grants, "grants", s.grants, "grants in a full ledger")
	flag.IntVar(&s.holders, "holders", s.holders, "entities that hold them")
	base := flag.String("base", "", "`file` of an earlier build of the plugin, which takes turns with this one and is compared with it")
	flag.StringVar(&s.profiles, "profiles", "", "`directory` for profiles of each turn: of Vault, and of a plugin that is built with -tags profile")
	costs := flag.Bool("costs", false, "tell instead what an issue and a live grant cost, of each kind, by as many -leases")
	short := flag.Bool("quick", false, "a minute that shows that it works; its figures mean nothing, and it has settings of its own")
	flag.Parse()
	if *short {
		s = quick()
	}
	s.base = *base
	if *costs {
		if err := tellCosts(os.Stdout, s, *only); err != nil {
			fmt.Fprintln(os.Stderr, "bench failed:", err)
			os.Exit(1)
		}
		return
	}
	if err := run(os.Stdout, s, *only, *json); err != nil {
		fmt.Fprintln(os.Stderr, "bench failed:", err)
		os.Exit(1)
	}
}

func run(out io.Writer, s settings, only, json string) error {
	var err error
	if s.only, err = regexp.Compile(only); err != nil {
		return fmt.Errorf("-run: %w", err)
	}
	if s.rounds < 1 || s.callers < 1 || s.turn <= 0 || s.longTurn <= 0 || s.leases < 1 || s.holders < 1 || s.grants < s.holders {
		return fmt.Errorf("rounds, turns, callers, leases and holders must be positive, and there must be a grant for each holder")
	}
	r, err := bench(out, s)
	if err != nil {
		return err
	}
	if err := r.Write(json); err != nil {
		return err
	}
	if err := r.Table(out); err != nil {
		return err
	}
	fmt.Fprintf(out, "\nThe figures as data: %s\n", json)
	return nil
}

// bench runs the cases, each in a world of its own unless they share a full ledger.
func bench(out io.Writer, s settings) (*report.Report, error) {
	r := &report.Report{
		Started: time.Now().UTC(), Machine: machine(),
		Settings: report.Settings{Quick: s.quick, Rounds: s.rounds, Seconds: s.turn.Seconds(), Callers: s.callers, Base: s.base},
	}
	groups := grouped(cases(s.grants), s.only)
	if len(groups) == 0 {
		return nil, fmt.Errorf("no case is called like %s", s.only)
	}
	for i, group := range groups {
		if group[0].grants > 0 {
			r.Settings.LongRounds, r.Settings.LongSeconds = min(s.rounds, s.longRounds), s.longTurn.Seconds()
		}
		fmt.Fprintf(out, "[%d/%d] %s\n", i+1, len(groups), group[0])
		found, version, err := inWorld(out, s, group)
		if err != nil {
			return nil, err
		}
		r.Machine.Vault = version
		r.Cases = append(r.Cases, found...)
	}
	return r, nil
}
