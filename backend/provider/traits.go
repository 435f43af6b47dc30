package provider

import (
	"time"

	"github.com/hashicorp/vault/sdk/framework"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
)

// Class says how a child token can be killed before it expires.
type Class string

// The revocation classes.
const (
	// ClassToken: this one token, and nothing else dies with it.
	ClassToken Class = "token"
	// ClassLever: only something larger than the token.
	ClassLever Class = "lever"
	// ClassExpiry: nothing can; it dies at its expiry.
	ClassExpiry Class = "expiry"
)

// Mode is how a child comes about.
type Mode string

// The modes of a role.
const (
	// ModeMint: from the parent credential alone.
	ModeMint Mode = "mint"
	// ModeExchange: for a subject token of the caller's (RFC 8693).
	ModeExchange Mode = "exchange"
	// ModeForward: the caller's own token is handed on, if it is narrow enough.
	ModeForward Mode = "forward"
)

// Traits are the facts about an opened provider against which roles are judged
// when they are written. They need no network.
type Traits struct {
	Class Class
	// Life is how long children can be asked to live; the zero Life is any time.
	Life Life
	// Answer are the fields of this provider's children, where its configuration decides
	// that; nil for those of its type.
	Answer map[string]*framework.FieldSchema
	// Parameters are the keys that a role's parameters may hold, with a description each,
	// where the provider's configuration decides that; nil for those of its type.
	Parameters map[string]string
	// Modes are how children can come about; nil is ModeMint alone.
	Modes []Mode
	// SweepPulls is true if a lever is pulled also where one of its holders has merely
	// become unfit for the role, or a lease was lost, although others hold it. Else
	// their tokens live on, and that one's with them.
	SweepPulls bool
	// Askable are the dimensions that can be asked for, Checkable those of which
	// the provider's answer is the proof. A role with a ceiling in a dimension
	// that is neither is refused with the Hint of that dimension.
	Askable, Checkable access.Dimensions
	Hints              map[access.Dimension]string
	// Expands are dimensions in which a Request may have a role's patterns, where its
	// caller is silent: Mint then asks for what the system has that matches, and never
	// for nothing.
	Expands access.Dimensions
	// Ceiling is what the parent can grant at most, Unbounded where unknown.
	Ceiling access.Access
	// Indirect are scopes that name no result: the server gives for one whatever was
	// consented to there, and says what that is.
	Indirect access.Set
	// Levels orders the levels of the permissions dimension, lowest first.
	Levels access.Levels
	// Endless is true if a child may turn out to have no end that the broker can
	// learn; with ClassExpiry such a provider can serve no role.
	Endless bool
	// Required are dimensions in which every role of this provider must have a
	// ceiling.
	Required access.Dimensions
	// Signed is true if the broker itself signs the children. Then none is for an
	// audience that is Reserved, by any provider.
	Signed bool
	// Actors is true if an exchange can name an actor; ActsByDefault if it names
	// the Vault entity where the role does not say who acts.
	Actors, ActsByDefault bool
	// SignsNames is true if what an exchange gives is signed by the broker itself and
	// names the subject and the actor, for which the broker then vouches.
	SignsNames bool
	// Issuer is the iss of the provider's own tokens, "" if that is not known.
	Issuer string
	// NeedsEntity is true if Request.Identity must hold more than the entity's id,
	// NeedsGroups if that is the groups too.
	NeedsEntity, NeedsGroups bool
	// RotatesAlone is true if the Provider is a Rotator that needs nobody's hand: it gets
	// the next credential from the system, or the system takes it without being told.
	RotatesAlone bool
	// Proofs are the kinds of proof of possession that a request may bring.
	Proofs []ProofKind
}

// Life bounds the lives that a provider's children can be asked to have. Zero does not
// bind.
type Life struct {
	Least, Most time.Duration
	// Beyond is how much longer than was asked for a child may live at most, such as to the
	// end of a day; zero where the system does not keep to what it is asked for.
	Beyond time.Duration
}

// Within is the life to ask for where one is wanted. It is longer where the system gives
// none so short: the child is then killed when its lease ends.
func (l Life) Within(wanted time.Duration) time.Duration {
	if l.Most > 0 {
		wanted = min(wanted, l.Most)
	}
	return max(wanted, l.Least)
}

// Longest is how long a child lives at most of which that life was asked for; zero if that
// is not known.
func (l Life) Longest(asked time.Duration) time.Duration {
	if l.Beyond > 0 {
		return asked + l.Beyond
	}
	return l.Most
}

// ProofKind is how a caller says which key a child shall be bound to.
type ProofKind string

// The kinds of proof.
const (
	// ProofDPoP is a DPoP proof for the token endpoint (RFC 9449 5).
	ProofDPoP ProofKind = "dpop_proof"
	// ProofThumbprint is the thumbprint of the caller's key (RFC 7638).
	ProofThumbprint ProofKind = "dpop_jkt"
)
