// Package secret holds the one type in which the broker carries anything that
// must never be printed: parent credentials, subject tokens and child tokens.
package secret

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
)

const redacted = "[redacted]"

// Text is a secret string. Every way of printing or marshalling it yields
// "[redacted]"; Reveal is the only way to its value, so a search for Reveal
// finds every place where a secret leaves the type. The zero value is empty.
type Text struct{ value string }

// New wraps value.
func New(value string) Text { return Text{value} }

// Reveal returns the secret itself.
func (t Text) Reveal() string { return t.value }

// Empty reports whether there is no secret.
func (t Text) Empty() bool { return t.value == "" }

// Equal compares in constant time for values of equal length.
func (t Text) Equal(u Text) bool {
	return subtle.ConstantTimeCompare([]byte(t.value), []byte(u.value)) == 1
}

// Fingerprint is the SHA-256 of the secret in lower-case hex, or "" for an
// empty one: enough to tell which secret is stored, useless to reconstruct one
// of sufficient entropy.
func (t Text) Fingerprint() string {
	if t.Empty() {
		return ""
	}
	sum := sha256.Sum256([]byte(t.value))
	return hex.EncodeToString(sum[:])
}

// Format implements fmt.Formatter for every verb, %#v and %q included.
func (t Text) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// String implements fmt.Stringer.
func (t Text) String() string { return redacted }

// MarshalText keeps encoders (JSON, YAML, structured loggers) from the value.
func (t Text) MarshalText() ([]byte, error) { return []byte(redacted), nil }
