package backend

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/downstream"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
)

func (b *broker) pathPresets() []*framework.Path {
	return []*framework.Path{{
		Pattern:      "presets/?$",
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "presets"},
		HelpSynopsis: "Lists the systems that a provider takes by name, and what each needs.",
		HelpDescription: "A preset is what the plugin knows of a system: how its tokens are made, proven, ended and\n" +
			"found again. It is listed as <type>/<name>, and a provider of that type takes it with\n" +
			"preset=<name> and the fields that it needs.\n\n  vault list -detailed broker/presets",
		Fields: map[string]*framework.FieldSchema{},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ListOperation: &framework.PathOperation{
				Callback: b.listPresets, Summary: "List all presets.",
				Responses: listResponses("type", "about", "source", "tried (against which product it was proven; absent where nobody has)", "revocation_class", "needs (fields of the provider)", "settings and parameters (what the fields of these names hold)"),
			},
		},
	}}
}

func (b *broker) listPresets(context.Context, *logical.Request, *framework.FieldData) (*logical.Response, error) {
	var names []string
	info := map[string]any{}
	for _, t := range b.types {
		for _, p := range downstream.PresetsOf(t) {
			name := t.Name() + "/" + p.Name
			names = append(names, name)
			info[name] = aboutPreset(t, p)
		}
	}
	return logical.ListResponseWithInfo(names, info), nil
}

func aboutPreset(t provider.Type, p provider.Preset) map[string]any {
	about := map[string]any{"type": t.Name(), "about": p.About, "revocation_class": string(p.Class), "needs": p.Needs}
	for name, text := range map[string]string{"source": p.Source, "tried": p.Tried} {
		if text != "" {
			about[name] = text
		}
	}
	for name, values := range map[string]map[string]string{"settings": p.Settings, "parameters": p.Parameters} {
		if len(values) > 0 {
			about[name] = values
		}
	}
	return about
}
