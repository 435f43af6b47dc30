package backend

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"maps"
	"slices"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/downstream"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/keyring"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/role"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/subject"
)

// words are lists of words, of which two different ones are never the same text: before
// each list is how many words it has, and before each word how long it is.
type words []byte

func (w *words) add(list ...string) {
	*w = binary.AppendUvarint(*w, uint64(len(list)))
	for _, word := range list {
		*w = binary.AppendUvarint(*w, uint64(len(word)))
		*w = append(*w, word...)
	}
}

// usualKey is as many bytes as most keys have before they are hashed.
const usualKey = 512

// shareKey tells identical requests by everything that decides what the child is, and
// on whose behalf: what is asked of the provider, but for the grant's id and the time,
// and what else a child of today is made from. Whatever of it changes ends the joining,
// because nobody asks for the former child any more. "" is for a request that shares
// with nobody.
func (b *broker) shareKey(ctx context.Context, d *decided) (string, error) {
	if !d.role.SharesByEntity() || d.caller.EntityID == "" || len(d.ask.proofs) > 0 {
		return "", nil
	}
	r := d.request("")
	key := make(words, 0, usualKey)
	key.add(d.caller.EntityID, d.role.name, d.role.says)
	v := values(r.Access)
	key.add(v.Scopes...)
	key.add(v.Audiences...)
	key.add(v.Resources...)
	for _, name := range slices.Sorted(maps.Keys(v.Permissions)) {
		key.add(name, v.Permissions[name])
	}
	key.add(string(v.Details), d.ask.subjectToken.Reveal(), d.ask.actorToken.Reveal())
	key.add(named(r.Subject)...)
	key.add(named(r.Actor)...)
	key.add(vouching(d.subject)...)
	key.add(vouching(d.actor)...)
	if err := b.addIngredients(ctx, &key, d.provider, r); err != nil {
		return "", err
	}
	sum := sha256.Sum256(key)
	return string(sum[:]), nil
}

// addIngredients adds what a child of the provider is made from beside what the request
// asks for: the provider as it was last written or rotated, with its account and
// parent; the broker's own issuer and signing keys, also the next one, so that a
// rotation is seen at once; and as much of the caller as the provider puts into it.
func (b *broker) addIngredients(ctx context.Context, key *words, p *downstream.Provider, r provider.Request) error {
	s, err := b.own.state(ctx)
	if err != nil {
		return err
	}
	signs, _ := s.ring.Active(keyring.Child, b.now())
	next, _ := s.ring.Newest(keyring.Child)
	key.add(p.Ref, s.config.Issuer, signs.ID, next.ID)
	*key = binary.AppendUvarint(*key, p.Opening)
	if said, ok, err := p.Ingredients(ctx, r); ok {
		key.add(said)
		return err
	}
	if p.Traits.NeedsEntity {
		raw, err := json.Marshal([]any{r.Identity.Name, r.Identity.Metadata, r.Identity.Aliases})
		if err != nil {
			return fault.New(fault.TemporarilyUnavailable, "the request cannot be told from others").Because(err)
		}
		key.add(string(raw))
	}
	if p.Traits.NeedsGroups {
		key.add(slices.Sorted(slices.Values(r.Identity.Groups))...)
	}
	return nil
}

// whatItSays is a role as a word of a key: it is made when the role is compiled, which
// is seldom beside the requests.
func whatItSays(r *role.Role) (string, error) {
	raw, err := json.Marshal(r)
	sum := sha256.Sum256(raw)
	return string(sum[:]), err
}

// vouching is who has verified a party's token: what a renewal wants to be the same.
func vouching(t *subject.Token) []string {
	if t == nil {
		return nil
	}
	return []string{t.IssuerName, t.IssuerPrint}
}

// named is who a party is.
func named(p *provider.Party) []string {
	if p == nil {
		return nil
	}
	return []string{p.Issuer, p.ID}
}
