package backend

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/ending"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/keyring"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
)

const configHelp = `
Settings of the whole mount. With issuer the broker becomes an issuer of JWTs of its
own: the URL at which verifiers reach this mount, such as
https://vault.example.com:8200/v1/broker. Its keys are made inside when issuer is
first written, and never leave; verifiers find the public ones by discovery below
issuer, without a token. An update is partial. kills_retention says how long kills/<id>
can be read.

Another issuer: tokens that are signed already bear the old one, where nobody finds
keys any more. An empty issuer stops the signing; the keys stay published until the
last token has expired.

  vault write broker/config issuer=https://vault.example.com:8200/v1/broker
`

var configFields = stored.Fields[config]{
	{Name: "issuer", In: func(c *config) any { return &c.Issuer }, Description: "The broker's own issuer URL: where verifiers reach this mount. https, without a slash at the end. Empty stops the signing."},
	{Name: "signing_algorithm", In: func(c *config) any { return &c.SigningAlgorithm }, Default: keyring.Algorithms()[0], Allowed: anyOf(keyring.Algorithms()), Description: "What the broker signs with: ES256, RS256 (3072 bits) or EdDSA (Ed25519). Another one rotates the keys."},
	{Name: "rotation_period", In: func(c *config) any { return &c.RotationPeriod }, Default: int(defaultRotationPeriod / time.Second), Description: "How long a key signs before the next one does, 2h to 366d and not below max_token_ttl."},
	{Name: "max_token_ttl", In: func(c *config) any { return &c.MaxTokenTTL }, Default: int(defaultMaxTokenTTL / time.Second), Description: "The longest life of anything that the broker signs, 2m to 10d."},
	{Name: "kills_retention", In: func(c *config) any { return &c.KillsRetention }, Default: int(defaultKillsRetention / time.Second), Description: "How long the record of a kill is kept, 1d to 3660d. The oldest go sooner if there are more than 10,000, or if they take more than 64 MiB."},
}

// anyOf are values for a field's schema.
func anyOf(names []string) []any {
	values := make([]any, 0, len(names))
	for _, name := range names {
		values = append(values, name)
	}
	return values
}

func (b *broker) pathConfig() []*framework.Path {
	fields := configFields.Schema()
	return []*framework.Path{{
		Pattern:         "config$",
		DisplayAttrs:    &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "configuration"},
		HelpSynopsis:    "The settings of the whole mount: the broker's own issuer, and how long records of kills are kept.",
		HelpDescription: strings.TrimSpace(configHelp),
		Fields:          fields,
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: &framework.PathOperation{
				Callback: b.showConfig, Summary: "Read the settings.",
				Responses: map[int][]framework.Response{http.StatusOK: {{Description: "The settings, defaults included.", Fields: fields}}},
			},
			logical.UpdateOperation: &framework.PathOperation{
				Callback: b.writeConfig, Summary: "Change settings.",
				Responses:                   map[int][]framework.Response{http.StatusOK: {{Description: "Written, with warnings."}}, http.StatusNoContent: {{Description: "Written."}}},
				ForwardPerformanceSecondary: true, ForwardPerformanceStandby: true,
			},
		},
	}}
}

func (b *broker) showConfig(ctx context.Context, _ *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	s, err := b.own.state(ctx)
	if err != nil {
		return nil, err
	}
	data := map[string]any{}
	configFields.Show(&s.config, data)
	return &logical.Response{Data: data}, nil
}

func (b *broker) writeConfig(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	before, after, _, err := b.changeOwn(ctx, by(req), func(s *ownState) error {
		if err := configFields.Merge(&s.config, d); err != nil {
			return err
		}
		s.config.SigningAlgorithm = cmp.Or(s.config.SigningAlgorithm, defaultConfig().SigningAlgorithm)
		if err := s.config.validate(); err != nil {
			return err
		}
		return s.followSchedule(b.now())
	}, func(before, after *ownState) string {
		if was := before.config.Issuer; was != "" && was != after.config.Issuer {
			return ending.CauseIssuerChanged
		}
		return ""
	})
	if err != nil {
		return nil, err
	}
	if before.ring != after.ring {
		b.logKeys(after)
	}
	resp := warnOfChange(before, after, b.now())
	if before.config.Issuer == after.config.Issuer {
		return resp, nil
	}
	return b.warnOfReserved(ctx, resp, "config issuer", b.providers.ReservedOwn(after.config.Issuer)), nil
}

// warnOfChange says what a change does not do at once.
func warnOfChange(before, after *ownState, now time.Time) *logical.Response {
	resp := &logical.Response{}
	was, is := before.config.Issuer, after.config.Issuer
	switch {
	case was == "" || was == is:
	case is == "":
		resp.AddWarning("nothing is signed any more; the keys stay published until what they signed has expired; its grants are being killed (cause issuer_changed): their leases are not renewed")
	default:
		resp.AddWarning(fmt.Sprintf("tokens that are signed already bear the issuer %s: verifiers that look for keys there find none, introspection calls them inactive, and their grants are being killed (cause issuer_changed): their leases are not renewed", was))
	}
	if k, ok := after.ring.Newest(keyring.Child); ok && before.ring != after.ring && now.Before(k.ActiveFrom) {
		resp.AddWarning(fmt.Sprintf("new keys (%s) are published and sign from %s", k.Algorithm, stamp(k.ActiveFrom)))
	}
	if len(resp.Warnings) == 0 {
		return nil
	}
	return resp
}
