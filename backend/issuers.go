package backend

import (
	"context"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/downstream"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
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
	return i
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
