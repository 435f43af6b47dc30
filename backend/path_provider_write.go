package backend

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/downstream"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/ending"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
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
	if before != nil {
		if err := after.MayAsk(before, written); err != nil {
			return nil, err
		}
	}
	if err := after.Configure(ctx, h.t, d.Get("name").(string), written); err != nil {
		return nil, forOperators(err)
	}
	if before != nil {
		after.Moves(before)
		if err := h.mayReplace(ctx, ref, before, after, written); err != nil {
			return nil, err
		}
	}
	if err := h.b.providers.Resume(ctx, ref, before, after); err != nil {
		return nil, err
	}
	if err := h.b.providers.JudgeLoan(ctx, ref, after); err != nil {
		return nil, err
	}
	candidate, err := h.b.providers.Peek(ref, after)
	if err != nil {
		return nil, err
	}
	if err := candidate.CheckRotation(); err != nil {
		return nil, err
	}
	if err := h.b.checkNames(candidate.Traits.Answer); err != nil {
		return nil, err
	}
	proof, err := h.b.providers.Prove(ctx, ref, before, after)
	if err == nil {
		err = h.replace(ctx, ref, before, after, candidate, written)
	} else {
		err = unproven(err)
	}
	unkilled := h.b.endProof(ctx, proof, err == nil)
	h.b.lender.changed(ctx, h.t, ref) // also after a proof by terms that were not written
	if err != nil {
		return nil, err
	}
	h.b.providers.Mend(ref) // it may be another server now, or the right ca_pem
	var resp *logical.Response
	if added := h.b.providers.ReservedNew(ref, before, after); added != nil {
		resp = h.b.warnOfReserved(ctx, nil, "providers/"+ref, added)
	}
	if ends := proof.Health.Ends; !ends.IsZero() {
		unkilled = append(unkilled, endsSoon(ends, h.b.now(), after.Settings.RotationPeriod)...)
	}
	if proof.Unproven != "" {
		unkilled = append(unkilled, fmt.Sprintf("the parent credential is not proven yet, and the provider's health is unknown: %s; then write providers/%s/check", proof.Unproven, ref))
	}
	return withWarnings(resp, unkilled), nil
}

// checkNames refuses a provider whose children have fields of its own configuration's, if a
// name means something else elsewhere: the audit log shows a field in clear by its name.
func (b *broker) checkNames(answer map[string]*framework.FieldSchema) error {
	if answer == nil {
		return nil
	}
	shown, secrets := b.auditedAnswers(), b.secretFields()
	for _, name := range slices.Sorted(maps.Keys(answer)) {
		switch {
		case provider.IsSecret(answer[name]) && slices.Contains(shown, name):
			return fault.New(fault.InvalidRequest, "a secret of its children cannot be called %s, which is a name that the audit log may have in clear: call it otherwise, such as %s_secret", name, name)
		case !provider.IsSecret(answer[name]) && secrets[name] != nil:
			return fault.New(fault.InvalidRequest, "what is shown of its children cannot be called %s, which is a secret's name", name)
		}
	}
	return nil
}

// replace stores after in the place of before. No mint is under way where its child could
// not be killed any more.
func (h providerHandler) replace(ctx context.Context, ref string, before, after *downstream.Entry, candidate *downstream.Provider, written map[string]bool) error {
	unlearns := h.unlearns(ctx, ref, before, candidate)
	if before != nil && (unlearns || before.Pinned.Account != after.Pinned.Account) {
		done, noMints := h.b.providers.KeepMintsOut(ref)
		if !noMints {
			return errMinting
		}
		defer done()
		if err := h.mayReplace(ctx, ref, before, after, written); err != nil {
			return err
		}
		if unlearns {
			if err := h.nothingLives(ctx, ref, unlearnsWhy); err != nil {
				return err
			}
		}
	}
	return h.b.providers.Write(ctx, ref, after)
}

// unlearns reports whether the provider as it is now could end more of what lives than the
// candidate. Of one that cannot be opened nobody knows.
func (h providerHandler) unlearns(ctx context.Context, ref string, before *downstream.Entry, candidate *downstream.Provider) bool {
	if before == nil {
		return false
	}
	now, err := h.b.providers.Open(ctx, ref)
	return err == nil && candidate.Unlearns(now)
}

// unproven says of a write that is refused because of the parent what else can be done.
func unproven(err error) error {
	var f *fault.Error
	if !errors.As(forOperators(err), &f) {
		return err
	}
	return fault.New(f.Code, "%s; nothing was written: with verify_connection=false the provider is written without proof", f.Message).Because(err)
}

// endProof kills what a proof had to mint, which is on record only if the provider is.
func (b *broker) endProof(ctx context.Context, proof downstream.Proof, written bool) (warnings []string) {
	if proof.Provider == nil {
		return nil
	}
	ctx = context.WithoutCancel(ctx)
	if written {
		return b.endChecked(ctx, proof.Provider, proof.Health)
	}
	for _, child := range b.ownChildren(proof.Provider, proof.Health) {
		if err := b.killer.KillUnrecorded(ctx, proof.Provider, b.checkGrant(proof.Provider, child), ending.CauseParentCheck); err != nil {
			b.Logger().Error("a token minted by the check of a provider that was not written lives until it expires", "provider", proof.Provider.Ref, "error", err)
		}
	}
	return nil
}

// withWarnings adds warnings to a response, which may be nil.
func withWarnings(resp *logical.Response, warnings []string) *logical.Response {
	if resp == nil && len(warnings) > 0 {
		resp = &logical.Response{}
	}
	for _, w := range warnings {
		resp.AddWarning(w)
	}
	return resp
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
		return h.nothingLives(ctx, ref, movesAway)
	}
	return nil
}

// What would make live grants unkillable.
const (
	movesAway   = "could not be killed any more with another issuer, revocation endpoint or account (a revocation_url that is written or left out counts as another endpoint)"
	unlearnsWhy = "could not all be killed, or found again where an answer was lost, by what is written now, which tells less of how than what was written before (an undo or a find of a definition)"
)

// nothingLives refuses a change for that reason while grants live.
func (h providerHandler) nothingLives(ctx context.Context, ref, why string) error {
	_, live, err := h.b.killer.LiveAt(ctx, ref)
	if err != nil {
		return err
	}
	if live > 0 {
		return fault.New(fault.InvalidRequest, "%d live grants %s: let them end or revoke their leases first, or write a provider of another name%s", live, why, h.lends(ctx, ref))
	}
	return nil
}

// lends says whose credential a provider's tokens are, and how those end.
func (h providerHandler) lends(ctx context.Context, ref string) string {
	borrowers, err := h.b.providers.Borrowers(ctx, ref)
	if err != nil || len(borrowers) == 0 {
		return ""
	}
	return "; with disabled=true what " + strings.Join(borrowers, ", ") + " borrowed of it ends"
}
