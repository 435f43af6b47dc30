package backend

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sort"
	"strings"

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
A list says of each its state: live; pending (killed, and not dead yet: it is retried);
expiry_only (killed, and works until it expires, because nothing can kill it); released
(its lease has ended, and it dies with what others still hold); intent (its mint is under
way, or the answer was lost). It ends after limit entries, with a warning how to read on.

  vault list -detailed broker/grants/entity/<entity_id>
  vault read broker/grants/<grant_id>
`

// anyID matches an entity's or a grant's id, of which nothing is known but that it is
// one segment of a path.
func anyID(field string) string { return "(?P<" + field + ">[^/]+)" }

func pageFields(extra map[string]*framework.FieldSchema) map[string]*framework.FieldSchema {
	fields := map[string]*framework.FieldSchema{
		"after": {Type: framework.TypeString, Query: true, Description: "List what comes after this entry, which need not exist any more."},
		"limit": {Type: framework.TypeInt, Query: true, Default: maxPage, Description: "The most entries to answer with, up to 1000."},
	}
	for name, f := range extra {
		fields[name] = f
	}
	return fields
}

func (b *broker) pathGrants() []*framework.Path {
	name := func(what string) *framework.FieldSchema {
		return &framework.FieldSchema{Type: framework.TypeString, Description: what}
	}
	list := func(callback framework.OperationFunc, summary string) map[logical.Operation]framework.OperationHandler {
		return map[logical.Operation]framework.OperationHandler{
			logical.ListOperation: &framework.PathOperation{
				Callback: callback, Summary: summary, Responses: grantListResponses(),
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
				"entity_id": {Type: framework.TypeString, Description: "The holder: an entity's id, none for nobody's, or broker for the broker's own."},
			}),
			Operations: list(b.listGrantsOfEntity, "List an entity's live grants."),
		},
		{
			Pattern: "grants/role/" + framework.GenericNameRegex("name") + "/?$", DisplayAttrs: display("grants-of-role"),
			HelpSynopsis: "Lists a role's live grants.", HelpDescription: grantsHelp,
			Fields:     pageFields(map[string]*framework.FieldSchema{"name": name("Name that the role has, or had.")}),
			Operations: list(b.listGrantsOfRole, "List a role's live grants."),
		},
		{
			Pattern: "grants/provider/" + framework.GenericNameRegex("type") + "/" + framework.GenericNameRegex("name") + "/?$", DisplayAttrs: display("grants-of-provider"),
			HelpSynopsis: "Lists a provider's live grants.", HelpDescription: grantsHelp,
			Fields:     pageFields(map[string]*framework.FieldSchema{"type": name("Type of the provider."), "name": name("Name of the provider.")}),
			Operations: list(b.listGrantsOfProvider, "List a provider's live grants."),
		},
		{
			Pattern: "grants/subject$", DisplayAttrs: display("grants-of-subject"),
			HelpSynopsis: "Lists the live grants on a subject's behalf, and in which it acts.", HelpDescription: grantsHelp,
			Fields: pageFields(subjectFields(map[string]*framework.FieldSchema{})),
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ReadOperation: &framework.PathOperation{
					Callback: b.listGrantsOfSubject, Summary: "List a subject's live grants.", Responses: grantListResponses(),
					ForwardPerformanceStandby: true, ForwardPerformanceSecondary: true,
				},
			},
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

func grantListResponses() map[int][]framework.Response {
	return listResponses("state ("+grantStates+")", "role", "provider", "borrower", "entity_id", "expires_at", "lease_expires_at", "lease_ends", "cause", "pending", "intent", "released")
}

// selection is which grants a list is of.
type selection struct {
	// counted says which counts of a holder hold some of them, chosen which grants they are.
	counted func(grant.Count) bool
	chosen  func(*grant.Summary) bool
}

func (b *broker) listGrants(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	return b.listSelected(ctx, req, d, selection{
		counted: func(grant.Count) bool { return true }, chosen: func(*grant.Summary) bool { return true },
	})
}

func (b *broker) listGrantsOfRole(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name := d.Get("name").(string)
	return b.listSelected(ctx, req, d, selection{
		counted: func(c grant.Count) bool { return c.Role == name }, chosen: func(s *grant.Summary) bool { return s.Role == name },
	})
}

func (b *broker) listGrantsOfProvider(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	ref := d.Get("type").(string) + "/" + d.Get("name").(string)
	return b.listSelected(ctx, req, d, selection{
		counted: func(c grant.Count) bool { return c.Provider == ref }, chosen: func(s *grant.Summary) bool { return s.Provider == ref },
	})
}

// listSelected reads the records of those holders alone who have some of the selection.
func (b *broker) listSelected(ctx context.Context, req *logical.Request, d *framework.FieldData, of selection) (*logical.Response, error) {
	after, limit, err := pageOf(d)
	if err != nil {
		return nil, err
	}
	holders, err := b.ledger.HoldersOf(ctx, of.counted)
	if err != nil {
		return nil, ending.LedgerFault(err)
	}
	return b.grantPage(ctx, req, grantsPage{holders: from(holders, after), after: after, limit: limit, chosen: of.chosen, walk: b.ledger.Walk})
}

// from are those of the holders who may have grants after an id, in the order of the ids,
// in which the holder ends with a dot.
func from(holders []string, after string) []string {
	slices.SortFunc(holders, func(x, y string) int { return cmp.Compare(x+".", y+".") })
	begin := after
	if first, ok := grant.HolderOf(after); ok {
		begin = first + "."
	}
	return holders[sort.Search(len(holders), func(i int) bool { return holders[i]+"." >= begin }):]
}

// listGrantsOfSubject is a read: no path of Vault's command line takes what a sub may hold.
func (b *broker) listGrantsOfSubject(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	after, limit, err := pageOf(d)
	if err != nil {
		return nil, err
	}
	what, err := b.subjectThing(ctx, d.Get("issuer").(string), d.Get("subject").(string))
	if err != nil {
		return nil, err
	}
	holders, means, err := b.killer.Of(ctx, what)
	if err != nil {
		return nil, ending.LedgerFault(err)
	}
	_, sub, _ := what.Subject()
	resp, err := b.grantPage(ctx, req, grantsPage{
		holders: from(holders, after), after: after, limit: limit, chosen: means, more: "more follow: read on with after=",
		walk: func(ctx context.Context, holder, after string, visit func(*grant.Summary) bool) error {
			return b.ledger.WalkWith(ctx, holder, grant.OfParty(sub), after, visit)
		},
	})
	if err != nil || len(resp.Data) > 0 {
		return resp, err
	}
	resp.Data["keys"] = []string{} // a read of nothing looks like one of what is not there
	if after == "" {
		resp.AddWarning(b.strangeSubject(ctx, req.MountPoint, what))
	}
	return resp, nil
}

func (b *broker) listGrantsOfEntity(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	after, limit, err := pageOf(d)
	if err != nil {
		return nil, err
	}
	return b.grantPage(ctx, req, grantsPage{
		holders: []string{d.Get("entity_id").(string)}, after: after, limit: limit, chosen: func(*grant.Summary) bool { return true }, walk: b.ledger.Walk,
	})
}

func (b *broker) listHolders(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	after, limit, err := pageOf(d)
	if err != nil {
		return nil, err
	}
	holders, err := b.ledger.Holders(ctx)
	if err != nil {
		return nil, ending.LedgerFault(err)
	}
	from := sort.Search(len(holders), func(i int) bool { return holders[i] > after })
	page := holders[from:min(len(holders), from+limit)]
	resp := logical.ListResponse(page)
	if from+limit < len(holders) {
		tellMore(resp, req, page[limit-1])
	}
	return resp, nil
}

// grantsPage is a part of a list of grants.
type grantsPage struct {
	holders []string
	after   string
	limit   int
	// chosen says which of their grants it is of, of those that walk visits.
	chosen func(*grant.Summary) bool
	walk   func(ctx context.Context, holder, after string, visit func(*grant.Summary) bool) error
	// more says how to read on; "" as of a path that is listed.
	more string
}

// grantPage reads the records of one page, and one more to know whether there are others:
// of what is chosen among what the holders have after an id.
func (b *broker) grantPage(ctx context.Context, req *logical.Request, of grantsPage) (*logical.Response, error) {
	keys, info, more := []string{}, map[string]any{}, false
	for _, holder := range of.holders {
		begin := ""
		if first, ok := grant.HolderOf(of.after); ok && first == holder {
			begin = of.after
		}
		err := of.walk(ctx, holder, begin, func(s *grant.Summary) bool {
			if !of.chosen(s) {
				return true
			}
			if more = len(keys) == of.limit; !more {
				keys = append(keys, s.ID)
				info[s.ID] = b.keyInfo(s)
			}
			return !more
		})
		if err != nil {
			return nil, stored.Fault(err)
		}
		if more {
			break
		}
	}
	resp := logical.ListResponseWithInfo(keys, info)
	switch {
	case more && of.more != "":
		resp.AddWarning(of.more + keys[of.limit-1])
	case more:
		tellMore(resp, req, keys[of.limit-1])
	}
	return resp, nil
}

// tellMore says that a list goes on, and how to read on: vault list takes no fields.
func tellMore(resp *logical.Response, req *logical.Request, last string) {
	resp.AddWarning(fmt.Sprintf("more follow: vault read %s%s list=true after=%s", req.MountPoint, strings.TrimSuffix(req.Path, "/"), last))
}

// pageOf is which part of a list is asked for.
func pageOf(d *framework.FieldData) (after string, limit int, err error) {
	limit = d.Get("limit").(int)
	if limit < 1 || limit > maxPage {
		return "", 0, fault.New(fault.InvalidRequest, "limit must be between 1 and %d", maxPage)
	}
	return d.Get("after").(string), limit, nil
}

func (b *broker) readGrant(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	g, err := b.ledger.Get(ctx, d.Get("grant_id").(string))
	if errors.Is(err, grant.ErrGone) {
		return nil, nil
	}
	if err != nil {
		return nil, stored.Fault(err)
	}
	return &logical.Response{Data: b.showGrant(req, g)}, nil
}
