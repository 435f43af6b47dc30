package subject

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/jwks"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// Issuer verifies tokens of one trusted issuer. It is immutable but for its
// cached keys, and safe for concurrent use. Open is the only way to make one.
type Issuer struct {
	cfg  IssuerConfig
	algs []jwa.SignatureAlgorithm
	keys *jwks.Set

	fingerprint string
}

// Open makes an Issuer of a configuration and of the URL that Discover found for
// it; for jwks_pem, jwksURL and client are not used. Nothing is fetched before
// the first Verify. now is the clock by which cached keys age.
//
// Errors are *fault.Error with invalid_request.
func Open(cfg IssuerConfig, jwksURL string, client *httpclient.Client, now func() time.Time) (*Issuer, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.MaxSubjectLifetime == 0 {
		cfg.MaxSubjectLifetime = DefaultMaxLifetime
	}
	// The caller may go on changing its own.
	cfg.BoundAudiences, cfg.EntityAliasMount, cfg.EntityMetadata = slices.Clone(cfg.BoundAudiences), slices.Clone(cfg.EntityAliasMount), maps.Clone(cfg.EntityMetadata)
	i := &Issuer{cfg: cfg, algs: cfg.algorithms(), fingerprint: cfg.fingerprint(jwksURL)}
	if cfg.JWKSPEM != "" {
		keys, err := jwks.Static([]byte(cfg.JWKSPEM))
		if err != nil { // Validate saw it already
			return nil, invalid("jwks_pem: %s", err)
		}
		i.keys = keys
		return i, nil
	}
	if err := httpclient.CheckEndpoint(jwksURL, cfg.AllowHTTP); err != nil {
		return nil, invalid("the URL of the issuer's keys %s: write the issuer again, which discovers it anew", err)
	}
	i.keys = jwks.New(func(ctx context.Context) ([]byte, error) { return get(ctx, client, jwksURL) }, now)
	return i, nil
}

// Name is the operator's name for the issuer.
func (i *Issuer) Name() string { return i.cfg.Name }

// Fingerprint tells whether an issuer of the same name is still the same: it has the same
// iss, and its keys come from the same place. Keys that are rotated there are no change,
// nor is another jwks_pem, which is how keys rotate where the operator brings them. But
// where no iss is bound the keys are all that there is of an issuer, and another
// jwks_pem makes another one.
func (i *Issuer) Fingerprint() string { return i.fingerprint }

func (c IssuerConfig) fingerprint(jwksURL string) string {
	source := "jwks_url " + jwksURL
	if c.JWKSPEM != "" {
		source = "jwks_pem"
		if c.IssuerURL() == "" {
			source += " " + c.JWKSPEM
		}
	}
	// The length keeps two pairs of iss and source from joining to one text.
	iss := c.IssuerURL()
	sum := sha256.Sum256([]byte(strconv.Itoa(len(iss)) + ":" + iss + source))
	return base64.RawURLEncoding.EncodeToString(sum[:16])
}

// URL is what the iss of this issuer's tokens equals, or "" if nothing binds it.
func (i *Issuer) URL() string { return i.cfg.IssuerURL() }

// Keys are those of the issuer, for what else it signs: whoever uses them tells that from
// subject tokens by its typ.
func (i *Issuer) Keys() *jwks.Set { return i.keys }

// KeepFresh begins to fetch keys that have become stale, and waits for nothing. Called
// about once a minute, it keeps a key that the issuer has withdrawn from being good for
// much longer than jwks.StaleAfter.
func (i *Issuer) KeepFresh(ctx context.Context) { i.keys.KeepFresh(ctx) }

// pick finds among the issuers that a role trusts the one that the token
// claims to be from, without verifying anything yet: only that issuer's keys may
// then verify it, so that no issuer can speak for another (RFC 8725 3.8). Where
// several are configured for the same iss, it is the first whose audiences fit,
// or else the first.
//
// An issuer without a bound iss is picked only for an iss that none of the
// others has, so it cannot speak in the name of one that the role trusts beside
// it. Two of those for the same audience cannot be told apart and are refused.
//
// Errors are *fault.Error with invalid_grant.
func pick(c *compact, allowed []*Issuer) (*Issuer, error) {
	iss, _ := c.claims["iss"].(string)
	if iss == "" {
		return nil, refuse("the token has no iss, by which its issuer is found among the role's subject_issuers")
	}
	named, unbound := issuersOf(iss, allowed), issuersOf("", allowed)
	r := reader{claims: c.claims}
	audience := r.strings("aud", false)
	switch {
	case len(named) > 0:
		return firstFor(audience, named), nil
	case len(unbound) == 0:
		return nil, otherIssuer("the token's iss is none of the issuers that this role trusts (subject_issuers)", iss, allowed)
	}
	picked := firstFor(audience, unbound)
	for _, other := range unbound {
		if other != picked && other.isFor(audience) {
			return nil, refuse("the token could be from %s or %s: set bound_issuer for both", picked.Name(), other.Name())
		}
	}
	return picked, nil
}

// otherIssuer is a token whose iss is none of those issuers'. It names both, so that one
// sees where they differ, if only by a slash; of the token no more than a plain URL.
func otherIssuer(what, iss string, trusted []*Issuer) *fault.Error {
	const most = 3
	var named []string
	said, advice := "", ""
	for n, i := range trusted {
		switch {
		case n < most:
			named = append(named, fmt.Sprintf("%q (%s)", i.URL(), i.Name()))
		case n == most:
			named = append(named, "others")
		}
		if entraV1(iss) && strings.HasSuffix(i.URL(), "/v2.0") {
			advice = "; that is an Entra token of version 1.0: set requestedAccessTokenVersion to 2 in the manifest of the application that it is for"
		}
	}
	if len(iss) <= 256 && isIdentifier(iss) && !strings.Contains(iss, "?") && httpclient.CheckURL(iss, true) == nil {
		said = fmt.Sprintf("it is %q, ", iss)
	}
	return refuse("%s: %strusted here is %s%s", what, said, strings.Join(named, ", "), advice)
}

// entraV1 is how Microsoft Entra calls itself in tokens of version 1.0, whatever the
// discovery document of version 2.0 says.
func entraV1(iss string) bool { return strings.HasPrefix(iss, "https://sts.windows.net/") }

// issuersOf keeps those whose iss is bound to url, or to nothing if url is "".
func issuersOf(url string, all []*Issuer) []*Issuer {
	var kept []*Issuer
	for _, i := range all {
		if i.URL() == url {
			kept = append(kept, i)
		}
	}
	return kept
}

// firstFor is the first of some issuers whose audiences fit, or else the first.
func firstFor(audience []string, some []*Issuer) *Issuer {
	for _, i := range some {
		if i.isFor(audience) {
			return i
		}
	}
	return some[0]
}

// Verify checks everything about a token that needs no role: that it is a signed
// JWT of a kind that can stand for someone, from this issuer, by its keys with
// an allowed algorithm, for a bound audience, valid at now, and of a bounded
// lifetime. exp, sub and aud are required, as RFC 7523 3 requires them; jti is
// required only by ReplayKey.
//
// Errors are *fault.Error, and none repeats what the token holds beyond times and an
// iss that is a plain URL:
// invalid_request without a token, temporarily_unavailable if the issuer's keys
// could not be had, and invalid_grant for everything that is the token's fault.
func (i *Issuer) Verify(ctx context.Context, raw secret.Text, now time.Time) (*Token, error) {
	c, err := parseCompact(raw)
	if err != nil {
		return nil, err
	}
	return i.verify(ctx, c, now)
}

// VerifyFrom finds the token's issuer among those that a role trusts, and has it verify
// the token. It reads the token once: reading it strictly is a sixth of what a
// verification costs (BenchmarkIssue/exchange).
func VerifyFrom(ctx context.Context, raw secret.Text, allowed []*Issuer, now time.Time) (*Token, error) {
	c, err := parseCompact(raw)
	if err != nil {
		return nil, err
	}
	i, err := pick(c, allowed)
	if err != nil {
		return nil, err
	}
	return i.verify(ctx, c, now)
}

func (i *Issuer) verify(ctx context.Context, c *compact, now time.Time) (*Token, error) {
	if err := c.check(i.algs); err != nil {
		return nil, err
	}
	// Judged before the keys are looked up, so that a token of another issuer never has
	// them fetched.
	if iss, _ := c.claims["iss"].(string); i.URL() != "" && iss != i.URL() {
		return nil, otherIssuer("the token's iss is not that of the issuer "+i.cfg.Name, iss, []*Issuer{i})
	}
	if err := i.keys.VerifyToken(ctx, c.Token, i.algs); err != nil {
		return nil, i.keyFault(err)
	}
	token, fail := newToken(c.claims)
	if fail == nil {
		fail = i.judge(token, now)
	}
	if fail != nil {
		return nil, fail
	}
	token.IssuerName, token.IssuerPrint = i.cfg.Name, i.fingerprint
	token.unbound = i.URL() == ""
	token.Person = i.cfg.Ties(c.claims)
	token.clockSkew = i.cfg.ClockSkew
	token.AcceptedUntil = token.ExpiresAt.Add(i.cfg.ClockSkew)
	return token, nil
}

// judge compares the claims with the configuration and the clock.
func (i *Issuer) judge(t *Token, now time.Time) *fault.Error {
	skew := i.cfg.ClockSkew
	nbf, present := t.Claims["nbf"]
	notBefore, isDate := form.NumericDate(nbf)
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
		if slices.Contains(i.cfg.BoundAudiences, a) {
			return true
		}
	}
	return false
}

// keyFault tells the token's fault from everything else: an issuer that cannot
// be reached, or a caller who gave up, says nothing about the token.
func (i *Issuer) keyFault(err error) *fault.Error {
	switch {
	case errors.Is(err, jwks.ErrTooSoon):
		return fault.New(fault.TemporarilyUnavailable, "the token was signed by a key that was not among those of the issuer %s a moment ago; "+
			"it may have a new one: try again in %s", i.cfg.Name, jwks.RefreshEvery).Because(err)
	case errors.Is(err, jwks.ErrUnknownKey):
		return refuse("the token was signed by a key that is not among those of the issuer %s", i.cfg.Name).Because(err)
	case errors.Is(err, jwks.ErrInvalid):
		return refuse("the token's signature was not made by a key of the issuer %s", i.cfg.Name).Because(err)
	}
	why := "retry"
	var known *fault.Error
	if errors.As(err, &known) { // get's, which holds no more than a status
		why = known.Message
	}
	return fault.New(fault.TemporarilyUnavailable,
		"the keys of the issuer %s could not be had: %s", i.cfg.Name, why).Because(err)
}

// ago rounds a duration for people.
func ago(d time.Duration) time.Duration { return d.Round(time.Second) }
