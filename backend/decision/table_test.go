package decision_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jws"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/decision"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault/faulttest"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/role"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/subject"
)

// minCases is how many the table must have.
const minCases = 150

// TestTable runs the cases of testdata/decisions and then asks whether they still
// cover every refusal and every pair of dimensions.
func TestTable(t *testing.T) {
	files := readCases(t)
	cover := newCoverage()
	count, ran := 0, 0
	for _, name := range slices.Sorted(maps.Keys(files)) {
		for _, c := range files[name] {
			count++
			t.Run(name+"/"+c.Name, func(t *testing.T) {
				ran++
				cover.add(c, c.run(t))
			})
		}
	}
	if t.Failed() || ran < count { // -run chose some
		return
	}
	require.GreaterOrEqual(t, count, minCases)
	cover.require(t)
	t.Logf("%d cases in %d files", count, len(files))
}

// outcome is how far a case came: the refusals of the stage that stopped it.
type outcome struct {
	stage    stage
	refusals []*fault.Error
}

// stage is where a case may end.
type stage string

const (
	stageWritten stage = "role_refused"
	stageDecided stage = "refused"
	stageKilled  stage = "killed"
	stageGranted stage = "granted"
)

// run takes a case the way that a request takes: the role is written, the token
// verified, the request decided, the answer accepted, the lease renewed.
func (c *tableCase) run(t *testing.T) outcome {
	c.requireOneExpectation(t)
	r, w, err := c.world()
	if c.Want.RoleRefused != "" {
		require.Error(t, err, "the role was expected to be refused")
		requireFault(t, c.Want.RoleRefused, err)
		return outcome{stageWritten, []*fault.Error{asFault(t, err)}}
	}
	require.NoError(t, err, "the role must be valid")
	requireStored(t, r, w)

	s := c.situation(t, w)
	q, err := c.Request.request()
	require.NoError(t, err, "the request is malformed before anything is decided")
	d := w.Decide(s, q)
	checkDecision(t, w, s, q, d)
	require.True(t, same(d, w.Decide(s, q)), "the same question has the same answer")
	if c.Want.Refused != nil {
		requireFaults(t, c.Want.Refused, d.Refusals)
		return outcome{stageDecided, d.Refusals}
	}
	require.Empty(t, d.Refusals, "refused")
	return c.judge(t, w, s, d)
}

func (c *tableCase) requireOneExpectation(t *testing.T) {
	t.Helper()
	ends := 0
	for _, end := range []bool{c.Want.Granted != nil, c.Want.RoleRefused != "", len(c.Want.Refused) > 0, c.Want.Killed != ""} {
		if end {
			ends++
		}
	}
	require.Equal(t, 1, ends, "want exactly one of granted, role_refused, refused and killed")
	require.True(t, c.Want.Granted != nil || c.Renewal == nil, "what was not granted cannot be renewed")
}

// world writes the role.
func (c *tableCase) world() (*role.Role, world, error) {
	traits, err := c.Provider.traits()
	if err != nil {
		return nil, world{}, err
	}
	r, err := c.role()
	if err != nil {
		return nil, world{}, err
	}
	known := map[string]string{}
	for _, name := range c.Provider.Parameters {
		known[name] = "known"
	}
	p, err := r.Compile(kind{parameters: known}, traits, c.Provider.MaxTTL.d())
	if err == nil {
		err = r.CheckAudiences(c.Provider.reserved(false), c.Provider.reserved(traits.Signed))
	}
	return r, world{Policy: p, role: r, traits: traits}, err
}

// reserved are the audiences that were reserved when the role was written, or that are
// now.
func (b *providerBlock) reserved(signed bool, since ...string) access.Targets {
	var t access.Targets
	t.Add(b.Endpoints...)
	t.Add(since...)
	if signed {
		t.Add(b.Reserved...)
	}
	return t
}

// requireStored: what an operator wrote survives Vault's storage.
func requireStored(t *testing.T, r *role.Role, w world) {
	t.Helper()
	raw, err := json.Marshal(r)
	require.NoError(t, err)
	again := &role.Role{}
	require.NoError(t, json.Unmarshal(raw, again))
	require.Equal(t, r, again)
	require.True(t, w.Ceiling.Within(w.traits.Ceiling))
}

func (c *tableCase) situation(t *testing.T, w world) decision.Situation {
	t.Helper()
	caller, err := c.Caller.caller()
	require.NoError(t, err)
	s := decision.Situation{Now: noon, Caller: caller, Stopped: stopped(c.Stopped), MountTTL: c.Mount.TTL.d(), MountMaxTTL: c.Mount.MaxTTL.d()}
	s.Reserved = c.Provider.reserved(c.Provider.Signed, c.Provider.Since...)
	if c.Token != nil {
		s.Subject = c.verify(t, c.Token, w.role.SubjectIssuers)
	}
	if w.Acts == decision.ActorEntity && caller.EntityID != "" {
		s.Actor = subject.Verified(subject.Entity("https://broker.test", caller.EntityID))
	}
	if c.Actor != nil {
		s.ActorGiven = true
		verdict := c.verify(t, c.Actor, w.role.ActorIssuers)
		if w.Acts == decision.ActorToken {
			s.Actor = verdict
		}
	}
	return s
}

func stopped(why string) []*fault.Error {
	if why == "" {
		return nil
	}
	return []*fault.Error{fault.New(fault.AccessDenied, "%s", why)}
}

// verify signs a token of the case and verifies it as a creds request would: by the
// keys of the one issuer that it claims to be from, among those that are trusted.
// A role that trusts none is given all, so that the decision itself has to refuse.
func (c *tableCase) verify(t *testing.T, b *tokenBlock, trusted []string) subject.Verdict {
	t.Helper()
	tok, err := c.verifyFrom(t, b, trusted)
	if err != nil {
		return subject.Refused(asFault(t, err))
	}
	return subject.Verified(tok)
}

func (c *tableCase) verifyFrom(t *testing.T, token *tokenBlock, trusted []string) (*subject.Token, error) {
	t.Helper()
	if len(trusted) == 0 {
		trusted = slices.Sorted(maps.Keys(c.Issuers))
	}
	var issuers []*subject.Issuer
	for _, name := range trusted {
		b := c.Issuers[name]
		require.NotNil(t, b, "the case has no issuer %q", name)
		i, err := subject.Open(subject.IssuerConfig{
			Name: name, BoundIssuer: b.Issuer, JWKSPEM: keyOf(t, name).public, BoundAudiences: b.Audiences,
			ClockSkew: b.ClockSkew.d(), MaxSubjectLifetime: b.MaxLifetime.d(),
		}, "", nil, time.Now)
		require.NoError(t, err)
		issuers = append(issuers, i)
	}
	return subject.VerifyFrom(context.Background(), secret.New(either(token.Raw, c.sign(t, token))), issuers, noon)
}

// sign makes the case's token: what an issuer puts into every token, with the
// case's own claims laid over it.
func (c *tableCase) sign(t *testing.T, token *tokenBlock) string {
	t.Helper()
	if token.From == "" {
		return ""
	}
	from := c.Issuers[token.From]
	require.NotNil(t, from, "the case has no issuer %q", token.From)
	claims := map[string]any{
		"iss": from.Issuer, "aud": from.Audiences[0], "sub": "alice", "jti": "1", "iat": "-1m", "exp": "+1h",
	}
	for name, value := range token.Claims {
		claims[name] = value
		if value == nil {
			delete(claims, name)
		}
	}
	for _, name := range []string{"iat", "exp", "nbf", "auth_time"} {
		if text, ok := claims[name].(string); ok {
			offset, err := time.ParseDuration(text)
			require.NoError(t, err)
			claims[name] = noon.Add(offset).Unix()
		}
	}
	payload, err := json.Marshal(claims)
	require.NoError(t, err)
	signed, err := jws.Sign(payload, jws.WithKey(jwa.ES256, keyOf(t, either(token.SignedBy, token.From)).private))
	require.NoError(t, err)
	return string(signed)
}

type key struct {
	private *ecdsa.PrivateKey
	public  string
}

var keys = map[string]key{}

// keyOf is the signing key of an issuer, or of somebody else.
func keyOf(t *testing.T, name string) key {
	t.Helper()
	if k, ok := keys[name]; ok {
		return k
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	der, err := x509.MarshalPKIXPublicKey(private.Public())
	require.NoError(t, err)
	keys[name] = key{private, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))}
	return keys[name]
}

// judge takes the case from the decision on.
func (c *tableCase) judge(t *testing.T, w world, s decision.Situation, d *decision.Decision) outcome {
	t.Helper()
	answer := decision.Answer{Granted: d.Access, Confirmed: w.Bounded}
	lifetime := d.Lifetime
	if c.Answer != nil {
		said, err := c.Answer.access(w.Levels, exactly)
		require.NoError(t, err)
		answer.Confirmed = c.Answer.named()
		for dim := range answer.Confirmed {
			answer.Granted = answer.Granted.With(dim, said)
		}
	}
	unverified, violation := w.Accept(d.Access, answer)
	if c.Want.Killed != "" {
		require.NotNil(t, violation, "the answer was expected to be refused")
		requireFault(t, c.Want.Killed, violation)
		return outcome{stageKilled, []*fault.Error{violation}}
	}
	require.Nil(t, violation)
	tokenEnds := time.Time{}
	if c.Answer != nil && c.Answer.ExpiresIn > 0 {
		tokenEnds = s.Now.Add(c.Answer.ExpiresIn.d())
		lifetime = lifetime.Until(s.Now, tokenEnds, "token")
	}
	want := c.Want
	if want.Asked != nil {
		require.ElementsMatch(t, want.Asked, d.Access.Flat(), "asked")
	}
	require.ElementsMatch(t, want.Granted, answer.Granted.Flat(), "granted")
	require.ElementsMatch(t, want.Stripped, d.Stripped, "stripped")
	if c.Answer == nil {
		// The answer confirmed what the role bounds; scopes that it does not bound
		// are the server's default, which nobody told.
		unverified = slices.DeleteFunc(unverified, func(dim string) bool { return !w.Bounded[access.Dimension(dim)] })
	}
	require.ElementsMatch(t, want.Unverified, unverified, "unverified")
	if want.TTL > 0 {
		require.Equal(t, want.TTL.d(), lifetime.TTL, "ttl")
	}
	if want.TTLDecidedBy != "" {
		require.Equal(t, want.TTLDecidedBy, lifetime.DecidedBy, "ttl_decided_by")
	}
	if want.MaxTTL > 0 {
		require.Equal(t, want.MaxTTL.d(), lifetime.Max, "max_ttl")
	}
	if c.Renewal != nil {
		c.renew(t, s, answer.Granted, lifetime, tokenEnds)
	}
	return outcome{stage: stageGranted}
}

// renew is what a renewal does with the decision.
func (c *tableCase) renew(t *testing.T, s decision.Situation, granted access.Access, lifetime decision.Lifetime, tokenEnds time.Time) {
	t.Helper()
	_, w, err := c.Renewal.edited.world()
	require.NoError(t, err, "the edited role must be valid")
	caller, err := c.Renewal.edited.Caller.caller()
	require.NoError(t, err)
	now := s.Now.Add(c.Renewal.After.d())
	maxLease := s.Now.Add(lifetime.Max)
	recorded := decision.Recorded{Access: granted, RemoteAddr: c.Caller.Address, TTL: maxLease.Sub(now)}
	if token := s.Subject.Token(); token != nil {
		recorded.Claims = token.Claims
	}
	s = decision.Situation{Now: now, Caller: caller, Stopped: stopped(c.Renewal.Stopped), MountTTL: s.MountTTL, MountMaxTTL: s.MountMaxTTL, Reserved: s.Reserved}
	reasons := w.CheckRenewal(s, recorded)
	if c.Renewal.Want.Refused != nil {
		requireFaults(t, c.Renewal.Want.Refused, reasons)
		return
	}
	require.Empty(t, reasons, "the renewal was refused")
	more, refusal := w.Renew(s, c.Renewal.Increment.d(), c.Renewal.After.d())
	require.Nil(t, refusal)
	end := now.Add(more)
	for _, bound := range []time.Time{maxLease, tokenEnds} {
		if !bound.IsZero() && end.After(bound) {
			end = bound
		}
	}
	require.Equal(t, c.Renewal.Want.TTL.d(), end.Sub(now), "ttl of the renewal")
}

func asFault(t *testing.T, err error) *fault.Error {
	t.Helper()
	var f *fault.Error
	require.ErrorAs(t, err, &f)
	return f
}

// requireFault compares with an expectation of the form "code: words".
func requireFault(t *testing.T, want string, err error) {
	t.Helper()
	code, words, ok := strings.Cut(want, ": ")
	require.True(t, ok, "%q is not of the form \"code: words\"", want)
	require.Equal(t, fault.Code(code), asFault(t, err).Code, err.Error())
	require.True(t, faulttest.Says(err.Error(), words), "%q does not say %q", err, words)
}

// requireFaults compares all reasons, in their order.
func requireFaults(t *testing.T, want []string, got []*fault.Error) {
	t.Helper()
	require.Len(t, got, len(want), "%v", got)
	for i := range want {
		requireFault(t, want[i], got[i])
	}
}
