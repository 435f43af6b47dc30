package backend

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/downstream"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/ending"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

const (
	// refusedPause is how long the system that takes a borrowed token is believed when it
	// refuses one that was got only because it had refused another.
	refusedPause = time.Minute
	// renewPause is how long a token is not renewed early after that has failed.
	renewPause = 30 * time.Second
	// errandBudget bounds one mint with its wait for a place.
	errandBudget = downstream.MaxPatience + downstream.MintBudget
)

// lender keeps the tokens that the broker has got for itself, in memory alone: after a
// restart there are new ones, and the former ones die (reap). Whether one may still be used
// is the ledger's word: as soon as its grant is to die its hold is over. It is safe for
// concurrent use, and holds no lock across a call.
type lender struct {
	b *broker

	mu    sync.Mutex
	loans map[loanKey]*loan
}

// loanKey tells loans apart: while a provider is written it may borrow by its former terms
// and by the next ones.
type loanKey struct{ borrower, lender, request string }

func keyOf(borrower string, l provider.Loan) loanKey {
	return loanKey{borrower, l.Provider, string(l.Request)}
}

// loan is one borrower's token by one set of terms.
type loan struct {
	borrower string
	terms    provider.Loan

	// What follows is under the lender's lock.
	token   secret.Text // empty while there is none
	hold    *grant.Hold // on its grant
	id      string
	renewAt time.Time // from when on another one is got
	usedAt  time.Time // when somebody last asked
	ends    time.Time // from when on it is not used any more
	// former are those that a call under way may still be made with.
	former []former
	errand *errand // nil while no mint is under way
	// pausedUntil is when it is tried again to renew, and refusedAt when the system last
	// refused a token.
	pausedUntil, refusedAt time.Time
	over                   bool // nobody needs it any more, nor what an errand brings
}

// former is a grant that is not used any more, since then.
type former struct {
	id string
	at time.Time
}

// errand is one mint for all who wait for it.
type errand struct {
	done  chan struct{}
	token secret.Text
	err   error
}

func newLender(b *broker) *lender { return &lender{b: b, loans: map[loanKey]*loan{}} }

// lend gets a token by these terms for a borrower, as provider.Deps.Borrowed has it: the one
// that the broker has, or a new one, for which all who come together wait.
func (l *lender) lend(ctx context.Context, borrower string, terms provider.Loan, refused secret.Text) (secret.Text, error) {
	frozen, err := l.b.freezer.Check(ctx, ending.Basis{Holder: grant.OwnHolder, Provider: terms.Provider})
	if err != nil {
		return secret.Text{}, err
	}
	if len(frozen) > 0 { // its kill may not have come to the token yet
		return secret.Text{}, notLent(terms, frozen[0])
	}
	token, f, err := l.look(borrower, terms, refused, downstream.IsToKill(ctx))
	if err != nil || f == nil {
		return token, err
	}
	select {
	case <-f.done:
		return f.token, f.err
	case <-ctx.Done():
		return secret.Text{}, notLent(terms, fault.New(fault.TemporarilyUnavailable, "it takes too long").Because(ctx.Err()))
	}
}

// look is the token at hand, or the errand to wait for.
func (l *lender) look(borrower string, terms provider.Loan, refused secret.Text, toKill bool) (secret.Text, *errand, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now, key := l.b.now(), keyOf(borrower, terms)
	o := l.loans[key]
	if o == nil {
		o = &loan{borrower: borrower, terms: terms}
		l.loans[key] = o
	}
	o.usedAt = now
	if !refused.Empty() && o.token.Equal(refused) {
		if !o.refusedAt.IsZero() && now.Sub(o.refusedAt) < refusedPause {
			return secret.Text{}, nil, fault.New(fault.ParentRefused, "the system takes none of the tokens that are borrowed of %s (token_provider): see whether it trusts that provider, and what token_request asks for", terms.Provider)
		}
		o.refusedAt = now
		o.retire(now)
	}
	if o.hold != nil && o.hold.Over() || !now.Before(o.ends) {
		o.retire(now)
	}
	if o.errand == nil && (o.token.Empty() || !now.Before(o.renewAt) && !now.Before(o.pausedUntil)) {
		o.errand = &errand{done: make(chan struct{})}
		go l.fetch(o, o.errand, toKill)
	}
	if !o.token.Empty() {
		return o.token, nil, nil
	}
	return secret.Text{}, o.errand, nil
}

// retire has the token used no more. It dies when no call can be under way that was made
// with it (reap).
func (o *loan) retire(now time.Time) {
	if o.token.Empty() {
		return
	}
	o.former = append(o.former, former{o.id, now})
	o.token, o.hold, o.id = secret.Text{}, nil, ""
}

// fetch gets a token, on nobody's time: whoever hangs up takes it from nobody else.
func (l *lender) fetch(o *loan, f *errand, toKill bool) {
	ctx, cancel := context.WithTimeout(context.Background(), errandBudget)
	defer cancel()
	made, err := l.mint(ctx, o, toKill)
	l.mu.Lock()
	defer l.mu.Unlock()
	defer close(f.done)
	o.errand = nil
	now := l.b.now()
	switch {
	case err != nil:
		f.err = notLent(o.terms, err)
		o.pausedUntil = now.Add(renewPause)
		l.b.Logger().Warn("the broker gets no token for itself", "provider", o.terms.Provider, "borrower", o.borrower, "error", err)
		return
	case o.over: // and reap kills it, which has no hold
		l.b.ledger.EndHold(made.grant.ID)
		f.err = fault.New(fault.TemporarilyUnavailable, "the provider was changed meanwhile: try again")
		return
	}
	o.retire(now)
	life := made.grant.LeaseEnds.Sub(made.grant.IssuedAt)
	o.token, o.hold, o.id = made.child.Token(), made.hold, made.grant.ID
	o.renewAt = made.grant.IssuedAt.Add(life * 2 / 3)
	o.ends = made.grant.LeaseEnds.Add(-min(downstream.MintBudget, life/10)) // a call with it takes its time
	f.token = o.token
}

func (l *lender) mint(ctx context.Context, o *loan, toKill bool) (*minted, error) {
	d, err := l.b.decideLoan(ctx, o.borrower, o.terms)
	if err != nil {
		return nil, err
	}
	d.toKill = toKill
	made, err := l.b.mintGrant(ctx, d, true)
	if err == nil {
		l.b.Logger().Info("the broker has got a token for itself", "event", "grant_borrowed", "grant_id", made.grant.ID, "provider", o.terms.Provider, "borrower", o.borrower)
	}
	return made, err
}

// notLent is for a borrower that gets no token. What is wrong with the lender says nothing
// of the borrower's own system, so nothing of it but words is passed on: no code that blames
// a caller or a parent, no answer that was lost.
func notLent(terms provider.Loan, why error) *fault.Error {
	code := fault.TemporarilyUnavailable
	if fault.CodeOf(why) == fault.AccessDenied {
		code = fault.AccessDenied // frozen or disabled, on purpose
	}
	return fault.New(code, "its credential is a token of %s (token_provider), and there is none: %s", terms.Provider, fault.Public(why)).Because(errors.New(why.Error()))
}

// settle ends the loans that are not what their borrowers have now, and kills what nobody
// needs any more. A loan that no borrower has is left alone while it is in use, since
// somebody may be proving it; that of the one borrower that is named is not.
func (l *lender) settle(ctx context.Context, of string) {
	wanted, err := l.wanted(ctx)
	if err != nil { // the others still end in time
		l.b.Logger().Warn("it is not known who borrows what: what nobody needs may live until its end", "error", err)
	}
	l.mu.Lock()
	now := l.b.now()
	for key, o := range l.loans {
		if err == nil && !wanted[key] && (o.borrower == of || now.Sub(o.usedAt) > downstream.MintBudget) {
			o.end(l.b.ledger, now)
			delete(l.loans, key)
			continue
		}
		if !now.Before(o.ends) {
			o.retire(now)
		}
		if o.let(l.b.ledger, now.Add(-downstream.MintBudget)); o.isIdle(now) {
			delete(l.loans, key)
		}
	}
	l.mu.Unlock()
	if err := l.reap(ctx); err != nil {
		l.b.Logger().Warn("tokens of its own that the broker needs no more may live until their end", "error", err)
	}
}

// isIdle reports whether nothing is known by the loan.
func (o *loan) isIdle(now time.Time) bool {
	return o.token.Empty() && len(o.former) == 0 && o.errand == nil && now.Sub(o.refusedAt) >= refusedPause
}

// wanted are the loans that their borrowers have now and do something new with.
func (l *lender) wanted(ctx context.Context) (map[loanKey]bool, error) {
	loans, err := l.b.providers.Loans(ctx)
	if err != nil {
		return nil, err
	}
	wanted := map[loanKey]bool{}
	for borrower, b := range loans {
		rests, err := l.rests(ctx, borrower, b)
		if err != nil {
			return nil, err
		}
		if !rests {
			wanted[keyOf(borrower, b.Loan)] = true
		}
	}
	return wanted, nil
}

// rests reports whether the borrower does nothing new, and needs no token unless to kill.
func (l *lender) rests(ctx context.Context, borrower string, b downstream.Borrowing) (bool, error) {
	ref, isProvider := strings.CutPrefix(borrower, downstream.BorrowerOf(""))
	if !isProvider || b.Idle {
		return b.Idle, nil
	}
	return l.b.freezer.Frozen(ctx, ending.Thing{Kind: ending.KindProvider, Name: ref})
}

// drop kills what a borrower has: its system may be in wrong hands, and has seen it. What is
// still to be killed there gets another one.
func (l *lender) drop(ctx context.Context, borrower string) {
	l.mu.Lock()
	dropped := false
	for key, o := range l.loans {
		if o.borrower == borrower {
			o.end(l.b.ledger, l.b.now())
			delete(l.loans, key)
			dropped = true
		}
	}
	l.mu.Unlock()
	if !dropped {
		return
	}
	if err := l.reap(context.WithoutCancel(ctx)); err != nil {
		l.b.Logger().Warn("a token that was borrowed may live until its end", "borrower", borrower, "error", err)
	}
}

// let lets go of what has not been used since before then.
func (o *loan) let(ledger *grant.Ledger, then time.Time) {
	o.former = slices.DeleteFunc(o.former, func(f former) bool {
		if f.at.After(then) {
			return false
		}
		ledger.EndHold(f.id)
		return true
	})
}

// end lets go of all that the loan has.
func (o *loan) end(ledger *grant.Ledger, now time.Time) {
	o.over = true
	o.retire(now)
	o.let(ledger, now)
}

// reap kills the broker's own grants that nobody holds: what was returned, and what another
// process has left. It waits for none.
func (l *lender) reap(ctx context.Context) error {
	var returned []grant.Summary
	err := l.b.ledger.Walk(ctx, grant.OwnHolder, "", func(s *grant.Summary) bool {
		if !s.Doomed && !s.Released && !s.IsIntent() && !l.b.ledger.Holding(s.ID) && !l.b.killer.InHand(s.ID) {
			returned = append(returned, *s)
		}
		return true
	})
	if len(returned) > 0 {
		l.b.killer.KillThose(ctx, returned, ending.CauseReturned)
	}
	return err
}

// changed is after a provider of type t was written or deleted, which may borrow.
func (l *lender) changed(ctx context.Context, t provider.Type, ref string) {
	if downstream.CanBorrow(t) {
		l.settle(context.WithoutCancel(ctx), downstream.BorrowerOf(ref))
	}
}

// tidy is the periodic settle. It asks storage only while something is borrowed.
func (l *lender) tidy(ctx context.Context) {
	l.mu.Lock()
	loans := len(l.loans)
	l.mu.Unlock()
	if l.b.ledger.Loaded() && loans+len(l.b.ledger.Counts(grant.OwnHolder)) > 0 {
		l.settle(ctx, "")
	}
}
