package backend

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/decision"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/downstream"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/ending"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/role"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
)

// What one provider lends is a grant like any other, whose holder is the broker: it is
// decided, minted, judged and recorded as a role's is (issue.go). In place of a role stands
// the borrower's request, of which the ceiling is exactly what it asks for.

// maxLoan is how long a token lives that the broker has got for itself, at most: what a
// process that has ended leaves behind dies by then.
const maxLoan = time.Hour

// loanTerms are what a loan's request may say, each as in a role.
type loanTerms struct {
	Scopes      []string          `json:"scopes"`
	Audiences   []string          `json:"audiences"`
	Resources   []string          `json:"resources"`
	Permissions map[string]string `json:"permissions"`
	Details     json.RawMessage   `json:"authorization_details"`
	Parameters  map[string]string `json:"parameters"`
}

var termNames = []string{"scopes", "audiences", "resources", "permissions", "authorization_details", "parameters"}

// roleOf is the role that the loan's request stands for.
func roleOf(loan provider.Loan) (*role.Role, error) {
	var t loanTerms
	if len(loan.Request) > 0 {
		members, err := form.Object(loan.Request, maxDepth)
		if err != nil {
			return nil, fault.New(fault.InvalidRequest, "it cannot be read: %s", err)
		}
		for name := range members {
			if !slices.Contains(termNames, name) {
				return nil, fault.New(fault.InvalidRequest, "there is no %q in it: it takes %s", short(name), strings.Join(termNames, ", "))
			}
		}
		if json.Unmarshal(loan.Request, &t) != nil {
			return nil, fault.New(fault.InvalidRequest, `scopes, audiences and resources are lists of strings, permissions and parameters objects of strings, authorization_details a list of objects, such as {"scopes":["read"]}`)
		}
	}
	for _, values := range [][]string{t.Scopes, t.Audiences, t.Resources} {
		if i := slices.IndexFunc(values, func(v string) bool { return strings.Contains(v, "*") }); i >= 0 {
			return nil, fault.New(fault.InvalidRequest, "%s: it is asked for as it stands, so a pattern cannot be one", values[i])
		}
	}
	return &role.Role{
		Provider: loan.Provider, Mode: provider.ModeMint, OnExcess: role.Refuse, MaxTTL: maxLoan,
		Scopes: t.Scopes, Audiences: t.Audiences, Resources: t.Resources, Permissions: t.Permissions, Details: t.Details, Parameters: t.Parameters,
	}, nil
}

// termsOf is the loan's request, ready to decide.
func (b *broker) termsOf(ctx context.Context, loan provider.Loan) (*compiledRole, error) {
	entry, err := roleOf(loan)
	if err != nil {
		return nil, err
	}
	policy, traits, err := b.roles.compile(ctx, entry)
	if err != nil {
		return nil, err
	}
	return &compiledRole{Role: entry, policy: policy, traits: traits}, b.roles.checkAudiences(ctx, entry, traits)
}

// mayLend refuses a loan that its lender would not give, or lacks.
func (b *broker) mayLend(ctx context.Context, loan provider.Loan) error {
	p, err := b.providers.Open(ctx, loan.Provider)
	switch {
	case errors.Is(err, stored.ErrAbsent):
		return fault.New(fault.InvalidRequest, "%s: there is no providers/%s: write it first, and name it as <type>/<name>", provider.FieldTokenProvider, short(loan.Provider))
	case err != nil:
		return err
	case p.Borrows():
		return fault.New(fault.InvalidRequest, "%s: %s has a token of another provider for its credential itself, and lends to nobody: name one that has a credential of its own", provider.FieldTokenProvider, p.Ref)
	case p.Traits.NeedsEntity, p.Traits.NeedsGroups:
		return fault.New(fault.InvalidRequest, "%s: the tokens of %s say who holds them, which is no entity here: name another one", provider.FieldTokenProvider, p.Ref)
	case !p.Answer.IsOnly(provider.FieldToken):
		return fault.New(fault.InvalidRequest, "%s: what %s gives is not one token (%s) and nothing beside: name another one", provider.FieldTokenProvider, p.Ref, provider.FieldToken)
	}
	err = b.tryLoan(ctx, p, loan)
	var f *fault.Error
	if errors.As(err, &f) && f.Code.Status() < 500 {
		return fault.New(fault.InvalidRequest, "%s: %s", provider.FieldTokenRequest, f.Message).Because(err)
	}
	return err
}

// tryLoan goes as far towards a token as is possible without the lender.
func (b *broker) tryLoan(ctx context.Context, p *downstream.Provider, loan provider.Loan) error {
	terms, err := b.termsOf(ctx, loan)
	if err != nil {
		return err
	}
	d := &decided{Decision: terms.policy.Decide(b.situation(decision.Caller{}), decision.Request{}), role: terms, provider: p}
	if err := firstOf(d.Decision); err != nil {
		return err
	}
	_, _, err = p.Ingredients(ctx, d.request(""))
	return err
}

// firstOf is the first reason against; nil if there is none.
func firstOf(d *decision.Decision) error {
	if d.Allowed() {
		return nil
	}
	return d.Refusals[0]
}

// decideLoan is decide for a grant of the broker's own. It asks nothing of Vault.
func (b *broker) decideLoan(ctx context.Context, borrower string, loan provider.Loan) (*decided, error) {
	p, err := b.providers.MustOpen(ctx, loan.Provider)
	if err != nil {
		return nil, err
	}
	if err := b.mayLend(ctx, loan); err != nil { // it may have been changed since that was written
		return nil, err
	}
	terms, err := b.termsOf(ctx, loan)
	if err != nil {
		return nil, err
	}
	s := b.situation(decision.Caller{})
	moment := b.freezer.Moment()
	if s.Stopped, err = b.freezer.Check(ctx, ending.Basis{Holder: grant.OwnHolder, Role: terms.name, Provider: p.Ref}); err != nil {
		return nil, err
	}
	s.Stopped = append(disabled(p), s.Stopped...)
	if s.Reserved, err = b.providers.ReservedFrom(ctx, p.Traits); err != nil {
		return nil, err
	}
	d := &decided{
		Decision: terms.policy.Decide(s, decision.Request{}), role: terms, provider: p, borrower: borrower,
		unfrozenAt: moment, pulls: b.killer.Pulls(),
	}
	return d, firstOf(d.Decision)
}
