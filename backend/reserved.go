package backend

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/decision"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/catalog"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/role"
)

// reserved are the audiences at which a credential of the broker's own is accepted
// (rule 10 of the contract): all providers', disabled ones included, because the
// servers trust the broker as before, and the broker's own. It is immutable.
type reserved struct {
	endpoints access.Targets // no child is for them
	signed    access.Targets // these and more: no child that the broker signs is for them
	unknown   []string       // providers whose stored entry cannot be read
}

// of are those that a provider's children may not be for. What cannot be read of one
// provider stops what the broker signs, and nothing that others do.
func (r *reserved) of(traits provider.Traits) (access.Targets, error) {
	if !traits.Signed {
		return r.endpoints, nil
	}
	if len(r.unknown) > 0 {
		return r.signed, fault.New(fault.TemporarilyUnavailable, "providers/%s cannot be read, so nobody knows for which audiences nothing may be signed: an operator must restore it", r.unknown[0])
	}
	return r.signed, nil
}

func (r *reserved) add(more provider.Reserved) {
	r.endpoints.Add(more.Endpoints...)
	r.signed.Add(more.Endpoints...)
	r.signed.Add(more.Names...)
}

// addOwn adds the broker's own issuer, and everything below it.
func (r *reserved) addOwn(c config) {
	if c.Issuer == "" {
		return
	}
	for _, t := range []*access.Targets{&r.endpoints, &r.signed} {
		t.AddTree(c.Issuer)
		t.Add(c.endpoints()...)
	}
}

// reservedNow is what is reserved at this moment. It is in memory until a provider is
// written, and no provider is opened for it.
func (b *broker) reservedNow(ctx context.Context) (*reserved, error) {
	own, err := b.own.state(ctx)
	if err != nil {
		return nil, err
	}
	return b.providers.reserved.get(own.config.Issuer, func() (*reserved, error) {
		all := &reserved{}
		all.addOwn(own.config)
		refs, err := b.providers.refs(ctx)
		if err != nil {
			return nil, err
		}
		for _, ref := range refs {
			its, err := b.providers.reserves.get(ref, func() (provider.Reserved, error) {
				entry, err := b.providers.read(ctx, ref)
				return reservedBy(b.types, ref, entry), err
			})
			switch {
			case errors.Is(err, errUndecodable):
				all.unknown = append(all.unknown, ref)
			case err != nil:
				return nil, err
			}
			all.add(its)
		}
		return all, nil
	})
}

// reserveFor tells the decision what is reserved from the provider's children.
func (b *broker) reserveFor(ctx context.Context, ref string, s *decision.Situation) error {
	p, err := b.providers.mustOpen(ctx, ref)
	if err != nil {
		return err
	}
	s.Reserved, err = b.reservedFrom(ctx, p.traits)
	return err
}

// reservedFrom is what a provider's children may not be for at this moment.
func (b *broker) reservedFrom(ctx context.Context, traits provider.Traits) (access.Targets, error) {
	all, err := b.reservedNow(ctx)
	if err != nil {
		return access.Targets{}, err
	}
	return all.of(traits)
}

// refs are all stored providers, also those of a type that this version lacks.
func (r *registry) refs(ctx context.Context) ([]string, error) {
	types, err := r.b.storage.List(ctx, providerPrefix)
	if err != nil {
		return nil, storageFault(err)
	}
	var refs []string
	for _, t := range types {
		names, err := r.b.storage.List(ctx, providerPrefix+t)
		if err != nil {
			return nil, storageFault(err)
		}
		for _, name := range names {
			refs = append(refs, t+name)
		}
	}
	return refs, nil
}

// reservedBy is what a stored provider, if it is there, reserves by its type. One of a
// type that this version lacks reserves where its secrets were sent.
func reservedBy(types catalog.Catalog, ref string, entry *providerEntry) provider.Reserved {
	if entry == nil {
		return provider.Reserved{}
	}
	typeName, name, _ := strings.Cut(ref, "/")
	t := types.Lookup(typeName)
	if t == nil {
		return provider.Reserved{Endpoints: entry.Pinned.Destinations}
	}
	if reserving, ok := t.(provider.Reserving); ok {
		return reserving.ReservedAudiences(provider.Config{Name: name, Fields: entry.Fields, Pinned: entry.Pinned})
	}
	return provider.Reserved{}
}

// checkReserved refuses to sign a child for a reserved audience.
func (b *broker) checkReserved(ctx context.Context, aud any) error {
	reserved, err := b.reservedFrom(ctx, provider.Traits{Signed: true})
	if err != nil {
		return err
	}
	audiences, ok := audiencesOf(aud)
	if !ok {
		return fault.New(fault.InvalidRequest, "no token is signed whose aud is neither an audience nor a list of them")
	}
	for _, v := range audiences {
		if target, found := reserved.Find(v); found {
			return decision.ReservedAudience(v, target)
		}
	}
	return nil
}

// audiencesOf are the audiences in an aud claim (RFC 7519 4.1.3).
func audiencesOf(aud any) ([]string, bool) {
	switch v := aud.(type) {
	case string:
		return []string{v}, true
	case []string:
		return v, len(v) > 0
	}
	return nil, false
}

// maxNamedRoles bounds a warning.
const maxNamedRoles = 20

// warnOfReserved adds to resp, which may be nil, which roles cover an audience that has
// just been reserved by what: they were written before. It fails nothing, as what they
// were for is refused from now on whether it is told or not.
func (b *broker) warnOfReserved(ctx context.Context, resp *logical.Response, what string, added *reserved) *logical.Response {
	covering, err := b.rolesCovering(ctx, added)
	if err != nil {
		b.Logger().Warn("the roles could not be held against what is reserved now", "by", what, "error", err)
	}
	if len(covering) == 0 {
		return resp
	}
	if resp == nil {
		resp = &logical.Response{}
	}
	told := covering
	if len(told) > maxNamedRoles {
		told = append(slices.Clone(told[:maxNamedRoles]), fmt.Sprintf("and %d more", len(covering)-maxNamedRoles))
	}
	resp.AddWarning(fmt.Sprintf("no token is issued any more for audiences at which the broker itself authenticates by %s: write these roles again without them: %s", what, strings.Join(told, ", ")))
	return resp
}

// rolesCovering are the roles whose ceilings cover something that is reserved, each
// with one such audience.
func (b *broker) rolesCovering(ctx context.Context, r *reserved) ([]string, error) {
	names, err := b.storage.List(ctx, rolePrefix)
	if err != nil {
		return nil, storageFault(err)
	}
	var covering []string
	for _, name := range names {
		stored, err := b.readRole(ctx, name)
		if err != nil {
			return covering, err
		}
		if stored == nil {
			continue
		}
		p, err := b.providers.open(ctx, stored.Provider)
		if err != nil || p == nil {
			continue // it issues nothing in any case
		}
		targets, err := r.of(p.traits)
		if err != nil {
			return covering, err
		}
		if target, found := stored.Covers(targets); found {
			covering = append(covering, fmt.Sprintf("%s (%s)", name, target))
		}
	}
	return covering, nil
}

// checkAudiences refuses a role that covers something reserved by any provider, not
// by its own alone: a token for another's server is no less a credential there.
func (b *broker) checkAudiences(ctx context.Context, r *role.Role, traits provider.Traits) error {
	all, err := b.reservedNow(ctx)
	if err != nil {
		return err
	}
	reserved, err := all.of(traits)
	if err != nil {
		return err
	}
	return r.CheckAudiences(all.endpoints, reserved)
}
