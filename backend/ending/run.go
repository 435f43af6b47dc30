package ending

import (
	"context"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/kills"
)

// Bounds of one kill of many, towards each provider.
const (
	// killParallel is how many revocations of one kill run at once.
	killParallel = 32
	// maxQueued is how many grants one kill reads ahead of its revocations.
	maxQueued = 5000
)

// startWalk is startKill of all that a walk comes to.
func (k *Killer) startWalk(ctx context.Context, w walk) *Run {
	return k.startKill(ctx, k.along(w), newPulls(w.means, newMade()))
}

// startKill kills the grants of a source, which are those that the pulls are for, a bounded
// number at a time of each provider: one that is slow or dead does not hold up the kills
// at the others, as long as it does not have very many of them.
func (k *Killer) startKill(ctx context.Context, from source, in *pulls) *Run {
	ctx = context.WithoutCancel(ctx)
	run := &Run{done: make(chan struct{}), now: k.now, pulls: in}
	in.made.use()
	go func() {
		defer close(run.done)
		defer in.made.drop()
		queues := map[string]chan target{}
		var all sync.WaitGroup
		err := from(ctx, run.expect, func(t target) {
			run.find(&t.Summary)
			t.listed = t.record.Found(&t.Summary)
			k.queue.add(&t.Summary, 1)
			queue := queues[t.Provider]
			if queue == nil {
				queue = make(chan target, maxQueued)
				queues[t.Provider] = queue
				all.Go(func() { k.killEach(ctx, queue, run) })
			}
			queue <- t
		})
		run.end(err)
		for _, queue := range queues {
			close(queue)
		}
		all.Wait()
		k.settlePulled(ctx, in)
	}()
	return run
}

// startThose is startKill of grants in memory: when it returns, they are queued.
func (k *Killer) startThose(ctx context.Context, targets []target, made *made) *Run {
	made.arrange(targets)
	those := map[string]bool{}
	for i := range targets {
		k.queue.add(&targets[i].Summary, 1)
		those[targets[i].ID] = true
	}
	run := k.startKill(ctx, func(_ context.Context, _ func(int), yield func(target)) error {
		for _, t := range targets {
			yield(t)
			k.queue.add(&t.Summary, -1) // the run has it now
		}
		return nil
	}, newPulls(func(s *grant.Summary) bool { return those[s.ID] }, made))
	run.expect(len(targets))
	return run
}

// KillThis is a kill of one, with the counts of a kill of many.
func (k *Killer) KillThis(ctx context.Context, s grant.Summary, asked kills.Asked) (*Run, error) {
	now := k.now()
	if asked.ID == "" {
		id, err := kills.NewID(now)
		if err != nil {
			return nil, errNoID(err)
		}
		asked.ID = id
	}
	asked.Cause = causeGrant
	record := k.records.Begin(asked, []string{"grant/" + s.ID}, now, false, false)
	run := k.startThose(ctx, []target{{Summary: s, cause: causeGrant, record: record, ends: true}}, newMade())
	run.record = record.ID()
	return run, nil
}

// KillThose is a kill of some, for one cause; it does not wait for them.
func (k *Killer) KillThose(ctx context.Context, those []grant.Summary, cause string) *Run {
	targets := make([]target, 0, len(those))
	for _, s := range those {
		targets = append(targets, target{Summary: s, cause: cause})
	}
	return k.startThose(ctx, targets, newMade())
}

// killEach tries every grant of the queue once, at most killParallel at a time.
func (k *Killer) killEach(ctx context.Context, queue <-chan target, run *Run) {
	group := errgroup.Group{}
	group.SetLimit(killParallel)
	for t := range queue {
		group.Go(func() error {
			what, err := k.try(ctx, t.ID, t.cause, meant{run.pulls, t.record, t.listed})
			if t.ends {
				t.record.End(true)
			}
			run.pulls.made.tried(&t.Summary)
			t.Revocable = (t.Revocable || what == revoked) && what != unkillable
			k.queue.add(&t.Summary, -1)
			if err == nil && (what == released || what == nothing) {
				run.drop()
				return nil
			}
			run.settle(t, err)
			return nil
		})
	}
	_ = group.Wait()
}
