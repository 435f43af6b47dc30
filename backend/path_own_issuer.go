package backend

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/ending"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/keyring"
)

// The broker's own endpoints below its issuer URL, which are also its paths.
const (
	discoveryPath     = ".well-known/openid-configuration"
	jwksPath          = ".well-known/jwks.json"
	introspectionPath = "oauth/introspect"
	revocationPath    = "oauth/revoke"
)

const rotateHelp = `
Makes new signing keys, one for each purpose. They are published at once and sign an
hour later, when every verifier can know them; the old ones stay published until all
that they signed has expired. Refused while the last rotation's keys wait for that.

emergency=true is for keys that somebody may have stolen: the old ones leave the
published set at once, with every token that they signed, and the new ones sign at
once. The grants of these tokens are killed (cause keys_withdrawn), and the answer counts
them as revoke/* does: their leases are not renewed, and oauth/introspect calls them
inactive. A verifier that has cached the old set trusts it for five minutes at most if it
heeds Cache-Control.

  vault write -f broker/issuer/rotate
`

const wellKnownHelp = `
Needs no token, and answers with plain JSON, not in Vault's envelope: read it by HTTP
(GET /v1/<mount>/.well-known/...). It may be cached for five minutes.
`

func (b *broker) pathOwnIssuer() []*framework.Path {
	return []*framework.Path{
		{
			Pattern:         "issuer/rotate$",
			DisplayAttrs:    &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "rotate", OperationSuffix: "signing-keys"},
			HelpSynopsis:    "Rotates the keys that the broker signs with.",
			HelpDescription: strings.TrimSpace(rotateHelp),
			Fields: map[string]*framework.FieldSchema{
				"emergency": {Type: framework.TypeBool, Description: "The keys may be stolen: withdraw them, and all that they signed, at once."},
			},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.UpdateOperation: &framework.PathOperation{
					Callback: b.rotateKeys, Summary: "Rotate the signing keys.",
					Responses:                 map[int][]framework.Response{http.StatusOK: {{Description: "The new keys; in an emergency also what the kill of what the old ones signed did.", Fields: rotateFields()}}},
					ForwardPerformanceStandby: true, ForwardPerformanceSecondary: true,
				},
			},
		},
		wellKnown(discoveryPath, "discovery", "Where verifiers find the broker's keys and endpoints (OIDC Discovery 1.0).", b.readDiscovery),
		wellKnown(jwksPath, "jwks", "The public keys of what the broker signs (RFC 7517).", b.readJWKS),
	}
}

func rotateFields() map[string]*framework.FieldSchema {
	fields := killFields() // in an emergency
	fields["key_ids"] = &framework.FieldSchema{Type: framework.TypeKVPairs, Description: "The ids (kid) of the new keys, by purpose."}
	fields["algorithm"] = &framework.FieldSchema{Type: framework.TypeString, Description: "What they sign with."}
	fields["active_from"] = &framework.FieldSchema{Type: framework.TypeString, Description: "When they begin to sign, RFC 3339."}
	return fields
}

// wellKnown is a path that anybody may read.
func wellKnown(path, suffix, synopsis string, read framework.OperationFunc) *framework.Path {
	return &framework.Path{
		Pattern:         strings.ReplaceAll(path, ".", `\.`) + "$",
		DisplayAttrs:    &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: suffix},
		HelpSynopsis:    synopsis,
		HelpDescription: strings.TrimSpace(wellKnownHelp),
		Fields:          map[string]*framework.FieldSchema{},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: &framework.PathOperation{
				Callback: read, Summary: synopsis,
				Responses: map[int][]framework.Response{http.StatusOK: {{
					Description: "A JSON document.", MediaType: "application/json",
					Fields: map[string]*framework.FieldSchema{
						logical.HTTPContentType:        {Type: framework.TypeString, Description: "application/json."},
						logical.HTTPRawBody:            {Type: framework.TypeString, Description: "The document."},
						logical.HTTPStatusCode:         {Type: framework.TypeInt, Description: "200."},
						logical.HTTPCacheControlHeader: {Type: framework.TypeString, Description: "For how long it may be cached."},
					},
				}}},
			},
		},
	}
}

// publish answers with the document itself. Verifiers cache it for as long as keys
// are surely published before they sign.
func publish(document []byte) *logical.Response {
	return &logical.Response{Data: map[string]any{
		logical.HTTPContentType:        "application/json",
		logical.HTTPRawBody:            document,
		logical.HTTPStatusCode:         http.StatusOK,
		logical.HTTPCacheControlHeader: fmt.Sprintf("public, max-age=%d", keyring.CacheTime/time.Second),
	}}
}

func (b *broker) readDiscovery(ctx context.Context, _ *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	s, err := b.own.state(ctx)
	if err != nil {
		return nil, err
	}
	if s.config.Issuer == "" {
		return nil, errNothingPublished
	}
	document, err := s.discovery(b.now())
	if err != nil {
		return nil, err
	}
	return publish(document), nil
}

// readJWKS also answers when the issuer has been unset, for as long as something that
// was signed before may live.
func (b *broker) readJWKS(ctx context.Context, _ *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	s, err := b.own.state(ctx)
	if err != nil {
		return nil, err
	}
	if len(s.ring.Published(b.now())) == 0 {
		return nil, errNothingPublished
	}
	return publish(s.ring.JWKS(b.now())), nil
}

func (b *broker) rotateKeys(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	emergency := d.Get("emergency").(bool)
	_, after, run, err := b.changeOwn(ctx, by(req),
		func(s *ownState) error { return s.rotate(b.now(), emergency) },
		func(_, _ *ownState) string {
			if emergency {
				return ending.CauseKeysWithdrawn
			}
			return ""
		})
	if err != nil {
		return nil, err
	}
	b.logKeys(after)
	ids := map[string]string{}
	var newest keyring.Info
	for _, purpose := range keyring.Purposes() {
		newest, _ = after.ring.Newest(purpose)
		ids[string(purpose)] = newest.ID
	}
	resp := &logical.Response{Data: map[string]any{
		"key_ids": ids, "algorithm": newest.Algorithm, "active_from": stamp(newest.ActiveFrom),
	}}
	if run != nil {
		b.tellWithdrawn(ctx, resp, run)
	}
	return resp, nil
}

// tellWithdrawn says what has become of the grants whose tokens were withdrawn. The keys
// are withdrawn in any case: what fails here the sweep repeats.
func (b *broker) tellWithdrawn(ctx context.Context, resp *logical.Response, run *ending.Run) {
	t, complete := run.Wait(ctx, revokeWait)
	maps.Copy(resp.Data, tallyData(t))
	switch {
	case complete && run.Failed() != nil:
		resp.AddWarning("the keys are withdrawn, and the grants of what they signed could not all be found: the sweep goes on")
	case !complete:
		resp.AddWarning("the keys are withdrawn, and the kill of what they signed goes on: what is counted as pending was not tried yet")
	}
}
