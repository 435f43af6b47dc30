package decision

import (
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/subject"
)

// Actor is who acts for the subject of an exchange (RFC 8693 1.1).
type Actor int

// The actors that a role can name.
const (
	// ActorNone: nobody is named; the result is the subject's own.
	ActorNone Actor = iota
	// ActorEntity: the Vault entity that asks.
	ActorEntity
	// ActorToken: whoever the caller's actor token is about.
	ActorToken
)

// MaxActors bounds a chain of delegation, the new actor included. A chain that
// grows longer is a loop, or nobody can tell any more who did what.
const MaxActors = 5

// checkActor judges who acts, and whether the subject token lets them: its
// may_act names the only one who may (RFC 8693 4.4).
func (p *Policy) checkActor(s Situation) []*fault.Error {
	token, actor := s.Subject.Token(), s.Actor.Token()
	switch {
	case s.Actor.Refusal() != nil:
		return []*fault.Error{s.Actor.Refusal()}
	case p.Acts != ActorToken && s.ActorGiven:
		return []*fault.Error{fault.New(fault.InvalidRequest, "the role takes no actor_token: leave it out")}
	case p.Acts == ActorToken && actor == nil:
		return []*fault.Error{fault.New(fault.InvalidRequest, "actor_token is missing: the role names in it who acts (write it, a read has no body)")}
	case actor != nil && actor.KeyBound:
		return []*fault.Error{fault.New(fault.InvalidGrant, "the actor token is bound to a key (cnf), and nothing proves to the broker that the caller holds it: bring a token that is not bound")}
	case p.Acts == ActorEntity && s.Caller.EntityID == "":
		return []*fault.Error{fault.New(fault.AccessDenied, "the role names the Vault entity as the actor, and this token has no entity: log in with an auth method that gives one")}
	case p.Subject == nil || !p.Subject.Exchanged || token == nil:
		return nil
	}
	length := chain(token.Actor)
	switch {
	case p.Acts == ActorNone && token.MayAct != nil:
		return []*fault.Error{fault.New(fault.AccessDenied, "the subject token names who may act for it (may_act), and the role names no actor: an operator must set actor on the role")}
	case p.Acts == ActorNone:
		return nil
	case length+1 > MaxActors:
		return []*fault.Error{fault.New(fault.InvalidGrant, "the subject token has passed through %d actors, and %d is the most: start from the user's own token", length, MaxActors-1)}
	case actor == nil:
		return nil
	}
	if refusal := subject.CheckActor(token, actor); refusal != nil {
		return []*fault.Error{refusal}
	}
	return nil
}

// chain is the length of a chain of actors (RFC 8693 4.1).
func chain(act map[string]any) int {
	length := 0
	for act != nil && length <= MaxActors {
		length++
		act, _ = act["act"].(map[string]any)
	}
	return length
}
