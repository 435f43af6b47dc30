package backend

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/role"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/subject"
)

const rolesHelp = `
A role is the ceiling and the conditions under which a Vault identity may obtain
a child token from a provider. Nothing beyond its ceilings is ever granted, and a
dimension without a ceiling cannot be asked for. An update is partial; an empty
value unsets a field.
`

func roleFields() map[string]*framework.FieldSchema {
	fields := ceilingFields(
		"The role's ceiling: ", " Patterns may be used: they are anchored, * crosses neither / nor :, ** does.")
	maps.Copy(fields, map[string]*framework.FieldSchema{
		"name":                  {Type: framework.TypeString, Description: "Name of the role."},
		"provider":              {Type: framework.TypeString, Description: "The provider as <type>/<name>. It must exist. Required."},
		"mode":                  {Type: framework.TypeString, Default: string(provider.ModeMint), AllowedValues: []any{string(provider.ModeMint), string(provider.ModeExchange), string(provider.ModeForward)}, Description: "How a child comes about: mint, from the parent credential alone; exchange, for the caller's subject_token (RFC 8693); forward, the subject_token itself, handed on response-wrapped if it is narrow enough."},
		"ttl":                   {Type: framework.TypeDurationSecond, Description: "Life of a lease when the caller names none; also the longest one if max_ttl is unset. Default: the mount's."},
		"max_ttl":               {Type: framework.TypeDurationSecond, Description: "The longest life of a lease, renewals included. Default: ttl, or else the mount's limit."},
		"default_scopes":        {Type: framework.TypeCommaStringSlice, Description: "The scopes for a caller who names none. Default: all of scopes."},
		"on_excess":             {Type: framework.TypeString, Default: role.Strip, AllowedValues: []any{role.Strip, role.Refuse}, Description: "What happens to a request beyond a ceiling: strip drops the excess and says so, refuse refuses the request."},
		"parameters":            {Type: framework.TypeKVPairs, Description: "Fixed values that only this type of provider knows."},
		"require_entity":        {Type: framework.TypeBool, Description: "Refuses a token that has no entity, such as an orphan token or root's: what it got could be found by no revoke/entity, and would not die with anybody. Recommended. Implied by every other term on who, and by max_grants_per_entity, max_issue_rate and sharing=entity."},
		"bound_entity_ids":      {Type: framework.TypeCommaStringSlice, Description: "Ids of the entities that may use the role. Default: any."},
		"bound_group_names":     {Type: framework.TypeCommaStringSlice, Description: "Names of groups, one of which the entity must be in, inherited membership included. Default: any."},
		"bound_entity_metadata": {Type: framework.TypeKVPairs, Description: "Metadata that the entity must have, all of it, exactly. Default: any."},
		"bound_cidrs":           {Type: framework.TypeCommaStringSlice, Description: "Address ranges, IPv4 or IPv6, one of which the connection must come from. Default: any."},
		"condition":             {Type: framework.TypeString, Description: "A CEL expression over identity, request, subject and now that must be true, such as identity.metadata[\"team\"] == \"payments\"."},
		"subject_issuers":       {Type: framework.TypeCommaStringSlice, Description: "Names of the issuers whose subject tokens the role takes. With it, every request must bring a subject_token."},
		"bound_subject_claims":  {Type: framework.TypeMap, Description: "What the subject token must claim: a map of claim, or /json/pointer, to the accepted value or list of values, exact or a pattern."},
		"required_acr":          {Type: framework.TypeCommaStringSlice, Description: "Authentication context classes, one of which the subject's login must have."},
		"required_amr":          {Type: framework.TypeCommaStringSlice, Description: "Authentication methods, all of which the subject's login must have used."},
		"max_auth_age":          {Type: framework.TypeDurationSecond, Description: "How long ago the subject's login may be."},
		"subject_single_use":    {Type: framework.TypeBool, Description: "A subject token, told by its jti, works once."},
		"actor":                 {Type: framework.TypeString, AllowedValues: []any{role.ActorNone, role.ActorEntity, role.ActorToken}, Description: "Who acts for the subject of an exchange: none, the Vault entity, for which the broker vouches, or whoever the caller's actor_token is about. Default: the provider's; see its help."},
		"actor_issuers":         {Type: framework.TypeCommaStringSlice, Description: "Names of the issuers whose actor tokens the role takes, for actor=token."},
		"max_grants_per_entity": {Type: framework.TypeInt, Description: "How many live grants of this role one entity may hold. Default: any number. With it, a caller without an entity is refused."},
		"max_issue_rate":        {Type: framework.TypeInt, Description: "How many grants of this role one entity may get within any minute, at most 1000. Default: any number. With it, a caller without an entity is refused."},
		"sharing":               {Type: framework.TypeString, Default: role.SharingNone, AllowedValues: []any{role.SharingNone, role.SharingEntity}, Description: "none: each request gets a token of its own. entity: an entity's identical requests share one, as long as it lives for what they ask; it dies with the last of their leases, and a caller without an entity is refused."},
		"require_revocable":     {Type: framework.TypeBool, Description: "Refuses a provider whose tokens cannot be killed before they expire."},
	})
	return fields
}

// ceilingFields are the dimensions, on a role as ceilings and on creds as
// requests that can only narrow.
func ceilingFields(lead, tail string) map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"scopes":                {Type: framework.TypeCommaStringSlice, Description: lead + "OAuth scopes, as a list or comma-separated." + tail},
		"audiences":             {Type: framework.TypeCommaStringSlice, Description: lead + "audiences, the services that shall accept the token." + tail},
		"resources":             {Type: framework.TypeCommaStringSlice, Description: lead + "resources (RFC 8707), or what the provider calls so." + tail},
		"permissions":           {Type: framework.TypeKVPairs, Description: lead + "permissions as a map of name to level, for providers that have them."},
		"authorization_details": {Type: framework.TypeSlice, Description: lead + "authorization details (RFC 9396), as a JSON array of objects."},
	}
}

func (b *broker) pathRoles() []*framework.Path {
	fields := roleFields()
	write := &framework.PathOperation{
		Callback: b.writeRole, Summary: "Create or update a role.",
		Responses:                   map[int][]framework.Response{http.StatusNoContent: {{Description: "Written."}}},
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
			HelpDescription: strings.TrimSpace(rolesHelp),
			Fields:          fields,
			ExistenceCheck: func(ctx context.Context, _ *logical.Request, d *framework.FieldData) (bool, error) {
				return b.roles.Exists(ctx, d.Get("name").(string))
			},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.CreateOperation: write,
				logical.UpdateOperation: write,
				logical.ReadOperation:   &framework.PathOperation{Callback: b.showRole, Summary: "Read a role.", Responses: map[int][]framework.Response{http.StatusOK: {{Description: "The role.", Fields: fields}}}},
				logical.DeleteOperation: &framework.PathOperation{Callback: b.deleteRole, Summary: "Delete a role. The next sweep kills its live grants at the provider.", Responses: map[int][]framework.Response{http.StatusNoContent: {{Description: "Deleted."}}}, ForwardPerformanceSecondary: true, ForwardPerformanceStandby: true},
			},
		},
	}
}

func (b *broker) writeRole(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name := d.Get("name").(string)
	return nil, b.roles.Change(ctx, name, func(r *role.Role) (*role.Role, error) {
		if r == nil {
			r = &role.Role{}
		}
		if err := mergeRole(r, req, d); err != nil {
			return nil, err
		}
		return r, b.roles.check(ctx, name, r)
	})
}

// mergeRole takes what the request brought; an empty value unsets.
func mergeRole(r *role.Role, req *logical.Request, d *framework.FieldData) error {
	for name, into := range map[string]*string{
		"provider": &r.Provider, "mode": (*string)(&r.Mode), "on_excess": &r.OnExcess, "condition": &r.Condition, "actor": &r.Actor, "sharing": &r.Sharing,
	} {
		if v, ok := d.GetOk(name); ok {
			*into = v.(string)
		}
	}
	r.Mode, r.OnExcess = cmp.Or(r.Mode, provider.ModeMint), cmp.Or(r.OnExcess, role.Strip)
	for name, into := range map[string]*time.Duration{"ttl": &r.TTL, "max_ttl": &r.MaxTTL, "max_auth_age": &r.MaxAuthAge} {
		if v, ok := d.GetOk(name); ok {
			*into = time.Duration(v.(int)) * time.Second
		}
	}
	for name, into := range map[string]*[]string{
		"scopes": &r.Scopes, "audiences": &r.Audiences, "resources": &r.Resources, "default_scopes": &r.DefaultScopes,
		"bound_entity_ids": &r.BoundEntityIDs, "bound_group_names": &r.BoundGroupNames, "bound_cidrs": &r.BoundCIDRs,
		"subject_issuers": &r.SubjectIssuers, "actor_issuers": &r.ActorIssuers, "required_acr": &r.RequiredACR, "required_amr": &r.RequiredAMR,
	} {
		if v, ok := d.GetOk(name); ok {
			*into = nilIfEmpty(v.([]string))
		}
	}
	for name, into := range map[string]*map[string]string{
		"permissions": &r.Permissions, "parameters": &r.Parameters, "bound_entity_metadata": &r.BoundEntityMetadata,
	} {
		if v, ok := d.GetOk(name); ok {
			*into = nil
			if m := v.(map[string]string); len(m) > 0 {
				*into = m
			}
		}
	}
	for name, into := range map[string]*bool{"require_revocable": &r.RequireRevocable, "require_entity": &r.RequireEntity, "subject_single_use": &r.SubjectSingleUse} {
		if v, ok := d.GetOk(name); ok {
			*into = v.(bool)
		}
	}
	for name, into := range map[string]*int{"max_grants_per_entity": &r.MaxGrantsPerEntity, "max_issue_rate": &r.MaxIssueRate} {
		if v, ok := d.GetOk(name); ok {
			*into = v.(int)
		}
	}
	if v, ok := d.GetOk("bound_subject_claims"); ok {
		bounds, err := subject.ParseBounds(v.(map[string]any))
		if err != nil {
			return err
		}
		r.BoundSubjectClaims = bounds
	}
	if raw, ok := req.Data["authorization_details"]; ok {
		details, err := json.Marshal(raw)
		if err != nil {
			return fault.New(fault.InvalidRequest, "authorization_details: not valid JSON")
		}
		r.Details = details
		if list, ok := raw.([]any); ok && len(list) == 0 {
			r.Details = nil
		}
	}
	return nil
}

func nilIfEmpty(values []string) []string {
	if len(values) == 0 {
		return nil
	}
	return values
}

func (b *broker) showRole(ctx context.Context, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	r, err := b.roles.Get(ctx, d.Get("name").(string))
	if err != nil {
		return nil, nothingIfAbsent(err)
	}
	data := map[string]any{
		"name": d.Get("name"), "provider": r.Provider, "mode": string(r.Mode), "on_excess": r.OnExcess,
		"ttl": int64(r.TTL / time.Second), "max_ttl": int64(r.MaxTTL / time.Second),
		"require_revocable": r.RequireRevocable, "require_entity": r.RequireEntity, "subject_single_use": r.SubjectSingleUse,
		"max_auth_age": int64(r.MaxAuthAge / time.Second), "max_grants_per_entity": r.MaxGrantsPerEntity, "max_issue_rate": r.MaxIssueRate,
	}
	if r.Condition != "" {
		data["condition"] = r.Condition
	}
	if r.Sharing != "" {
		data["sharing"] = r.Sharing
	}
	if r.Actor != "" {
		data["actor"] = r.Actor
	}
	if r.BoundSubjectClaims != nil {
		data["bound_subject_claims"] = r.BoundSubjectClaims
	}
	for name, values := range map[string][]string{
		"scopes": r.Scopes, "audiences": r.Audiences, "resources": r.Resources, "default_scopes": r.DefaultScopes,
		"bound_entity_ids": r.BoundEntityIDs, "bound_group_names": r.BoundGroupNames, "bound_cidrs": r.BoundCIDRs,
		"subject_issuers": r.SubjectIssuers, "actor_issuers": r.ActorIssuers, "required_acr": r.RequiredACR, "required_amr": r.RequiredAMR,
	} {
		if values != nil {
			data[name] = values
		}
	}
	for name, values := range map[string]map[string]string{
		"permissions": r.Permissions, "parameters": r.Parameters, "bound_entity_metadata": r.BoundEntityMetadata,
	} {
		if values != nil {
			data[name] = values
		}
	}
	if r.Details != nil {
		var details []any
		if err := json.Unmarshal(r.Details, &details); err != nil {
			return nil, storageFault(err)
		}
		data["authorization_details"] = details
	}
	return &logical.Response{Data: data}, nil
}

func (b *broker) deleteRole(ctx context.Context, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	return nil, b.roles.Delete(ctx, d.Get("name").(string))
}

func (b *broker) listRoles(ctx context.Context, _ *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	return listed(b.roles.List(ctx, ""))
}
