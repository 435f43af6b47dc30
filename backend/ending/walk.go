package ending

import (
	"context"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
)

// target is a grant that is to die, and why.
type target struct {
	grant.Summary
	cause string
}

// source finds the grants of a kill. It hands each to yield, which blocks while
// too many of the same provider wait, and says with expect how many there may be.
type source func(ctx context.Context, expect func(int), yield func(target)) error

// walk is a source that reads the records of some holders.
type walk struct {
	ledger  *grant.Ledger
	holders func(ctx context.Context) ([]string, error)
	// concerns says which counts of theirs may hold something.
	concerns func(grant.Count) bool
	// matches is why a grant must die, or "".
	matches func(*grant.Summary) string
	// whole says that the holders are all of whom memory knows that something concerns
	// them. It does not know whose the records are that only a newer version reads.
	whole bool
}

func (w walk) feed(ctx context.Context, expect func(int), yield func(target)) error {
	holders, err := w.holders(ctx)
	if err != nil {
		return err
	}
	expected := 0
	for _, holder := range holders {
		for _, c := range w.ledger.Counts(holder) {
			if w.concerns(c) {
				expected += c.Live
			}
		}
	}
	expect(expected)
	var problems error
	for _, holder := range holders {
		err := w.ledger.Walk(ctx, holder, "", func(s *grant.Summary) bool {
			if cause := w.matches(s); cause != "" {
				yield(target{Summary: *s, cause: cause})
			}
			return true
		})
		if problems == nil { // the others say the same
			problems = err
		}
	}
	if problems == nil && w.whole {
		problems = w.ledger.Newer()
	}
	return problems
}
