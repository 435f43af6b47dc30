// Package load is the closed loop of the benchmark: so many clients, each of which
// sends its next request when it has the answer to the last.
//
// Why not vegeta, whose library has closed loops too (rate 0, with a bound on the
// workers)? Renewals and revocations are about leases that earlier answers named,
// and an answer only counts once it has been looked into; vegeta hands out targets
// and collects bodies, so both would have to be built around it. It would also add
// its dozen modules to the plugin's go.mod for what is a loop of a page. What a
// load generator is worth having for is the coordinated omission that an open loop
// avoids, and this measures a closed one by design: the targets are for so many
// clients, not for a rate.
package load

import (
	"context"
	"errors"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Options say when a run ends: after Duration, or after so many Calls, whichever
// comes first. Zero is no bound; one must be set.
type Options struct {
	Clients  int
	Duration time.Duration
	Calls    int
}

// Call is one request and the look at its answer. It is called by one goroutine per
// client; n counts all calls of the run, from 0, without a gap.
type Call func(ctx context.Context, client, n int) error

// Result is what a run has shown.
type Result struct {
	Elapsed time.Duration // from the first request to the last answer

	latencies []time.Duration // sorted
}

// Run calls until the options end it. The first error ends it too and is returned:
// a figure with failures in it is none.
func Run(ctx context.Context, o Options, call Call) (Result, error) {
	if o.Clients < 1 || (o.Duration <= 0 && o.Calls <= 0) {
		return Result{}, errors.New("load: no clients, or no end")
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r := &run{options: o, call: call, fail: cancel, started: time.Now()}
	perClient := make([][]time.Duration, o.Clients)
	var clients sync.WaitGroup
	for client := range o.Clients {
		clients.Go(func() { perClient[client] = r.client(ctx, client) })
	}
	clients.Wait()
	if err := context.Cause(ctx); err != nil {
		return Result{}, err
	}
	return newResult(time.Since(r.started), slices.Concat(perClient...)), nil
}

func newResult(elapsed time.Duration, latencies []time.Duration) Result {
	slices.Sort(latencies)
	return Result{Elapsed: elapsed, latencies: latencies}
}

type run struct {
	options Options
	call    Call
	fail    context.CancelCauseFunc
	started time.Time
	next    atomic.Int64
}

func (r *run) client(ctx context.Context, client int) []time.Duration {
	var latencies []time.Duration
	for {
		sent := time.Now()
		if ctx.Err() != nil || (r.options.Duration > 0 && sent.Sub(r.started) >= r.options.Duration) {
			return latencies
		}
		n := int(r.next.Add(1)) - 1
		if r.options.Calls > 0 && n >= r.options.Calls {
			return latencies
		}
		if err := r.call(ctx, client, n); err != nil {
			r.fail(err)
			return latencies
		}
		latencies = append(latencies, time.Since(sent))
	}
}

// Calls is how many were made.
func (r Result) Calls() int { return len(r.latencies) }

// Rate is calls per second; 0 without any.
func (r Result) Rate() float64 {
	if len(r.latencies) == 0 || r.Elapsed <= 0 {
		return 0
	}
	return float64(len(r.latencies)) / r.Elapsed.Seconds()
}

// Percentile is the latency that p percent of the calls did not exceed, by the
// nearest rank: one that was measured, never one between two.
func (r Result) Percentile(p float64) time.Duration {
	if len(r.latencies) == 0 {
		return 0
	}
	rank := int(math.Ceil(p / 100 * float64(len(r.latencies))))
	return r.latencies[min(max(rank, 1), len(r.latencies))-1]
}
