package backend

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/downstream"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/ending"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/kills"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/role"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
)

// deleteWait is how long a forced deletion waits for its kills; they go on after that.
const deleteWait = 80 * time.Second

// delete refuses while grants live. With force it kills them first; what cannot
// be killed now is the sweep's, which also deletes the provider in the end.
func (h providerHandler) delete(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	ref := h.ref(d)
	entry, err := h.b.providers.Read(ctx, ref)
	if errors.Is(err, stored.ErrAbsent) {
		return nil, h.b.providers.Delete(ctx, ref, 0) // what a write that was refused has left
	}
	if err != nil {
		return nil, err
	}
	done, noMints := h.b.providers.KeepMintsOut(ref)
	if noMints {
		defer done()
	}
	force := d.Get(fieldForce).(bool)
	if !force {
		if err := h.b.providers.MayGo(ctx, ref); err != nil {
			return nil, err
		}
	}
	live, _, err := h.b.killer.LiveAt(ctx, ref)
	if err != nil {
		return nil, err
	}
	if live == 0 && noMints {
		return h.gone(ctx, nil, ref, entry, force)
	}
	if !force {
		if live == 0 {
			return nil, errMinting
		}
		return nil, fault.New(fault.InvalidRequest, "%d grants of this provider live: revoke their leases and let expire what nothing can revoke, or delete with force=true", live)
	}
	entry.Settings.Disabled, entry.Settings.Deleting = true, true
	if err := h.b.providers.Write(ctx, ref, entry); err != nil {
		return nil, err
	}
	run, err := h.b.killer.KillAll(ctx, ending.Thing{Kind: ending.KindProvider, Name: ref}, kills.Asked{By: by(req), Cause: ending.CauseProviderGone, Always: true})
	if err != nil {
		return nil, err
	}
	tally, complete := run.Wait(ctx, deleteWait)
	if complete && run.Failed() != nil {
		return nil, ending.LedgerFault(run.Failed())
	}
	resp := &logical.Response{Data: tallyData(tally)}
	if tally.Pending > 0 || !complete {
		resp.AddWarning(fmt.Sprintf("%d revocations are pending: the provider stays, disabled, until they have succeeded", tally.Pending))
		return resp, nil
	}
	if !noMints {
		resp.AddWarning("a token is being minted and dies as soon as it comes: the provider stays, disabled, until the next sweep")
		return resp, nil
	}
	if _, revocable, err := h.b.killer.CountAt(ctx, ref); err != nil || revocable > 0 {
		resp.AddWarning("grants of this provider are still on record: it stays, disabled, until the sweep has killed them")
		return resp, nil
	}
	return h.gone(ctx, resp, ref, entry, force)
}

// gone deletes a provider of which nothing is left, and says who is left without it.
func (h providerHandler) gone(ctx context.Context, resp *logical.Response, ref string, entry *downstream.Entry, force bool) (*logical.Response, error) {
	remove := h.b.providers.DeleteUnlessLent
	if force {
		remove = h.b.providers.Delete
	}
	if err := remove(ctx, ref, entry.Version); err != nil {
		return nil, err
	}
	h.b.lender.changed(ctx, h.t, ref)
	if borrowers, err := h.b.providers.Borrowers(ctx, ref); err == nil && len(borrowers) > 0 {
		resp = withWarnings(resp, []string{"a token of it was the credential of " + strings.Join(borrowers, ", ") + ", whose tokens can be neither made nor killed until another token_provider is written there"})
	}
	return h.b.warnOfOrphans(ctx, resp, "providers/"+ref, func(r *role.Role) bool { return r.Provider == ref }), nil
}

func (h providerHandler) check(ctx context.Context, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	return h.upkeep(ctx, d, (*downstream.Upkeep).Check)
}

func (h providerHandler) rotate(ctx context.Context, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	return h.upkeep(ctx, d, (*downstream.Upkeep).Rotate)
}

// upkeep runs what calls the provider with the parent credential and may mint.
func (h providerHandler) upkeep(ctx context.Context, d *framework.FieldData, call func(*downstream.Upkeep, context.Context) (provider.Health, error)) (*logical.Response, error) {
	u, err := h.b.providers.Upkeep(ctx, h.ref(d))
	if err != nil {
		return nil, missing(err, h.ref(d))
	}
	defer u.Done()
	health, err := call(u, ctx)
	return h.answer(ctx, u.Provider, health, err)
}

// answer reports a check or a rotation, after killing what it had to mint, for
// which there is time of its own.
func (h providerHandler) answer(ctx context.Context, p *downstream.Provider, health provider.Health, failed error) (*logical.Response, error) {
	warnings := h.b.endChecked(context.WithoutCancel(ctx), p, health)
	if failed != nil {
		return nil, forOperators(failed)
	}
	if p.Traits.Class == provider.ClassToken && p.GivesAgain() {
		warnings = append(warnings, "the provider gives one token to several requests, of which all but the first are refused: set revocation=lever on the provider, give each role a client of its own, or set sharing=entity on the role where one entity is all that asks")
	}
	data := map[string]any{"detail": health.Detail}
	if !health.Ends.IsZero() {
		data["parent_expires_at"] = stamp(health.Ends)
		warnings = append(warnings, endsSoon(health.Ends, h.b.now(), p.Settings.RotationPeriod)...)
	}
	if !health.Untold {
		data["healthy"] = true
	}
	if len(health.Grants) > 0 {
		data["grants"] = health.Grants
	}
	return &logical.Response{Data: data, Warnings: warnings}, nil
}

// soon is how long before its end a parent credential is spoken of.
const soon = 30 * 24 * time.Hour

func endsSoon(ends, now time.Time, rotationPeriod time.Duration) []string {
	switch left := ends.Sub(now); {
	case rotationPeriod > 0 && left < rotationPeriod:
		return []string{fmt.Sprintf("the parent credential itself ends at %s, before the next rotation is due: set a shorter rotation_period on the provider, or write a credential that lives longer", stamp(ends))}
	case left > soon:
		return nil
	}
	return []string{fmt.Sprintf("the parent credential itself ends at %s: write another one before, or set rotation_period on the provider where it can rotate", stamp(ends))}
}

// endChecked kills what a check or a rotation had to mint.
func (b *broker) endChecked(ctx context.Context, p *downstream.Provider, health provider.Health) (warnings []string) {
	for _, child := range b.ownChildren(p, health) {
		if err := b.killer.Discard(ctx, p, b.checkGrant(p, child), ending.CauseParentCheck); err != nil {
			b.Logger().Warn("a token minted by a check is not dead yet", "provider", p.Ref, "error", err)
			if !child.Handle.Empty() {
				warnings = append(warnings, "a token that this had to mint could not be revoked: "+fault.Public(err))
			}
		}
	}
	return warnings
}

// ownChildren are what a check or a rotation has minted and may be killed: neither the
// parent itself nor another's.
func (b *broker) ownChildren(p *downstream.Provider, health provider.Health) []*provider.Child {
	var own []*provider.Child
	for _, child := range health.Children {
		if why, keep := repeats(p.Secrets(), nil, child); why != nil && !keep {
			continue // there is nothing to kill but the parent
		}
		if p.GaveBefore(child) && diesAlone(child) {
			continue // it is another's
		}
		own = append(own, child)
	}
	return own
}

func missing(err error, ref string) error {
	if errors.Is(err, stored.ErrAbsent) {
		return fault.New(fault.InvalidRequest, "there is no provider %q: vault list broker/providers shows those that there are", ref)
	}
	return err
}

func healthResponses() map[int][]framework.Response {
	return map[int][]framework.Response{http.StatusOK: {{Description: "The credential works.", Fields: map[string]*framework.FieldSchema{
		"healthy":           {Type: framework.TypeBool, Description: "True of a credential that works; one that does not is an error. Left out where this tells nothing of it, and detail says why."},
		"detail":            {Type: framework.TypeString, Description: "What was proven, or changed."},
		"parent_expires_at": {Type: framework.TypeString, Description: "When the parent credential itself ends (RFC 3339), where the provider says so."},
		"grants":            {Type: framework.TypeStringSlice, Description: "What the parent can grant, where the provider says so."},
	}}}}
}
