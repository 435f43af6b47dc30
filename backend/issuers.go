package backend

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/downstream"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/person"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/subject"
)

const issuerPrefix = "issuer/"

var issuerForm = form.Kind{Name: "issuer"}

// issuers are those whose subject tokens are trusted: as they are stored, and opened.
type issuers struct {
	*stored.Keeper[storedIssuer]
	// open have their keys in memory.
	open *stored.Cache[*subject.Issuer]
	now  func() time.Time
	// related is what all of them together say of entities; nil until somebody asks.
	related atomic.Pointer[relations]
}

// relations is what ties entities. A stale one says nothing: an issuer was changed.
type relations struct {
	person.Mapping
	stale bool
}

// storedIssuer is an issuer with what was pinned when it was written.
type storedIssuer struct {
	subject.IssuerConfig
	PinnedJWKSURL string `json:"pinned_jwks_url,omitempty"`
}

func newIssuers(storage logical.Storage, now func() time.Time) *issuers {
	i := &issuers{
		Keeper: stored.NewKeeper(storage, issuerPrefix, stored.KindOf[storedIssuer](issuerForm)),
		open:   stored.NewCacheOfAbsent[*subject.Issuer](), now: now,
	}
	i.OnChange(i.open.Drop)
	i.OnChange(func(string) { i.related.Store(&relations{stale: true}) })
	return i
}

// relates is what all issuers together say of entities: at which mounts a name, and of
// which keys of metadata a value, is one person's. Storage is read after a start and after
// a change of an issuer. An issuer that cannot be read says nothing.
func (i *issuers) relates(ctx context.Context) (person.Mapping, error) {
	before := i.related.Load()
	if before != nil && !before.stale {
		return before.Mapping, nil
	}
	names, err := i.List(ctx, "")
	if err != nil {
		return person.Mapping{}, err
	}
	now := &relations{}
	for _, name := range names {
		entry, err := i.Get(ctx, name)
		switch {
		case err == nil:
			now.Add(entry.Relates())
		case !errors.Is(err, stored.ErrAbsent) && !stored.Unreadable(err):
			return person.Mapping{}, err
		}
	}
	i.related.CompareAndSwap(before, now) // unless an issuer has changed meanwhile
	return now.Mapping, nil
}

// opened returns the issuer ready to verify. The error is stored.ErrAbsent if there is none.
func (i *issuers) opened(ctx context.Context, name string) (*subject.Issuer, error) {
	return i.open.Get(name, func() (*subject.Issuer, error) {
		entry, err := i.Get(ctx, name)
		if err != nil {
			return nil, err
		}
		client, err := entry.Client()
		if err != nil {
			return nil, err
		}
		return subject.Open(entry.IssuerConfig, entry.PinnedJWKSURL, client, i.now)
	})
}

// replace judges what was made of an issuer, finds its keys anew if it shall, and stores
// it unless somebody has changed it meanwhile: the issuer itself is asked.
func (i *issuers) replace(ctx context.Context, name string, before, after *storedIssuer, rediscover bool) error {
	if err := downstream.CheckCAPEM(after.CAPEM); err != nil {
		return err
	}
	if err := after.Validate(); err != nil {
		return err
	}
	client, err := after.Client()
	if err != nil {
		return err
	}
	if rediscover {
		if after.PinnedJWKSURL, err = after.Discover(ctx, client); err != nil {
			return err
		}
	}
	if _, err := subject.Open(after.IssuerConfig, after.PinnedJWKSURL, client, i.now); err != nil {
		return err
	}
	return i.Replace(ctx, name, before, after)
}
