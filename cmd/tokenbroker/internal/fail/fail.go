// Package fail has the one form of error that tokenbroker ends with: what kind it is,
// which decides the exit code, and a text that says what to do. Texts hold no secret.
package fail

import (
	"errors"
	"fmt"
)

// Kind says who can do something about an error. Its value is the exit code, as in
// sysexits.h, so that it is not taken for that of a command that exec has run.
type Kind int

const (
	// Usage is that the command line is wrong.
	Usage Kind = 64
	// Unservable is that the role's answer has not what the format needs.
	Unservable Kind = 65
	// Internal is a fault of tokenbroker's own.
	Internal Kind = 70
	// Output is that what was to be written could not be.
	Output Kind = 74
	// Unavailable is that Vault, the engine or the provider does not answer now. Try again.
	Unavailable Kind = 75
	// Refused is that Vault's policies or the engine say no.
	Refused Kind = 77
	// Config is that address, certificate, login, mount or role are not right.
	Config Kind = 78
)

// Error is a kind and a text.
type Error struct {
	Kind Kind
	Text string
}

func (e *Error) Error() string { return e.Text }

// New makes one.
func New(kind Kind, format string, args ...any) *Error {
	return &Error{Kind: kind, Text: fmt.Sprintf(format, args...)}
}

// KindOf is the kind of any error.
func KindOf(err error) Kind {
	var f *Error
	if errors.As(err, &f) {
		return f.Kind
	}
	return Internal
}
