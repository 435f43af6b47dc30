package provider

import (
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// Child is what a provider answered with: one token, or one credential of several parts.
type Child struct {
	// Secrets are its secret parts by their fields in a creds response: all those that
	// the Answer declares, none of them empty.
	Secrets map[string]secret.Text
	// TokenType as in RFC 6749 7.1, such as "Bearer"; "" where the word means nothing.
	TokenType string
	// Extra is what else the caller needs, by the field that the Answer declares for it;
	// never null, no secrets.
	Extra map[string]any
	// ExpiresAt is zero if the provider gave it no end, or none that is known.
	ExpiresAt time.Time
	// SelfContained tokens are accepted offline until they expire, revoked or not.
	SelfContained bool
	// Granted is what the provider really granted in the dimensions of
	// Confirmed; in the others it is what was asked for.
	Granted   access.Access
	Confirmed access.Dimensions
	// Unverified names what, beside dimensions, was asked for and not seen to be so, such
	// as UnverifiedBinding.
	Unverified []string
	// Class is how this child can be killed, which may be less than its provider's
	// others can.
	Class Class
	// Lever names, within the provider, what dies together where the class is
	// ClassLever: a login, say, or a session policy. It is no secret: it is recorded and
	// shown. "" is a lever of the child's own, with which nothing else dies that this
	// provider has answered with.
	Lever string
	// Handle is what Revoke needs to kill the child without anything that may
	// change (endpoint and token, say), versioned, never the parent. It is empty
	// if, and only if, the class is ClassExpiry.
	Handle secret.Text
	// Issuer is the broker's own, if it has signed the child itself; "" for another's.
	Issuer string
	// ActorConfirmed is true if the token was seen to name the request's Actor. Else it was
	// only asked for: a server may answer with a token of the subject alone.
	ActorConfirmed bool
	// IssuedTokenType as in RFC 8693 2.2.1, if it was an exchange.
	IssuedTokenType string
}

// FieldToken is the field of a child that is one token.
const FieldToken = "access_token"

// OneToken are the Secrets of a child that is one token.
func OneToken(token secret.Text) map[string]secret.Text {
	return map[string]secret.Text{FieldToken: token}
}

// Token is the child's token; empty for a child of other parts.
func (c *Child) Token() secret.Text { return c.Secrets[FieldToken] }

// Revocation is the child's class as its handle has it: expiry without one, else token
// unless Class says lever. A child beside an error may not have a Class of its own.
func (c *Child) Revocation() Class {
	switch {
	case c.Handle.Empty():
		return ClassExpiry
	case c.Class == ClassLever:
		return ClassLever
	default:
		return ClassToken
	}
}
