package backend

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
)

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
	change := provider.Change{
		Config: provider.Config{Name: d.Get("name").(string), Fields: after.Fields, Pinned: after.Pinned},
		Parent: after.parent(), Written: written, AllowHTTP: after.Settings.AllowHTTP, Client: client,
	}
	if err := h.generate(&change, after); err != nil {
		return nil, err
	}
	pinned, err := h.t.Configure(ctx, change)
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
	h.b.roles.clear()              // they were compiled against the provider's traits
	h.b.providers.gate(ref).mend() // it may be another server now, or the right ca_pem
	return h.warn(ctx, ref, before, after), nil
}

// warn names the roles that can have no more tokens for what this write reserves.
func (h providerHandler) warn(ctx context.Context, ref string, before, after *providerEntry) *logical.Response {
	was, is := reservedBy(h.b.types, ref, before), reservedBy(h.b.types, ref, after)
	if slices.Equal(was.Endpoints, is.Endpoints) && slices.Equal(was.Names, is.Names) {
		return nil
	}
	added := &reserved{}
	added.add(is)
	return h.b.warnOfReserved(ctx, nil, "providers/"+ref, added)
}

// generate adds the secrets that the broker makes itself, such as a key pair. One
// that is new was sent nowhere before, as if this request had brought it.
func (h providerHandler) generate(change *provider.Change, after *providerEntry) error {
	generator, ok := h.t.(provider.Generator)
	if !ok {
		return nil
	}
	made, err := generator.Generate(*change)
	if err != nil {
		return err
	}
	if len(made) > 0 {
		after.Serial++
		after.Refused = ""
	}
	for name, value := range made {
		after.Secrets[name] = value.Reveal()
		after.brought = append(after.brought, name)
		change.Written[name] = true
	}
	change.Parent = after.parent()
	return nil
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
		_, live, err := h.b.killer.liveOf(ctx, ref)
		if err != nil {
			return err
		}
		if live > 0 {
			return fault.New(fault.InvalidRequest, "%d live grants could not be killed any more with another issuer, revocation endpoint or account: let them end or revoke their leases first, or write a provider of another name", live)
		}
	}
	return nil
}
