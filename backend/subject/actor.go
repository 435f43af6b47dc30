package subject

import (
	"encoding/json"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
)

// Entity stands for a Vault entity as an actor, for which the broker vouches under
// its own issuer; issuer is "" where none is configured, and then no may_act that
// binds its iss names it.
func Entity(issuer, entityID string) *Token {
	claims := map[string]any{"sub": entityID}
	if issuer != "" {
		claims["iss"] = issuer
	}
	return &Token{Issuer: issuer, Subject: entityID, Claims: claims}
}

// CheckActor judges the actor token against the subject token's may_act (RFC
// 8693 4.4): every member of may_act must be a claim of the actor's token with
// the same value. Where may_act has no iss, its sub is one of the subject's own
// issuer, because a sub identifies no one without its issuer. An actor whose iss
// nothing binds is believed by its own issuer's subjects only. A subject token
// without may_act says nothing about actors; whether one is allowed is then the
// role's affair alone.
//
// The error is access_denied and names claims, not values.
func CheckActor(subject, actor *Token) *fault.Error {
	if subject.MayAct == nil {
		return nil
	}
	if len(subject.MayAct) == 0 {
		return fault.New(fault.AccessDenied, "the subject token's may_act names no one who may act: get a token whose may_act does, or that has none")
	}
	if (subject.unbound || actor.unbound) && actor.IssuerName != subject.IssuerName {
		return fault.New(fault.AccessDenied,
			"the subject token's may_act cannot be compared across issuers: set bound_issuer for %s and %s",
			subject.IssuerName, actor.IssuerName)
	}
	if _, named := subject.MayAct["iss"]; !named && actor.Issuer != subject.Issuer {
		return fault.New(fault.AccessDenied,
			"the subject token's may_act names an actor of its own issuer, and the actor token is from another: bring one from there")
	}
	for _, claim := range sortedKeys(subject.MayAct) {
		if !sameScalar(subject.MayAct[claim], actor.Claims[claim]) {
			return fault.New(fault.AccessDenied,
				"the actor token is not that of the party that the subject token's may_act names (%s differs): bring that party's token", shown(claim))
		}
	}
	return nil
}

// sameScalar compares strings, booleans and numbers by value. What has a
// structure is never the same: no rule says how it would identify anyone.
func sameScalar(a, b any) bool {
	switch a := a.(type) {
	case string, bool:
		return a == b
	case json.Number:
		n, ok := b.(json.Number)
		if !ok {
			return false
		}
		x, xok := form.CanonicalNumber(string(a))
		y, yok := form.CanonicalNumber(string(n))
		return xok && yok && x == y
	default:
		return false
	}
}
