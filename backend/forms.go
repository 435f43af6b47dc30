package backend

import (
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
)

// What is stored beside the grants' records (package grant) and the signing keys
// (package keyring). The agenda's pages have no form: each start makes them anew.
var (
	usedForm = form.Kind{Name: "used subject token"}
)

// entryOf is v as an entry of Vault's storage.
func entryOf(kind form.Kind, key string, v any) (*logical.StorageEntry, error) {
	raw, err := kind.Encode(v)
	if err != nil {
		return nil, err
	}
	return &logical.StorageEntry{Key: key, Value: raw}, nil
}
