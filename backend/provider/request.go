package provider

import (
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// Request is what to mint: already decided, exact values, but for the patterns that
// Traits.Expands allows.
type Request struct {
	Access access.Access
	// TTL is the life that is wanted, within Traits.Life, for providers that can be asked.
	TTL time.Duration
	// Parameters are the role's, with known keys only.
	Parameters map[string]string
	// GrantID names the child at providers whose children have names.
	GrantID string
	// Identity is the holder.
	Identity Identity
	// Subject is on whose behalf, nil for a mint. Actor is who acts for it, nil if
	// nobody is named.
	Subject, Actor *Party
	// Proofs are the proofs of possession that came, of the kinds in Traits.Proofs.
	Proofs map[ProofKind]secret.Text
}

// Identity is the Vault entity that gets the child; zero for a caller without one.
type Identity struct {
	EntityID string
	// Name, Metadata and Aliases are here for certain only if Traits.NeedsEntity.
	Name     string
	Metadata map[string]string
	Aliases  []Alias
	// Groups are names, inherited groups included; only if Traits.NeedsGroups.
	Groups []string
}

// Alias is one of an entity's names at an auth mount.
type Alias struct {
	Name, MountAccessor string
	Metadata            map[string]string
}

// Party is who stands behind a verified token, or the Vault entity itself.
type Party struct {
	// Issuer and ID are the token's iss and sub. For the entity, Issuer is the
	// broker's own, and "" where none is configured.
	Issuer, ID string
	// Token is what the caller brought. It is empty for the entity: whoever needs a
	// token of it has the broker sign one.
	Token secret.Text
	// Claims are the token's, numbers as json.Number; nil for the entity.
	Claims    map[string]any
	ExpiresAt time.Time
}
