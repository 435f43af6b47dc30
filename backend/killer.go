package backend

import (
	"context"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/downstream"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/ending"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// killer is everything by which a grant dies: the end of its lease, an operator's kill
// of one or of many, the sweep, the end of the mount. It alone can call a provider's
// Revoke. It is safe for concurrent use.
type killer struct {
	ledger     *grant.Ledger
	storage    logical.Storage
	now        func() time.Time
	logger     func() hclog.Logger
	meters     killMeters
	reaper     reaper
	freezer    *ending.Freezer
	door       *downstream.Door
	standing   func(ctx context.Context, holder string, roles []string) (standing, error)
	closeShare func(id string)
	tainted    func() bool

	orders  *orders
	holders holderCursor

	drain     time.Duration // downstream.DrainBudget
	latePause time.Duration // before the first further try of a kill after the end
}

// killDeps is what the killer needs of the rest.
type killDeps struct {
	Ledger  *grant.Ledger
	Storage logical.Storage
	Now     func() time.Time
	Logger  func() hclog.Logger
	Meters  killMeters
	Reaper  reaper
	Freezer *ending.Freezer
	Door    *downstream.Door
	// Standing is what Vault and those of the roles that are named say of a holder now.
	// An error is that they could not say.
	Standing func(ctx context.Context, holder string, roles []string) (standing, error)
	// CloseShare keeps everybody from joining a grant's child: it is to die.
	CloseShare func(id string)
	// Tainted reports whether Vault disables or moves the mount.
	Tainted func() bool
}

// killMeters count what the killer does.
type killMeters interface {
	// Killed is for a token that is dead, or was forgotten after its expiry.
	Killed(provider, cause string)
	// UnknownHolders is how many are looked at again before their tokens are killed.
	UnknownHolders(n int)
}

// reaper opens providers and kills at them.
type reaper interface {
	MustOpen(ctx context.Context, ref string) (*downstream.Provider, error)
	// Revoke is one paced and measured call. It returns downstream.ErrNotRevocable if the
	// provider cannot kill at all.
	Revoke(ctx context.Context, p *downstream.Provider, handle secret.Text) error
}

func newKiller(d killDeps) *killer {
	return &killer{
		ledger: d.Ledger, storage: d.Storage, now: d.Now, logger: d.Logger, meters: d.Meters, reaper: d.Reaper,
		freezer: d.Freezer, door: d.Door, standing: d.Standing, closeShare: d.CloseShare, tainted: d.Tainted,
		orders: newOrders(), drain: downstream.DrainBudget, latePause: 2 * time.Second,
	}
}
