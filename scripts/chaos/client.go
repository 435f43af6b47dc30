package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
)

// Outcome is what a client was told of a request for a token.
type Outcome string

// The outcomes.
const (
	Given Outcome = "given"
	// Failed is of a request that may have minted: the broker's log tells which did.
	Failed  Outcome = "failed"
	Refused Outcome = "refused"
	Broken  Outcome = "broken off"
	GaveUp  Outcome = "given up by the client"
)

// Request is one request for a token, and what became of the grant.
type Request struct {
	Scope, Entity, Role, Provider string
	// Subject is on whose behalf, "" for nobody's.
	Subject string
	// Shared is of requests that get the token of an earlier one with the same scope.
	Shared bool

	Began, Ended time.Time
	Outcome      Outcome
	Error        string

	// What was given.
	Token, Lease, Grant string
	// Expires is the token's own end, where it is near.
	Expires time.Time

	// RevokeAsked is set when somebody tried to end the lease, Revoked when Vault
	// said that it is done.
	RevokeAsked, Revoked bool
	// Dropped is set when the client stopped renewing; otherwise it holds the lease
	// to the end.
	Dropped bool
}

// holding is a lease that a client keeps alive.
type holding struct {
	*Request
	renewBy time.Time
}

// counters of what the clients did.
type counters struct {
	issued, renewed, revoked, checked atomic.Int64
	renewFailed, revokeFailed         atomic.Int64
}

// client is one agent with an entity of its own.
type client struct {
	name, entity string
	nodes        []*api.Client // one for each node, with the agent's token
	roles        []role
	ttl          time.Duration
	random       *rand.Rand
	counts       *counters
	// login is a token of the identity provider's about a user.
	login func(user string) string
	// alive asks the server itself.
	alive func(token string) (bool, error)

	mu        sync.Mutex
	requests  []*Request
	violation []string

	held []*holding // the goroutine's own
	// sharing is the scope that is asked for again and again, for a while.
	sharing string
}

const (
	maxHeld      = 6
	callPatience = 100 * time.Second // Vault's own bound on a request is 90 s
	// shortPatience is of clients that hang up.
	shortPatience = 400 * time.Millisecond
	// failurePause keeps clients from filling an outage with attempts.
	failurePause = 700 * time.Millisecond
	// checkedOnceIn revocations one is checked at the server at once.
	checkedOnceIn = 8
	// sharedFor is how often, on average, a client asks for the same shared token.
	sharedFor = 8
	// expiryMargin is before a token's own end: Vault ends its lease when it gets to it.
	expiryMargin = 5 * time.Second
)

// run issues, renews and revokes until work ends, then only renews what it
// holds until hold ends.
func (c *client) run(work, hold context.Context, pace time.Duration) {
	for work.Err() == nil {
		ok := c.step()
		wait := pace/2 + time.Duration(c.random.Int64N(int64(pace)+1))
		if !ok {
			wait += failurePause
		}
		pause(work, wait)
	}
	for hold.Err() == nil {
		c.renewDue()
		pause(hold, c.ttl/10)
	}
}

// step does one thing; it reports false if that failed.
func (c *client) step() bool {
	if due := c.due(); due != nil {
		if due.ends() || c.random.IntN(4) == 0 {
			c.drop(due) // it lapses
			return true
		}
		return c.renew(due)
	}
	switch n := c.random.IntN(100); {
	case len(c.held) == maxHeld, len(c.held) > 0 && n < 35:
		return c.revoke(c.held[c.random.IntN(len(c.held))])
	case len(c.held) > 0 && n < 45:
		return c.renew(c.held[c.random.IntN(len(c.held))])
	default:
		return c.issue()
	}
}

func (c *client) due() *holding {
	for _, r := range c.held {
		if time.Now().After(r.renewBy) {
			return r
		}
	}
	return nil
}

func (c *client) renewDue() {
	for due := c.due(); due != nil; due = c.due() {
		if due.ends() {
			c.drop(due)
			continue
		}
		if !c.renew(due) {
			return
		}
	}
}

// ends reports whether a renewal could do nothing for the token: it cannot outlive
// what is signed in it.
func (r *Request) ends() bool { return !r.Expires.IsZero() && time.Until(r.Expires) < expiryMargin }

// scopeFor is one that nobody else asks for, and the client once, unless it shares.
func (c *client) scopeFor(role role) string {
	scope := fmt.Sprintf("%s%s-%d", scopePrefix, c.name, len(c.requests))
	if !role.shared {
		return scope
	}
	if c.sharing == "" || c.random.IntN(sharedFor) == 0 {
		c.sharing = scope
	}
	return c.sharing
}

// issue asks for a token.
func (c *client) issue() bool {
	role := c.roles[c.random.IntN(len(c.roles))]
	r := &Request{
		Scope: c.scopeFor(role), Entity: c.entity, Role: role.name, Provider: role.provider, Shared: role.shared,
		Began: time.Now(),
	}
	fields := map[string]any{"scopes": r.Scope}
	if role.behalf {
		r.Subject = "user-of-" + c.name
		fields["subject_token"] = c.login(r.Subject)
	}
	patience := callPatience
	if c.random.IntN(50) == 0 {
		patience = time.Duration(c.random.Int64N(int64(shortPatience)))
	}
	secret, err := c.call(patience, func(ctx context.Context, v *api.Client) (*api.Secret, error) {
		return v.Logical().WriteWithContext(ctx, mountPath+"/creds/"+role.name, fields)
	})
	r.Ended = time.Now()
	r.Outcome = outcome(err, patience)
	switch {
	case err != nil:
		r.Error = err.Error()
	case secret == nil || secret.LeaseID == "":
		r.Outcome, r.Error = Broken, "an answer without a lease"
	default:
		r.Token, _ = secret.Data["access_token"].(string)
		r.Grant, _ = secret.Data["grant_id"].(string)
		r.Lease = secret.LeaseID
		if signedByBroker(r.Token) {
			ends, _ := secret.Data["expires_at"].(string)
			r.Expires, _ = time.Parse(time.RFC3339, ends)
		}
		c.held = append(c.held, &holding{Request: r, renewBy: r.Began.Add(c.ttl / 2)})
		c.counts.issued.Add(1)
	}
	c.mu.Lock()
	c.requests = append(c.requests, r)
	c.mu.Unlock()
	return err == nil
}

// outcome judges by the status and by the code in front, and by no other word: what a
// message says is for people, and may change.
func outcome(err error, patience time.Duration) Outcome {
	if err == nil {
		return Given
	}
	if errors.Is(err, context.DeadlineExceeded) && patience < callPatience {
		return GaveUp
	}
	switch code := brokersCode(err); {
	case code == "":
		return Broken
	case code.Status() >= http.StatusInternalServerError:
		return Failed
	}
	return Refused
}

// brokersCodes are what a refusal or failure of the broker's own begins with.
var brokersCodes = []fault.Code{
	fault.InvalidRequest, fault.InvalidScope, fault.InvalidTarget, fault.InvalidGrant, fault.UnsupportedTokenType,
	fault.AccessDenied, fault.StepUp, fault.SlowDown, fault.ProviderViolation, fault.TemporarilyUnavailable,
}

// brokersCode is the code of an answer that is the broker's, or "": Vault answers with
// the same statuses, and has no codes.
func brokersCode(err error) fault.Code {
	name, _ := harness.SaidBy(err)
	if code := fault.Code(name); slices.Contains(brokersCodes, code) && code.Status() == harness.StatusOf(err) {
		return code
	}
	return ""
}

func (c *client) renew(r *holding) bool {
	began := time.Now()
	_, err := c.call(callPatience, func(ctx context.Context, v *api.Client) (*api.Secret, error) {
		return v.Sys().RenewWithContext(ctx, r.Lease, int(c.ttl/time.Second))
	})
	if err != nil {
		c.counts.renewFailed.Add(1)
		if isFinal(err) {
			c.drop(r)
		}
		return false
	}
	c.counts.renewed.Add(1)
	r.renewBy = began.Add(c.ttl / 2)
	return true
}

// revoke ends a lease and waits until that is done.
func (c *client) revoke(r *holding) bool {
	c.drop(r)
	c.mu.Lock()
	r.RevokeAsked = true
	c.mu.Unlock()
	_, err := c.call(callPatience, func(ctx context.Context, v *api.Client) (*api.Secret, error) {
		return v.Logical().WriteWithContext(ctx, "sys/leases/revoke", map[string]any{"lease_id": r.Lease, "sync": true})
	})
	if err != nil {
		c.counts.revokeFailed.Add(1)
		return false
	}
	c.counts.revoked.Add(1)
	c.mu.Lock()
	r.Revoked = true
	c.mu.Unlock()
	if !r.Shared && c.random.IntN(checkedOnceIn) == 0 { // a shared one dies with the last of its leases
		c.checkDead(r.Request)
	}
	return true
}

// checkDead: what Vault calls revoked must be dead now, not only in the end.
func (c *client) checkDead(r *Request) {
	active, err := c.alive(r.Token)
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err != nil:
		c.violation = append(c.violation, fmt.Sprintf("asking about a token: %v", err))
	case active:
		c.violation = append(c.violation, fmt.Sprintf("Vault said that the lease of grant %s (%s) is revoked, and the token was active", r.Grant, r.Scope))
	}
	c.counts.checked.Add(1)
}

// drop forgets a lease: it is revoked, or lapses.
func (c *client) drop(r *holding) {
	c.mu.Lock()
	r.Dropped = true
	c.mu.Unlock()
	for i := range c.held {
		if c.held[i] == r {
			c.held = append(c.held[:i], c.held[i+1:]...)
			return
		}
	}
}

// call asks one node, and another one if that does not even listen.
func (c *client) call(patience time.Duration, ask func(context.Context, *api.Client) (*api.Secret, error)) (secret *api.Secret, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	first := c.random.IntN(len(c.nodes))
	for i := range c.nodes {
		secret, err = ask(ctx, c.nodes[(first+i)%len(c.nodes)])
		if !isRefusedConnection(err) {
			break
		}
	}
	return secret, err
}

func isRefusedConnection(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }

// isFinal tells an answer about this lease from a failure of the moment.
func isFinal(err error) bool {
	var answered *api.ResponseError
	return errors.As(err, &answered) && answered.StatusCode < http.StatusInternalServerError
}

// history of the client's requests, copied.
func (c *client) history() (requests []Request, violations []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.requests {
		requests = append(requests, *r)
	}
	return requests, append([]string(nil), c.violation...)
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
