package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/scripts/bench/load"
)

// rawStorage is storage as seen from outside, all that is below a path of it: through
// sys/raw, which a Vault has that is started with raw_storage_endpoint, and which goes
// through the barrier as the plugin's own calls do. It is not safe for concurrent use.
type rawStorage struct {
	connection *load.Connection
	token      string
	below      string
}

// ofMount is where a mount's storage lies.
func ofMount(uuid string) string { return "logical/" + uuid + "/" }

func (s *rawStorage) path(key string) string { return "sys/raw/" + s.below + key }

// ask decodes the answer's data into data, unless that is nil. Nothing there is no
// error, and leaves data as it is.
func (s *rawStorage) ask(ctx context.Context, method, path string, body []byte, data any) error {
	answer, err := s.connection.Do(ctx, s.token, method, path, body)
	var refused *load.StatusError
	if errors.As(err, &refused) && refused.Status == http.StatusNotFound {
		return nil
	}
	if err != nil || data == nil {
		return err
	}
	return json.Unmarshal(answer, &struct{ Data any }{data})
}

func (s *rawStorage) List(ctx context.Context, prefix string) ([]string, error) {
	var data struct{ Keys []string }
	err := s.ask(ctx, http.MethodGet, s.path(prefix)+"?list=true", nil, &data)
	return data.Keys, err
}

func (s *rawStorage) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	var data struct{ Value []byte } // base64, as encoding/json reads bytes
	err := s.ask(ctx, http.MethodGet, s.path(key)+"?encoding=base64", nil, &data)
	if err != nil || data.Value == nil {
		return nil, err
	}
	return &logical.StorageEntry{Key: key, Value: data.Value}, nil
}

func (s *rawStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	body, err := json.Marshal(map[string]any{"value": entry.Value, "encoding": "base64"})
	if err != nil {
		return err
	}
	return s.ask(ctx, http.MethodPut, s.path(entry.Key), body, nil)
}

func (s *rawStorage) Delete(ctx context.Context, key string) error {
	return s.ask(ctx, http.MethodDelete, s.path(key), nil, nil)
}
