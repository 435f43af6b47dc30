package provider

import (
	"context"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/keyring"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// Purpose is what a token that the broker signs is for. Keys and typ differ by
// purpose, so that none can pass for another (rule 10 of the contract).
type Purpose = keyring.Purpose

// The purposes.
const (
	// PurposeChild: an access token (RFC 9068).
	PurposeChild = keyring.Child
	// PurposeActor: an actor token that vouches for a Vault entity (RFC 8693 1.1).
	PurposeActor = keyring.Actor
	// PurposeAssertion: a client's authentication (RFC 7523 2.2).
	PurposeAssertion = keyring.Assertion
)

// Signer signs as the issuer that the config path names. It is safe for
// concurrent use; its errors are *fault.Error, temporarily_unavailable where no
// issuer is configured.
type Signer interface {
	// Issuer is the broker's own issuer URL, and the longest life of a token
	// that it signs.
	Issuer(ctx context.Context) (url string, longest time.Duration, err error)
	// Sign makes a compact JWS of the claims. It sets iss and typ itself; exp must
	// be among the claims. A child whose aud is Reserved is refused with
	// invalid_target.
	Sign(ctx context.Context, purpose Purpose, claims map[string]any) (secret.Text, error)
}
