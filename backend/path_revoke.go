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
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/kills"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
)

// revokeWait is how long a kill of many is waited for; it goes on after that.
const revokeWait = 25 * time.Second

const revokeHelp = `
Kills live grants now, at the provider, and answers how many were

  revoked      are dead now
  pending      not dead yet: their revocation is retried until they are
  expiry_only  nothing can kill these before they expire
  bystanders   grants of others, dead because only something larger than the token can be killed

residual_exposure_seconds is for how long one of them may still be accepted somewhere. A large
kill goes on after the answer: ask again, or read kills/<kill_id>, to see how far it is.

`

const freezeHelp = `
With freeze=true nothing new is granted from now on, a mint in flight included; freeze=false
thaws and kills nothing; without it, freezing stays as it is; frozen says how it is now. A name
of which neither the thing itself nor a grant is known is answered with unknown=true and a
warning, and is frozen only if it is an entity's, or a subject's whose issuer is known.
`

// killed is which grants a kill means, where its path does not say it all.
var killed = map[string]string{
	ending.KindIssuer:  "What is killed are the grants for which a subject or actor token of the issuer was brought.",
	ending.KindSubject: "What is killed are the grants for which a token about the subject was brought.",
}

// revokeExamples are the commands that the help of each path shows.
var revokeExamples = map[string]string{
	"grant":             "vault write -f broker/revoke/grant/<grant_id>",
	ending.KindEntity:   "vault write broker/revoke/entity/<entity_id> freeze=true",
	ending.KindRole:     "vault write broker/revoke/role/deploy freeze=true",
	ending.KindIssuer:   "vault write broker/revoke/issuer/github freeze=true",
	ending.KindProvider: "vault write broker/revoke/provider/oauth2/acme freeze=true",
	ending.KindSubject:  "vault write broker/revoke/subject issuer=github subject=<sub> freeze=true",
}

// revokeHelpOf is the help of the path that kills what kind names.
func revokeHelpOf(kind string, freezes bool) string {
	parts := []string{revokeHelp}
	if freezes {
		parts = append(parts, freezeHelp)
	}
	parts = append(parts, killed[kind])
	help := ""
	for _, part := range parts {
		if part != "" {
			help += strings.TrimSpace(part) + "\n\n"
		}
	}
	return help + "  " + revokeExamples[kind]
}

const frozenHelp = `
What is frozen gets no new grants until it is thawed: an entity, a role, an issuer, a provider,
a subject or a person. revoke/ of its kind freezes with freeze=true and thaws with freeze=false;
a security event can freeze, too.

  vault list -detailed broker/frozen
  vault write broker/revoke/entity/<entity_id> freeze=false
`

func (b *broker) pathRevoke() []*framework.Path {
	freezeField := &framework.FieldSchema{Type: framework.TypeBool, Description: "true: also stop new grants. false: allow them again, and kill nothing."}
	many := func(kind, pattern, what string, fields map[string]*framework.FieldSchema, name func(*framework.FieldData) string) *framework.Path {
		fields["freeze"] = freezeField
		return revokePath("revoke/"+kind+"/"+pattern+"$", kind, what, fields, func(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
			what := ending.Thing{Kind: kind, Name: name(d)}
			if kind == ending.KindEntity && !grant.IsHolder(what.Name) {
				return nil, fault.New(fault.InvalidRequest, "this is no entity's id: it is the entity_id of a grant")
			}
			return b.revokeMany(ctx, req, what, d)
		})
	}
	field := func(name, description string) map[string]*framework.FieldSchema {
		return map[string]*framework.FieldSchema{name: {Type: framework.TypeString, Description: description}}
	}
	byName := func(name string) func(*framework.FieldData) string {
		return func(d *framework.FieldData) string { return d.Get(name).(string) }
	}
	providerFields := field("name", "Name of the provider.")
	providerFields["type"] = &framework.FieldSchema{Type: framework.TypeString, Description: "Type of the provider."}
	return []*framework.Path{
		revokePath("revoke/grant/"+anyID("grant_id")+"$", "grant", "one grant", field("grant_id", "The grant's id."), b.revokeOne),
		many(ending.KindEntity, anyID("entity_id"), "all grants of an entity", field("entity_id", "The holder: an entity's id, or none."), byName("entity_id")),
		many(ending.KindRole, framework.GenericNameRegex("name"), "all grants of a role", field("name", "Name of the role."), byName("name")),
		many(ending.KindIssuer, framework.GenericNameRegex("name"), "all grants that rest on an issuer's tokens", field("name", "Name that the issuer has, or had, in issuers."), byName("name")),
		many(ending.KindProvider, framework.GenericNameRegex("type")+"/"+framework.GenericNameRegex("name"), "all grants of a provider", providerFields,
			func(d *framework.FieldData) string { return d.Get("type").(string) + "/" + d.Get("name").(string) }),
		revokePath("revoke/subject$", ending.KindSubject, "all grants on a subject's behalf, and in which it acts", subjectFields(map[string]*framework.FieldSchema{"freeze": freezeField}), b.revokeSubject),
		{
			Pattern:         "frozen/?$",
			DisplayAttrs:    &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "frozen"},
			HelpSynopsis:    "Lists what is frozen, since when and by whom.",
			HelpDescription: strings.TrimSpace(frozenHelp),
			Fields:          pageFields(nil),
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ListOperation: &framework.PathOperation{Callback: b.listFrozen, Summary: "List what is frozen.", Responses: listResponses("since", "by", "and of a subject its issuer and subject, of a person what was named and what ties the person's identities")},
			},
		},
	}
}

func revokePath(pattern, kind, what string, fields map[string]*framework.FieldSchema, callback framework.OperationFunc) *framework.Path {
	synopsis := "Kills " + what + ", at the provider."
	if fields["freeze"] != nil {
		synopsis = "Kills " + what + ", at the provider; freezes and thaws."
	}
	return &framework.Path{
		Pattern:         pattern,
		DisplayAttrs:    &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "revoke", OperationSuffix: kind},
		HelpSynopsis:    synopsis,
		HelpDescription: revokeHelpOf(kind, fields["freeze"] != nil),
		Fields:          fields,
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: &framework.PathOperation{
				Callback: callback, Summary: "Kill " + what + " now.", Responses: killResponses(),
				ForwardPerformanceStandby: true, ForwardPerformanceSecondary: true,
			},
		},
	}
}

// subjectFields are what names a subject, with others.
func subjectFields(fields map[string]*framework.FieldSchema) map[string]*framework.FieldSchema {
	fields["issuer"] = &framework.FieldSchema{Type: framework.TypeString, Query: true, Description: "The subject's issuer: its name in issuers, or its iss."}
	fields["subject"] = &framework.FieldSchema{Type: framework.TypeString, Query: true, Description: "The subject, as the sub of its tokens names it."}
	return fields
}

func (b *broker) revokeSubject(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	what, err := b.subjectThing(ctx, d.Get("issuer").(string), d.Get("subject").(string))
	if err != nil {
		return nil, err
	}
	return b.revokeMany(ctx, req, what, d)
}

// revokeMany freezes or thaws as asked, and kills unless it only thaws.
func (b *broker) revokeMany(ctx context.Context, req *logical.Request, what ending.Thing, d *framework.FieldData) (*logical.Response, error) {
	frozen, given := d.GetOk("freeze")
	if given && !frozen.(bool) {
		return b.thaw(ctx, req, what)
	}
	if given {
		if err := b.freeze(ctx, req, what); err != nil {
			return nil, err
		}
	}
	run, err := b.kill(ctx, what, kills.Asked{By: by(req), Froze: given, Always: true})
	if err != nil {
		return nil, err
	}
	resp, nothing, err := b.awaitKill(ctx, run)
	if what.Kind == ending.KindProvider {
		b.lender.drop(ctx, downstream.BorrowerOf(what.Name))
	}
	if err != nil {
		return nil, err
	}
	b.tellFrozen(ctx, resp, what, given)
	if nothing && !b.isThere(ctx, what) {
		b.freezer.Interrupt(what)
		b.tellUnknown(ctx, req, resp, what)
	}
	return resp, nil
}

// awaitKill is what is answered of a kill of many. nothing is true if there was surely
// nothing to kill.
func (b *broker) awaitKill(ctx context.Context, run *ending.Run) (resp *logical.Response, nothing bool, err error) {
	t, complete := run.Wait(ctx, revokeWait)
	if complete && run.Failed() != nil {
		return nil, false, ending.LedgerFault(run.Failed()) // the sweep repeats it
	}
	resp = &logical.Response{Data: tallyData(t)}
	tellRecord(resp, run)
	switch {
	case !complete && !b.ledger.Loaded():
		resp.AddWarning("the kill goes on: the records of grants are still being read after a start; how many are meant and for how long they live is not known yet")
	case !complete:
		resp.AddWarning("the kill goes on: what is counted as pending was not tried yet, or failed and is being retried")
	case t.Pending > 0:
		resp.AddWarning(fmt.Sprintf("%d grants are not dead yet: their revocation failed, or their mint may be under way; that is tried again", t.Pending))
	}
	return resp, complete && t.Revoked+t.Pending+t.ExpiryOnly == 0 && len(b.ledger.Unreadable()) == 0, nil
}

func (b *broker) freeze(ctx context.Context, req *logical.Request, what ending.Thing) error {
	if err := b.mayFreeze(ctx, req, what); err != nil {
		return err
	}
	if err := b.freezer.Freeze(ctx, what, by(req)); err != nil {
		return err
	}
	b.Logger().Info("frozen", "what", what.Plain(), "by", by(req))
	return nil
}

// thaw works for what nobody knows too: a name may have been frozen by mistake. Only who
// thaws by a wrong name is told so.
func (b *broker) thaw(ctx context.Context, req *logical.Request, what ending.Thing) (*logical.Response, error) {
	was, err := b.isFrozen(ctx, what)
	if err != nil {
		return nil, err
	}
	forms, err := b.forms(ctx, what)
	if err != nil {
		return nil, err
	}
	for _, form := range forms {
		if err := b.freezer.Thaw(ctx, form); err != nil {
			return nil, err
		}
	}
	b.Logger().Info("thawed", "what", what.Plain(), "by", by(req))
	resp := &logical.Response{Data: tallyData(ending.Tally{})}
	b.tellFrozen(ctx, resp, what, false)
	if still, _ := resp.Data["frozen"].(bool); still {
		early, _, _ := strings.Cut(what.Name, ".")
		resp.AddWarning("it is frozen as " + ending.Thing{Kind: what.Kind, Name: early}.String() + " too: thaw that")
	}
	if !was && b.isUnknown(ctx, what) {
		b.tellUnknown(ctx, req, resp, what)
	}
	return resp, nil
}

func by(req *logical.Request) string {
	if req.EntityID == "" {
		return req.DisplayName
	}
	return req.DisplayName + " (entity " + req.EntityID + ")"
}

func (b *broker) revokeOne(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	id := d.Get("grant_id").(string)
	g, err := b.ledger.Get(ctx, id)
	if errors.Is(err, grant.ErrGone) {
		if _, ok := grant.HolderOf(id); !ok {
			return nil, fault.New(fault.InvalidRequest, "this is no grant id: it is the grant_id of a creds response")
		}
		resp := &logical.Response{Data: tallyData(ending.Tally{})}
		resp.Data["frozen"], resp.Data["unknown"] = false, true
		resp.AddWarning("no grant of this id is on record: its token is dead already, or no grant ever had this id; vault list -detailed " + req.MountPoint + "grants shows those that live")
		return resp, nil
	}
	if err != nil {
		return nil, stored.Fault(err)
	}
	run, err := b.killer.KillThis(ctx, g.Summary(), kills.Asked{By: by(req), Always: true})
	if err != nil {
		return nil, err
	}
	t, complete := run.Wait(ctx, revokeWait)
	if complete {
		b.awaitRecord(ctx)
	}
	resp := &logical.Response{Data: tallyData(t)}
	tellRecord(resp, run)
	resp.Data["frozen"] = false
	if t.Pending > 0 {
		resp.AddWarning("the grant is not dead yet: its revocation failed, or its mint may be under way; that is tried again")
	}
	return resp, nil
}

// recordWait is how long the answer to a kill of one grant, which is over, waits for its
// record: no order tells of it after a crash, as one does of a kill of many.
const recordWait = time.Second

func (b *broker) awaitRecord(ctx context.Context) {
	written := make(chan struct{})
	go func() {
		defer close(written)
		_ = b.records.Flush(context.WithoutCancel(ctx)) // it says so itself, and is tried again
	}()
	timer := time.NewTimer(recordWait)
	defer timer.Stop()
	select {
	case <-written:
	case <-timer.C:
	case <-ctx.Done():
	}
}

func (b *broker) listFrozen(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	after, limit, err := pageOf(d)
	if err != nil {
		return nil, err
	}
	frozen, err := b.freezer.List(ctx, after, limit+1)
	if err != nil {
		return nil, err
	}
	page := frozen[:min(limit, len(frozen))]
	keys, info := []string{}, map[string]any{}
	for _, item := range page {
		keys = append(keys, item.Name)
		info[item.Name] = frozenInfo(item)
	}
	resp := logical.ListResponseWithInfo(keys, info)
	if len(frozen) > limit {
		tellMore(resp, req, keys[limit-1])
	}
	return resp, nil
}

// frozenInfo is what a list says of something frozen.
func frozenInfo(item ending.Frozen) map[string]any {
	info := map[string]any{"since": stamp(item.Since), "by": item.By}
	if item.Person != nil {
		for field, value := range item.Person.Asked {
			info[field] = value
		}
		info["ties"] = tiesInWords(item.Person.Ties)
	}
	kind, name, _ := strings.Cut(item.Name, "/")
	if issuer, sub, ok := (ending.Thing{Kind: kind, Name: name}).Subject(); ok {
		info["issuer"], info["subject"] = issuer, sub
	}
	return info
}

// tellRecord says where to read on.
func tellRecord(resp *logical.Response, run *ending.Run) {
	if id := run.Record(); id != "" {
		resp.Data["kill_id"] = id
	}
}

// tallyData is what is answered of a kill.
func tallyData(t ending.Tally) map[string]any {
	return map[string]any{
		"revoked": t.Revoked, "pending": t.Pending, "expiry_only": t.ExpiryOnly, "bystanders": t.Bystanders,
		"residual_exposure_seconds": int64((t.Residual + time.Second - 1) / time.Second),
	}
}

// killFields is the schema of a tally.
func killFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"revoked":                   {Type: framework.TypeInt, Description: "Grants that are dead at the provider."},
		"pending":                   {Type: framework.TypeInt, Description: "Grants whose revocation has not succeeded yet and is being retried."},
		"expiry_only":               {Type: framework.TypeInt, Description: "Grants that nothing can kill before they expire."},
		"bystanders":                {Type: framework.TypeInt, Description: "Grants of others that died with what had to be killed: a login, say, that they came from too."},
		"residual_exposure_seconds": {Type: framework.TypeInt, Description: "For how long one of these tokens may still be accepted somewhere."},
	}
}

func killResponses() map[int][]framework.Response {
	fields := killFields()
	fields["kill_id"] = &framework.FieldSchema{Type: framework.TypeString, Description: "The name of the kill's record, for kills/<id>."}
	fields["frozen"] = &framework.FieldSchema{Type: framework.TypeBool, Description: "Whether it gets no new grants now. A single grant cannot be frozen."}
	fields["unknown"] = &framework.FieldSchema{Type: framework.TypeBool, Description: "True if neither what was named nor a grant of it is known: look whether the name is right."}
	return map[int][]framework.Response{http.StatusOK: {{Description: "What the kill did.", Fields: fields}}}
}
