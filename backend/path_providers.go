package backend

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/downstream"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
)

const providersHelp = `
A provider is one downstream system plus the parent credential that the broker
holds for it. Its secrets are write-only: a read shows their SHA-256 fingerprint.
A write that changes where a secret is sent (issuer, any URL, ca_pem, proxy_url) must bring
the secret again. Updates are partial: what is not written stays; an empty value
unsets a field.
`

func (b *broker) pathProviders() []*framework.Path {
	paths := []*framework.Path{{
		Pattern:         "providers/?$",
		DisplayAttrs:    &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "providers"},
		HelpSynopsis:    "Lists the providers, with their type and health.",
		HelpDescription: strings.TrimSpace(providersHelp),
		Fields:          map[string]*framework.FieldSchema{},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ListOperation: &framework.PathOperation{
				Callback: b.listProviders, Summary: "List all providers.", Responses: listResponses("type", "health"),
			},
		},
	}}
	for _, t := range b.types {
		paths = append(paths, b.pathProviderType(t)...)
	}
	return append(paths, &framework.Path{
		Pattern:         "providers/" + framework.MatchAllRegex("type"),
		DisplayAttrs:    &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "provider-of-unknown-type"},
		HelpSynopsis:    "Refuses types of provider that this version does not have.",
		HelpDescription: "The types are " + strings.Join(b.types.Names(), ", ") + ": vault path-help <mount>/providers/<type>/x shows what one needs.",
		Fields: map[string]*framework.FieldSchema{
			"type": {Type: framework.TypeString, Description: "The type that does not exist, and what follows it."},
		},
		TakesArbitraryInput: true,
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation:   b.unknownType(),
			logical.UpdateOperation: b.unknownType(),
			logical.DeleteOperation: b.unknownType(),
			logical.ListOperation:   b.unknownType(),
		},
	})
}

func (b *broker) unknownType() *framework.PathOperation {
	return &framework.PathOperation{
		Summary: "Refuses an unknown provider type.",
		Callback: func(_ context.Context, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
			name, _, _ := strings.Cut(d.Get("type").(string), "/")
			return nil, fault.New(fault.InvalidRequest, "there is no such provider under type %q: the types are %s, and names are of letters, digits, '-', '_' and '.'",
				short(name), strings.Join(b.types.Names(), ", "))
		},
		Responses: map[int][]framework.Response{http.StatusBadRequest: {{Description: "There is no such type."}}},
	}
}

// fieldForce is taken by a delete alone.
const fieldForce = "force"

// pathProviderType makes the paths of one type, so that help and the OpenAPI
// document show exactly its fields.
func (b *broker) pathProviderType(t provider.Type) []*framework.Path {
	fields := downstream.CommonFields()
	maps.Copy(fields, t.Fields())
	fields[fieldForce] = &framework.FieldSchema{Type: framework.TypeBool, Query: true, Description: "With delete: kill the live grants first. The provider stays, disabled, until none is pending."}
	pattern := "providers/" + t.Name() + "/" + framework.GenericNameRegex("name")
	h := providerHandler{b: b, t: t, fields: fields}
	display := func(suffix string) *framework.DisplayAttributes {
		return &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: t.Name() + "-" + suffix}
	}
	nameOnly := map[string]*framework.FieldSchema{"name": fields["name"]}
	words := wordsOf(t)
	write := &framework.PathOperation{
		Callback: h.write, Summary: "Create or update a provider of type " + t.Name() + ".",
		Responses:                 map[int][]framework.Response{http.StatusOK: {{Description: "Written, with warnings."}}, http.StatusNoContent: {{Description: "Written."}}},
		ForwardPerformanceStandby: true, ForwardPerformanceSecondary: true,
	}
	return []*framework.Path{
		{
			Pattern:         "providers/" + t.Name() + "/?$",
			DisplayAttrs:    display("providers"),
			HelpSynopsis:    "Lists the providers of type " + t.Name() + ".",
			HelpDescription: strings.TrimSpace(providersHelp),
			Fields:          map[string]*framework.FieldSchema{},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ListOperation: &framework.PathOperation{Callback: h.list, Summary: "List the providers of type " + t.Name() + ".", Responses: listResponses("type", "health")},
			},
		},
		{
			Pattern:         pattern + "$",
			DisplayAttrs:    display("provider"),
			HelpSynopsis:    words.manages,
			HelpDescription: strings.TrimSpace(words.help),
			Fields:          fields,
			ExistenceCheck:  h.exists,
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.CreateOperation: write,
				logical.UpdateOperation: write,
				logical.ReadOperation:   &framework.PathOperation{Callback: h.read, Summary: "Read a provider; secrets as fingerprints.", Responses: h.readResponses()},
				logical.DeleteOperation: &framework.PathOperation{
					Callback: h.delete, Summary: "Delete a provider that has no live grants, or kill them first with force=true.",
					Responses:                 map[int][]framework.Response{http.StatusOK: {{Description: "Grants were killed first, or there are warnings.", Fields: killFields()}}, http.StatusNoContent: {{Description: "Deleted."}}},
					ForwardPerformanceStandby: true, ForwardPerformanceSecondary: true,
				},
			},
		},
		{
			Pattern:         pattern + "/check$",
			DisplayAttrs:    &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "check", OperationSuffix: t.Name() + "-provider"},
			HelpSynopsis:    words.checks,
			HelpDescription: words.checkHelp,
			Fields:          nameOnly,
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.UpdateOperation: &framework.PathOperation{Callback: h.check, Summary: "Check the parent credential.", Responses: healthResponses(), ForwardPerformanceStandby: true, ForwardPerformanceSecondary: true},
			},
		},
		{
			Pattern:         pattern + "/rotate$",
			DisplayAttrs:    &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "rotate", OperationSuffix: t.Name() + "-provider"},
			HelpSynopsis:    words.rotates,
			HelpDescription: words.rotateHelp,
			Fields:          nameOnly,
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.UpdateOperation: &framework.PathOperation{Callback: h.rotate, Summary: "Rotate the parent credential.", Responses: healthResponses(), ForwardPerformanceStandby: true, ForwardPerformanceSecondary: true},
			},
		},
	}
}

// typeWords are what the help says of a type of provider.
type typeWords struct{ manages, help, checks, checkHelp, rotates, rotateHelp string }

// wordsOf says nothing of a parent credential where there is none.
func wordsOf(t provider.Type) typeWords {
	guide := downstream.GuideOf(t)
	about, rotation := strings.TrimSpace(guide.About)+"\n\n", strings.TrimSpace(guide.Rotation)
	if len(downstream.SecretNames(t)) == 0 {
		return typeWords{
			manages: "Manages a provider of type " + t.Name() + ", whose tokens the broker signs itself: it has no parent credential.",
			help:    about + strings.TrimSpace(keylessHelp) + parametersHelp(t),
			checks:  "Proves that what the broker signs verifies.",
			checkHelp: "Signs a token, which nobody gets, and verifies it as a service would, by the keys that stand at\n" +
				"the issuer's own URL. There is no parent credential to be proven.",
			rotates:    "Refuses: there is no parent credential to rotate.",
			rotateHelp: rotation,
		}
	}
	return typeWords{
		manages: "Manages a provider of type " + t.Name() + " and its parent credential.",
		help:    about + strings.TrimSpace(providersHelp) + parametersHelp(t),
		checks:  "Proves live that the parent credential works.",
		checkHelp: "Calls the provider with the parent credential and says what it can grant. A token that the\n" +
			"check has to mint is killed at once.",
		rotates:    "Rotates the parent credential.",
		rotateHelp: strings.TrimSpace("Changes the parent credential without a moment in which neither the old nor the new one works.\n\n" + rotation),
	}
}

// parametersHelp lists what a role's parameters can hold.
func parametersHelp(t provider.Type) string {
	var help strings.Builder
	parameters := t.Parameters()
	for i, name := range slices.Sorted(maps.Keys(parameters)) {
		if i == 0 {
			help.WriteString("\n\nA role's parameters can hold:\n")
		}
		fmt.Fprintf(&help, "\n  %s: %s", name, parameters[name])
	}
	return help.String()
}

const keylessHelp = `
A provider of this type holds no parent credential: the broker signs its tokens with
keys of its own (config issuer), and calls nobody for that. rate_limit, timeout, ca_pem
and proxy_url concern a check alone. Updates are partial: what is not written stays; an
empty value unsets a field.
`

// providerHandler answers for the providers of one type.
type providerHandler struct {
	b      *broker
	t      provider.Type
	fields map[string]*framework.FieldSchema
}

func (h providerHandler) ref(d *framework.FieldData) string {
	return h.t.Name() + "/" + d.Get("name").(string)
}

func (h providerHandler) exists(ctx context.Context, _ *logical.Request, d *framework.FieldData) (bool, error) {
	return h.b.providers.Exists(ctx, h.ref(d))
}

func (h providerHandler) read(ctx context.Context, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	entry, err := h.b.providers.Read(ctx, h.ref(d))
	if err != nil {
		return nil, nothingIfAbsent(err)
	}
	data := map[string]any{}
	if err := json.Unmarshal(entry.Fields, &data); err != nil {
		return nil, stored.Fault(err)
	}
	for _, name := range downstream.SecretNames(h.t) {
		if value, ok := entry.Secrets[name]; ok {
			data[name+"_sha256"] = secret.New(value).Fingerprint()
		}
	}
	data["type"] = h.t.Name()
	data["name"] = d.Get("name")
	h.b.showHealth(data, h.ref(d), entry)
	entry.Settings.Show(data)
	if !entry.RotatedAt.IsZero() {
		data["last_rotation"] = stamp(entry.RotatedAt)
	}
	if p, err := h.b.providers.Peek(h.ref(d), entry); err == nil {
		data["revocation_class"] = string(p.Traits.Class)
		if _, written := data["revocation"]; !written {
			data["revocation"] = string(p.Traits.Class)
		}
		showLife(data, p.Traits.Life)
		maps.Copy(data, p.Public())
	}
	if pinned := map[string]any{}; json.Unmarshal(entry.Pinned.Data, &pinned) == nil {
		data["endpoints"] = pinned
	}
	data[fieldInWords] = h.inWords(entry, data)
	return &logical.Response{Data: data}, nil
}

// inWords says of the common settings and of the type's own durations what the numbers
// mean.
func (h providerHandler) inWords(entry *downstream.Entry, data map[string]any) map[string]string {
	words := entry.Settings.Words()
	for name, f := range h.t.Fields() {
		if seconds, ok := data[name].(float64); ok && f.Type == framework.TypeDurationSecond {
			words[name] = stored.InWords(time.Duration(seconds) * time.Second)
		}
	}
	return words
}

// fieldInWords stands in what is read of anything that has times or limits.
const fieldInWords = "in_words"

var inWordsField = &framework.FieldSchema{Type: framework.TypeKVPairs, Description: "What the numbers mean: durations, and limits that are unset."}

func (h providerHandler) readResponses() map[int][]framework.Response {
	fields := downstream.ShownFields()
	secrets := downstream.SecretNames(h.t)
	for name, f := range h.t.Fields() {
		if slices.Contains(secrets, name) {
			fields[name+"_sha256"] = &framework.FieldSchema{Type: framework.TypeString, Description: "SHA-256 of the stored " + name + ", in hex."}
			continue
		}
		fields[name] = f
	}
	maps.Copy(fields, downstream.PublicFields(h.t))
	fields["type"] = &framework.FieldSchema{Type: framework.TypeString, Description: "Type of the provider."}
	fields["child_least_ttl"] = &framework.FieldSchema{Type: framework.TypeDurationSecond, Description: "The shortest life that children can be asked for, if it is known."}
	fields["child_most_ttl"] = &framework.FieldSchema{Type: framework.TypeDurationSecond, Description: "The longest life that children can be asked for, if it is known."}
	fields["health"] = &framework.FieldSchema{Type: framework.TypeString, Description: "ok, unknown, refused, unreachable, limited, rotation_overdue, disabled or deleting: what the broker last learnt. Unknown is that nothing has shown yet that the parent credential works, refused that the provider does not take it, as a check has confirmed."}
	fields["health_detail"] = &framework.FieldSchema{Type: framework.TypeString, Description: "Since when and why the provider refuses the parent credential; or which requests are not made now, and until when; or why the parent credential could not be rotated in time."}
	fields["last_rotation"] = &framework.FieldSchema{Type: framework.TypeTime, Description: "When the parent credential was last written or replaced, as far as is known."}
	fields[fieldInWords] = inWordsField
	if fields["revocation"] == nil {
		fields["revocation"] = &framework.FieldSchema{Type: framework.TypeString, Description: "The same as revocation_class."}
	}
	fields["revocation_class"] = &framework.FieldSchema{Type: framework.TypeString, Description: "token, lever or expiry: how children can be killed."}
	fields["endpoints"] = &framework.FieldSchema{Type: framework.TypeMap, Description: "The endpoints pinned when the provider was written."}
	return map[int][]framework.Response{http.StatusOK: {{Description: "The provider.", Fields: fields}}}
}

// showHealth adds what the broker last learnt of the provider, without asking.
func (b *broker) showHealth(data map[string]any, ref string, entry *downstream.Entry) {
	health := entry.Health()
	if why := entry.RefusedBecause(); why != "" {
		data["health_detail"] = why
	}
	if health == downstream.HealthOK || health == downstream.HealthUnknown {
		switch g := b.providers.State(ref); {
		case !g.RestsUntil.IsZero():
			health = "unreachable"
			data["health_detail"] = "the provider is not answering: it is asked for new tokens again " + downstream.When(g.RestsUntil, b.now())
		case g.Limited != "":
			health, data["health_detail"] = "limited", g.Limited
		case g.Overdue != nil:
			health, data["health_detail"] = "rotation_overdue", g.Overdue.String()
		}
	}
	data["health"] = health
}

func (b *broker) listProviders(ctx context.Context, _ *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	refs, err := b.providers.Refs(ctx)
	if err != nil {
		return nil, err
	}
	info := map[string]any{}
	for _, ref := range refs {
		if err := b.describe(ctx, ref, ref, info); err != nil {
			return nil, err
		}
	}
	return logical.ListResponseWithInfo(refs, info), nil
}

func (h providerHandler) list(ctx context.Context, _ *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	names, err := h.b.providers.Names(ctx, h.t)
	if err != nil {
		return nil, err
	}
	info := map[string]any{}
	for _, name := range names {
		if err := h.b.describe(ctx, h.t.Name()+"/"+name, name, info); err != nil {
			return nil, err
		}
	}
	return logical.ListResponseWithInfo(names, info), nil
}

// describe adds the key_info of one provider.
func (b *broker) describe(ctx context.Context, ref, key string, info map[string]any) error {
	entry, err := b.providers.Read(ctx, ref)
	if err != nil {
		return nothingIfAbsent(err)
	}
	typeName, _, _ := strings.Cut(ref, "/")
	about := map[string]any{"type": typeName}
	b.showHealth(about, ref, entry)
	info[key] = about
	return nil
}

// listResponses is the response schema of a list whose key_info has these members.
func listResponses(info ...string) map[int][]framework.Response {
	return map[int][]framework.Response{http.StatusOK: {{Description: "The names.", Fields: map[string]*framework.FieldSchema{
		"keys":     {Type: framework.TypeStringSlice, Description: "The names."},
		"key_info": {Type: framework.TypeMap, Description: "By name: " + strings.Join(info, ", ") + "."},
	}}}}
}
