package backend

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/decision"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/downstream"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/catalog"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/role"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
)

const rolePrefix = "role/"

var roleForm = form.Kind{Name: "role"}

// roles are the roles of the mount: as they are stored, and compiled.
type roles struct {
	*stored.Keeper[role.Role]
	// ready are compiled. Callers name roles, so nothing is kept of one that is not there.
	ready *stored.Cache[*compiledRole]

	types     catalog.Catalog
	providers *downstream.Registry
	issuers   *issuers
}

// compiledRole is a role that is ready to decide.
type compiledRole struct {
	*role.Role
	name   string
	policy *decision.Policy
	traits provider.Traits // of its children
	says   string          // all that is written in it, as whatItSays
}

func newRoles(storage logical.Storage, types catalog.Catalog, providers *downstream.Registry, issuers *issuers) *roles {
	r := &roles{
		Keeper: stored.NewKeeper(storage, rolePrefix, stored.KindOf[role.Role](roleForm)), ready: stored.NewCache[*compiledRole](),
		types: types, providers: providers, issuers: issuers,
	}
	r.OnChange(r.ready.Drop)
	providers.OnChange(func(string) { r.ready.Clear() }) // they were compiled against its traits
	return r
}

// errNoRole is in the chain of compiled's error if the role does not exist, and only
// then: grants die by it. It is not stored.ErrAbsent, which a role's provider may be.
var errNoRole = errors.New("there is no such role")

// compiled returns the role ready to decide, or a fault that says what is wrong with it.
func (r *roles) compiled(ctx context.Context, name string) (*compiledRole, error) {
	return r.ready.Get(name, func() (*compiledRole, error) {
		entry, err := r.Get(ctx, name)
		if errors.Is(err, stored.ErrAbsent) {
			return nil, fault.New(fault.InvalidRequest, "there is no role %q: vault list broker/roles shows those that there are", name).Because(errNoRole)
		}
		if err != nil {
			return nil, err
		}
		policy, traits, err := r.compile(ctx, entry)
		if errors.Is(err, stored.ErrAbsent) {
			return nil, downstream.Missing(entry.Provider)
		}
		if fault.CodeOf(err) == fault.InvalidRequest {
			// It was valid when it was written: the provider changed since.
			return nil, fault.New(fault.TemporarilyUnavailable, "the role %q no longer fits its provider: an operator must write it again (roles/%s/explain says why)", name, name).Because(&unfitRole{err})
		}
		if err != nil {
			return nil, err
		}
		says, err := whatItSays(entry)
		if err != nil {
			return nil, fault.New(fault.TemporarilyUnavailable, "the role %q cannot be told from others", name).Because(err)
		}
		return &compiledRole{Role: entry, name: name, policy: policy, traits: traits, says: says}, nil
	})
}

// unfitRole is why a role that was valid is so no more, in words for operators: they may
// quote the role, whose conditions are no business of who is refused.
type unfitRole struct{ why error }

func (u *unfitRole) Error() string { return u.why.Error() }

func (r *roles) compile(ctx context.Context, entry *role.Role) (p *decision.Policy, traits provider.Traits, err error) {
	if err := entry.Validate(); err != nil {
		return nil, traits, err
	}
	opened, err := r.providers.Open(ctx, entry.Provider)
	if errors.Is(err, stored.ErrAbsent) {
		return nil, traits, fault.New(fault.InvalidRequest, "provider: there is no providers/%s: write it first", entry.Provider).Because(err)
	}
	if err != nil {
		return nil, traits, err
	}
	typeName, _, _ := strings.Cut(entry.Provider, "/")
	t := r.types.Lookup(typeName)
	if err := entry.CheckParameters(t, opened.Traits); err != nil {
		return nil, traits, err
	}
	if err := opened.CheckParameters(entry.Mode, entry.Parameters); err != nil {
		return nil, traits, err
	}
	traits = opened.TraitsFor(entry.Mode, entry.Parameters)
	if p, err = entry.Compile(t, traits, opened.Settings.MaxTTL); err != nil {
		return nil, traits, err
	}
	return p, traits, opened.CheckCeiling(entry.Mode, entry.Parameters, p.Ceiling)
}

// check refuses what must not be written as the role of that name.
func (r *roles) check(ctx context.Context, name string, entry *role.Role) error {
	if _, _, err := r.compile(ctx, entry); err != nil {
		return err
	}
	p, err := r.providers.MustOpen(ctx, entry.Provider)
	if err != nil {
		return err
	}
	if err := r.checkAudiences(ctx, entry, p.Traits); err != nil {
		return err
	}
	if err := r.checkIssuers(ctx, entry, p); err != nil {
		return err
	}
	if !p.AllowedRoles.MatchAny(name) {
		return fault.New(fault.InvalidRequest, "the provider's allowed_roles do not cover the role %q: add it on providers/%s, or call the role otherwise", name, entry.Provider)
	}
	return nil
}

// checkAudiences refuses a role that covers something reserved by any provider, not
// by its own alone: a token for another's server is no less a credential there.
func (r *roles) checkAudiences(ctx context.Context, entry *role.Role, traits provider.Traits) error {
	all, err := r.providers.Reserved(ctx)
	if err != nil {
		return err
	}
	its, err := all.Of(traits)
	if err != nil {
		return err
	}
	return entry.CheckAudiences(all.Endpoints(), its)
}

// checkIssuers refuses a role that names issuers which do not exist, or that would
// forward tokens of which none can be the provider's.
func (r *roles) checkIssuers(ctx context.Context, entry *role.Role, p *downstream.Provider) error {
	its := false
	for field, names := range map[string][]string{"subject_issuers": entry.SubjectIssuers, "actor_issuers": entry.ActorIssuers} {
		for _, name := range names {
			known, err := r.issuers.opened(ctx, name)
			if errors.Is(err, stored.ErrAbsent) {
				return fault.New(fault.InvalidRequest, "%s: there is no issuers/%s: write it first", field, name)
			}
			if err != nil {
				return err
			}
			if entry.Mode == provider.ModeExchange && p.Traits.SignsNames && known.URL() == "" {
				return fault.New(fault.InvalidRequest, "%s: nothing binds the issuer %q to a name, so the broker signs none that it vouches for: set bound_issuer on issuers/%s first", field, name, name)
			}
			its = its || field == "subject_issuers" && known.URL() == p.Traits.Issuer
		}
	}
	if entry.Mode == provider.ModeForward && (p.Traits.Issuer == "" || !its) {
		return fault.New(fault.InvalidRequest, "mode=forward: none of the subject_issuers is the provider's own issuer, and no other token is good there: name it, or exchange tokens (mode=exchange)")
	}
	return nil
}

// covering are the roles whose ceilings cover something that is reserved, each with one
// such audience.
func (r *roles) covering(ctx context.Context, reserved *downstream.Reserved) ([]string, error) {
	names, err := r.List(ctx, "")
	if err != nil {
		return nil, err
	}
	var covering []string
	for _, name := range names {
		entry, err := r.Get(ctx, name)
		if errors.Is(err, stored.ErrAbsent) {
			continue
		}
		if err != nil {
			return covering, err
		}
		p, err := r.providers.Open(ctx, entry.Provider)
		if err != nil {
			continue // it issues nothing in any case
		}
		targets, err := reserved.Of(p.Traits)
		if err != nil {
			return covering, err
		}
		if target, found := entry.Covers(targets); found {
			covering = append(covering, fmt.Sprintf("%s (%s)", name, target))
		}
	}
	return covering, nil
}
