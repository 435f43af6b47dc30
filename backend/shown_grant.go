package backend

import (
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
)

// The states of a grant that operators see.
const (
	stateLive       = "live"
	statePending    = "pending"
	stateExpiryOnly = "expiry_only"
	stateReleased   = "released"
	stateIntent     = "intent"

	grantStates = "live, pending, expiry_only, released or intent"
)

// stateOf is what has become of a grant so far, by the words that kills count with.
func (b *broker) stateOf(s *grant.Summary) string {
	switch {
	case s.Doomed && !s.Revocable:
		return stateExpiryOnly
	case s.Doomed, b.killer.InHand(s.ID):
		return statePending
	case s.IsIntent():
		return stateIntent
	case s.Released:
		return stateReleased
	}
	return stateLive
}

// notice is what whoever uses the token notices, and when.
func notice(s *grant.Summary, state string) string {
	end := "it expires, which nobody knows when"
	if !s.ExpiresAt.IsZero() {
		end = stamp(s.ExpiresAt)
	}
	const renewal = "and the renewal of its lease is refused"
	switch {
	case state == stateIntent:
		return "nobody has got a token of it yet"
	case s.Withheld:
		return "nobody has got its token"
	case state == stateExpiryOnly:
		return fmt.Sprintf("the token works until %s, because nothing can kill it, %s", end, renewal)
	case state == statePending:
		return fmt.Sprintf("the token works until an attempt to kill it succeeds, or until %s, %s", end, renewal)
	case state == stateReleased:
		return fmt.Sprintf("its lease has ended; the token works until what it hangs on is killed, or until %s", end)
	case !s.Revocable:
		return fmt.Sprintf("if it is killed, the token works until %s all the same, because nothing can kill it, %s", end, renewal)
	case s.SelfContained:
		return fmt.Sprintf("if it is killed, the token is refused at once by whoever asks its issuer, and accepted until %s by whoever verifies offline, %s", end, renewal)
	}
	return "if it is killed, the token stops working at once, " + renewal
}

// keyInfo is what a list says of a grant.
func (b *broker) keyInfo(s *grant.Summary) map[string]any {
	about := map[string]any{"state": b.stateOf(s), "provider": s.Provider, "entity_id": s.Holder, "pending": s.Doomed && s.Revocable}
	if s.IsIntent() {
		about["intent"] = true
	} else {
		about["lease_ends"], about["lease_expires_at"] = stamp(s.LeaseEnds), stamp(s.LeaseEnds)
	}
	if s.Released {
		about["released"] = true
	}
	if s.Cause != "" {
		about["cause"] = s.Cause
	}
	if s.Role != "" {
		about["role"] = s.Role
	}
	if s.Borrower != "" {
		about["borrower"] = s.Borrower
	}
	if !s.ExpiresAt.IsZero() {
		about["expires_at"] = stamp(s.ExpiresAt)
	}
	return about
}

// showGrant is everything about a grant but its handle.
func (b *broker) showGrant(req *logical.Request, g *grant.Grant) map[string]any {
	s := g.Summary()
	data := map[string]any{
		"grant_id": g.ID, "entity_id": g.Holder, "provider": g.Provider,
		"issued_at":  stamp(g.IssuedAt),
		"revocation": string(g.Revocation()), "self_contained": g.SelfContained, "pending": g.Doom != nil && g.Revocable(),
		"state": b.stateOf(&s), "notice": notice(&s, b.stateOf(&s)),
	}
	for name, value := range map[string]string{"role": g.Role, "borrower": g.Borrower, "subject": g.Subject, "subject_issuer": g.SubjectIssuer, "actor": g.Actor, "actor_issuer": g.ActorIssuer, "remote_addr": g.Facts.RemoteAddr} {
		if value != "" {
			data[name] = value
		}
	}
	if g.IsIntent() {
		data["intent"], data["looked_for"] = true, stamp(g.Intent)
	} else {
		data["lease_ends"], data["lease_expires_at"] = stamp(g.LeaseEnds), stamp(g.LeaseEnds)
	}
	if g.Role != "" && !g.IsIntent() && !g.Withheld {
		// The lease's own id is Vault's, which makes it after the answer.
		data["lease_prefix"] = req.MountPoint + "creds/" + g.Role + "/"
	}
	if len(g.Shares) > 0 {
		data["leases"] = len(g.Shares)
	}
	if g.Lever != "" {
		data["lever"], data["released"] = g.Lever, g.Released
	}
	if len(g.Granted) > 0 {
		data["granted"] = g.Granted
	}
	if !g.ExpiresAt.IsZero() {
		data["expires_at"] = stamp(g.ExpiresAt)
	}
	if g.Doom != nil {
		data["cause"], data["attempts"] = g.Doom.Cause, g.Doom.Attempts
		if g.Revocable() {
			data["next_attempt"] = stamp(g.Doom.Next)
		}
		ids := []string{}
		for _, kill := range g.Doom.Kills {
			ids = append(ids, kill.ID)
		}
		if len(ids) > 0 {
			data["kill_ids"] = ids
		}
		if g.Doom.Error != "" {
			data["last_error"] = g.Doom.Error
		}
	}
	return data
}

func grantResponse() map[string]*framework.FieldSchema {
	text, when := framework.TypeString, framework.TypeTime
	return map[string]*framework.FieldSchema{
		"grant_id":         {Type: text, Description: "The grant's id."},
		"entity_id":        {Type: text, Description: "The holder: an entity's id, none, or broker for the broker itself."},
		"role":             {Type: text, Description: "The role; absent for a token that a check had to mint, and for one of the broker's own."},
		"borrower":         {Type: text, Description: "What has the token for its credential, by its path, where the holder is the broker itself."},
		"provider":         {Type: text, Description: "The provider."},
		"subject":          {Type: text, Description: "On whose behalf, if on somebody's."},
		"subject_issuer":   {Type: text, Description: "The issuer that vouched for the subject, by the name it has in issuers."},
		"actor":            {Type: text, Description: "Who acts, if an actor token said so."},
		"actor_issuer":     {Type: text, Description: "The issuer that vouched for the actor, by the name it has in issuers; absent for the entity."},
		"remote_addr":      {Type: text, Description: "From where it was asked for."},
		"granted":          {Type: framework.TypeStringSlice, Description: "What was granted, flat."},
		"issued_at":        {Type: when, Description: "When it was issued."},
		"state":            {Type: text, Description: grantStates + "."},
		"notice":           {Type: text, Description: "What whoever uses the token notices of a kill, and when."},
		"lease_prefix":     {Type: text, Description: "Where Vault keeps its lease, among those of its role: vault list sys/leases/lookup/<lease_prefix>. Which one it is Vault alone knows."},
		"leases":           {Type: framework.TypeInt, Description: "How many leases share it, where several may."},
		"lease_expires_at": {Type: when, Description: "When its lease ends, and it dies at the provider; absent for an intent."},
		"lease_ends":       {Type: when, Description: "The same as lease_expires_at."},
		"intent":           {Type: framework.TypeBool, Description: "True while nobody knows whether there is a token: its mint is under way, or the answer was lost."},
		"looked_for":       {Type: when, Description: "When an intent that is left over is looked for at the provider, by its name, and killed."},
		"lever":            {Type: text, Description: "What the token dies with, by the provider's name for it, where others may die with it too."},
		"released":         {Type: framework.TypeBool, Description: "True once its lease has ended while others still hold its lever, with which it dies."},
		"expires_at":       {Type: when, Description: "When the token expires at the provider, where that is known."},
		"revocation":       {Type: text, Description: "token, lever or expiry."},
		"self_contained":   {Type: framework.TypeBool, Description: "True if it is accepted offline until expires_at even after revocation."},
		"pending":          {Type: framework.TypeBool, Description: "True while a revocation that failed is being retried."},
		"cause":            {Type: text, Description: "Why it is being killed."},
		"kill_ids":         {Type: framework.TypeStringSlice, Description: "The kills whose records are told when it is dead, for kills/<kill_id>; the last eight."},
		"attempts":         {Type: framework.TypeInt, Description: "Failed attempts to kill it."},
		"next_attempt":     {Type: when, Description: "When the next attempt is due."},
		"last_error":       {Type: text, Description: "Why the last attempt failed."},
	}
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
