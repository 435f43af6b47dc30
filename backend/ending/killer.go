package ending

import (
	"context"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/downstream"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/kills"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// Killer is everything by which a grant dies: the end of its lease, an operator's kill
// of one or of many, the sweep, the end of the mount. It alone can call a provider's
// Revoke. It is safe for concurrent use.
type Killer struct {
	ledger     *grant.Ledger
	storage    logical.Storage
	now        func() time.Time
	logger     func() hclog.Logger
	meters     Meters
	reaper     Reaper
	freezer    *Freezer
	door       *downstream.Door
	standing   func(ctx context.Context, holder string, roles []string) (Standing, error)
	closeShare func(id string)
	tainted    func() bool
	withdrawn  Withdrawn
	namesOf    func(ctx context.Context, iss string) ([]string, error)

	records *kills.Book
	orders  *orders
	queue   *queue
	judged  cursor
	looks   firstLooks // at holders whom Vault does not know
	losing  losing
	recent  recent // pulls of levers
	// searches has one for each search of all records that is under way.
	searches chan struct{}

	// Drain is how long the end of a mount waits for the mints under way, LatePause comes
	// before the first further try of a kill after the end. Tests shorten them.
	Drain, LatePause time.Duration
}

// Deps is what the killer needs of the rest.
type Deps struct {
	Ledger  *grant.Ledger
	Storage logical.Storage
	Now     func() time.Time
	Logger  func() hclog.Logger
	Meters  Meters
	Reaper  Reaper
	Freezer *Freezer
	Door    *downstream.Door
	// Standing is what Vault and those of the roles that are named say of a holder now.
	// An error is that they could not say.
	Standing func(ctx context.Context, holder string, roles []string) (Standing, error)
	// CloseShare keeps everybody from joining a grant's child: it is to die.
	CloseShare func(id string)
	// Tainted reports whether Vault disables or moves the mount.
	Tainted func() bool
	// Records are told what becomes of what somebody wants dead.
	Records *kills.Book
	// Withdrawn are the tokens of the broker's own that it has taken back.
	Withdrawn Withdrawn
	// NamesOf are the names by which an issuer of that iss is there now, "" for the broker
	// itself; nil where nobody is asked.
	NamesOf func(ctx context.Context, iss string) ([]string, error)
}

// Meters count what the killer does.
type Meters interface {
	// Killed is for a token that is dead, Expired for one that was forgotten after its
	// expiry.
	Killed(provider, cause string)
	Expired(provider string)
	// Died is how long after the event to which its kill is the answer a token has died.
	Died(provider, cause string, after time.Duration)
	// UnknownHolders is how many are looked at again before their tokens are killed.
	UnknownHolders(n int)
}

// Withdrawn says which tokens the broker has signed and takes for its own no more.
type Withdrawn struct {
	// Signs reports whether a provider's tokens may be the broker's.
	Signs func(provider string) bool
	// Judge returns what says of each grant whether its token is withdrawn as things are
	// now.
	Judge func(ctx context.Context) (func(*grant.Summary) bool, error)
}

// Reaper opens providers and kills at them.
type Reaper interface {
	MustOpen(ctx context.Context, ref string) (*downstream.Provider, error)
	// Revoke is one paced and measured call. It returns downstream.ErrNotRevocable if the
	// provider cannot kill at all.
	Revoke(ctx context.Context, p *downstream.Provider, handle secret.Text) error
	// Find is one such call that looks for what a mint has left.
	Find(ctx context.Context, p *downstream.Provider, t provider.Trace) ([]provider.Found, error)
}

// New makes a Killer; nothing is read yet.
func New(d Deps) *Killer {
	return &Killer{
		ledger: d.Ledger, storage: d.Storage, now: d.Now, logger: d.Logger, meters: d.Meters, reaper: d.Reaper,
		freezer: d.Freezer, door: d.Door, standing: d.Standing, closeShare: d.CloseShare, tainted: d.Tainted, withdrawn: d.Withdrawn, namesOf: d.NamesOf,
		records: d.Records, orders: newOrders(d.Storage), queue: newQueue(), searches: make(chan struct{}, maxSearches), looks: firstLooks{storage: d.Storage}, Drain: downstream.DrainBudget, LatePause: 2 * time.Second,
	}
}
