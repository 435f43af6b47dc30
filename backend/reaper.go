package backend

import (
	"context"
	"errors"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// providerReaper is the registry, for the one who may kill at its providers.
type providerReaper struct {
	*registry
}

var errNotRevocable = errors.New("the provider cannot revoke")

// revoke implements reaper.
func (r providerReaper) revoke(ctx context.Context, p *openProvider, handle secret.Text) error {
	revoker, ok := p.Provider.(provider.Revoker)
	if !ok {
		return errNotRevocable
	}
	done, err := p.gate.waitRevoke(ctx, r.b.now())
	if err != nil {
		return err
	}
	defer done()
	started := time.Now()
	err = revoker.Revoke(ctx, handle)
	r.b.meters.call(p.ref, callRevoke, started, err)
	p.gate.heedRevoke(r.b.now(), err)
	if err != nil {
		r.b.meters.failed.WithLabelValues(p.ref).Inc()
	}
	return err
}
