package subject

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
)

// Bounds on what a role may require of a login.
const (
	maxRequired   = 32
	maxRequired1  = 256 // bytes of one value
	maxMaxAuthAge = 365 * 24 * time.Hour
)

// StepUp is what a role requires of the login behind a subject token. The zero
// value requires nothing.
type StepUp struct {
	// RequiredACR: the token's acr must be one of them. They are told to the
	// client in this order, which is one of preference (RFC 9470 3).
	RequiredACR []string
	// RequiredAMR: the token's amr must hold all of them (RFC 8176).
	RequiredAMR []string
	// MaxAuthAge: the login must not be longer ago. Zero requires nothing.
	MaxAuthAge time.Duration
}

// Validate says what is wrong with the requirements, as an *fault.Error with
// invalid_request, or nil.
func (s StepUp) Validate() error {
	if err := checkRequired("required_acr", s.RequiredACR); err != nil {
		return err
	}
	if err := checkRequired("required_amr", s.RequiredAMR); err != nil {
		return err
	}
	switch {
	case s.MaxAuthAge < 0 || s.MaxAuthAge > maxMaxAuthAge:
		return invalid("max_auth_age must be from 0 to %s", maxMaxAuthAge)
	case s.MaxAuthAge%time.Second != 0: // max_age is in seconds
		return invalid("max_auth_age must be whole seconds")
	}
	return nil
}

// checkRequired keeps the values to what acr_values can carry: a list separated
// by spaces, inside quotes (RFC 9470 3, RFC 9110 11.2).
func checkRequired(field string, values []string) error {
	if len(values) > maxRequired {
		return invalid("%s holds more than %d values", field, maxRequired)
	}
	for _, v := range values {
		if !isIdentifier(v) || len(v) > maxRequired1 || strings.ContainsAny(v, " \"\\") {
			return invalid("%s: a value must be printable, at most %d bytes, without spaces, quotes and backslashes",
				field, maxRequired1)
		}
	}
	return nil
}

// Check returns nil if the login behind tok is good enough at now. If not, it is
// insufficient_user_authentication, naming everything that the next login must
// have and not only what this one lacks, so that one more login is enough; the
// part that a client's authorization request takes over stands there as RFC 9470
// 3 writes it: acr_values="..." max_age=.... A token without auth_time says
// nothing about the age of its login, so it is not young enough. The clock skew
// never lengthens the age; a login further in the future than the skew explains
// is invalid_grant.
func (s StepUp) Check(tok *Token, now time.Time) *fault.Error {
	if now.Before(tok.AuthTime.Add(-tok.clockSkew)) {
		return refuse("the token's login lies %s in the future (auth_time): check the clocks", ago(tok.AuthTime.Sub(now)))
	}
	var lacks []string
	if len(s.RequiredACR) > 0 && !slices.Contains(s.RequiredACR, tok.ACR) {
		lacks = append(lacks, tok.acrFault())
	}
	for _, m := range s.RequiredAMR {
		if !slices.Contains(tok.AMR, m) {
			lacks = append(lacks, tok.amrFault(m))
		}
	}
	switch {
	case s.MaxAuthAge <= 0:
	case tok.AuthTime.IsZero():
		lacks = append(lacks, tok.authTimeFault())
	case now.Sub(tok.AuthTime) > s.MaxAuthAge:
		lacks = append(lacks, "its login is too long ago")
	}
	if len(lacks) == 0 {
		return nil
	}
	return fault.New(fault.StepUp, "ask for a new login with %s (the subject token's login does not do: %s)",
		s.challenge(), strings.Join(lacks, ", "))
}

func (t *Token) acrFault() string {
	if _, present := t.Claims["acr"]; present && t.ACR == "" {
		return "its acr is no string of printable characters"
	}
	return "its acr is none of these"
}

func (t *Token) amrFault(lacked string) string {
	if _, present := t.Claims["amr"]; present && t.AMR == nil {
		return "its amr is no list of strings"
	}
	return "its amr lacks " + lacked
}

func (t *Token) authTimeFault() string {
	if _, present := t.Claims["auth_time"]; present {
		return "its auth_time is no NumericDate"
	}
	return "it has no auth_time"
}

// challenge is what the next login must have. RFC 9470 has no parameter for amr.
func (s StepUp) challenge() string {
	var parts []string
	if len(s.RequiredACR) > 0 {
		parts = append(parts, fmt.Sprintf(`acr_values=%q`, strings.Join(s.RequiredACR, " ")))
	}
	if s.MaxAuthAge > 0 {
		parts = append(parts, fmt.Sprintf("max_age=%d", int64(s.MaxAuthAge/time.Second)))
	}
	if len(s.RequiredAMR) > 0 {
		parts = append(parts, fmt.Sprintf(`amr=%q`, strings.Join(s.RequiredAMR, " ")))
	}
	return strings.Join(parts, " ")
}
