package downstream

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/decision"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
)

// Reserved are the audiences at which a credential of the broker's own is accepted
// (rule 10 of the contract): all providers', disabled ones included, because the
// servers trust the broker as before, and the broker's own. It is immutable.
type Reserved struct {
	endpoints access.Targets // no child is for them
	signed    access.Targets // these and more: no child that the broker signs is for them
	unknown   []string       // providers whose stored entry cannot be read
}

// Endpoints are those for which no child is, whoever signs it.
func (r *Reserved) Endpoints() access.Targets { return r.endpoints }

// Of are those that a provider's children may not be for. If the entry of any provider
// cannot be read, the broker signs nothing; the children that other servers make are not
// concerned.
func (r *Reserved) Of(traits provider.Traits) (access.Targets, error) {
	if !traits.Signed {
		return r.endpoints, nil
	}
	if len(r.unknown) > 0 {
		return r.signed, fault.New(fault.TemporarilyUnavailable, "providers/%s cannot be read, so nobody knows for which audiences nothing may be signed: an operator must restore it", r.unknown[0])
	}
	return r.signed, nil
}

func (r *Reserved) add(more provider.Reserved) {
	r.endpoints.Add(more.Endpoints...)
	r.signed.Add(more.Endpoints...)
	r.signed.Add(more.Names...)
}

// ReservedOwn is what the broker's own issuer of that name reserves, with everything
// below it; nothing if it is none.
func (r *Registry) ReservedOwn(issuer string) *Reserved {
	own := &Reserved{}
	if issuer == "" {
		return own
	}
	for _, t := range []*access.Targets{&own.endpoints, &own.signed} {
		t.AddTree(issuer)
		t.Add(r.deps.Endpoints(issuer)...)
	}
	return own
}

// ReservedNew is what the next entry of a provider reserves, nil if that is the same as
// before; before is nil for none.
func (r *Registry) ReservedNew(ref string, before, after *Entry) *Reserved {
	was, is := r.reservedBy(ref, before), r.reservedBy(ref, after)
	if slices.Equal(was.Endpoints, is.Endpoints) && slices.Equal(was.Names, is.Names) {
		return nil
	}
	added := &Reserved{}
	added.add(is)
	return added
}

// Reserved is what is reserved at this moment. It is in memory until a provider is
// written, and no provider is opened for it.
func (r *Registry) Reserved(ctx context.Context) (*Reserved, error) {
	issuer, err := r.deps.Issuer(ctx)
	if err != nil {
		return nil, err
	}
	return r.reserved.Get(issuer, func() (*Reserved, error) {
		all := r.ReservedOwn(issuer)
		refs, err := r.allRefs(ctx)
		if err != nil {
			return nil, err
		}
		for _, ref := range refs {
			its, err := r.reserves.Get(ref, func() (provider.Reserved, error) {
				entry, err := r.Read(ctx, ref)
				return r.reservedBy(ref, entry), err
			})
			switch {
			case errors.Is(err, stored.ErrAbsent):
				continue // deleted since it was listed
			case stored.Unreadable(err):
				all.unknown = append(all.unknown, ref)
			case err != nil:
				return nil, err
			}
			all.add(its)
		}
		return all, nil
	})
}

// ReservedFrom is what children of a provider with these traits may not be for at this
// moment.
func (r *Registry) ReservedFrom(ctx context.Context, traits provider.Traits) (access.Targets, error) {
	all, err := r.Reserved(ctx)
	if err != nil {
		return access.Targets{}, err
	}
	return all.Of(traits)
}

// reservedBy is what a stored provider, if it is there, reserves by its type. One of a
// type that this version lacks reserves where its secrets were sent.
func (r *Registry) reservedBy(ref string, entry *Entry) provider.Reserved {
	if entry == nil {
		return provider.Reserved{}
	}
	typeName, name, _ := strings.Cut(ref, "/")
	t := r.deps.Types.Lookup(typeName)
	if t == nil {
		return provider.Reserved{Endpoints: entry.Pinned.Destinations}
	}
	return reservedAudiences(t, provider.Config{Name: name, Fields: entry.Fields, Pinned: entry.Pinned})
}

// CheckSigned refuses to sign a child whose aud claim has a reserved audience.
func (r *Registry) CheckSigned(ctx context.Context, aud any) error {
	reserved, err := r.ReservedFrom(ctx, provider.Traits{Signed: true})
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
