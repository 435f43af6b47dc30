package chaos

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
)

// Run is one fault run. It fails t if a token is unexplained, and returns the
// counts.
func Run(t harness.TB, o Options) *Report {
	t.Helper()
	o = o.withDefaults()
	t.Logf("fault run: seed %d, %s, %d clients, %s storage, %d node(s), leases of %s",
		o.Seed, o.Duration, o.Clients, o.Storage, o.Nodes, o.LeaseTTL)
	w := newWorld(t, o)
	endScrapes, err := w.keepScrapes(o.Scrapes)
	if err != nil {
		t.Fatalf("scrapes: %v", err)
	}
	defer endScrapes()
	t.Logf("ready; the faults begin")

	hold, release := context.WithCancel(context.Background())
	defer release()
	clients := w.disturb(hold)
	if w.stuck != nil {
		t.Fatalf("the run cannot go on (seed %d): %v", o.Seed, w.stuck)
	}
	t.Logf("the faults are over: %d tokens given; settling", w.counts.issued.Load())

	e := w.settle(t)
	release()
	clients.Wait()
	report := w.report(e, judge(e))
	report.Print(t)
	return report
}

// disturb lets the clients work while everything is broken, for the duration of
// the run. Then nothing is broken any more and the clients only renew what they
// hold, until hold ends.
func (w *world) disturb(hold context.Context) (clients *sync.WaitGroup) {
	ending, cancel := context.WithTimeout(hold, w.options.Duration)
	defer cancel()
	lanes, work := errgroup.WithContext(ending) // a lane that is stuck ends all
	clients = &sync.WaitGroup{}
	for _, c := range w.clients {
		clients.Go(func() { c.run(work, hold, w.options.Pace) })
	}
	lanes.Go(func() error { return w.breakProcesses(work) })
	lanes.Go(func() error { return w.operate(work) })
	lanes.Go(func() error { return w.signal(work) })
	for _, l := range w.lines {
		lanes.Go(func() error { return w.breakLine(work, l) })
	}
	lanes.Go(func() error { return w.tell(work) })
	w.stuck = lanes.Wait()
	return clients
}

// tell says now and then how far it is.
func (w *world) tell(ctx context.Context) error {
	ticker := time.NewTicker(time.Minute)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			w.t.Logf("%d tokens given, %d minted, %d faults", w.counts.issued.Load(), len(w.recorder.Mints()), len(w.history.all()))
		}
	}
}
