package backend

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/catalog"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

const providersHelp = `
A provider is one downstream system plus the parent credential that the broker
holds for it. Its secrets are write-only: a read shows their SHA-256 fingerprint.
A write that changes where a secret is sent (issuer, any URL, ca_pem) must bring
the secret again. Updates are partial: what is not written stays; an empty value
unsets a field.
`

// commonFields are the fields of every type of provider.
func commonFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"name":          {Type: framework.TypeString, Description: "Name of the provider."},
		"ca_pem":        {Type: framework.TypeString, Description: "PEM certificates that replace the system's roots for this provider's TLS."},
		"timeout":       {Type: framework.TypeDurationSecond, Description: "How long one call to the provider may take, at most 60s. Default 10s."},
		"rate_limit":    {Type: framework.TypeFloat, Description: "Requests per second towards the provider; unlimited if unset. Revocations go before mints."},
		"allow_http":    {Type: framework.TypeBool, Description: "Permits plain http beyond loopback. Never in production."},
		"max_ttl":       {Type: framework.TypeDurationSecond, Description: "The longest lease on any child of this provider; the mount's limit if unset."},
		"allowed_roles": {Type: framework.TypeCommaStringSlice, Description: "Globs of the names of the roles that may use the provider. Default *: every role."},
		"disabled":      {Type: framework.TypeBool, Description: "Stops new grants. What lives can still be renewed and killed."},
	}
}

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
	for _, t := range catalog.Types() {
		paths = append(paths, b.pathProviderType(t)...)
	}
	return append(paths, &framework.Path{
		Pattern:         "providers/" + framework.MatchAllRegex("type"),
		DisplayAttrs:    &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "provider-of-unknown-type"},
		HelpSynopsis:    "Answers for provider types that this version does not have.",
		HelpDescription: "Known types: " + strings.Join(typeNames(), ", ") + ".",
		Fields: map[string]*framework.FieldSchema{
			"type": {Type: framework.TypeString, Description: "The type that does not exist, and what follows it."},
		},
		TakesArbitraryInput: true,
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation:   unknownType(),
			logical.UpdateOperation: unknownType(),
			logical.DeleteOperation: unknownType(),
			logical.ListOperation:   unknownType(),
		},
	})
}

func unknownType() *framework.PathOperation {
	return &framework.PathOperation{
		Summary: "Refuses an unknown provider type.",
		Callback: func(_ context.Context, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
			name, _, _ := strings.Cut(d.Get("type").(string), "/")
			return nil, fault.New(fault.InvalidRequest, "there is no such provider under type %q: the types are %s, and names are of letters, digits, '-', '_' and '.'",
				short(name), strings.Join(typeNames(), ", "))
		},
		Responses: map[int][]framework.Response{http.StatusBadRequest: {{Description: "There is no such type."}}},
	}
}

func typeNames() []string {
	var names []string
	for _, t := range catalog.Types() {
		names = append(names, t.Name())
	}
	return names
}

// pathProviderType makes the paths of one type, so that help and the OpenAPI
// document show exactly its fields.
func (b *broker) pathProviderType(t provider.Type) []*framework.Path {
	fields := commonFields()
	maps.Copy(fields, t.Fields())
	fields["force"] = &framework.FieldSchema{Type: framework.TypeBool, Query: true, Description: "With delete: kill the live grants first. The provider stays, disabled, until none is pending."}
	pattern := "providers/" + t.Name() + "/" + framework.GenericNameRegex("name")
	h := providerHandler{b: b, t: t, fields: fields}
	display := func(suffix string) *framework.DisplayAttributes {
		return &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: t.Name() + "-" + suffix}
	}
	nameOnly := map[string]*framework.FieldSchema{"name": fields["name"]}
	write := &framework.PathOperation{
		Callback: h.write, Summary: "Create or update a provider of type " + t.Name() + ".",
		Responses:                 map[int][]framework.Response{http.StatusNoContent: {{Description: "Written."}}},
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
			HelpSynopsis:    "Manages a provider of type " + t.Name() + " and its parent credential.",
			HelpDescription: strings.TrimSpace(providersHelp),
			Fields:          fields,
			ExistenceCheck:  h.exists,
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.CreateOperation: write,
				logical.UpdateOperation: write,
				logical.ReadOperation:   &framework.PathOperation{Callback: h.read, Summary: "Read a provider; secrets as fingerprints.", Responses: h.readResponses()},
				logical.DeleteOperation: &framework.PathOperation{
					Callback: h.delete, Summary: "Delete a provider that has no live grants, or kill them first with force=true.",
					Responses:                 map[int][]framework.Response{http.StatusOK: {{Description: "Grants were killed first.", Fields: killFields()}}, http.StatusNoContent: {{Description: "Deleted."}}},
					ForwardPerformanceStandby: true, ForwardPerformanceSecondary: true,
				},
			},
		},
		{
			Pattern:         pattern + "/check$",
			DisplayAttrs:    &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "check", OperationSuffix: t.Name() + "-provider"},
			HelpSynopsis:    "Proves live that the parent credential works.",
			HelpDescription: "Calls the provider with the parent credential and says what it can grant. A token that the check has to mint is killed at once.",
			Fields:          nameOnly,
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.UpdateOperation: &framework.PathOperation{Callback: h.check, Summary: "Check the parent credential.", Responses: healthResponses(), ForwardPerformanceStandby: true, ForwardPerformanceSecondary: true},
			},
		},
		{
			Pattern:         pattern + "/rotate$",
			DisplayAttrs:    &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "rotate", OperationSuffix: t.Name() + "-provider"},
			HelpSynopsis:    "Rotates the parent credential.",
			HelpDescription: "Changes the parent credential without a moment in which neither the old nor the new one works.",
			Fields:          nameOnly,
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.UpdateOperation: &framework.PathOperation{Callback: h.rotate, Summary: "Rotate the parent credential.", Responses: healthResponses(), ForwardPerformanceStandby: true, ForwardPerformanceSecondary: true},
			},
		},
	}
}

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
	entry, err := h.b.providers.read(ctx, h.ref(d))
	return entry != nil, err
}

func (h providerHandler) secretNames() []string {
	var names []string
	for name, f := range h.t.Fields() {
		if f.DisplayAttrs != nil && f.DisplayAttrs.Sensitive {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	return names
}

// write creates or changes a provider: merge what came with what is there, let
// the type judge it and discover its endpoints, then store all of it as one.
func (h providerHandler) write(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	ref := h.ref(d)
	before, err := h.b.providers.read(ctx, ref)
	if err != nil {
		return nil, err
	}
	after, err := h.merge(before, req, d)
	if err != nil {
		return nil, err
	}
	client, err := after.Settings.client()
	if err != nil {
		return nil, fault.New(fault.InvalidRequest, "%s", err)
	}
	written := map[string]bool{}
	for name := range req.Data {
		written[name] = true
	}
	pinned, err := h.t.Configure(ctx, provider.Change{
		Config: provider.Config{Name: d.Get("name").(string), Fields: after.Fields, Pinned: after.Pinned},
		Parent: after.parent(), Written: written, AllowHTTP: after.Settings.AllowHTTP, Client: client,
	})
	if err != nil {
		return nil, err
	}
	after.Pinned = *pinned
	if before != nil {
		if before.Pinned.Account != after.Pinned.Account {
			done, alone := h.b.providers.gate(ref).alone()
			if !alone {
				return nil, errMinting
			}
			defer done()
		}
		if err := h.mayReplace(ctx, ref, before, after, written); err != nil {
			return nil, err
		}
	}
	if _, err := h.b.providers.assemble(ref, after); err != nil {
		return nil, err
	}
	if err := h.b.providers.write(ctx, ref, after); err != nil {
		return nil, err
	}
	h.b.roles.clear() // they were compiled against the provider's traits
	return nil, nil
}

// errMinting refuses what would leave a child behind that nothing can kill.
var errMinting = fault.New(fault.InvalidRequest, "a token of this provider is being minted at this moment: try again, or write disabled=true first")

// merge applies the request to the stored provider, or to an empty one.
func (h providerHandler) merge(before *providerEntry, req *logical.Request, d *framework.FieldData) (*providerEntry, error) {
	after := &providerEntry{Secrets: map[string]string{}}
	own := map[string]any{}
	if before != nil {
		*after = *before
		after.Secrets = maps.Clone(before.Secrets)
		if err := json.Unmarshal(before.Fields, &own); err != nil {
			return nil, storageFault(err)
		}
	}
	if err := after.Settings.merge(d); err != nil {
		return nil, err
	}
	secrets := h.secretNames()
	for name := range h.t.Fields() {
		if _, ok := req.Data[name]; !ok {
			continue
		}
		value := d.Get(name)
		switch {
		case slices.Contains(secrets, name):
			after.brought = append(after.brought, name)
			text := value.(string)
			if text == "" {
				delete(after.Secrets, name)
			} else {
				after.Secrets[name] = text
			}
		case isEmpty(value):
			delete(own, name)
		default:
			own[name] = value
		}
	}
	if before == nil {
		// Not a small number: a refresh that began before a provider of this name
		// was deleted must not save its token into the new one.
		after.Serial = uint64(h.b.now().UnixNano())
	}
	if before == nil || len(after.brought) > 0 {
		after.Serial++
		after.Refused = ""
	}
	raw, err := json.Marshal(own)
	if err != nil {
		return nil, fault.New(fault.InvalidRequest, "the fields cannot be encoded").Because(err)
	}
	after.Fields = raw
	return after, nil
}

func isEmpty(value any) bool {
	switch v := value.(type) {
	case string:
		return v == ""
	case []string:
		return len(v) == 0
	}
	return false
}

// checkCAPEM refuses a bundle that somebody has pasted too much of: whoever may
// read the configuration would read it.
func checkCAPEM(pem string) error {
	if strings.Contains(pem, "PRIVATE KEY-----") {
		return fault.New(fault.InvalidRequest, "ca_pem holds a private key: write the certificates alone, and replace that key")
	}
	return nil
}

// merge takes the common fields that the request brought.
func (s *settings) merge(d *framework.FieldData) error {
	if v, ok := d.GetOk("ca_pem"); ok {
		s.CAPEM = v.(string)
		if err := checkCAPEM(s.CAPEM); err != nil {
			return err
		}
	}
	if v, ok := d.GetOk("timeout"); ok {
		s.Timeout = time.Duration(v.(int)) * time.Second
	}
	if v, ok := d.GetOk("rate_limit"); ok {
		s.RateLimit = v.(float64)
		if s.RateLimit < 0 || s.RateLimit > 1e6 {
			return fault.New(fault.InvalidRequest, "rate_limit must be between 0 and 1000000 requests per second")
		}
	}
	if v, ok := d.GetOk("allow_http"); ok {
		s.AllowHTTP = v.(bool)
	}
	if v, ok := d.GetOk("max_ttl"); ok {
		s.MaxTTL = time.Duration(v.(int)) * time.Second
		if s.MaxTTL < 0 {
			return fault.New(fault.InvalidRequest, "max_ttl must not be negative")
		}
	}
	if v, ok := d.GetOk("allowed_roles"); ok {
		s.AllowedRoles = v.([]string)
		if _, err := access.ParseGlobs(s.AllowedRoles); err != nil {
			return fault.New(fault.InvalidRequest, "allowed_roles: %s", err)
		}
	}
	if v, ok := d.GetOk("disabled"); ok {
		s.Disabled = v.(bool)
		if !s.Disabled {
			s.Deleting = false
		}
	}
	return nil
}

// mayReplace refuses what would send a stored secret to a new place without
// whoever writes it knowing it, and what would make live grants unkillable.
func (h providerHandler) mayReplace(ctx context.Context, ref string, before, after *providerEntry, written map[string]bool) error {
	moved := !slices.Equal(before.Pinned.Destinations, after.Pinned.Destinations) || before.Settings.CAPEM != after.Settings.CAPEM
	if moved {
		for _, name := range slices.Sorted(maps.Keys(after.Secrets)) {
			if !written[name] {
				return fault.New(fault.InvalidRequest, "this changes where the parent credential is sent: write %s again with it", name)
			}
		}
	}
	if before.Pinned.Account != after.Pinned.Account {
		live, err := h.b.revocableOf(ctx, ref)
		if err != nil {
			return err
		}
		if live > 0 {
			return fault.New(fault.InvalidRequest, "%d live grants could not be killed any more with another issuer, revocation endpoint or account: let them end or revoke their leases first, or write a provider of another name", live)
		}
	}
	return nil
}

func (h providerHandler) read(ctx context.Context, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	entry, err := h.b.providers.read(ctx, h.ref(d))
	if err != nil || entry == nil {
		return nil, err
	}
	data := map[string]any{}
	if err := json.Unmarshal(entry.Fields, &data); err != nil {
		return nil, storageFault(err)
	}
	for _, name := range h.secretNames() {
		if value, ok := entry.Secrets[name]; ok {
			data[name+"_sha256"] = secret.New(value).Fingerprint()
		}
	}
	data["type"] = h.t.Name()
	data["name"] = d.Get("name")
	data["health"] = entry.health()
	if entry.Refused != "" {
		data["health_detail"] = entry.Refused
	}
	entry.Settings.show(data)
	if p, err := h.b.providers.assemble(h.ref(d), entry); err == nil {
		data["revocation_class"] = string(p.traits.Class)
	}
	if pinned := map[string]any{}; json.Unmarshal(entry.Pinned.Data, &pinned) == nil {
		data["endpoints"] = pinned
	}
	return &logical.Response{Data: data}, nil
}

func (s settings) show(data map[string]any) {
	if s.CAPEM != "" {
		data["ca_pem"] = s.CAPEM
	}
	timeout := s.Timeout
	if timeout == 0 {
		timeout = 10 * time.Second
	}
	data["timeout"] = int64(timeout / time.Second)
	data["rate_limit"] = s.RateLimit
	data["allow_http"] = s.AllowHTTP
	data["max_ttl"] = int64(s.MaxTTL / time.Second)
	data["allowed_roles"] = s.allowedRoles()
	data["disabled"] = s.Disabled
}

func (h providerHandler) readResponses() map[int][]framework.Response {
	fields := commonFields()
	secrets := h.secretNames()
	for name, f := range h.t.Fields() {
		if slices.Contains(secrets, name) {
			fields[name+"_sha256"] = &framework.FieldSchema{Type: framework.TypeString, Description: "SHA-256 of the stored " + name + ", in hex."}
			continue
		}
		fields[name] = f
	}
	fields["type"] = &framework.FieldSchema{Type: framework.TypeString, Description: "Type of the provider."}
	fields["health"] = &framework.FieldSchema{Type: framework.TypeString, Description: "ok, refused, disabled or deleting: what the broker last learnt."}
	fields["health_detail"] = &framework.FieldSchema{Type: framework.TypeString, Description: "Why the provider refused the parent credential."}
	fields["revocation_class"] = &framework.FieldSchema{Type: framework.TypeString, Description: "token, lever or expiry: how children can be killed."}
	fields["endpoints"] = &framework.FieldSchema{Type: framework.TypeMap, Description: "The endpoints pinned when the provider was written."}
	return map[int][]framework.Response{http.StatusOK: {{Description: "The provider.", Fields: fields}}}
}

// health is what the broker last learnt, without asking.
func (e *providerEntry) health() string {
	switch {
	case e.Settings.Deleting:
		return "deleting"
	case e.Settings.Disabled:
		return "disabled"
	case e.Refused != "":
		return "refused"
	default:
		return "ok"
	}
}

func (b *broker) listProviders(ctx context.Context, _ *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	refs, err := b.providerRefs(ctx)
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
	names, err := h.b.storage.List(ctx, providerPrefix+h.t.Name()+"/")
	if err != nil {
		return nil, storageFault(err)
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
	entry, err := b.providers.read(ctx, ref)
	if err != nil || entry == nil {
		return err
	}
	typeName, _, _ := strings.Cut(ref, "/")
	about := map[string]any{"type": typeName, "health": entry.health()}
	if entry.Refused != "" {
		about["health_detail"] = entry.Refused
	}
	info[key] = about
	return nil
}

// delete refuses while grants live. With force it kills them first; what cannot
// be killed now is the sweep's, which also deletes the provider in the end.
func (h providerHandler) delete(ctx context.Context, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	ref := h.ref(d)
	entry, err := h.b.providers.read(ctx, ref)
	if err != nil || entry == nil {
		return nil, err
	}
	done, alone := h.b.providers.gate(ref).alone()
	if alone {
		defer done()
	}
	live, _, err := h.b.liveOf(ctx, ref)
	if err != nil {
		return nil, err
	}
	if live == 0 && alone {
		return nil, h.b.providers.delete(ctx, ref)
	}
	if !d.Get("force").(bool) {
		if live == 0 {
			return nil, errMinting
		}
		return nil, fault.New(fault.InvalidRequest, "%d grants of this provider live: revoke their leases and let expire what nothing can revoke, or delete with force=true", live)
	}
	entry.Settings.Disabled, entry.Settings.Deleting = true, true
	if err := h.b.providers.write(ctx, ref, entry); err != nil {
		return nil, err
	}
	run, err := h.b.give(ctx, order{Kind: kindProvider, Name: ref, Until: h.b.now(), Cause: causeProviderGone})
	if err != nil {
		return nil, err
	}
	tally, _ := run.wait(ctx, killMountBudget)
	resp := &logical.Response{Data: tally.data()}
	if tally.Pending > 0 {
		resp.AddWarning(fmt.Sprintf("%d revocations are pending: the provider stays, disabled, until they have succeeded", tally.Pending))
		return resp, nil
	}
	if !alone {
		resp.AddWarning("a token is being minted and dies as soon as it comes: the provider stays, disabled, until the next sweep")
		return resp, nil
	}
	return resp, h.b.providers.delete(ctx, ref)
}

func (h providerHandler) check(ctx context.Context, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	p, err := h.b.providers.open(ctx, h.ref(d))
	if err != nil || p == nil {
		return nil, missing(err, h.ref(d))
	}
	checker, ok := p.Provider.(provider.Checker)
	if !ok {
		return nil, fault.New(fault.InvalidRequest, "providers of type %s cannot be checked", h.t.Name())
	}
	leave, err := h.b.admit(ctx, p)
	if err != nil {
		return nil, err
	}
	defer leave()
	ctx, cancel := toTheEnd(ctx)
	defer cancel()
	health, err := checker.Check(ctx)
	return h.answer(ctx, p, health, err)
}

func (h providerHandler) rotate(ctx context.Context, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	p, err := h.b.providers.open(ctx, h.ref(d))
	if err != nil || p == nil {
		return nil, missing(err, h.ref(d))
	}
	rotator, ok := p.Provider.(provider.Rotator)
	if !ok {
		return nil, fault.New(fault.InvalidRequest, "providers of type %s cannot rotate their parent credential", h.t.Name())
	}
	leave, err := h.b.admit(ctx, p)
	if err != nil {
		return nil, err
	}
	defer leave()
	ctx, cancel := toTheEnd(ctx)
	defer cancel()
	health, err := rotator.Rotate(ctx)
	if err == nil {
		h.b.providers.drop(h.ref(d))
	}
	return h.answer(ctx, p, health, err)
}

// toTheEnd is for what mints: it goes on when the caller hangs up, because the
// answer may hold a token that somebody has to kill.
func toTheEnd(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), mintBudget)
}

// answer reports a check or a rotation, after killing what it had to mint, for
// which there is time of its own.
func (h providerHandler) answer(ctx context.Context, p *openProvider, health provider.Health, failed error) (*logical.Response, error) {
	ctx = context.WithoutCancel(ctx)
	for _, child := range health.Children {
		if err := h.b.discard(ctx, p, h.b.checkGrant(p, child), causeParentCheck); err != nil {
			h.b.Logger().Warn("a token minted by a check is not dead yet", "provider", p.ref, "error", err)
		}
	}
	if failed != nil {
		return nil, failed
	}
	data := map[string]any{"healthy": true, "detail": health.Detail}
	if len(health.Grants) > 0 {
		data["grants"] = health.Grants
	}
	return &logical.Response{Data: data}, nil
}

func missing(err error, ref string) error {
	if err != nil {
		return err
	}
	return fault.New(fault.InvalidRequest, "there is no provider %q", ref)
}

func healthResponses() map[int][]framework.Response {
	return map[int][]framework.Response{http.StatusOK: {{Description: "The credential works.", Fields: map[string]*framework.FieldSchema{
		"healthy": {Type: framework.TypeBool, Description: "Always true: a credential that does not work is an error."},
		"detail":  {Type: framework.TypeString, Description: "What was proven, or changed."},
		"grants":  {Type: framework.TypeStringSlice, Description: "What the parent can grant, where the provider says so."},
	}}}}
}

// listResponses is the response schema of a list whose key_info has these members.
func listResponses(info ...string) map[int][]framework.Response {
	return map[int][]framework.Response{http.StatusOK: {{Description: "The names.", Fields: map[string]*framework.FieldSchema{
		"keys":     {Type: framework.TypeStringSlice, Description: "The names."},
		"key_info": {Type: framework.TypeMap, Description: "By name: " + strings.Join(info, ", ") + "."},
	}}}}
}
