package decision

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
)

// Caller is the Vault identity that asks, as Vault knew it when it was asked.
type Caller struct {
	// EntityID is empty for a token without an entity, such as root's.
	EntityID string
	// Name, Metadata, Aliases and Disabled are there for certain only if
	// Policy.NeedsEntity, or if the request is not the entity's own: Vault lets none of a
	// disabled entity pass.
	Name     string
	Metadata map[string]string
	Aliases  []Alias
	Disabled bool
	// Groups are the names of all groups, inherited ones included. They are there for
	// certain only if Policy.NeedsGroups.
	Groups []string
	// RemoteAddr is the connection's address; invalid if unknown.
	RemoteAddr netip.Addr
}

// Alias is one of an entity's names at an auth mount.
type Alias struct {
	Name, MountAccessor, MountType string
	Metadata                       map[string]string
}

// Who is a role's terms on the caller. Terms that are not set do not bind; of
// those that are, all must hold. The zero value admits every caller.
type Who struct {
	// Entity admits no caller without an entity.
	Entity bool
	// PerEntity names the settings that count for each entity, such as a quota. A caller
	// without an entity would escape them, so it gets nothing, and what it holds is not
	// renewed. The sweep leaves alone what it was given before: these settings say how much
	// somebody may have, and not who.
	PerEntity []string
	EntityIDs map[string]bool
	Groups    map[string]bool
	Metadata  map[string]string
	CIDRs     []netip.Prefix
}

// remote is the address as a condition sees it, in the one form that bound_cidrs
// compare too; "" if it is unknown.
func (c Caller) remote() string {
	if !c.RemoteAddr.IsValid() {
		return ""
	}
	return plain(c.RemoteAddr).String()
}

// plain is an address without its zone, and an IPv4 address that is mapped into
// IPv6 as the IPv4 address that it is.
func plain(addr netip.Addr) netip.Addr { return addr.Unmap().WithZone("") }

// NeedsEntity reports whether a decision looks at more of the caller's entity than
// its id.
func (p *Policy) NeedsEntity() bool {
	return len(p.Who.Groups) > 0 || len(p.Who.Metadata) > 0 || (p.Condition != nil && p.Condition.Uses("identity"))
}

// NeedsGroups reports whether a decision looks at the caller's groups.
func (p *Policy) NeedsGroups() bool {
	return len(p.Who.Groups) > 0 || (p.Condition != nil && p.Condition.UsesGroups())
}

// asksWho reports whether a caller without an entity cannot be judged. That is so for a
// condition on the identity too: over an empty identity a term such as identity.name != "x"
// would be true.
func (p *Policy) asksWho() bool {
	return p.Who.Entity || len(p.Who.EntityIDs) > 0 || p.NeedsEntity()
}

// checkNobody refuses a caller without an entity where the role counts by entity, unless
// CheckHolder refuses such a caller anyway.
func (p *Policy) checkNobody(c Caller) []*fault.Error {
	if c.EntityID != "" || len(p.Who.PerEntity) == 0 || p.asksWho() {
		return nil
	}
	return []*fault.Error{fault.New(fault.AccessDenied, "the role treats each entity for itself (%s), and this token has no entity: %s", strings.Join(p.Who.PerEntity, ", "), logIn)}
}

// logIn is what somebody without an entity has to do.
const logIn = "log in with an auth method that gives one; an orphan token has none either"

// checkCaller returns every reason against the caller but the condition's.
func (p *Policy) checkCaller(c Caller) []*fault.Error {
	reasons := append(p.CheckHolder(c), p.checkNobody(c)...)
	if len(p.Who.CIDRs) > 0 && !contains(p.Who.CIDRs, c.RemoteAddr) {
		reasons = append(reasons, fault.New(fault.AccessDenied, "the connection's address is not within the role's bound_cidrs: it is %s (that of a proxy, if Vault's listener is not told to believe its X-Forwarded-For)", cmp.Or(c.remote(), "unknown")))
	}
	return reasons
}

// CheckHolder returns every reason against the caller that does not belong to
// one connection: what a renewal and the sweep can judge again.
func (p *Policy) CheckHolder(c Caller) []*fault.Error {
	if c.Disabled {
		return []*fault.Error{fault.New(fault.AccessDenied, "the entity is disabled: an operator has to enable it again")}
	}
	if c.EntityID == "" && p.asksWho() {
		return []*fault.Error{fault.New(fault.AccessDenied, "the role asks who is calling, and this token has no entity: %s", logIn)}
	}
	w := &p.Who
	var reasons []*fault.Error
	if len(w.EntityIDs) > 0 && !w.EntityIDs[c.EntityID] {
		reasons = append(reasons, fault.New(fault.AccessDenied, "the entity is not among the role's bound_entity_ids: log in as one that is, or have the role's author add it"))
	}
	if len(w.Groups) > 0 && !anyIn(w.Groups, c.Groups) {
		reasons = append(reasons, fault.New(fault.AccessDenied, "the entity is in none of the role's bound_group_names: have it made a member of one"))
	}
	var unmet []string
	for key, want := range w.Metadata {
		if got, ok := c.Metadata[key]; !ok || got != want {
			unmet = append(unmet, key)
		}
	}
	if len(unmet) > 0 {
		slices.Sort(unmet)
		reasons = append(reasons, fault.New(fault.AccessDenied, "the entity's metadata does not meet the role's bound_entity_metadata: %s (an operator sets it with vault write identity/entity/id/<id> metadata=)", strings.Join(unmet, ", ")))
	}
	return reasons
}

func anyIn(set map[string]bool, values []string) bool {
	for _, v := range values {
		if set[v] {
			return true
		}
	}
	return false
}

func contains(prefixes []netip.Prefix, addr netip.Addr) bool {
	addr = plain(addr)
	for _, p := range prefixes {
		if addr.IsValid() && p.Contains(addr) {
			return true
		}
	}
	return false
}
