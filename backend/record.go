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
	g := grantOf(id, d.provider.Ref, child)
	g.Role = d.role.name
	flat := child.Granted.Flat()
	made := &minted{child: child, grant: g, unfit: d.unrecordable(child, flat)}
	if made.unfit == "" {
		describe(g, child, flat)
	}
	if child.Issuer != "" {
		g.Issuer, g.KeyID = child.Issuer, keyring.KeyID(child.Token().Reveal())
	}
	if d.caller.RemoteAddr.IsValid() {
		g.Facts.RemoteAddr = d.caller.RemoteAddr.String()
	}
	if d.subject != nil {
		g.Subject, g.SubjectIssuer, g.SubjectIssuerPrint = d.subject.Subject, d.subject.IssuerName, d.subject.IssuerPrint
		g.Facts.SubjectExpires = d.subject.ExpiresAt
		g.Facts.SubjectClaims = d.subject.Claims
	}
	if d.actor != nil {
		g.Actor, g.ActorIssuer, g.ActorIssuerPrint = d.actor.Subject, d.actor.IssuerName, d.actor.IssuerPrint
	}
	return made
}

// grantOf is a grant as far as the child alone makes it.
func grantOf(id, ref string, child *provider.Child) *grant.Grant {
	holder, _ := grant.HolderOf(id)
	return &grant.Grant{
		ID: id, Holder: holder, Provider: ref, ExpiresAt: child.ExpiresAt, SelfContained: child.SelfContained,
		Class: child.Revocation(), Handle: child.Handle,
	}
}

// describe adds what the provider itself said of the child, flat being what it granted.
func describe(g *grant.Grant, child *provider.Child, flat []string) {
	g.Access, g.Granted = values(child.Granted), flat
	if g.Class == provider.ClassLever {
		g.Lever = child.Lever
	}
}

// checkGrant is the grant for a child that a live check had to mint: nobody's.
func (b *broker) checkGrant(p *downstream.Provider, child *provider.Child) *grant.Grant {
	id, err := grant.NewID("")
	if err != nil {
		id = fmt.Sprintf("%s.check%d", grant.NoHolder, b.now().UnixNano())
	}
	g := grantOf(id, p.Ref, child)
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
