package backend

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/ending"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/jwks"
)

const introspectHelp = `
RFC 7662 for the tokens that the broker signs itself (providers of type jwt). A token
is active while its grant is: killed by any of the revoke paths, by the end of its
lease, or by its holder's end, it is inactive at once, also where nothing could revoke
it. A token that is anything else is {"active":false} and nothing more.

Where Vault's own ways differ from the RFC: the caller authenticates with a Vault
token (Authorization: Bearer or X-Vault-Token) that has update on this path, not as an
OAuth client; failures come as Vault's {"errors":[...]}. The body may be a form, as the
RFC has it, or JSON. The answer is the RFC's object itself, and once more under "data",
where Vault's own clients look for it.
`

const oauthRevokeHelp = `
RFC 7009 for the tokens that the broker signs itself: kills the grant of the token that
is sent. Whoever has the token and update on this path may. A token that is expired,
dead already or not the broker's is answered with 200 too; 503 means that the kill has
failed and is being retried.

The caller authenticates with a Vault token, as for oauth/introspect. Where resource
servers verify offline a token works until it expires; those that ask oauth/introspect
see it dead at once.
`

func (b *broker) pathOAuth() []*framework.Path {
	return []*framework.Path{
		oauthPath(introspectionPath, "introspect", "Says whether a token that the broker signed is active.", introspectHelp, &framework.PathOperation{
			Callback: b.introspect, Summary: "Introspect a token (RFC 7662).", Responses: introspectionResponses(),
		}),
		oauthPath(revocationPath, "revoke", "Kills a token that the broker signed.", oauthRevokeHelp, &framework.PathOperation{
			Callback: b.revokeToken, Summary: "Revoke a token (RFC 7009).",
			Responses: map[int][]framework.Response{http.StatusOK: {{Description: "The token is dead, or never was one of the broker's.", Fields: rawFields()}}},
		}),
	}
}

func oauthPath(path, verb, synopsis, help string, op *framework.PathOperation) *framework.Path {
	// The index of the ledger is on the active node.
	op.ForwardPerformanceStandby, op.ForwardPerformanceSecondary = true, true
	return &framework.Path{
		Pattern:         path + "$",
		DisplayAttrs:    &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: verb, OperationSuffix: "token"},
		HelpSynopsis:    synopsis,
		HelpDescription: strings.TrimSpace(help),
		Fields: map[string]*framework.FieldSchema{
			"token":           {Type: framework.TypeString, DisplayAttrs: &framework.DisplayAttributes{Sensitive: true}, Description: "The token. Required."},
			"token_type_hint": {Type: framework.TypeString, Description: "Accepted and not needed: the broker signs one type of token."},
		},
		Operations: map[logical.Operation]framework.OperationHandler{logical.UpdateOperation: op},
	}
}

// introspected are the claims that an answer repeats: RFC 7662 2.2, with those that
// other RFCs registered for it (RFC 8693 4, RFC 9396 9.2, RFC 9449 6.2, RFC 9470 6.2),
// and sub_id, without which sub would name nobody in an exchanged token.
var introspected = []string{
	"iss", "sub", "aud", "exp", "iat", "nbf", "jti", "client_id", "scope", "authorization_details",
	"sub_id", "act", "may_act", "cnf", "auth_time", "acr", "amr",
}

// introspect implements RFC 7662 2.
func (b *broker) introspect(ctx context.Context, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	claims, err := b.ownClaims(ctx, d)
	if err != nil {
		return nil, err
	}
	held := false
	if claims != nil {
		if held, err = b.killer.Held(ctx, idOf(claims)); err != nil {
			return nil, err
		}
	}
	if !held {
		return introspection(map[string]any{"active": false})
	}
	answer := map[string]any{"active": true, "token_type": "Bearer"}
	for _, name := range introspected {
		if value, ok := claims[name]; ok {
			answer[name] = value
		}
	}
	if _, bound := claims["cnf"]; bound {
		answer["token_type"] = "DPoP"
	}
	return introspection(answer)
}

// introspection is the RFC's object, with a copy of it where Vault's clients look.
func introspection(answer map[string]any) (*logical.Response, error) {
	whole := maps.Clone(answer)
	whole["data"] = answer
	body, err := json.Marshal(whole)
	if err != nil {
		return nil, fault.New(fault.TemporarilyUnavailable, "the answer cannot be encoded").Because(err)
	}
	return rawJSON(body), nil
}

// rawJSON answers without Vault's envelope, and keeps caches from it (RFC 7662 2.2 and
// 4).
func rawJSON(body []byte) *logical.Response {
	return &logical.Response{Data: map[string]any{
		logical.HTTPContentType:        "application/json",
		logical.HTTPRawBody:            body,
		logical.HTTPStatusCode:         http.StatusOK,
		logical.HTTPCacheControlHeader: "no-store",
	}}
}

// ownClaims are the verified claims of the token in the request; nil if it is not one
// of the broker's that could still be good.
func (b *broker) ownClaims(ctx context.Context, d *framework.FieldData) (map[string]any, error) {
	token := d.Get("token").(string)
	if token == "" {
		return nil, fault.New(fault.InvalidRequest, "token is missing: write the one that is asked about, as token=@file")
	}
	if len(token) > jwks.MaxToken {
		return nil, fault.New(fault.InvalidRequest, "the token is longer than %d bytes: the broker signs none of that size", jwks.MaxToken)
	}
	claims, err := b.verifyOwn(ctx, token)
	var f *fault.Error
	if errors.As(err, &f) && f.Code == fault.InvalidGrant {
		return nil, nil
	}
	return claims, err
}

// idOf is the id of the grant of a token that the broker has signed.
func idOf(claims map[string]any) string {
	id, _ := claims["jti"].(string)
	return id
}

// revokeToken implements RFC 7009 2.
func (b *broker) revokeToken(ctx context.Context, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	claims, err := b.ownClaims(ctx, d)
	if err != nil {
		return nil, err
	}
	if id := idOf(claims); id != "" {
		if err := b.killer.Kill(ctx, id, ending.CauseToken); err != nil {
			return nil, err
		}
	}
	return rawJSON([]byte{}), nil // RFC 7009 2.2: the status says it all
}

// rawFields are the members of an answer that goes out as it is.
func rawFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		logical.HTTPContentType:        {Type: framework.TypeString, Description: "application/json."},
		logical.HTTPRawBody:            {Type: framework.TypeString, Description: "The answer itself."},
		logical.HTTPStatusCode:         {Type: framework.TypeInt, Description: "200."},
		logical.HTTPCacheControlHeader: {Type: framework.TypeString, Description: "no-store."},
	}
}

func introspectionResponses() map[int][]framework.Response {
	text, number := framework.TypeString, framework.TypeInt
	fields := rawFields()
	maps.Copy(fields, map[string]*framework.FieldSchema{
		"active":                {Type: framework.TypeBool, Description: "Whether the token is good now. If not, nothing else is said."},
		"token_type":            {Type: text, Description: "Bearer, or DPoP for a token that is bound to a key."},
		"iss":                   {Type: text, Description: "The broker's own issuer."},
		"sub":                   {Type: text, Description: "Whom the token is about; see sub_id in one that was exchanged."},
		"sub_id":                {Type: framework.TypeMap, Description: "In an exchanged token: the subject with its own issuer (RFC 9493)."},
		"aud":                   {Type: framework.TypeStringSlice, Description: "Whom the token is for: audiences and resources."},
		"client_id":             {Type: text, Description: "Who asked for the token."},
		"scope":                 {Type: text, Description: "The scopes, separated by spaces."},
		"authorization_details": {Type: framework.TypeSlice, Description: "What the token allows (RFC 9396)."},
		"exp":                   {Type: number, Description: "When it ends, in seconds since 1970."},
		"iat":                   {Type: number, Description: "When it was signed."},
		"nbf":                   {Type: number, Description: "When it begins to be good."},
		"jti":                   {Type: text, Description: "The grant's id."},
		"act":                   {Type: framework.TypeMap, Description: "Who acts for the subject (RFC 8693)."},
		"may_act":               {Type: framework.TypeMap, Description: "Who alone may act for the subject."},
		"cnf":                   {Type: framework.TypeMap, Description: "The key that the token is bound to (RFC 7800)."},
		"auth_time":             {Type: number, Description: "When the user logged in."},
		"acr":                   {Type: text, Description: "By what class of login."},
		"amr":                   {Type: framework.TypeStringSlice, Description: "By what methods."},
		"data":                  {Type: framework.TypeMap, Description: "All of it again, for Vault's own clients."},
	})
	return map[int][]framework.Response{http.StatusOK: {{Description: "What is known of the token.", MediaType: "application/json", Fields: fields}}}
}
