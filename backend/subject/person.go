package subject

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/person"
)

// Bounds on how an issuer's subjects relate to entities.
const (
	maxMounts = 16
	maxKeys   = 16
)

// DefaultAliasClaim is the claim that is an alias's name where entity_alias_claim names
// none.
const DefaultAliasClaim = "sub"

// checkRelation judges how the issuer's subjects relate to entities.
func (c IssuerConfig) checkRelation() error {
	if len(c.EntityAliasMount) > maxMounts || len(c.EntityMetadata) > maxKeys {
		return invalid("entity_alias_mount takes at most %d mounts, and entity_metadata %d keys", maxMounts, maxKeys)
	}
	for _, mount := range c.EntityAliasMount {
		if err := CheckMount("entity_alias_mount", mount); err != nil {
			return err
		}
	}
	if c.EntityAliasClaim != "" && len(c.EntityAliasMount) == 0 {
		return invalid("entity_alias_claim says nothing without entity_alias_mount: name the auth mount at which the claim is an alias's name")
	}
	claims := map[string]string{"entity_claim": c.EntityClaim, "entity_alias_claim": c.EntityAliasClaim}
	for _, key := range sortedKeys(c.EntityMetadata) {
		if !isIdentifier(key) || len(key) > maxClaimName {
			return invalid("entity_metadata: a key of metadata must be printable and of at most %d bytes", maxClaimName)
		}
		if c.EntityMetadata[key] == "" {
			return invalid("entity_metadata: %s names no claim: write it as <key of the entity's metadata>=<claim of the token>", shown(key))
		}
		claims["entity_metadata: "+shown(key)] = c.EntityMetadata[key]
	}
	for _, field := range sortedKeys(claims) {
		claim := claims[field]
		if claim == "" {
			continue
		}
		if !isIdentifier(claim) || len(claim) > maxClaimName {
			return invalid("%s: a claim's name must be printable and of at most %d bytes", field, maxClaimName)
		}
		if _, err := parsePointer(claim); err != nil {
			return invalid("%s: %s", field, err)
		}
	}
	return nil
}

// CheckMount refuses what is surely no accessor of an auth mount: Vault tells a plugin of
// an alias nothing else about its mount, and a path would never match.
func CheckMount(field, accessor string) error {
	if strings.HasPrefix(accessor, "auth_") && isIdentifier(accessor) && len(accessor) <= maxClaimName && !strings.ContainsAny(accessor, "/ ") {
		return nil
	}
	return invalid("%s wants the auth mount's accessor, such as auth_oidc_1a2b3c4d, and not its path: vault read -field=accessor sys/auth/<path> tells it", field)
}

// Relates is what the issuer's configuration says of entities, beside its subjects: at
// which mounts a name, and of which keys of metadata a value, is one person's.
func (c IssuerConfig) Relates() (m person.Mapping) {
	if len(c.EntityAliasMount) > 0 {
		m.Mounts = [][]string{c.EntityAliasMount}
	}
	m.Keys = sortedKeys(c.EntityMetadata)
	return m
}

// Ties are what ties a subject with these claims to entities, by the operator's word and
// that of the issuer. A claim that is missing, empty or no text or whole number ties
// nobody, nor does one named email unless email_verified beside it is true.
func (c IssuerConfig) Ties(claims map[string]any) []person.Tie {
	var ties []person.Tie
	if id := namedBy(c.EntityClaim, claims); person.LooksLikeEntityID(id) {
		ties = append(ties, person.Entity(id))
	}
	if len(c.EntityAliasMount) > 0 {
		claim := c.EntityAliasClaim
		if claim == "" {
			claim = DefaultAliasClaim
		}
		ties = append(ties, person.AtEach(c.EntityAliasMount, namedBy(claim, claims))...)
	}
	for key, claim := range c.EntityMetadata {
		ties = append(ties, person.Tie{Kind: person.KindMetadata, At: key, Value: namedBy(claim, claims)})
	}
	return person.Clean(ties)
}

// namedBy is the text that a claim has, "" if it has none by which one could be told.
func namedBy(claim string, claims map[string]any) string {
	if claim == "" {
		return ""
	}
	at, err := parsePointer(claim)
	if err != nil {
		return "" // Validate saw it
	}
	value, found := at.Find(claims)
	if !found {
		return ""
	}
	if at[len(at)-1] == "email" {
		// Whoever registers somebody else's address has it unverified.
		beside := slices.Concat(at[:len(at)-1], form.Pointer{"email_verified"})
		if verified, _ := beside.Find(claims); verified != true {
			return ""
		}
	}
	switch v := value.(type) {
	case string:
		return v
	case json.Number:
		// One that is not whole has a point or an exponent.
		if text, ok := form.CanonicalNumber(v.String()); ok && !strings.ContainsAny(text, ".eE") {
			return text
		}
	}
	return ""
}
