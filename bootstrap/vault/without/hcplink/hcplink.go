// Package hcplink stands for a server's connection to HashiCorp's cloud.
package hcplink

import (
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/internalshared/configutil"
	"github.com/hashicorp/vault/vault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/vault/without"
)

// HCPLinkVault is never there.
type HCPLinkVault struct{}

// NewHCPLink gives none to a server that has no cloud stanza, as the original does.
func NewHCPLink(config *configutil.HCPLinkConfig, _ *vault.Core, _ hclog.Logger) (*HCPLinkVault, error) {
	if config == nil {
		return nil, nil
	}
	return nil, without.Error("the link to HCP")
}

// Shutdown has nothing to end.
func (*HCPLinkVault) Shutdown() error { return nil }

// GetScadaSessionStatus has nothing to tell.
func (*HCPLinkVault) GetScadaSessionStatus() string { return "" }

// GetConnectionStatusMessage has nothing to tell.
func (*HCPLinkVault) GetConnectionStatusMessage(string) string { return "" }
