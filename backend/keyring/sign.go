package keyring

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/jwks"
)

// Sign signs the claims with the purpose's active key, as a JWS in compact form (RFC
// 7515 7.1). They must hold an exp (RFC 7519 4.1.4), no later than the longest life
// from now: the key is published no longer than that. It fails with ErrNoKey or
// ErrClaims. claims are read only.
func (r *Ring) Sign(p Purpose, now time.Time, claims map[string]any) (string, error) {
	k := r.active(p, now)
	if k == nil {
		return "", ErrNoKey
	}
	exp, ok := form.NumericDate(claims["exp"])
	if !ok {
		return "", fmt.Errorf("%w: exp must be a number of seconds", ErrClaims)
	}
	if exp.Sub(now) > k.longestLife {
		return "", fmt.Errorf("%w: exp is later than %s from now", ErrClaims, k.longestLife)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrClaims, err)
	}
	return k.sign(payload)
}

func (k *key) sign(payload []byte) (string, error) {
	enc := base64.RawURLEncoding
	const longestSignature = rsaBits / 8
	size := len(k.header) + enc.EncodedLen(len(payload)) + 1 + enc.EncodedLen(longestSignature)
	if size > jwks.MaxToken {
		return "", fmt.Errorf("%w: the token would be longer than %d bytes", ErrClaims, jwks.MaxToken)
	}
	token := append(make([]byte, 0, size), k.header...)
	token = enc.AppendEncode(token, payload)
	signature, err := k.signer.Sign(token, k.private)
	if err != nil {
		return "", fmt.Errorf("signing: %w", err)
	}
	return string(enc.AppendEncode(append(token, '.'), signature)), nil
}

// Names reports whether a token's header names a key of the ring, of whatever purpose,
// as everything does that the ring signs, or one that was withdrawn in an emergency, by
// which a thief signs. It verifies nothing.
func (r *Ring) Names(compact string) bool {
	id := KeyID(compact)
	for p := range r.keys {
		if r.Has(p, id) {
			return true
		}
	}
	return slices.Contains(r.withdrawn, id)
}

// KeyID is the kid in a token's header, "" if there is none. It verifies nothing.
func KeyID(compact string) string {
	header, err := jwks.ReadHeader(compact)
	if err != nil {
		return ""
	}
	return header.KeyID
}

// Verify returns the payload of a token that the ring signed for the purpose, with a
// key that is still published. Its claims, their times included, are for the caller
// to judge. It fails with ErrInvalid, at a cost that is bounded whatever comes.
func (r *Ring) Verify(p Purpose, compact string, now time.Time) ([]byte, error) {
	set := r.verifiers[p]
	if set == nil {
		return nil, ErrInvalid
	}
	payload, header, err := set.Verify(context.Background(), compact, algorithms)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if header.Type != p.Type() {
		return nil, fmt.Errorf("%w: its typ is not %s", ErrInvalid, p.Type())
	}
	if !slices.ContainsFunc(r.published(now), func(k *key) bool { return k.id == header.KeyID }) {
		return nil, fmt.Errorf("%w: its key is retired", ErrInvalid)
	}
	return payload, nil
}
