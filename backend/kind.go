package backend

import (
	"hash/maphash"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
)

// kind is what tells requests to a provider apart: what its server answers to one of
// them need not be true of another. It holds nothing that is secret.
type kind struct {
	mode   provider.Mode
	role   string
	holder string
	asked  uint64 // for what, and on whose behalf
}

var kindSeed = maphash.MakeSeed()

func (d *decided) kind() kind {
	k := kind{mode: d.role.Mode, role: d.role.name, holder: holderOf(d.caller.EntityID), asked: d.Access.Sum(kindSeed)}
	if d.role.Mode == provider.ModeExchange && d.subject != nil {
		k.asked ^= maphash.String(kindSeed, d.subject.Issuer) ^ maphash.String(kindSeed, d.subject.Subject)
	}
	return k
}

// sharer is who shares what there is at a provider: an entity; and of the callers who
// have none, which nothing tells apart, those of one role, so that the pipelines of
// one team do not stand behind another's.
type sharer struct{ holder, role string }

func (k kind) sharer() sharer {
	if k.holder == grant.NoHolder {
		return sharer{k.holder, k.role}
	}
	return sharer{holder: k.holder}
}

// scope is a set of kinds of request: those that agree with kind in what is not any.
// The least scope of what has happened to some requests is what may be believed of
// others: it never reaches beyond one caller, or one role, as long as only one caller,
// or one role, has met it.
type scope struct {
	kind
	anyMode, anyRole, anyHolder, anyAsked bool
}

var everything = scope{anyMode: true, anyRole: true, anyHolder: true, anyAsked: true}

func just(k kind) scope { return scope{kind: k} }

func (s scope) covers(k kind) bool {
	return (s.anyMode || s.mode == k.mode) && (s.anyRole || s.role == k.role) &&
		(s.anyHolder || s.holder == k.holder) && (s.anyAsked || s.asked == k.asked)
}

// with is the least scope that covers both.
func (s scope) with(o scope) scope {
	s.anyMode = s.anyMode || o.anyMode || s.mode != o.mode
	s.anyRole = s.anyRole || o.anyRole || s.role != o.role
	s.anyHolder = s.anyHolder || o.anyHolder || s.holder != o.holder
	s.anyAsked = s.anyAsked || o.anyAsked || s.asked != o.asked
	return s
}

// allOf is whatever a sharer asks for.
func allOf(p sharer) scope {
	return scope{kind: kind{holder: p.holder, role: p.role}, anyMode: true, anyRole: p.role == "", anyAsked: true}
}

// isWide reports whether it is every caller's and every role's.
func (s scope) isWide() bool { return s.anyRole && s.anyHolder }

// String is for operators: it names no caller.
func (s scope) String() string {
	words := "requests"
	if !s.anyMode {
		words = string(s.mode) + " requests"
	}
	if !s.anyRole {
		words += " of the role " + s.role
	}
	if !s.anyHolder {
		words += " by one caller"
	}
	return words
}
