// Package hcp stands for HashiCorp's cloud: its commands, and the names of its resources.
package hcp

import (
	"time"

	"github.com/hashicorp/cli"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/vault/without"
)

// Resource is named by a configuration's cloud stanza.
type Resource struct{ ID, Organization, Project string }

// FromString refuses it.
func FromString(string) (Resource, error) { return Resource{}, without.Error("HCP") }

// HCPTokenHelper keeps the token of somebody who has logged in there.
type HCPTokenHelper interface {
	GetHCPToken(path string) (*HCPToken, error)
}

// HCPToken is that token.
type HCPToken struct {
	AccessToken, ProxyAddr string
	AccessTokenExpiry      time.Time
}

// InternalHCPTokenHelper has none.
type InternalHCPTokenHelper struct{}

// GetHCPToken implements HCPTokenHelper: nobody has logged in.
func (*InternalHCPTokenHelper) GetHCPToken(string) (*HCPToken, error) { return nil, nil }

// InitHCPCommand adds no command.
func InitHCPCommand(cli.Ui) map[string]cli.CommandFactory { return nil }
