package backend

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/role"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/subject"
)

const issuersHelp = `
An issuer is somebody whose subject tokens are trusted: a CI system, a cluster, an
identity provider. A role names in subject_issuers whose tokens it takes. The keys
of one issuer never vouch for another. The keys are found by oidc_discovery_url, at jwks_url,
or are those of jwks_pem.

  vault write broker/issuers/github bound_audiences=vault \
      oidc_discovery_url=https://token.actions.githubusercontent.com
  vault write broker/roles/release provider=oauth2/acme scopes=repo:write subject_issuers=github \
      bound_subject_claims='{"repository":"acme/api","ref":"refs/heads/main"}'
  vault write broker/creds/release subject_token=@id_token.jwt
`

// issuerFields are the fields of an issuer beside its name.
var issuerFields = stored.Fields[subject.IssuerConfig]{
	{Name: "oidc_discovery_url", In: func(i *subject.IssuerConfig) any { return &i.OIDCDiscoveryURL }, Description: "The issuer's URL, below which its discovery document is found. This, jwks_url or jwks_pem."},
	{Name: "jwks_url", In: func(i *subject.IssuerConfig) any { return &i.JWKSURL }, Description: "Where the issuer's keys are found, for one without discovery."},
	{Name: "jwks_pem", In: func(i *subject.IssuerConfig) any { return &i.JWKSPEM }, Description: "The issuer's public keys themselves, as PEM or as a JSON Web Key Set."},
	{Name: "bound_issuer", In: func(i *subject.IssuerConfig) any { return &i.BoundIssuer }, Description: "What iss must equal. With oidc_discovery_url it is that URL. Set it wherever keys are shared."},
	{Name: "bound_audiences", In: func(i *subject.IssuerConfig) any { return &i.BoundAudiences }, Description: "A token must be for at least one of these. Required."},
	{Name: "allowed_algorithms", In: func(i *subject.IssuerConfig) any { return &i.AllowedAlgorithms }, Default: subject.DefaultAlgorithms(), Description: "Signature algorithms; never none, never HMAC."},
	{Name: "clock_skew", In: func(i *subject.IssuerConfig) any { return &i.ClockSkew }, Default: int(subject.DefaultClockSkew / time.Second), Description: "By how much the issuer's clock may differ, at most 5m."},
	{Name: "max_subject_lifetime", In: func(i *subject.IssuerConfig) any { return &i.MaxSubjectLifetime }, Default: int(subject.DefaultMaxLifetime / time.Second), Description: "The longest life of a token that is taken."},
	{Name: "entity_claim", In: func(i *subject.IssuerConfig) any { return &i.EntityClaim }, Description: "Claim, or JSON pointer to it, that is the id of the subject's own Vault entity."},
	{Name: "entity_alias_mount", In: func(i *subject.IssuerConfig) any { return &i.EntityAliasMount }, Description: "Accessors of auth mounts at which a person's alias has the name that the claim has. Several: a name is the same person's at each of them."},
	{Name: "entity_alias_claim", In: func(i *subject.IssuerConfig) any { return &i.EntityAliasClaim }, Description: "Claim, or JSON pointer to it, that is the name of the alias. Default: sub. One named email counts only with email_verified true beside it."},
	{Name: "entity_metadata", In: func(i *subject.IssuerConfig) any { return &i.EntityMetadata }, Description: "Keys of entity metadata of which a value is one person's, each with the claim that has the same value, such as employee_number=employee_id."},
	{Name: "ca_pem", In: func(i *subject.IssuerConfig) any { return &i.CAPEM }, Description: "PEM certificates that replace the system's roots for this issuer's TLS."},
	{Name: "timeout", In: func(i *subject.IssuerConfig) any { return &i.Timeout }, Default: int(httpclient.DefaultTimeout / time.Second), Description: "How long one fetch may take."},
	{Name: "allow_http", In: func(i *subject.IssuerConfig) any { return &i.AllowHTTP }, Description: "Permits plain http beyond loopback. Never in production."},
	{Name: "proxy_url", In: func(i *subject.IssuerConfig) any { return &i.ProxyURL }, Description: "HTTP proxy, http or https, through which alone the issuer is reached, by CONNECT: its URLs must then be https. Its certificate may be signed by the system's roots or those of ca_pem. The environment's proxy is never used."},
	{Name: "proxy_username", In: func(i *subject.IssuerConfig) any { return &i.ProxyUsername }, Description: "Username at the proxy, which gets it in plain http only on this machine or with allow_http=true."},
	{Name: "proxy_password", Secret: true, In: func(i *subject.IssuerConfig) any { return &i.ProxyPassword }, Description: "Password at the proxy. It is sent to the proxy alone, and a write that moves proxy_url or ca_pem must bring it again."},
}

func (b *broker) pathIssuers() []*framework.Path {
	fields := issuerFields.Schema()
	fields["name"] = &framework.FieldSchema{Type: framework.TypeString, Description: "Name of the issuer."}
	shown := issuerFields.ShownAll()
	shown["name"] = fields["name"]
	shown[fieldInWords] = inWordsField
	shown["pinned_jwks_url"] = &framework.FieldSchema{Type: framework.TypeString, Description: "Where the keys are fetched, fixed when the issuer was written."}
	write := &framework.PathOperation{
		Callback: b.writeIssuer, Summary: "Create or update a trusted issuer.",
		Responses:                   map[int][]framework.Response{http.StatusNoContent: {{Description: "Written."}}},
		ForwardPerformanceSecondary: true, ForwardPerformanceStandby: true,
	}
	return []*framework.Path{
		{
			Pattern:         "issuers/?$",
			DisplayAttrs:    &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "issuers"},
			HelpSynopsis:    "Lists the trusted issuers of subject tokens.",
			HelpDescription: strings.TrimSpace(issuersHelp),
			Fields:          map[string]*framework.FieldSchema{},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ListOperation: &framework.PathOperation{Callback: b.listIssuers, Summary: "List the issuers.", Responses: listResponses("nothing")},
			},
		},
		{
			Pattern:         "issuers/" + framework.GenericNameRegex("name") + "$",
			DisplayAttrs:    &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "issuer"},
			HelpSynopsis:    "Manages a trusted issuer of subject tokens.",
			HelpDescription: strings.TrimSpace(issuersHelp),
			Fields:          fields,
			ExistenceCheck: func(ctx context.Context, _ *logical.Request, d *framework.FieldData) (bool, error) {
				return b.issuers.Exists(ctx, d.Get("name").(string))
			},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.CreateOperation: write,
				logical.UpdateOperation: write,
				logical.ReadOperation:   &framework.PathOperation{Callback: b.showIssuer, Summary: "Read an issuer.", Responses: map[int][]framework.Response{http.StatusOK: {{Description: "The issuer.", Fields: shown}}}},
				logical.DeleteOperation: &framework.PathOperation{Callback: b.deleteIssuer, Summary: "Delete an issuer; its tokens are not taken any more.", Responses: map[int][]framework.Response{http.StatusOK: {{Description: "Deleted, with warnings."}}, http.StatusNoContent: {{Description: "Deleted."}}}, ForwardPerformanceSecondary: true, ForwardPerformanceStandby: true},
			},
		},
	}
}

func (b *broker) writeIssuer(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name := d.Get("name").(string)
	after := &storedIssuer{IssuerConfig: subject.IssuerConfig{Name: name, ClockSkew: subject.DefaultClockSkew}}
	before, err := b.issuers.Get(ctx, name)
	switch {
	case err == nil:
		*after = *before
	case !errors.Is(err, stored.ErrAbsent):
		return nil, err
	}
	if err := issuerFields.Merge(&after.IssuerConfig, d); err != nil {
		return nil, err
	}
	if after.ProxyURL == "" && before != nil && before.ProxyURL != "" {
		after.ProxyUsername, after.ProxyPassword = "", ""
	}
	if _, brought := req.Data["proxy_password"]; before != nil && after.ProxyPassword != "" && !brought && (before.ProxyURL != after.ProxyURL || before.CAPEM != after.CAPEM) {
		return nil, fault.New(fault.InvalidRequest, "this changes where the proxy's password is sent: write proxy_password again with it")
	}
	if err := b.issuers.replace(ctx, name, before, after, rediscovers(req)); err != nil {
		return nil, forOperators(err)
	}
	if after.IssuerURL() != "" {
		return nil, nil
	}
	resp := &logical.Response{}
	resp.AddWarning("without bound_issuer a token of any iss is taken that these keys have signed: set it unless the keys are this issuer's alone. No token of it is exchanged for one that the broker signs itself, because nobody vouches for the names in it")
	return resp, nil
}

// rediscovers reports whether the write says where the keys are or how they are
// reached. Any other leaves the pinned URL alone, and needs no issuer to answer.
func rediscovers(req *logical.Request) bool {
	for _, name := range []string{"oidc_discovery_url", "jwks_url", "jwks_pem", "ca_pem", "allow_http", "proxy_url", "proxy_username", "proxy_password"} {
		if _, ok := req.Data[name]; ok {
			return true
		}
	}
	return false
}

func (b *broker) showIssuer(ctx context.Context, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	i, err := b.issuers.Get(ctx, d.Get("name").(string))
	if err != nil {
		return nil, nothingIfAbsent(err)
	}
	data := map[string]any{"name": i.Name}
	shown := i.WithDefaults()
	issuerFields.ShowAll(&shown, data)
	data[fieldInWords] = issuerFields.Words(&shown)
	if i.PinnedJWKSURL != "" {
		data["pinned_jwks_url"] = i.PinnedJWKSURL
	}
	return &logical.Response{Data: data}, nil
}

func (b *broker) deleteIssuer(ctx context.Context, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name := d.Get("name").(string)
	before, err := b.issuers.Exists(ctx, name)
	if err != nil {
		return nil, err
	}
	if err := b.issuers.Delete(ctx, name); err != nil || !before {
		return nil, err
	}
	return b.warnOfOrphans(ctx, nil, "issuers/"+name, func(r *role.Role) bool {
		return slices.Contains(r.SubjectIssuers, name) || slices.Contains(r.ActorIssuers, name)
	}), nil
}

func (b *broker) listIssuers(ctx context.Context, _ *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	return listed(b.issuers.List(ctx, ""))
}
