package backend

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/decision"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

const credsHelp = `
Hands out a child token of the role's provider: leased, and killed at the
provider when the lease ends. The parameters can only narrow what the role
allows; without any, the caller gets default_scopes, or else the role's whole
ceiling. Members of the provider's answer that its extra_members names stand in
the answer beside the fields that are documented here. A token (subject_token, actor_token,
dpop_proof) comes by update alone, in the body.

  vault list -detailed broker/creds
  vault read broker/creds/deploy scopes=repo:read
  vault write broker/creds/release subject_token=@id_token.jwt
  vault lease revoke <lease_id>
`

func (b *broker) pathCreds() []*framework.Path {
	fields := asQuery(credsFields(), "scopes", "audiences", "resources", "permissions", "authorization_details", "ttl", "dpop_jkt")
	// Each operation needs an id of its own in the OpenAPI document.
	op := func(suffix string) *framework.PathOperation {
		return &framework.PathOperation{
			Callback: b.creds, Summary: "Get a leased child token.",
			DisplayAttrs:                &framework.DisplayAttributes{OperationVerb: "generate", OperationSuffix: suffix},
			Responses:                   map[int][]framework.Response{http.StatusOK: {{Description: "The child token and what is known of it.", Fields: b.credsResponse()}}},
			ForwardPerformanceSecondary: true, ForwardPerformanceStandby: true,
		}
	}
	return []*framework.Path{{
		Pattern:         "creds/" + framework.GenericNameRegex("role") + "$",
		DisplayAttrs:    &framework.DisplayAttributes{OperationPrefix: operationPrefix},
		HelpSynopsis:    "Hands out a leased child token.",
		HelpDescription: strings.TrimSpace(credsHelp),
		Fields:          fields,
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation:   op("credentials"),
			logical.UpdateOperation: op("credentials-with-parameters"),
		},
	}}
}

// credsFields are what a caller may say of the grant that is wanted.
func credsFields() map[string]*framework.FieldSchema {
	fields := dimensions("Narrows the grant to these ", "").Schema()
	maps.Copy(fields, map[string]*framework.FieldSchema{
		"role":          {Type: framework.TypeString, Description: "Name of the role."},
		"subject_token": {Type: framework.TypeString, DisplayAttrs: &framework.DisplayAttributes{Sensitive: true}, Description: "The token on whose behalf, for a role with subject_issuers. By update only: a URL is no place for a token."},
		"actor_token":   {Type: framework.TypeString, DisplayAttrs: &framework.DisplayAttributes{Sensitive: true}, Description: "The token of who acts, for a role with actor=token. By update only."},
		"dpop_proof":    {Type: framework.TypeString, DisplayAttrs: &framework.DisplayAttributes{Sensitive: true}, Description: "A DPoP proof for the provider's token endpoint (RFC 9449 5), made with a key that only the caller holds, for providers that bind tokens to it. By update only."},
		"dpop_jkt":      {Type: framework.TypeString, Description: "The RFC 7638 SHA-256 thumbprint, base64url, of a key that only the caller holds, for providers that bind tokens to it without a proof."},
		"ttl":           {Type: framework.TypeDurationSecond, Description: "Life that is wanted of the lease; capped by role, provider, mount and token."},
	})
	return fields
}

// credsResponse is the schema of what answer.go answers with, for providers of every
// type. Types that have a field of the same name mean the same by it.
func (b *broker) credsResponse() map[string]*framework.FieldSchema {
	fields := provider.CommonFields()
	for _, t := range b.types {
		maps.Copy(fields, t.Answer())
	}
	return fields
}

// secretFields are those of a creds response that are kept out of the clear audit log.
func (b *broker) secretFields() map[string]*framework.FieldSchema {
	fields := b.credsResponse()
	maps.DeleteFunc(fields, func(_ string, f *framework.FieldSchema) bool { return !provider.IsSecret(f) })
	return fields
}

// creds parses the request; issue does the rest.
func (b *broker) creds(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	a, err := parseAsk(req, d, d.Get("role").(string))
	if err != nil {
		return nil, err
	}
	a.vouched = true
	return b.issue(ctx, a)
}

// parseAsk reads who asks for what; explain's fields are those of creds and more.
func parseAsk(req *logical.Request, d *framework.FieldData, role string) (ask, error) {
	q, err := parseRequest(req, d)
	if err != nil {
		return ask{}, err
	}
	a := ask{role: role, entityID: req.EntityID, remoteAddr: remoteAddr(req), request: q}
	read := func(name string) secret.Text { return secret.New(d.Get(name).(string)) }
	a.subjectToken, a.actorToken = read("subject_token"), read("actor_token")
	a.proofs = map[provider.ProofKind]secret.Text{}
	for _, kind := range []provider.ProofKind{provider.ProofDPoP, provider.ProofThumbprint} {
		if proof := read(string(kind)); !proof.Empty() {
			a.proofs[kind] = proof
		}
	}
	if req.Operation == logical.UpdateOperation {
		return a, nil
	}
	for _, name := range []string{"subject_token", "actor_token", string(provider.ProofDPoP)} {
		if !read(name).Empty() {
			return a, fault.New(fault.InvalidRequest, "%s must be written, not read: a URL is no place for a token", name)
		}
	}
	return a, nil
}

// maxAsked bounds a request in bytes, well below what a record can hold.
const maxAsked = 32 << 10

func parseRequest(req *logical.Request, d *framework.FieldData) (q decision.Request, err error) {
	for name, into := range map[string]*[]string{"scopes": &q.Scopes, "audiences": &q.Audiences, "resources": &q.Resources} {
		if v, ok := d.GetOk(name); ok {
			*into = append([]string{}, v.([]string)...)
		}
	}
	if v, ok := d.GetOk("permissions"); ok {
		q.Permissions = maps.Clone(v.(map[string]string))
		if q.Permissions == nil {
			q.Permissions = map[string]string{}
		}
	}
	if raw, ok := req.Data["authorization_details"]; ok {
		text, err := json.Marshal(raw)
		if err != nil {
			return q, fault.New(fault.InvalidRequest, "authorization_details: not valid JSON")
		}
		details, err := access.ParseDetails(text)
		if err != nil {
			return q, fault.New(fault.InvalidRequest, "authorization_details: %s", err)
		}
		q.Details = &details
	}
	if asked := sizeOf(q.Scopes) + sizeOf(q.Audiences) + sizeOf(q.Resources); asked > maxAsked {
		return q, fault.New(fault.InvalidRequest, "asks for %d bytes of names, and %d is the most: ask for less", asked, maxAsked)
	}
	if v, ok := d.GetOk("ttl"); ok {
		q.TTL = time.Duration(v.(int)) * time.Second
		if q.TTL < 0 {
			return q, fault.New(fault.InvalidRequest, "ttl must be positive")
		}
	}
	return q, nil
}
