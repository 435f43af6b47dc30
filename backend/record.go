package backend

import (
	"fmt"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/downstream"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/keyring"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
)

// received is a child with its grant, before it is judged.
func received(id string, d *decided, child *provider.Child) *minted {
	g := expected(id, d)
	complete(g, child)
	flat := child.Granted.Flat()
	made := &minted{child: child, grant: g, unfit: d.unrecordable(child, flat)}
	if made.unfit == "" {
		describe(g, child, flat)
	} else if d.unrecordable(leverOf(child), nil) == "" {
		g.Lever = leverNameOf(child) // whose other grants must not die with this one
	}
	if child.Issuer != "" && made.unfit == "" {
		g.Issuer, g.KeyID = child.Issuer, keyring.KeyID(child.Token().Reveal())
	}
	return made
}

// leverOf is of a child what its lever is judged by.
func leverOf(child *provider.Child) *provider.Child {
	return &provider.Child{Secrets: child.Secrets, Lever: leverNameOf(child)}
}

// leverNameOf is the lever's name, "" if there is none that can be recorded.
func leverNameOf(child *provider.Child) string {
	if child.Revocation() == provider.ClassLever && provider.CanBeLever(child.Lever) {
		return child.Lever
	}
	return ""
}

// expected is what is known of a grant before there is a child: whose it will be, and on
// whose word.
func expected(id string, d *decided) *grant.Grant {
	holder, _ := grant.HolderOf(id)
	g := &grant.Grant{ID: id, Holder: holder, Role: d.role.name, Provider: d.provider.Ref, Borrower: d.borrower}
	if d.caller.RemoteAddr.IsValid() {
		g.Facts.RemoteAddr = d.caller.RemoteAddr.String()
	}
	if d.subject != nil {
		g.Subject, g.SubjectIssuer, g.SubjectIssuerPrint = d.subject.Subject, d.subject.IssuerName, d.subject.IssuerPrint
		g.SubjectTies = d.subject.Person
		g.Facts.SubjectExpires = d.subject.ExpiresAt
		g.Facts.SubjectClaims = d.subject.Claims
	}
	if d.actor != nil {
		g.Actor, g.ActorIssuer, g.ActorIss, g.ActorIssuerPrint = d.actor.Subject, d.actor.IssuerName, d.actor.Issuer, d.actor.IssuerPrint
		g.ActorTies = d.actor.Person
	}
	return g
}

// complete adds what the child alone tells.
func complete(g *grant.Grant, child *provider.Child) {
	g.ExpiresAt, g.SelfContained, g.Class, g.Handle = child.ExpiresAt, child.SelfContained, child.Revocation(), child.Handle
}

// describe adds what the provider itself said of the child, flat being what it granted.
func describe(g *grant.Grant, child *provider.Child, flat []string) {
	g.Access, g.Granted, g.Lever = values(child.Granted), flat, leverNameOf(child)
}

// checkGrant is the grant for a child that a live check had to mint: nobody's.
func (b *broker) checkGrant(p *downstream.Provider, child *provider.Child) *grant.Grant {
	id, err := b.ledger.NewID("", grant.Told{Provider: p.Ref})
	if err != nil {
		id = fmt.Sprintf("%s.check%d", grant.NoHolder, b.now().UnixNano())
	}
	g := &grant.Grant{ID: id, Holder: grant.NoHolder, Provider: p.Ref}
	complete(g, child)
	if flat := child.Granted.Flat(); unrecordable(p.Secrets(), nil, child, flat) == "" {
		describe(g, child, flat)
	}
	return g
}

// maxGranted bounds what a record must hold of a grant, in bytes: Vault's storage
// takes about a megabyte, and a grant that cannot be recorded cannot be made.
const maxGranted = 64 << 10

func sizeOf(names []string) int {
	size := 0
	for _, name := range names {
		size += len(name)
	}
	return size
}
