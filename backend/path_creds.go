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
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/subject"
)

const credsHelp = `
Hands out a child token of the role's provider: leased, and killed at the
provider when the lease ends. The parameters can only narrow what the role
allows; without any, the caller gets default_scopes, or else the role's whole
ceiling. Members of the provider's answer that its extra_members names stand in
the answer beside the fields that are documented here.
`

func (b *broker) pathCreds() []*framework.Path {
	fields := credsFields()
	// Each operation needs an id of its own in the OpenAPI document.
	op := func(suffix string) *framework.PathOperation {
		return &framework.PathOperation{
			Callback: b.creds, Summary: "Get a leased child token.",
			DisplayAttrs:                &framework.DisplayAttributes{OperationVerb: "generate", OperationSuffix: suffix},
			Responses:                   map[int][]framework.Response{http.StatusOK: {{Description: "The child token and what is known of it.", Fields: credsResponse()}}},
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
	fields := ceilingFields("Narrows the grant to these ", "")
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

// credsResponse is the schema of what issue.go answers with.
func credsResponse() map[string]*framework.FieldSchema {
	text, list := framework.TypeString, framework.TypeStringSlice
	return map[string]*framework.FieldSchema{
		"access_token":          {Type: text, Description: "The child token."},
		"token_type":            {Type: text, Description: "How to present it, as in RFC 6749 7.1."},
		"expires_at":            {Type: framework.TypeTime, Description: "When the token is dead at the latest, RFC 3339."},
		"scopes":                {Type: list, Description: "Scopes as granted."},
		"audiences":             {Type: list, Description: "Audiences as granted."},
		"resources":             {Type: list, Description: "Resources as granted."},
		"permissions":           {Type: framework.TypeMap, Description: "Permissions as granted."},
		"authorization_details": {Type: framework.TypeSlice, Description: "Authorization details as granted."},
		"granted":               {Type: list, Description: "All of it flat, for the audit log."},
		"stripped":              {Type: list, Description: "What was asked for beyond the role and dropped."},
		"unverified":            {Type: list, Description: "Dimensions for which the provider's word was not checked, and binding if nobody looked whether the token is bound to the caller's key, and actor if nothing shows that the token names who acts."},
		"subject":               {Type: text, Description: "On whose behalf: the subject token's sub."},
		"subject_issuer":        {Type: text, Description: "The issuer that vouched for the subject, by the name it has in issuers."},
		"actor":                 {Type: text, Description: "Who acts for the subject: the entity's id, or the actor token's sub."},
		"issued_token_type":     {Type: text, Description: "What an exchange gave, as in RFC 8693 3."},
		"dpop_nonce":            {Type: text, Description: "The nonce that the next DPoP proof for this provider must hold, if its server says so (RFC 9449 8.2)."},
		"provider":              {Type: text, Description: "The provider as <type>/<name>."},
		"grant_id":              {Type: text, Description: "The grant's id, for grants/ and revoke/."},
		"revocation":            {Type: text, Description: "token, lever or expiry: what can kill the token before it expires."},
		"self_contained":        {Type: framework.TypeBool, Description: "True if services that verify offline accept the token until expires_at even after revocation."},
	}
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
	a.subjectToken, a.actorToken = subject.WithoutLineEnd(read("subject_token")), subject.WithoutLineEnd(read("actor_token"))
	a.proofs = map[provider.ProofKind]secret.Text{}
	for _, kind := range []provider.ProofKind{provider.ProofDPoP, provider.ProofThumbprint} {
		if proof := subject.WithoutLineEnd(read(string(kind))); !proof.Empty() {
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
