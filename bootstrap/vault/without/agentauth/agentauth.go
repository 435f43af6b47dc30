// Package agentauth stands for the ways in which `vault agent` and `vault proxy` log
// in by where they run: in a cloud, or in a Kerberos realm.
package agentauth

import (
	"github.com/hashicorp/vault/command/agentproxyshared/auth"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/vault/without"
)

func leftOut(what string) (auth.AuthMethod, error) {
	return nil, without.Error("an agent's login by " + what)
}

// NewAliCloudAuthMethod fails.
func NewAliCloudAuthMethod(*auth.AuthConfig) (auth.AuthMethod, error) { return leftOut("AliCloud") }

// NewAWSAuthMethod fails.
func NewAWSAuthMethod(*auth.AuthConfig) (auth.AuthMethod, error) { return leftOut("AWS") }

// NewAzureAuthMethod fails.
func NewAzureAuthMethod(*auth.AuthConfig) (auth.AuthMethod, error) { return leftOut("Azure") }

// NewCFAuthMethod fails.
func NewCFAuthMethod(*auth.AuthConfig) (auth.AuthMethod, error) { return leftOut("Cloud Foundry") }

// NewGCPAuthMethod fails.
func NewGCPAuthMethod(*auth.AuthConfig) (auth.AuthMethod, error) { return leftOut("GCP") }

// NewKerberosAuthMethod fails.
func NewKerberosAuthMethod(*auth.AuthConfig) (auth.AuthMethod, error) { return leftOut("Kerberos") }

// NewOCIAuthMethod fails.
func NewOCIAuthMethod(*auth.AuthConfig, string) (auth.AuthMethod, error) { return leftOut("OCI") }
