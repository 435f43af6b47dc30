package backend

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/helper/wrapping"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
)

// nothingIfAbsent is the error of a read: what is not there is answered with nothing, of
// which Vault makes a 404.
func nothingIfAbsent(err error) error {
	if errors.Is(err, stored.ErrAbsent) {
		return nil
	}
	return err
}

// listed answers a list.
func listed(names []string, err error) (*logical.Response, error) {
	if err != nil {
		return nil, err
	}
	return logical.ListResponse(names), nil
}

func values(a access.Access) grant.Access {
	v := grant.Access{Permissions: a.Permissions.Map()}
	v.Scopes, _ = a.Scopes.Values()
	v.Audiences, _ = a.Audiences.Values()
	v.Resources, _ = a.Resources.Values()
	if !a.Details.IsNothing() {
		v.Details = a.Details.JSON()
	}
	return v
}

// answerChild makes the response: nothing in it is null, empty members are left
// out, and the lease holds the grant's id and nothing else.
func (b *broker) answerChild(d *decided, made *minted) *logical.Response {
	child, g := made.child, made.grant
	expires := g.ExpiresAt
	if expires.IsZero() {
		expires = g.MaxLease
	}
	data := map[string]any{
		"expires_at":       expires.UTC().Format(time.RFC3339),
		"lease_expires_at": b.now().Add(d.Lifetime.TTL).UTC().Format(time.RFC3339),
		"provider":         g.Provider,
		"grant_id":         g.ID,
		"revocation":       string(g.Class),
		"self_contained":   g.SelfContained,
	}
	for name, part := range child.Secrets {
		data[name] = part.Reveal()
	}
	if child.TokenType != "" {
		data["token_type"] = child.TokenType
	}
	if g.Subject != "" {
		data["subject"], data["subject_issuer"] = g.Subject, g.SubjectIssuer
	}
	if g.Actor != "" {
		data["actor"] = g.Actor
	}
	if child.IssuedTokenType != "" {
		data["issued_token_type"] = child.IssuedTokenType
	}
	if len(made.unverified) > 0 {
		data["unverified"] = made.unverified
	}
	show(data, g.Access, g.Granted, d.Stripped)
	for name, value := range child.Extra {
		if value != nil {
			data[name] = value
		}
	}
	resp := b.Secret(childTokenType).Response(data, map[string]any{"grant_id": g.ID})
	resp.Secret.TTL = d.Lifetime.TTL
	resp.Secret.MaxTTL = d.Lifetime.Max
	b.warn(resp, d, g)
	if d.role.policy.Forward {
		resp.WrapInfo = &wrapping.ResponseWrapInfo{TTL: min(handOver, d.Lifetime.TTL)}
	}
	return resp
}

// handOver is how long a forwarded token can be unwrapped, once: whoever gets it
// instead of the one it was meant for is found out (vault unwrap).
const handOver = 5 * time.Minute

// show adds access to a response, empty members left out.
func show(data map[string]any, v grant.Access, granted, stripped []string) {
	list := func(name string, values []string) {
		if len(values) > 0 {
			data[name] = values
		}
	}
	list("scopes", v.Scopes)
	list("audiences", v.Audiences)
	list("resources", v.Resources)
	list("granted", granted)
	list("stripped", stripped)
	if len(v.Permissions) > 0 {
		data["permissions"] = v.Permissions
	}
	var details []any
	if len(v.Details) > 0 && json.Unmarshal(v.Details, &details) == nil && len(details) > 0 {
		data["authorization_details"] = details
	}
}

func (b *broker) warn(resp *logical.Response, d *decided, g *grant.Grant) {
	if len(d.Stripped) > 0 {
		resp.AddWarning("the role does not allow, and the token does not have: " + strings.Join(d.Stripped, ", "))
	}
	if d.Lifetime.Capped {
		resp.AddWarning(fmt.Sprintf("the ttl was capped at %s by the %s", d.Lifetime.TTL.Truncate(time.Second), d.Lifetime.DecidedBy))
	}
	usual := g.Class == d.role.traits.Class // and said when the role was written
	switch g.Class {
	case provider.ClassExpiry:
		text := "nothing can revoke this token: it works until expires_at, also after the lease has ended"
		more := g.ExpiresAt.Sub(b.now()) - d.Lifetime.TTL
		switch {
		case !g.ExpiresAt.IsZero() && more >= time.Second:
			resp.AddWarning(fmt.Sprintf("%s, %s longer than its lease", text, more.Truncate(time.Second)))
		case !usual:
			resp.AddWarning(text)
		}
	case provider.ClassLever:
		switch {
		case g.Lever != "":
			resp.AddWarning(fmt.Sprintf("this token dies with all that hangs on %q, when the last lease on that has ended", g.Lever))
		case !usual:
			resp.AddWarning("more than this token may die when the lease ends: such as the whole login that it came from")
		}
	}
}
