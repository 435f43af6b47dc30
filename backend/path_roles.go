package backend

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/condition"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/role"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/subject"
)

const rolesHelp = `
A role is the ceiling and the conditions under which a Vault identity may obtain
a child token from a provider. Nothing beyond its ceilings is ever granted, and a
dimension without a ceiling cannot be asked for. An update is partial; an empty
value unsets a field.

  vault write broker/roles/deploy provider=oauth2/acme scopes=repo:read,repo:write \
      bound_group_names=deployers require_entity=true ttl=10m max_ttl=1h
`

// roleFields are the fields of a role beside its name.
var roleFields = slices.Concat(dimensions(
	"The role's ceiling: ", " A pattern must fit the whole value: * stands for any text without / and :, ** for any text."), stored.Fields[role.Role]{
	{Name: "provider", In: func(r *role.Role) any { return &r.Provider }, Description: "The provider as <type>/<name>. It must exist. Required."},
	{Name: "mode", In: func(r *role.Role) any { return (*string)(&r.Mode) }, Default: string(provider.ModeMint), Allowed: []any{string(provider.ModeMint), string(provider.ModeExchange), string(provider.ModeForward)}, Description: "How a child comes about: mint, from the parent credential alone; exchange, for the caller's subject_token (RFC 8693); forward, the subject_token itself, handed on response-wrapped if it is narrow enough."},
	{Name: "ttl", Unset: "the mount's", In: func(r *role.Role) any { return &r.TTL }, Description: "Life of a lease when the caller names none; also the longest one if max_ttl is unset. Default: the mount's."},
	{Name: "max_ttl", Unset: "ttl, or else the mount's limit", In: func(r *role.Role) any { return &r.MaxTTL }, Description: "The longest life of a lease, renewals included. Default: ttl, or else the mount's limit."},
	{Name: "default_scopes", In: func(r *role.Role) any { return &r.DefaultScopes }, Description: "The scopes for a caller who names none. Default: all of scopes."},
	{Name: "on_excess", In: func(r *role.Role) any { return &r.OnExcess }, Default: role.Strip, Allowed: []any{role.Strip, role.Refuse}, Description: "What happens to a request beyond a ceiling: strip drops the excess and says so, refuse refuses the request."},
	{Name: "parameters", In: func(r *role.Role) any { return &r.Parameters }, Description: "Fixed values for what only this type of provider knows: the help of providers/<type>/<name> lists them, for http presets does."},
	{Name: "require_entity", In: func(r *role.Role) any { return &r.RequireEntity }, Description: "Refuses a token that has no entity, such as an orphan token or root's: what it got could be found by no revoke/entity, and would not die with anybody. Recommended. Implied by every other term on who, and by max_grants_per_entity, max_issue_rate and sharing=entity."},
	{Name: "bound_entity_ids", In: func(r *role.Role) any { return &r.BoundEntityIDs }, Description: "Ids of the entities that may use the role. Default: any."},
	{Name: "bound_group_names", In: func(r *role.Role) any { return &r.BoundGroupNames }, Description: "Names of groups, one of which the entity must be in, inherited membership included. Default: any."},
	{Name: "bound_entity_metadata", In: func(r *role.Role) any { return &r.BoundEntityMetadata }, Description: "Metadata that the entity must have, all of it, exactly. Default: any."},
	{Name: "bound_cidrs", In: func(r *role.Role) any { return &r.BoundCIDRs }, Description: "Address ranges, IPv4 or IPv6, one of which the connection must come from. Default: any."},
	{Name: "condition", In: func(r *role.Role) any { return &r.Condition }, Description: "A CEL expression over identity, request, subject and now that must be true, such as identity.metadata[\"team\"] == \"payments\"."},
	{Name: "subject_issuers", In: func(r *role.Role) any { return &r.SubjectIssuers }, Description: "Names of the issuers whose subject tokens the role takes. With it, every request must bring a subject_token."},
	{Name: "bound_subject_claims", In: func(r *role.Role) any { return boundClaims{&r.BoundSubjectClaims} }, Description: "What the subject token must claim: a map of claim, or /json/pointer, to the accepted value or list of values, exact or a pattern."},
	{Name: "required_acr", In: func(r *role.Role) any { return &r.RequiredACR }, Description: "Authentication context classes, one of which the subject's login must have."},
	{Name: "required_amr", In: func(r *role.Role) any { return &r.RequiredAMR }, Description: "Authentication methods, all of which the subject's login must have used."},
	{Name: "max_auth_age", Unset: "any", In: func(r *role.Role) any { return &r.MaxAuthAge }, Description: "How long ago the subject's login may be."},
	{Name: "subject_single_use", In: func(r *role.Role) any { return &r.SubjectSingleUse }, Description: "A subject token, told by its jti, works once."},
	{Name: "actor", In: func(r *role.Role) any { return &r.Actor }, Allowed: []any{role.ActorNone, role.ActorEntity, role.ActorToken}, Description: "Who acts for the subject of an exchange: none, the Vault entity, for which the broker vouches, or whoever the caller's actor_token is about. Default: entity at a jwt provider, none at others."},
	{Name: "actor_issuers", In: func(r *role.Role) any { return &r.ActorIssuers }, Description: "Names of the issuers whose actor tokens the role takes, for actor=token."},
	{Name: "max_grants_per_entity", Unset: "any number", In: func(r *role.Role) any { return &r.MaxGrantsPerEntity }, Description: "How many live grants of this role one entity may hold. Default: any number. With it, a caller without an entity is refused."},
	{Name: "max_issue_rate", Unset: "any number", In: func(r *role.Role) any { return &r.MaxIssueRate }, Description: "How many grants of this role one entity may get within any minute, at most 1000. Default: any number. With it, a caller without an entity is refused."},
	{Name: "sharing", In: func(r *role.Role) any { return &r.Sharing }, Default: role.SharingNone, Allowed: []any{role.SharingNone, role.SharingEntity}, Description: "none: each request gets a token of its own. entity: an entity's identical requests share one, as long as it lives for what they ask; it dies with the last of their leases, and a caller without an entity is refused."},
	{Name: "require_revocable", In: func(r *role.Role) any { return &r.RequireRevocable }, Description: "Refuses a provider whose tokens cannot be killed before they expire."},
})

// dimensions are those of a grant, on a role as ceilings and on creds as requests that
// can only narrow.
func dimensions(lead, tail string) stored.Fields[role.Role] {
	return stored.Fields[role.Role]{
		{Name: "scopes", In: func(r *role.Role) any { return &r.Scopes }, Description: lead + "OAuth scopes, as a list or comma-separated." + tail},
		{Name: "audiences", In: func(r *role.Role) any { return &r.Audiences }, Description: lead + "audiences, the services that shall accept the token." + tail},
		{Name: "resources", In: func(r *role.Role) any { return &r.Resources }, Description: lead + "resources (RFC 8707), or what the provider calls so." + tail},
		{Name: "permissions", In: func(r *role.Role) any { return &r.Permissions }, Description: lead + "permissions as a map of name to level, such as contents=read, for providers that have them."},
		{Name: "authorization_details", In: func(r *role.Role) any { return details{&r.Details} }, Description: lead + "authorization details (RFC 9396), as a JSON array of objects."},
	}
}

// conditionHelp lists what a condition can use.
func conditionHelp() string {
	var help strings.Builder
	help.WriteString("A condition is a CEL expression, true for whoever may. It can use:\n")
	for _, n := range condition.Names() {
		fmt.Fprintf(&help, "\n  %-20s  %s: %s", n.Name, n.Type, n.About)
	}
	help.WriteString("\n\nsuch as " + condition.Names()[2].Example)
	return help.String()
}

func (b *broker) pathRoles() []*framework.Path {
	fields := roleFields.Schema()
	fields["name"] = &framework.FieldSchema{Type: framework.TypeString, Description: "Name of the role."}
	shown := roleFields.ShownAll()
	shown["name"], shown[fieldInWords] = fields["name"], inWordsField
	write := &framework.PathOperation{
		Callback: b.writeRole, Summary: "Create or update a role.",
		Responses:                   map[int][]framework.Response{http.StatusOK: {{Description: "Written, with warnings."}}, http.StatusNoContent: {{Description: "Written."}}},
		ForwardPerformanceSecondary: true, ForwardPerformanceStandby: true,
	}
	return []*framework.Path{
		{
			Pattern:         "roles/?$",
			DisplayAttrs:    &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "roles"},
			HelpSynopsis:    "Lists the roles.",
			HelpDescription: strings.TrimSpace(rolesHelp),
			Fields:          map[string]*framework.FieldSchema{},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ListOperation: &framework.PathOperation{Callback: b.listRoles, Summary: "List the roles.", Responses: listResponses("nothing")},
			},
		},
		{
			Pattern:         "roles/" + framework.GenericNameRegex("name") + "$",
			DisplayAttrs:    &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "role"},
			HelpSynopsis:    "Manages a role: who may get what from which provider.",
			HelpDescription: strings.TrimSpace(rolesHelp) + "\n\n" + conditionHelp(),
			Fields:          fields,
			ExistenceCheck: func(ctx context.Context, _ *logical.Request, d *framework.FieldData) (bool, error) {
				return b.roles.Exists(ctx, d.Get("name").(string))
			},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.CreateOperation: write,
				logical.UpdateOperation: write,
				logical.ReadOperation:   &framework.PathOperation{Callback: b.showRole, Summary: "Read a role.", Responses: map[int][]framework.Response{http.StatusOK: {{Description: "The role, every field of it.", Fields: shown}}}},
				logical.DeleteOperation: &framework.PathOperation{Callback: b.deleteRole, Summary: "Delete a role. The next sweep kills its live grants at the provider.", Responses: map[int][]framework.Response{http.StatusNoContent: {{Description: "Deleted."}}}, ForwardPerformanceSecondary: true, ForwardPerformanceStandby: true},
			},
		},
	}
}

func (b *broker) writeRole(ctx context.Context, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name := d.Get("name").(string)
	var opened []string
	err := b.roles.Change(ctx, name, func(r *role.Role) (*role.Role, error) {
		if r == nil {
			r = &role.Role{}
		}
		before := *r
		defer func() { opened = unbound(&before, r) }()
		if err := roleFields.Merge(r, d); err != nil {
			return nil, err
		}
		r.Mode, r.OnExcess = cmp.Or(r.Mode, provider.ModeMint), cmp.Or(r.OnExcess, role.Strip)
		return r, b.roles.check(ctx, name, r)
	})
	if err != nil {
		return nil, err
	}
	return withWarnings(b.warnOfRole(ctx, name), opened), nil
}

func (b *broker) showRole(ctx context.Context, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	r, err := b.roles.Get(ctx, d.Get("name").(string))
	if err != nil {
		return nil, nothingIfAbsent(err)
	}
	data := map[string]any{"name": d.Get("name")}
	r.Sharing = cmp.Or(r.Sharing, role.SharingNone)
	roleFields.ShowAll(r, data)
	data[fieldInWords] = roleFields.Words(r)
	return &logical.Response{Data: data}, nil
}

func (b *broker) deleteRole(ctx context.Context, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	return nil, b.roles.Delete(ctx, d.Get("name").(string))
}

func (b *broker) listRoles(ctx context.Context, _ *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	return listed(b.roles.List(ctx, ""))
}

// boundClaims is bound_subject_claims.
type boundClaims struct{ in *map[string][]string }

func (c boundClaims) Type() framework.FieldType { return framework.TypeMap }
func (c boundClaims) Set(written any) (err error) {
	*c.in, err = subject.ParseBounds(written.(map[string]any))
	return err
}
func (c boundClaims) Get() any {
	if *c.in == nil {
		return nil
	}
	return *c.in
}

// details is authorization_details.
type details struct{ in *json.RawMessage }

func (a details) Type() framework.FieldType { return framework.TypeSlice }
func (a details) Set(written any) error {
	*a.in = nil
	if list := written.([]any); len(list) == 0 {
		return nil
	}
	raw, err := json.Marshal(written)
	if err != nil {
		return fault.New(fault.InvalidRequest, "authorization_details: not valid JSON")
	}
	*a.in = raw
	return nil
}
func (a details) Get() any {
	var shown any
	if json.Unmarshal(*a.in, &shown) != nil {
		return nil // there are none: it is part of JSON that was read
	}
	return shown
}
