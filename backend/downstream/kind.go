package downstream

import (
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
)

// Kind is what tells requests to a provider apart: what its server answers to one of
// them need not be true of another. It holds nothing that is secret. The zero Kind is
// what an operator does.
type Kind struct {
	Mode   provider.Mode
	Role   string
	Holder string // as in the ledger
	Asked  uint64 // for what, and on whose behalf: a sum of it
}

// sharer is who shares what there is at a provider: an entity; and of the callers who
// have none, which nothing tells apart, those of one role, so that the pipelines of
// one team do not stand behind another's.
type sharer struct{ holder, role string }

func (k Kind) sharer() sharer {
	if k.Holder == grant.NoHolder {
		return sharer{k.Holder, k.Role}
	}
	return sharer{holder: k.Holder}
}

// scope is a set of kinds of request: where its Kind says any, all values are in it. What
// some requests have met is believed of the least scope that has all of them in it: of no
// other caller, and of no other role, as long as one caller, or one role, alone has met it.
type scope struct {
	Kind
	anyMode, anyRole, anyHolder, anyAsked bool
}

var everything = scope{anyMode: true, anyRole: true, anyHolder: true, anyAsked: true}

func just(k Kind) scope { return scope{Kind: k} }

func (s scope) covers(k Kind) bool {
	return (s.anyMode || s.Mode == k.Mode) && (s.anyRole || s.Role == k.Role) &&
		(s.anyHolder || s.Holder == k.Holder) && (s.anyAsked || s.Asked == k.Asked)
}

// with is the least scope that covers both.
func (s scope) with(o scope) scope {
	s.anyMode = s.anyMode || o.anyMode || s.Mode != o.Mode
	s.anyRole = s.anyRole || o.anyRole || s.Role != o.Role
	s.anyHolder = s.anyHolder || o.anyHolder || s.Holder != o.Holder
	s.anyAsked = s.anyAsked || o.anyAsked || s.Asked != o.Asked
	return s
}

// allOf is whatever a sharer asks for.
func allOf(p sharer) scope {
	return scope{Kind: Kind{Holder: p.holder, Role: p.role}, anyMode: true, anyRole: p.role == "", anyAsked: true}
}

// isWide reports whether it is every caller's and every role's.
func (s scope) isWide() bool { return s.anyRole && s.anyHolder }

// String is for operators: it names no caller.
func (s scope) String() string {
	words := "requests"
	if !s.anyMode {
		words = string(s.Mode) + " requests"
	}
	if !s.anyRole {
		words += " of the role " + s.Role
	}
	if !s.anyHolder {
		words += " by one caller"
	}
	return words
}
