package backend

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/condition"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
)

const explainHelp = `
Says what a creds request would get, or every reason against it at once. It runs
the same code as creds up to the decision; it mints nothing, calls no provider and
uses up no subject token. It tells about others' identities: give it a policy of
its own.

  vault write broker/roles/deploy/explain entity_id=<entity_id> scopes=repo:read
`

func (b *broker) pathExplain() []*framework.Path {
	fields := credsFields()
	maps.Copy(fields, map[string]*framework.FieldSchema{
		"name":        {Type: framework.TypeString, Description: "Name of the role."},
		"entity_id":   {Type: framework.TypeString, Description: "The entity to decide for. Default: the caller's own."},
		"remote_addr": {Type: framework.TypeString, Description: "The address to decide for. Default: the caller's own."},
	})
	delete(fields, "role")
	list := framework.TypeStringSlice
	return []*framework.Path{{
		Pattern:         "roles/" + framework.GenericNameRegex("name") + "/explain$",
		DisplayAttrs:    &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "explain", OperationSuffix: "role"},
		HelpSynopsis:    "Explains what a role would grant, and why not.",
		HelpDescription: strings.TrimSpace(explainHelp),
		Fields:          fields,
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: &framework.PathOperation{
				Callback: b.explain, Summary: "Explain a decision without granting anything.",
				Responses: map[int][]framework.Response{http.StatusOK: {{Description: "The decision.", Fields: map[string]*framework.FieldSchema{
					"allowed":               {Type: framework.TypeBool, Description: "Whether creds would ask the provider."},
					"reasons":               {Type: list, Description: "Everything that stands against it."},
					"scopes":                {Type: list, Description: "Scopes that would be asked for."},
					"audiences":             {Type: list, Description: "Audiences that would be asked for."},
					"resources":             {Type: list, Description: "Resources that would be asked for."},
					"permissions":           {Type: framework.TypeMap, Description: "Permissions that would be asked for."},
					"authorization_details": {Type: framework.TypeSlice, Description: "Authorization details that would be asked for."},
					"granted":               {Type: list, Description: "All of it flat."},
					"stripped":              {Type: list, Description: "What would be dropped as beyond the role."},
					"ttl":                   {Type: framework.TypeDurationSecond, Description: "Life of the lease, unless the token's own end comes first."},
					"max_ttl":               {Type: framework.TypeDurationSecond, Description: "How far renewals could go."},
					"ttl_decided_by":        {Type: framework.TypeString, Description: "Which term of the minimum decided: request, role, provider, mount or subject."},
					"child_ttl":             {Type: framework.TypeDurationSecond, Description: "Life that would be asked for the token, where that is not the lease's: the token is killed when the lease ends, if it can be."},
					"child_least_ttl":       {Type: framework.TypeDurationSecond, Description: "The shortest life that the provider can be asked for, if it is known."},
					"child_most_ttl":        {Type: framework.TypeDurationSecond, Description: "The longest life that the provider can be asked for, if it is known."},
					"provider":              {Type: framework.TypeString, Description: "The provider that would be asked."},
					"revocation":            {Type: framework.TypeString, Description: "The revocation class of the role's tokens."},
					"entity_id":             {Type: framework.TypeString, Description: "The entity that was decided for."},
				}}}},
			},
		},
	}}
}

func (b *broker) explain(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	a, err := parseAsk(req, d, d.Get("name").(string))
	if err != nil {
		return nil, err
	}
	if v, ok := d.GetOk("entity_id"); ok {
		a.entityID = v.(string)
	}
	if v, ok := d.GetOk("remote_addr"); ok {
		a.remoteAddr = v.(string)
		if _, err := netip.ParseAddr(a.remoteAddr); err != nil {
			return nil, fault.New(fault.InvalidRequest, "remote_addr must be an IP address, such as 192.0.2.7 or 2001:db8::7")
		}
	}
	outcome, err := b.decide(ctx, a)
	if fault.CodeOf(err) == fault.AccessDenied {
		return &logical.Response{Data: map[string]any{"allowed": false, "reasons": []string{err.Error()}}}, nil
	}
	if err != nil {
		return nil, inFull(err)
	}
	if err := b.lookAtState(ctx, outcome); err != nil {
		return nil, err
	}
	return &logical.Response{Data: explained(outcome)}, nil
}

// lookAtState adds what creds would find after the decision: a quota that is used
// up, a subject token that has been used.
func (b *broker) lookAtState(ctx context.Context, o *decided) error {
	states := []error{b.quotas.look(ctx, o.role, holderOf(o.caller.EntityID))}
	if terms := o.role.policy.Subject; terms != nil && terms.SingleUse && o.subject != nil {
		states = append(states, b.used.look(ctx, o.subject))
	}
	for _, err := range states {
		var refusal *fault.Error
		switch {
		case err == nil:
		case errors.As(err, &refusal) && refusal.Code != fault.TemporarilyUnavailable:
			o.Refusals = append(o.Refusals, refusal)
		default:
			return err
		}
	}
	return nil
}

// inFull is why nothing could be decided, as operators see it.
func inFull(err error) error {
	var shown *fault.Error
	var unfit *unfitRole
	if errors.As(err, &shown) && errors.As(err, &unfit) {
		return fault.New(shown.Code, "%s: %s", shown.Message, unfit).Because(err)
	}
	return err
}

// explainedReason is a refusal as operators see it: with the role's own words, which
// whoever is refused is not shown.
func explainedReason(r *fault.Error) string {
	var unmet *condition.Failure
	if errors.As(r, &unmet) {
		if key, missing := unmet.MissingKey(); missing && key != "" {
			return fmt.Sprintf("%s: %s: there is no %q: add it, or let the condition ask for it first, as in \"team\" in identity.metadata", r.Error(), unmet.Expr, key)
		}
		return r.Error() + ": " + unmet.Expr
	}
	return r.Error()
}

// showLife adds how long children can be asked to live.
func showLife(data map[string]any, life provider.Life) {
	if life.Least > 0 {
		data["child_least_ttl"] = int64(life.Least / time.Second)
	}
	if life.Most > 0 {
		data["child_most_ttl"] = int64(life.Most / time.Second)
	}
}

func explained(o *decided) map[string]any {
	data := map[string]any{"allowed": o.Allowed(), "provider": o.provider.Ref, "revocation": string(o.role.traits.Class)}
	if o.caller.EntityID != "" {
		data["entity_id"] = o.caller.EntityID
	}
	if !o.Allowed() {
		reasons := make([]string, 0, len(o.Refusals))
		for _, r := range o.Refusals {
			reasons = append(reasons, explainedReason(r))
		}
		data["reasons"] = reasons
		return data
	}
	data["ttl"] = int64(o.Lifetime.TTL / time.Second)
	data["max_ttl"] = int64(o.Lifetime.Max / time.Second)
	data["ttl_decided_by"] = o.Lifetime.DecidedBy
	showLife(data, o.role.traits.Life)
	if asked := o.role.traits.Life.Within(o.Lifetime.TTL); asked != o.Lifetime.TTL {
		data["child_ttl"] = int64(asked / time.Second)
	}
	show(data, withPatterns(o.Access), o.Access.Excess(access.Access{}), o.Stripped)
	return data
}

// withPatterns are the values of what would be asked for, with the patterns that only the
// provider can make values of.
func withPatterns(a access.Access) grant.Access {
	v := values(a)
	if !a.Enumerable(access.DimResources) {
		v.Resources = a.Resources.Excess(access.Set{})
	}
	return v
}
