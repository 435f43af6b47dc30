// Package mysql stands for a database plugin that a helper of Vault's own tests, which
// its server links in, has on its list.
package mysql

import "github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/vault/without"

// DefaultUserNameTemplate is not used.
const DefaultUserNameTemplate = ""

// New makes a factory that fails.
func New(string) func() (any, error) {
	return func() (any, error) { return nil, without.Error("the database plugin for MySQL") }
}
