package kit

import (
	"context"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// WithBorrowed calls use with what the provider has borrowed, and once more with a fresh
// one if the system does not take that: use says so by parent_refused, and then nothing has
// come of the call.
func WithBorrowed(ctx context.Context, deps provider.Deps, use func(token secret.Text) error) error {
	token, err := deps.Borrowed(ctx, secret.Text{})
	if err != nil {
		return err
	}
	if err = use(token); fault.CodeOf(err) != fault.ParentRefused {
		return err
	}
	fresh, err := deps.Borrowed(ctx, token)
	if err != nil {
		return err
	}
	return use(fresh)
}
