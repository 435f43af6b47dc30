package provider

import (
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// Request is what to mint: already decided, exact values, no globs.
type Request struct {
	Access access.Access
	// TTL is the life that is wanted, for providers that can be asked.
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

// Child is one token that a provider answered with.
type Child struct {
	Token secret.Text
	// TokenType as in RFC 6749 7.1, such as "Bearer".
	TokenType string
	// ExpiresAt is zero if the provider gave it no end, or none that is known.
	ExpiresAt time.Time
	// SelfContained tokens are accepted offline until they expire, revoked or not.
	SelfContained bool
	// Granted is what the provider really granted in the dimensions of
	// Confirmed; in the others it is what was asked for.
	Granted   access.Access
	Confirmed access.Dimensions
	// Unverified names what beside the dimensions rests on the asking alone, such as
	// UnverifiedBinding.
	Unverified []string
	// Handle is what Revoke needs to kill the child without anything that may
	// change (endpoint and token, say), versioned, never the parent. It is empty
	// if the child cannot be killed.
	Handle secret.Text
	// Lever is true if more than the child may die with it, such as the login that it
	// came from.
	Lever bool
	// Issuer is the broker's own, if it has signed the child itself; "" for another's.
	Issuer string
	// ActorConfirmed is true if the token was seen to name the request's Actor. Else
	// that rests on the asking: a server may answer with a token of the subject alone.
	ActorConfirmed bool
	// IssuedTokenType as in RFC 8693 2.2.1, if it was an exchange.
	IssuedTokenType string
	// Extra is what the type adds to the creds response; never null, no secrets.
	Extra map[string]any
}
