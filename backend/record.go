package backend

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/downstream"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/keyring"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// newGrant is what is known of a child before it is judged.
func newGrant(id string, d *decided, child *provider.Child) *grant.Grant {
	holder, _ := grant.HolderOf(id)
	g := &grant.Grant{
		ID: id, Holder: holder, Role: d.role.name, Provider: d.provider.Ref,
		ExpiresAt: child.ExpiresAt, SelfContained: child.SelfContained,
		Class: provider.ClassExpiry, Handle: child.Handle,
	}
	if !child.Handle.Empty() {
		g.Class = provider.ClassToken
		if child.Lever {
			g.Class = provider.ClassLever
		}
	}
	if flat := child.Granted.Flat(); unfitToRecord(d.secrets(child), flat) == "" {
		g.Access, g.Granted = values(child.Granted), flat
	}
	if child.Issuer != "" {
		g.Issuer, g.KeyID = child.Issuer, keyring.KeyID(child.Token.Reveal())
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
	return g
}

// checkGrant is the grant for a token that a live check had to mint: nobody's.
func (b *broker) checkGrant(p *downstream.Provider, child *provider.Child) *grant.Grant {
	id, err := grant.NewID("")
	if err != nil {
		id = fmt.Sprintf("%s.check%d", grant.NoHolder, b.now().UnixNano())
	}
	g := &grant.Grant{
		ID: id, Holder: grant.NoHolder, Provider: p.Ref, ExpiresAt: child.ExpiresAt, SelfContained: child.SelfContained,
		Access: values(child.Granted), Granted: child.Granted.Flat(), Class: provider.ClassExpiry, Handle: child.Handle,
	}
	if !child.Handle.Empty() {
		g.Class = provider.ClassToken
	}
	return g
}

// maxGranted bounds what a record must hold of a grant, in bytes: Vault's storage
// takes about a megabyte, and a grant that cannot be recorded cannot be made.
const maxGranted = 64 << 10

// secrets are what must not stand among the names that a provider granted, which are
// recorded and shown in clear.
func (d *decided) secrets(child *provider.Child) []secret.Text {
	return append(slices.Collect(maps.Values(d.provider.Parent.Secrets)), child.Token, d.ask.subjectToken, d.ask.actorToken)
}

// unfitToRecord says why what a provider granted must be neither recorded nor
// shown, or "".
func unfitToRecord(secrets []secret.Text, granted []string) string {
	if sizeOf(granted) > maxGranted {
		return fmt.Sprintf("the provider granted more than %d bytes of names, more than can be recorded", maxGranted)
	}
	for _, s := range secrets {
		for _, name := range granted {
			if len(s.Reveal()) >= 16 && strings.Contains(name, s.Reveal()) {
				return "the provider repeats the parent credential, or a token, among what it granted"
			}
		}
	}
	return ""
}

func sizeOf(names []string) int {
	size := 0
	for _, name := range names {
		size += len(name)
	}
	return size
}
