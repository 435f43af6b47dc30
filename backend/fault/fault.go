// Package fault is the broker's error vocabulary: the codes of RFC 6749, 8693
// and 9470 that callers see, with a text that says what to do next. The cause
// is for the server's log only and never reaches the caller.
package fault

import (
	"context"
	"errors"
	"fmt"
	"net/http"
)

// Code names what went wrong; the caller finds it at the start of the message.
type Code string

// The codes, with the RFC that coined them where one did.
const (
	InvalidRequest         Code = "invalid_request"                  // RFC 6749 5.2
	InvalidScope           Code = "invalid_scope"                    // RFC 6749 5.2
	InvalidTarget          Code = "invalid_target"                   // RFC 8707 2
	InvalidGrant           Code = "invalid_grant"                    // RFC 6749 5.2
	UnsupportedTokenType   Code = "unsupported_token_type"           // RFC 7009 2.2.1
	AccessDenied           Code = "access_denied"                    // RFC 6749 4.1.2.1
	StepUp                 Code = "insufficient_user_authentication" // RFC 9470 3
	SlowDown               Code = "slow_down"                        // RFC 8628 3.5
	ParentRefused          Code = "parent_refused"                   // the broker's own
	ProviderViolation      Code = "provider_violation"               // the broker's own
	TemporarilyUnavailable Code = "temporarily_unavailable"          // RFC 6749 4.1.2.1
)

// Status is the HTTP status for c. A provider_violation is 501 because Vault's
// client retries every other 5xx, which would mint again; so is a parent_refused, which
// no retry helps.
func (c Code) Status() int {
	switch c {
	case InvalidRequest, InvalidScope, InvalidTarget, InvalidGrant, UnsupportedTokenType:
		return http.StatusBadRequest
	case AccessDenied, StepUp:
		return http.StatusForbidden
	case SlowDown:
		return http.StatusTooManyRequests
	case ProviderViolation, ParentRefused:
		return http.StatusNotImplemented
	default:
		return http.StatusServiceUnavailable
	}
}

// Error is a refusal or a failure as the caller may see it. Message must hold
// no secret and nothing about other identities; Cause may be anything.
type Error struct {
	Code    Code
	Message string
	Cause   error
}

// New makes an Error whose message is formatted as by fmt.Sprintf.
func New(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// Because attaches the cause, which goes to the log and not to the caller.
func (e *Error) Because(cause error) *Error {
	e.Cause = cause
	return e
}

// Error is what the caller sees: code, colon, message.
func (e *Error) Error() string { return string(e.Code) + ": " + e.Message }

// Unwrap gives the cause to errors.Is and errors.As.
func (e *Error) Unwrap() error { return e.Cause }

// Public is what may stand in errors and records of any error: an *Error's own words, or
// nothing of one that nobody vetted.
func Public(err error) string {
	var f *Error
	switch {
	case errors.As(err, &f):
		return f.Message
	case errors.Is(err, context.DeadlineExceeded):
		return "timed out"
	default:
		return "failed"
	}
}

// CodeOf is the code of the first *Error in err's chain, or
// temporarily_unavailable: an error nobody classified is ours, not the caller's.
func CodeOf(err error) Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return TemporarilyUnavailable
}
