package backend

import (
	"context"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
)

// ownIssuer is the broker's own issuer URL, "" where none is configured.
func (b *broker) ownIssuer(context.Context) (url string, longest time.Duration, err error) {
	return "", 0, nil
}

func (b *broker) signToken(context.Context, provider.Purpose, map[string]any) (string, error) {
	return "", fault.New(fault.TemporarilyUnavailable, "config issuer is not set: an operator must write config issuer=...")
}

const introspectionPath, revocationPath = "oauth/introspect", "oauth/revoke"

func (b *broker) verifyOwn(context.Context, string) (map[string]any, error) { return nil, nil }
