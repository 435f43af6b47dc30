// Package backend is the Vault secrets engine: its paths, and what happens
// behind each of them. One creds request is told from top to bottom in issue.go.
package backend

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/downstream"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/ending"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/kills"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/catalog"
)

// Version is what the plugin reports to Vault; the build sets it.
var Version = "v0.0.0-dev"

// operationPrefix groups the paths in the OpenAPI document.
const operationPrefix = "broker"

const help = `
The broker holds one parent credential per downstream system (a provider) and
hands out child tokens: scoped, bound to an audience, short, leased, and killed
at the provider when the lease ends. A role says which Vault identity may get
what from which provider.

  vault write broker/providers/oauth2/acme issuer=... client_id=... client_secret=...
  vault write broker/roles/deploy provider=oauth2/acme scopes=repo:read ttl=10m
  vault read  broker/creds/deploy scopes=repo:read
  vault write broker/revoke/entity/<entity_id> freeze=true

Who may get what, and why not: roles/<name>/explain. Which roles are mine: vault list
broker/creds. Whose tokens a caller may bring: issuers. What lives now: grants. What kills
without an operator: signals. What was killed, and on whose word: kills.

For the fields of a path below ask for one of its kind: vault path-help broker/roles/deploy.
`

// broker is the engine of one mount. It is safe for concurrent use.
type broker struct {
	*framework.Backend
	types   catalog.Catalog
	storage logical.Storage
	now     func() time.Time

	providers *downstream.Registry
	roles     *roles
	issuers   *issuers
	used      *usedTokens
	freezer   *ending.Freezer
	quotas    *quotas
	shares    *shares
	killer    *ending.Killer
	records   *kills.Book // of kills
	known     recentIDs   // entities that are there
	strangers recentIDs   // names of subjects that are no entity's id
	own       *ownIssuer
	persons   *persons
	meters    *meters
	ledger    *grant.Ledger
	lender    *lender
	signals   *signals
	logoffs   *logoffs
	unseen    unseen
	door      *downstream.Door
}

// Factory makes the engine of one mount. It touches neither storage nor the
// system view: Vault also calls it where both refuse everything, to read the
// plugin's version.
func Factory(ctx context.Context, conf *logical.BackendConfig) (logical.Backend, error) {
	b := newBroker(catalog.Types(), conf.StorageView, time.Now)
	if err := b.Setup(ctx, conf); err != nil {
		return nil, err
	}
	return b, nil
}

func newBroker(types catalog.Catalog, storage logical.Storage, now func() time.Time) *broker {
	b := &broker{
		types:     types,
		storage:   storage,
		now:       now,
		issuers:   newIssuers(storage, now),
		used:      newUsedTokens(storage),
		freezer:   ending.NewFreezer(storage, now),
		meters:    newMeters(),
		shares:    newShares(),
		ledger:    grant.NewLedger(storage),
		own:       newOwnIssuer(storage),
		known:     recentIDs{age: knownFor},
		strangers: recentIDs{age: strangerFor},
	}
	b.lender = newLender(b)
	b.signals = newSignals(storage, b)
	b.logoffs = newLogoffs(storage, now)
	b.persons = newPersons(storage, now, b.issuers.relates)
	b.ledger.OnGrant(b.persons.noteGrant)
	b.freezer.Who = b.whoHolds
	b.records = kills.NewBook(storage, now, func() hclog.Logger { return b.Logger() })
	var reaper *downstream.Reaper
	b.providers, reaper = downstream.New(b.downstreamDeps())
	b.door = b.providers.Door()
	b.roles = newRoles(storage, types, b.providers, b.issuers)
	b.quotas = newQuotas(b)
	b.killer = ending.New(ending.Deps{
		Ledger: b.ledger, Storage: storage, Now: now, Logger: func() hclog.Logger { return b.Logger() }, Meters: b.meters,
		Reaper: reaper, Freezer: b.freezer, Door: b.door, Standing: b.standing, CloseShare: b.shares.close, Records: b.records,
		Tainted:   func() bool { return b.System().Tainted() },
		Withdrawn: ending.Withdrawn{Signs: signs, Judge: b.judgeWithdrawn},
		NamesOf:   b.namesOf,
	})
	b.Backend = &framework.Backend{
		Help:           strings.TrimSpace(help),
		BackendType:    logical.TypeLogical,
		RunningVersion: Version,
		PathsSpecial: &logical.Paths{
			// Parents and signing keys: they live for long and are written seldom. The
			// records of grants (grant.StoragePrefix) are left out on purpose, although a
			// handle may hold a live token: the barrier encrypts them like all of storage,
			// the tokens live for minutes, and a wrapped record would cost an operation of
			// the seal, an HSM perhaps, with every issue, renewal and kill.
			SealWrapStorage: []string{downstream.StoragePrefix, downstream.SuccessorPrefix, issuerPrefix, signalPrefix, signingKeysKey}, // an issuer may have a proxy's password
			Unauthenticated: []string{discoveryPath, jwksPath},
		},
		Paths:   withValues(b.paths()),
		Secrets: []*framework.Secret{b.childToken()},
		InitializeFunc: func(ctx context.Context, _ *logical.InitializationRequest) error {
			b.loadLedger(0)
			if b.WriteSafeReplicationState() {
				go b.signals.tend(context.WithoutCancel(ctx)) // a new leader goes on with the events at once
			}
			return nil
		},
		PeriodicFunc: b.periodic,
		Clean: func(ctx context.Context) {
			b.signals.end()
			b.killer.End(ctx)
		},
		Invalidate: b.invalidate,
	}
	return b
}

// paths are all that the engine serves, in the order in which help shows them.
func (b *broker) paths() []*framework.Path {
	return framework.PathAppend(
		// First what is asked for most: the framework tries one expression after the other.
		append(b.pathCreds(), b.pathCredsList()),
		b.pathPresets(),
		b.pathProviders(),
		b.pathRoles(),
		b.pathExplain(),
		b.pathIssuers(),
		b.pathSignals(),
		b.pathGrants(),
		b.pathRevoke(),
		b.pathPerson(),
		b.pathKills(),
		b.pathSweep(),
		b.pathOAuth(),
		b.pathMetrics(),
		b.pathConfig(),
		b.pathOwnIssuer(),
	)
}

// downstreamDeps is what the providers need of the rest.
func (b *broker) downstreamDeps() downstream.Deps {
	return downstream.Deps{
		Types: b.types, Storage: b.storage, Now: b.now, Measure: b.meters.call, Signer: signer{b}, Endpoints: ownEndpoints,
		OtherLoans: func(ctx context.Context) (map[string]downstream.Borrowing, error) { return b.signals.loans(ctx) },
		Logger:     func() hclog.Logger { return b.Logger() },
		Discard: func(ctx context.Context, p *downstream.Provider, c *provider.Child) {
			b.endChecked(ctx, p, provider.Health{Children: []*provider.Child{c}})
		},
		Tainted: func() bool { return b.System().Tainted() },
		Lend:    b.lender.lend, MayLend: b.mayLend,
		Issuer: func(ctx context.Context) (string, error) {
			own, err := b.own.state(ctx)
			if err != nil {
				return "", err
			}
			return own.config.Issuer, nil
		},
	}
}

// HandleRequest judges the form of every request in one place and turns the
// broker's errors into Vault's, before and after the framework routes it.
func (b *broker) HandleRequest(ctx context.Context, req *logical.Request) (*logical.Response, error) {
	if b.unseen.take(req.ID) {
		return b.asLogical(req, errUnseen)
	}
	if err := b.checkInput(req); err != nil {
		return b.asLogical(req, err)
	}
	resp, err := b.Backend.HandleRequest(ctx, req)
	if err != nil {
		return b.asLogical(req, err)
	}
	if req.Operation == logical.HelpOperation {
		b.describeTruly(req, resp)
	}
	return resp, nil
}

// HandleExistenceCheck leaves the body aside: whether a name exists does not
// depend on it, and a malformed one is HandleRequest's to refuse. Of an error here core
// says no more than "internal error": so the request is let through, and refused there,
// whatever can be read by then. Else who may update alone could create.
func (b *broker) HandleExistenceCheck(ctx context.Context, req *logical.Request) (found, exists bool, err error) {
	bare := *req
	bare.Data = nil
	found, exists, err = b.Backend.HandleExistenceCheck(ctx, &bare)
	var f *fault.Error
	if errors.As(err, &f) && b.unseen.note(req.ID) {
		return true, true, nil
	}
	return found, exists, err
}

// loadLedger reads the ledger in the background, and waits for it a little; whoever
// needs all of it waits longer. A failure is tried again by the next periodic call.
func (b *broker) loadLedger(patience time.Duration) {
	loaded := make(chan struct{})
	go func() {
		defer close(loaded)
		if err := b.ledger.LoadAtEase(context.Background()); err != nil {
			b.Logger().Warn("the ledger could not be read: trying again", "error", err)
		}
		if ids := b.ledger.Unreadable(); len(ids) > 0 {
			b.Logger().Error("records of grants cannot be read: their tokens live until they expire", "grant_ids", ids, "error", b.ledger.Newer())
		}
	}()
	select {
	case <-loaded:
	case <-time.After(patience):
	}
}

// invalidate drops what is kept in memory of a key that another node wrote.
func (b *broker) invalidate(_ context.Context, key string) {
	for _, keeper := range []interface{ Invalidate(key string) bool }{b.providers, b.roles, b.issuers, b.signals, b.logoffs, b.own.config, b.own.keys, b.freezer, b.killer, b.persons, b.records} {
		if keeper.Invalidate(key) {
			return
		}
	}
	if strings.HasPrefix(key, grant.StoragePrefix) {
		b.ledger.Invalidate()
		b.quotas.forget()
		b.shares.closeAll()
	}
}
