package decision

import (
	"errors"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/condition"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
)

// facts are what a condition is judged over.
type facts struct {
	caller Caller
	remote string
	access access.Access
	ttl    time.Duration
	claims map[string]any
	now    time.Time
}

// checkCondition runs the role's condition; anything but true is a denial.
func (p *Policy) checkCondition(f facts) []*fault.Error {
	if p.Condition == nil {
		return nil
	}
	in := condition.Input{
		Identity: condition.Identity{EntityID: f.caller.EntityID, Name: f.caller.Name, Metadata: f.caller.Metadata, Groups: f.caller.Groups},
		Request:  condition.Request{Permissions: f.access.Permissions.Map(), TTL: f.ttl, RemoteAddr: f.remote},
		Subject:  condition.Subject{Claims: f.claims},
		Now:      f.now,
	}
	for _, a := range f.caller.Aliases {
		in.Identity.Aliases = append(in.Identity.Aliases, condition.Alias(a))
	}
	in.Request.Scopes, _ = f.access.Scopes.Values()
	in.Request.Audiences, _ = f.access.Audiences.Values()
	in.Request.Resources, _ = f.access.Resources.Values()
	if err := p.Condition.Eval(in); err != nil {
		verb := "is false"
		if !errors.Is(err, condition.ErrFalse) {
			verb = "could not be evaluated"
		}
		var failure *condition.Failure
		if errors.As(err, &failure) {
			if _, missing := failure.MissingKey(); missing {
				verb = "could not be evaluated, because it looks at something that is not there, such as metadata that the entity lacks, or a claim that the token lacks"
			}
		}
		// Its text may name others, and who is refused need not be shown whom.
		return []*fault.Error{fault.New(fault.AccessDenied, "the role's condition %s (an operator finds it with roles/<name>/explain)", verb).Because(err)}
	}
	return nil
}
