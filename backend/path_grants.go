package backend

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"slices"
	"sort"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/ending"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
)

// maxPage is how many entries one list answers with at the most.
const maxPage = 1000

const grantsHelp = `
A grant is one child token handed out that is not known to be dead: who holds it,
what exactly was granted, until when, and what can kill it. Never the token.
`

// anyID matches an entity's or a grant's id, of which nothing is known but that it is
// one segment of a path.
func anyID(field string) string { return "(?P<" + field + ">[^/]+)" }

func pageFields(extra map[string]*framework.FieldSchema) map[string]*framework.FieldSchema {
	fields := map[string]*framework.FieldSchema{
		"after": {Type: framework.TypeString, Query: true, Description: "List what comes after this entry, which need not exist any more."},
		"limit": {Type: framework.TypeInt, Query: true, Default: maxPage, Description: "How many entries at the most, at most 1000."},
	}
	for name, f := range extra {
		fields[name] = f
	}
	return fields
}

func (b *broker) pathGrants() []*framework.Path {
	list := func(callback framework.OperationFunc, summary string) map[logical.Operation]framework.OperationHandler {
		return map[logical.Operation]framework.OperationHandler{
			logical.ListOperation: &framework.PathOperation{
				Callback: callback, Summary: summary, Responses: listResponses("role", "provider", "entity_id", "expires_at", "lease_expires_at", "lease_ends", "pending", "intent", "released"),
				ForwardPerformanceStandby: true, ForwardPerformanceSecondary: true,
			},
		}
	}
	display := func(suffix string) *framework.DisplayAttributes {
		return &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: suffix}
	}
	return []*framework.Path{
		{
			Pattern: "grants/?$", DisplayAttrs: display("grants"),
			HelpSynopsis: "Lists the live grants.", HelpDescription: grantsHelp,
			Fields: pageFields(nil), Operations: list(b.listGrants, "List live grants."),
		},
		{
			Pattern: "grants/entity/?$", DisplayAttrs: display("grant-holders"),
			HelpSynopsis: "Lists the holders of live grants.", HelpDescription: grantsHelp,
			Fields: pageFields(nil), Operations: list(b.listHolders, "List who holds live grants."),
		},
		{
			Pattern: "grants/entity/" + anyID("entity_id") + "/?$", DisplayAttrs: display("grants-of-entity"),
			HelpSynopsis: "Lists one holder's live grants.", HelpDescription: grantsHelp,
			Fields: pageFields(map[string]*framework.FieldSchema{
				"entity_id": {Type: framework.TypeString, Description: "The holder: an entity's id, or none."},
			}),
			Operations: list(b.listGrantsOfEntity, "List an entity's live grants."),
		},
		{
			Pattern: "grants/" + anyID("grant_id") + "$", DisplayAttrs: display("grant"),
			HelpSynopsis: "Reads one live grant.", HelpDescription: grantsHelp,
			Fields: map[string]*framework.FieldSchema{"grant_id": {Type: framework.TypeString, Description: "The grant's id, as in the creds response."}},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ReadOperation: &framework.PathOperation{
					Callback: b.readGrant, Summary: "Read a grant.",
					Responses:                 map[int][]framework.Response{http.StatusOK: {{Description: "The grant.", Fields: grantResponse()}}},
					ForwardPerformanceStandby: true, ForwardPerformanceSecondary: true,
				},
			},
		},
	}
}

func (b *broker) listGrants(ctx context.Context, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	after, limit, err := pageOf(d)
	if err != nil {
		return nil, err
	}
	holders, err := b.ledger.Holders(ctx)
	if err != nil {
		return nil, ending.LedgerFault(err)
	}
	// In the order of the ids, in which the holder ends with a dot.
	slices.SortFunc(holders, func(x, y string) int { return cmp.Compare(x+".", y+".") })
	begin := after
	if first, ok := grant.HolderOf(after); ok {
		begin = first + "."
	}
	from := sort.Search(len(holders), func(i int) bool { return holders[i]+"." >= begin })
	return b.grantPage(ctx, holders[from:], after, limit)
}

func (b *broker) listGrantsOfEntity(ctx context.Context, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	after, limit, err := pageOf(d)
	if err != nil {
		return nil, err
	}
	return b.grantPage(ctx, []string{d.Get("entity_id").(string)}, after, limit)
}

func (b *broker) listHolders(ctx context.Context, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	after, limit, err := pageOf(d)
	if err != nil {
		return nil, err
	}
	holders, err := b.ledger.Holders(ctx)
	if err != nil {
		return nil, ending.LedgerFault(err)
	}
	from := sort.Search(len(holders), func(i int) bool { return holders[i] > after })
	return logical.ListResponse(holders[from:min(len(holders), from+limit)]), nil
}

// grantPage reads the records of one page: of what the holders have after an id.
func (b *broker) grantPage(ctx context.Context, holders []string, after string, limit int) (*logical.Response, error) {
	keys, info := []string{}, map[string]any{}
	for _, holder := range holders {
		begin := ""
		if first, ok := grant.HolderOf(after); ok && first == holder {
			begin = after
		}
		err := b.ledger.Walk(ctx, holder, begin, func(s *grant.Summary) bool {
			keys = append(keys, s.ID)
			info[s.ID] = keyInfo(s)
			return len(keys) < limit
		})
		if err != nil {
			return nil, stored.Fault(err)
		}
		if len(keys) == limit {
			break
		}
	}
	return logical.ListResponseWithInfo(keys, info), nil
}

func keyInfo(s *grant.Summary) map[string]any {
	about := map[string]any{"provider": s.Provider, "entity_id": s.Holder, "pending": s.Doomed && s.Revocable}
	if s.IsIntent() {
		about["intent"] = true
	} else {
		about["lease_ends"], about["lease_expires_at"] = stamp(s.LeaseEnds), stamp(s.LeaseEnds)
	}
	if s.Released {
		about["released"] = true
	}
	if s.Role != "" {
		about["role"] = s.Role
	}
	if !s.ExpiresAt.IsZero() {
		about["expires_at"] = stamp(s.ExpiresAt)
	}
	return about
}

// pageOf is which part of a list is asked for.
func pageOf(d *framework.FieldData) (after string, limit int, err error) {
	limit = d.Get("limit").(int)
	if limit < 1 || limit > maxPage {
		return "", 0, fault.New(fault.InvalidRequest, "limit must be between 1 and %d", maxPage)
	}
	return d.Get("after").(string), limit, nil
}

func (b *broker) readGrant(ctx context.Context, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	g, err := b.ledger.Get(ctx, d.Get("grant_id").(string))
	if errors.Is(err, grant.ErrGone) {
		return nil, nil
	}
	if err != nil {
		return nil, stored.Fault(err)
	}
	return &logical.Response{Data: showGrant(g)}, nil
}

// showGrant is everything about a grant but its handle.
func showGrant(g *grant.Grant) map[string]any {
	data := map[string]any{
		"grant_id": g.ID, "entity_id": g.Holder, "provider": g.Provider,
		"issued_at":  stamp(g.IssuedAt),
		"revocation": string(g.Revocation()), "self_contained": g.SelfContained, "pending": g.Doom != nil && g.Revocable(),
	}
	for name, value := range map[string]string{"role": g.Role, "subject": g.Subject, "subject_issuer": g.SubjectIssuer, "actor": g.Actor, "actor_issuer": g.ActorIssuer, "remote_addr": g.Facts.RemoteAddr} {
		if value != "" {
			data[name] = value
		}
	}
	if g.IsIntent() {
		data["intent"], data["looked_for"] = true, stamp(g.Intent)
	} else {
		data["lease_ends"], data["lease_expires_at"] = stamp(g.LeaseEnds), stamp(g.LeaseEnds)
	}
	if g.Lever != "" {
		data["lever"], data["released"] = g.Lever, g.Released
	}
	if len(g.Granted) > 0 {
		data["granted"] = g.Granted
	}
	if !g.ExpiresAt.IsZero() {
		data["expires_at"] = stamp(g.ExpiresAt)
	}
	if g.Doom != nil {
		data["cause"], data["attempts"] = g.Doom.Cause, g.Doom.Attempts
		if g.Revocable() {
			data["next_attempt"] = stamp(g.Doom.Next)
		}
		if g.Doom.Error != "" {
			data["last_error"] = g.Doom.Error
		}
	}
	return data
}

func grantResponse() map[string]*framework.FieldSchema {
	text, when := framework.TypeString, framework.TypeTime
	return map[string]*framework.FieldSchema{
		"grant_id":         {Type: text, Description: "The grant's id."},
		"entity_id":        {Type: text, Description: "The holder: an entity's id, or none."},
		"role":             {Type: text, Description: "The role; absent for a token that a check had to mint."},
		"provider":         {Type: text, Description: "The provider."},
		"subject":          {Type: text, Description: "On whose behalf, if on somebody's."},
		"subject_issuer":   {Type: text, Description: "The issuer that vouched for the subject, by the name it has in issuers."},
		"actor":            {Type: text, Description: "Who acts, if an actor token said so."},
		"actor_issuer":     {Type: text, Description: "The issuer that vouched for the actor, by the name it has in issuers; absent for the entity."},
		"remote_addr":      {Type: text, Description: "From where it was asked for."},
		"granted":          {Type: framework.TypeStringSlice, Description: "What was granted, flat."},
		"issued_at":        {Type: when, Description: "When it was issued."},
		"lease_expires_at": {Type: when, Description: "When its lease ends, and it dies at the provider; absent for an intent."},
		"lease_ends":       {Type: when, Description: "The same as lease_expires_at."},
		"intent":           {Type: framework.TypeBool, Description: "True while nobody knows whether there is a token: its mint is under way, or the answer was lost."},
		"looked_for":       {Type: when, Description: "When an intent that is left over is looked for at the provider, by its name, and killed."},
		"lever":            {Type: text, Description: "What the token dies with, by the provider's name for it, where others may die with it too."},
		"released":         {Type: framework.TypeBool, Description: "True once its lease has ended while others still hold its lever, with which it dies."},
		"expires_at":       {Type: when, Description: "When the token expires at the provider, where that is known."},
		"revocation":       {Type: text, Description: "token, lever or expiry."},
		"self_contained":   {Type: framework.TypeBool, Description: "True if it is accepted offline until expires_at even after revocation."},
		"pending":          {Type: framework.TypeBool, Description: "True while a revocation that failed is being retried."},
		"cause":            {Type: text, Description: "Why it is being killed."},
		"attempts":         {Type: framework.TypeInt, Description: "Failed attempts to kill it."},
		"next_attempt":     {Type: when, Description: "When the next attempt is due."},
		"last_error":       {Type: text, Description: "Why the last attempt failed."},
	}
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
