package subject

import (
	"bytes"
	"context"
	"errors"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// KeySet verifies the signature of a compact JWS with an issuer's own keys.
// Implementers pick the key by the header's kid and alg among theirs, and take
// neither keys nor URLs from the header. They need not look at the payload.
type KeySet interface {
	Verify(ctx context.Context, compact string, algs []jwa.SignatureAlgorithm) (payload []byte, err error)
}

// Issuer verifies tokens of one trusted issuer. It is immutable but for its
// cached keys, and safe for concurrent use.
type Issuer struct {
	cfg  IssuerConfig
	algs []jwa.SignatureAlgorithm
	keys KeySet
}

// newIssuer opens a valid configuration over keys.
func newIssuer(cfg IssuerConfig, keys KeySet) (*Issuer, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.MaxSubjectLifetime == 0 {
		cfg.MaxSubjectLifetime = DefaultMaxLifetime
	}
	return &Issuer{cfg: cfg, algs: cfg.algorithms(), keys: keys}, nil
}

// Name is the operator's name for the issuer.
func (i *Issuer) Name() string { return i.cfg.Name }

// URL is what the iss of this issuer's tokens equals.
func (i *Issuer) URL() string { return i.cfg.IssuerURL() }

// PickIssuer finds among the issuers that a role trusts the one that the token
// claims to be from, without verifying anything yet: only that issuer's keys may
// then verify it, so that no issuer can speak for another (RFC 8725 3.8). Where
// several are configured for the same iss, it is the first whose audiences fit,
// or else the first.
//
// Errors are *fault.Error: invalid_request without a token, else invalid_grant.
func PickIssuer(raw secret.Text, allowed []*Issuer) (*Issuer, error) {
	c, err := parseCompact(raw)
	if err != nil {
		return nil, err
	}
	iss, _ := c.claims["iss"].(string)
	r := reader{claims: c.claims}
	audience := r.strings("aud", false)
	var picked *Issuer
	for _, i := range allowed {
		if i.URL() != iss {
			continue
		}
		if i.isFor(audience) {
			return i, nil
		}
		if picked == nil {
			picked = i
		}
	}
	if picked == nil {
		return nil, refuse("the token's iss is none of the issuers that this role trusts (subject_issuers)")
	}
	return picked, nil
}

// Verify checks everything about a token that needs no role: that it is a signed
// JWT of a kind that can stand for someone, from this issuer, by its keys with
// an allowed algorithm, for a bound audience, valid at now, and of a bounded
// lifetime. exp, sub and aud are required, as RFC 7523 3 requires them; jti is
// required only by ReplayKey.
//
// Errors are *fault.Error, and none repeats what the token holds beyond times:
// invalid_request without a token, temporarily_unavailable if the issuer's keys
// could not be had, and invalid_grant for everything that is the token's fault.
func (i *Issuer) Verify(ctx context.Context, raw secret.Text, now time.Time) (*Token, error) {
	c, err := parseCompact(raw)
	if err != nil {
		return nil, err
	}
	if err := c.header.check(i.algs); err != nil {
		return nil, err
	}
	// Before the keys are asked: another issuer's token is none of their business.
	if iss, _ := c.claims["iss"].(string); iss != i.URL() {
		return nil, refuse("the token's iss is not that of the issuer %s", i.cfg.Name)
	}
	payload, err := i.keys.Verify(ctx, raw.Reveal(), i.algs)
	if err != nil {
		return nil, i.keyFault(ctx, err)
	}
	if !bytes.Equal(payload, c.payload) { // the two parsers disagree: trust neither
		return nil, refuse("the token is malformed")
	}
	token, fail := newToken(c.claims)
	if fail == nil {
		fail = i.judge(token, now)
	}
	if fail != nil {
		return nil, fail
	}
	token.IssuerName = i.cfg.Name
	token.clockSkew = i.cfg.ClockSkew
	token.AcceptedUntil = token.ExpiresAt.Add(i.cfg.ClockSkew)
	return token, nil
}

// judge compares the claims with the configuration and the clock.
func (i *Issuer) judge(t *Token, now time.Time) *fault.Error {
	skew := i.cfg.ClockSkew
	nbf, present := t.Claims["nbf"]
	notBefore, isDate := numericDate(nbf)
	switch {
	case present && !isDate:
		return refuse("the token's claim nbf is not a NumericDate (a number of seconds since 1970)")
	case !i.isFor(t.Audience):
		return refuse("the token's aud is none of the bound_audiences of the issuer %s: "+
			"request a token for one of them", i.cfg.Name)
	case !now.Before(t.ExpiresAt.Add(skew)): // RFC 7519 4.1.4: "on or after"
		return refuse("the token expired %s ago: obtain a new one", ago(now.Sub(t.ExpiresAt)))
	case present && now.Before(notBefore.Add(-skew)):
		return refuse("the token is not valid for another %s (nbf): check the clocks", ago(notBefore.Sub(now)))
	case now.Before(t.IssuedAt.Add(-skew)):
		return refuse("the token was issued %s in the future (iat): check the clocks", ago(t.IssuedAt.Sub(now)))
	case now.Before(t.AuthTime.Add(-skew)):
		return refuse("the token's login lies %s in the future (auth_time): check the clocks", ago(t.AuthTime.Sub(now)))
	}
	begin := t.IssuedAt
	if begin.IsZero() {
		begin = now
	}
	if life := t.ExpiresAt.Sub(begin); life > i.cfg.MaxSubjectLifetime {
		return refuse("the token lives for %s, longer than the %s of the issuer %s's max_subject_lifetime",
			ago(life), i.cfg.MaxSubjectLifetime, i.cfg.Name)
	}
	return nil
}

// isFor reports whether audience holds a bound one (RFC 8725 3.9).
func (i *Issuer) isFor(audience []string) bool {
	for _, a := range audience {
		if contains(i.cfg.BoundAudiences, a) {
			return true
		}
	}
	return false
}

// keyFault tells the token's fault from ours. A caller that gave up is neither,
// but must not be told that its token is bad.
func (i *Issuer) keyFault(ctx context.Context, err error) *fault.Error {
	var known *fault.Error
	switch {
	case ctx.Err() != nil:
		return fault.New(fault.TemporarilyUnavailable,
			"the keys of the issuer %s were not had in time: retry", i.cfg.Name).Because(err)
	case errors.As(err, &known) && known.Code == fault.TemporarilyUnavailable:
		return known
	}
	return refuse("the token's signature was not made by a key of the issuer %s", i.cfg.Name).Because(err)
}

// ago rounds a duration for people.
func ago(d time.Duration) time.Duration { return d.Round(time.Second) }
