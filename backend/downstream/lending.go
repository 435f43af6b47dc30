package downstream

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
)

// A provider's credential may be a child of another provider, which lends it. Who borrows
// lends to nobody, so that there is no circle and no chain. That is judged when either side
// is written, one write at a time, and again whenever something is lent: whatever is stored,
// nobody waits for himself.

// Borrowing is what a borrower has for its credential. It is known by its path, such as
// providers/http/acme.
type Borrowing struct {
	provider.Loan
	// Idle is that nothing new is done with it: it needs no token unless to kill.
	Idle bool
}

// BorrowerOf is the name of a provider among all that may borrow: its path.
func BorrowerOf(ref string) string { return "providers/" + ref }

// loanOf is what the provider of an entry borrows; nil for nothing.
func (r *Registry) loanOf(ref string, e *Entry) *provider.Loan {
	typeName, name, _ := strings.Cut(ref, "/")
	return loanIn(r.deps.Types.Lookup(typeName), provider.Config{Name: name, Fields: e.Fields, Pinned: e.Pinned})
}

// Borrows reports whether the provider has a token of another one for its credential, and
// so lends to nobody.
func (p *Provider) Borrows() bool { return p.loan != nil }

// Loans are what all providers and whoever else borrows, by their paths.
func (r *Registry) Loans(ctx context.Context) (map[string]Borrowing, error) {
	loans := map[string]Borrowing{}
	if r.deps.OtherLoans != nil {
		others, err := r.deps.OtherLoans(ctx)
		if err != nil {
			return nil, err
		}
		maps.Copy(loans, others)
	}
	for _, t := range r.deps.Types {
		if !CanBorrow(t) {
			continue
		}
		names, err := r.Names(ctx, t)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			ref := t.Name() + "/" + name
			entry, err := r.Read(ctx, ref)
			if errors.Is(err, stored.ErrAbsent) {
				continue
			}
			if err != nil {
				return nil, err
			}
			if loan := r.loanOf(ref, entry); loan != nil {
				loans[BorrowerOf(ref)] = Borrowing{Loan: *loan, Idle: entry.Settings.Disabled}
			}
		}
	}
	return loans, nil
}

// Borrowers are those that borrow of a provider, by their paths, sorted.
func (r *Registry) Borrowers(ctx context.Context, ref string) ([]string, error) {
	loans, err := r.Loans(ctx)
	if err != nil {
		return nil, err
	}
	maps.DeleteFunc(loans, func(_ string, b Borrowing) bool { return b.Provider != ref })
	return slices.Sorted(maps.Keys(loans)), nil
}

// Borrow runs store, which stores a borrower, as a step of its own towards all that changes
// who may lend to whom, if the loan may be.
func (r *Registry) Borrow(ctx context.Context, borrower string, loan provider.Loan, store func() error) error {
	r.lending.Lock() // over storage, never over a provider's call
	defer r.lending.Unlock()
	if err := r.MayBorrow(ctx, borrower, loan); err != nil {
		return err
	}
	return store()
}

// MayBorrow refuses a loan that cannot be: a circle, a chain, a lender that is not there, or
// one that does not give what is asked for.
func (r *Registry) MayBorrow(ctx context.Context, borrower string, loan provider.Loan) error {
	if borrower == BorrowerOf(loan.Provider) {
		return fault.New(fault.InvalidRequest, "%s: a provider cannot be its own credential: name another one", provider.FieldTokenProvider)
	}
	if ref, isProvider := strings.CutPrefix(borrower, BorrowerOf("")); isProvider {
		others, err := r.Borrowers(ctx, ref)
		if err != nil {
			return err
		}
		if len(others) > 0 {
			return fault.New(fault.InvalidRequest, "%s: %s has its tokens for a credential already, and who lends cannot borrow: give it a credential of its own", provider.FieldTokenProvider, strings.Join(others, ", "))
		}
	}
	return r.deps.MayLend(ctx, loan)
}

// loanChanged is the entry's loan, if that is not the one that is stored; nil else.
func (r *Registry) loanChanged(ctx context.Context, ref string, e *Entry) (*provider.Loan, error) {
	loan := r.loanOf(ref, e)
	if loan == nil {
		return nil, nil
	}
	current, err := r.Read(ctx, ref)
	switch {
	case errors.Is(err, stored.ErrAbsent):
		return loan, nil
	case err != nil:
		return nil, err
	case loan.Same(r.loanOf(ref, current)):
		return nil, nil // it may be written, and be disabled, whatever has become of its lender
	}
	return loan, nil
}

// JudgeLoan refuses an entry that would borrow what it cannot have.
func (r *Registry) JudgeLoan(ctx context.Context, ref string, e *Entry) error {
	loan, err := r.loanChanged(ctx, ref, e)
	if err != nil || loan == nil {
		return err
	}
	return r.MayBorrow(ctx, BorrowerOf(ref), *loan)
}

// DeleteUnlessLent is Delete, and refuses while somebody borrows of the provider.
func (r *Registry) DeleteUnlessLent(ctx context.Context, ref string, version uint64) error {
	r.lending.Lock()
	defer r.lending.Unlock()
	if err := r.MayGo(ctx, ref); err != nil {
		return err
	}
	return r.Delete(ctx, ref, version)
}

// MayGo refuses to delete a provider that somebody borrows of.
func (r *Registry) MayGo(ctx context.Context, ref string) error {
	borrowers, err := r.Borrowers(ctx, ref)
	if err != nil || len(borrowers) == 0 {
		return err
	}
	return fault.New(fault.InvalidRequest, "a token of this provider is the credential of %s, whose tokens could be neither made nor killed without it: write another token_provider there, or delete with force=true", strings.Join(borrowers, ", "))
}

// borrowed is what a type gets as Deps.Borrowed: nil for a provider that borrows nothing.
// Whatever it has got is looked for in what the provider answers.
func (r *Registry) borrowed(p *Provider) func(context.Context, secret.Text) (secret.Text, error) {
	if p.loan == nil {
		return nil
	}
	return func(ctx context.Context, refused secret.Text) (secret.Text, error) {
		token, err := r.deps.Lend(ctx, BorrowerOf(p.Ref), *p.loan, refused)
		if err != nil {
			return token, err
		}
		p.lookForLent(token)
		return token, nil
	}
}

// moreLent is how many tokens that a provider had for its credential are looked for in its
// answers: the one that it has, and those that a call under way may have been made with.
const moreLent = 4

// lookForLent has Secrets find a token that was borrowed, too.
func (p *Provider) lookForLent(token secret.Text) {
	p.looking.Lock()
	defer p.looking.Unlock()
	if slices.ContainsFunc(p.lent, token.Equal) {
		return
	}
	p.lent = append(p.lent, token)
	p.lent = p.lent[max(0, len(p.lent)-moreLent):]
	p.lookAnewLocked()
}

// bringsLoan refuses to have a borrowed token sent elsewhere without whoever writes it
// knowing it.
func (e *Entry) bringsLoan(written map[string]bool) error {
	if e.loan == nil || e.formerLoan == nil || written[provider.FieldTokenProvider] {
		return nil
	}
	return fault.New(fault.InvalidRequest, "this changes where the credential is sent that is borrowed of %s: write %s again with it", e.loan.Provider, provider.FieldTokenProvider)
}
