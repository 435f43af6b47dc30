package backend

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/ending"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/person"
)

// A kill by a wrong name kills nothing, and must not look like one that found nothing
// alive. This file says which names are known.

// grantWait is how long is looked for a grant of something that is not there itself.
const grantWait = 10 * time.Second

// isThere reports whether the thing itself is there. If that cannot be said, it is taken
// for there: no kill fails of it, and nothing is called unknown that may not be.
func (b *broker) isThere(ctx context.Context, what ending.Thing) bool {
	var there bool
	var err error
	switch what.Kind {
	case ending.KindEntity:
		where := present
		if what.Name != grant.NoHolder && what.Name != grant.OwnHolder {
			_, where, err = b.entity(what.Name)
		}
		there = where != unknown // a merged one was an entity
	case ending.KindRole:
		there, err = b.roles.Exists(ctx, what.Name)
	case ending.KindIssuer:
		there, err = b.issuers.Exists(ctx, what.Name)
	case ending.KindSubject: // of whom nothing but grants is known
	default:
		there, err = b.providers.Exists(ctx, what.Name) // also one of a type that this version lacks
	}
	return there || err != nil
}

// isUnknown reports whether neither the thing nor a grant of it is known. While the
// records of grants are being read that cannot be said of everything: then it is false.
func (b *broker) isUnknown(ctx context.Context, what ending.Thing) bool {
	if b.isThere(ctx, what) {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, grantWait)
	defer cancel()
	any, err := b.killer.HasAny(ctx, what)
	return err == nil && !any && len(b.ledger.Unreadable()) == 0
}

// mayFreeze refuses to freeze what nobody knows, because the freeze would stop nobody, and
// who meant another thing would not find out. An entity may come back, or be known to
// another cluster, and a subject of an issuer that is there may come for the first time.
// What is frozen already stays so: a kill may be repeated.
func (b *broker) mayFreeze(ctx context.Context, req *logical.Request, what ending.Thing) error {
	if what.Kind == ending.KindEntity {
		return nil
	}
	if frozen, err := b.isFrozen(ctx, what); err != nil || frozen {
		return err
	}
	if what.Kind == ending.KindSubject {
		if known, err := b.knowsIssuer(ctx, what); err != nil || known {
			return err
		}
	}
	if !b.isUnknown(ctx, what) {
		return nil
	}
	b.freezer.Interrupt(what) // it may have been deleted while a mint of it was under way
	return fault.New(fault.InvalidRequest, "%s; nothing was frozen or killed", b.stranger(ctx, req, what))
}

// tellFrozen says whether the thing is frozen now.
func (b *broker) tellFrozen(ctx context.Context, resp *logical.Response, what ending.Thing, frozen bool) {
	if !frozen {
		var err error
		if frozen, err = b.isFrozen(ctx, what); err != nil {
			b.Logger().Warn("what is frozen could not be read", "error", err)
			resp.AddWarning("whether it is frozen could not be read: a list of frozen shows it")
			return // the kill itself was done
		}
	}
	resp.Data["frozen"] = frozen
}

// tellUnknown says that nothing was found by this name.
func (b *broker) tellUnknown(ctx context.Context, req *logical.Request, resp *logical.Response, what ending.Thing) {
	resp.Data["unknown"] = true
	text := b.stranger(ctx, req, what) + "; nothing was killed"
	if frozen, _ := resp.Data["frozen"].(bool); frozen {
		text += ", but it is frozen: freeze=false thaws it"
	}
	resp.AddWarning(text)
}

// stranger says of what nobody knows what may be meant.
func (b *broker) stranger(ctx context.Context, req *logical.Request, what ending.Thing) string {
	name := short(what.Name)
	switch what.Kind {
	case ending.KindSubject:
		return b.strangeSubject(ctx, req.MountPoint, what)
	case ending.KindEntity:
		return cmp.Or(noEntityID(what.Name), "Vault knows no entity of this id, and no grant of it is known")
	}
	said := fmt.Sprintf("there is no %s %q, and no grant of it is known: ", what.Kind, name)
	if meant := b.meant(ctx, what); len(meant) > 0 {
		return said + "did you mean " + strings.Join(meant, " or ") + "?"
	}
	return said + fmt.Sprintf("vault list %s%ss tells them all", req.MountPoint, what.Kind)
}

// noEntityID says of what does not look like an entity's id how to find that; "" of what
// does.
func noEntityID(name string) string {
	if person.LooksLikeEntityID(name) {
		return ""
	}
	name = short(name)
	return fmt.Sprintf("%q looks like a name, and an entity's id is wanted: vault read -field=id identity/entity/name/%s tells it", name, name)
}

// meant are the names of things that are there and may be meant.
func (b *broker) meant(ctx context.Context, what ending.Thing) []string {
	list := map[string]func() ([]string, error){
		ending.KindRole:     func() ([]string, error) { return b.roles.List(ctx, "") },
		ending.KindIssuer:   func() ([]string, error) { return b.issuers.List(ctx, "") },
		ending.KindProvider: func() ([]string, error) { return b.providers.Refs(ctx) },
	}[what.Kind]
	names, err := list()
	if err != nil {
		return nil // a suggestion less
	}
	if what.Kind == ending.KindProvider {
		_, own, _ := strings.Cut(what.Name, "/")
		var same []string
		for _, ref := range names {
			if _, its, _ := strings.Cut(ref, "/"); its == own {
				same = append(same, ref)
			}
		}
		if len(same) > 0 {
			return same[:min(len(same), 3)]
		}
	}
	slices.Sort(names)
	return near(what.Name, names)
}
