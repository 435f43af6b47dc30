package backend

import (
	"context"
	"errors"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/downstream"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
)

// write creates or changes a provider: merge what came with what is there, let
// the type judge it and discover its endpoints, then store all of it as one.
func (h providerHandler) write(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	ref := h.ref(d)
	before, err := h.b.providers.Read(ctx, ref)
	if err != nil && !errors.Is(err, stored.ErrAbsent) {
		return nil, err
	}
	written := map[string]bool{}
	for name := range req.Data {
		written[name] = true
	}
	after, err := downstream.Merge(before, h.t, written, d, h.b.now())
	if err != nil {
		return nil, err
	}
	if err := after.Configure(ctx, h.t, d.Get("name").(string), written); err != nil {
		return nil, forOperators(err)
	}
	if before != nil {
		if before.Pinned.Account != after.Pinned.Account {
			done, noMints := h.b.providers.KeepMintsOut(ref)
			if !noMints {
				return nil, errMinting
			}
			defer done()
		}
		if err := h.mayReplace(ctx, ref, before, after, written); err != nil {
			return nil, err
		}
	}
	candidate, err := h.b.providers.Peek(ref, after)
	if err != nil {
		return nil, err
	}
	if err := candidate.CheckRotation(); err != nil {
		return nil, err
	}
	if err := h.b.providers.Write(ctx, ref, after); err != nil {
		return nil, err
	}
	h.b.providers.Mend(ref) // it may be another server now, or the right ca_pem
	added := h.b.providers.ReservedNew(ref, before, after)
	if added == nil {
		return nil, nil
	}
	return h.b.warnOfReserved(ctx, nil, "providers/"+ref, added), nil
}

// errMinting refuses what would leave a child behind that nothing can kill.
var errMinting = fault.New(fault.InvalidRequest, "a token of this provider is being minted at this moment: try again, or write disabled=true first")

// mayReplace refuses what would send a stored secret to a new place without
// whoever writes it knowing it, and what would make live grants unkillable.
func (h providerHandler) mayReplace(ctx context.Context, ref string, before, after *downstream.Entry, written map[string]bool) error {
	if err := after.MayFollow(before, written); err != nil {
		return err
	}
	if before.Pinned.Account != after.Pinned.Account {
		_, live, err := h.b.killer.LiveAt(ctx, ref)
		if err != nil {
			return err
		}
		if live > 0 {
			return fault.New(fault.InvalidRequest, "%d live grants could not be killed any more with another issuer, revocation endpoint or account: let them end or revoke their leases first, or write a provider of another name", live)
		}
	}
	return nil
}
