//go:build generated

// use asks a mount by the client that is generated of its document: writes a role, reads it
// back, gets a token by it and kills that. It says what it has got. The test makes the client
// and runs this with Vault's usual environment.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/client/generated"
)

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// unwrapping sends requests with Vault's token, and takes answers out of Vault's envelope: the
// document describes what stands under "data" there.
type unwrapping struct{ token string }

func (u unwrapping) Do(req *http.Request) (*http.Response, error) {
	req.Header.Set("X-Vault-Token", u.token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	var envelope struct{ Data json.RawMessage }
	if json.Unmarshal(body, &envelope) == nil && envelope.Data != nil {
		body = envelope.Data
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, nil
}

func run(ctx context.Context) error {
	broker, err := generated.NewClientWithResponses(os.Getenv("VAULT_ADDR")+"/v1/", generated.WithHTTPClient(unwrapping{os.Getenv("VAULT_TOKEN")}))
	if err != nil {
		return err
	}
	provider, ttl, scopes := "oauth2/p", "10m", []string{"read"}
	written, err := broker.BrokerWriteRoleWithResponse(ctx, "made", generated.BrokerWriteRoleJSONRequestBody{Provider: &provider, Ttl: &ttl, Scopes: &scopes})
	if err != nil {
		return err
	}
	if written.StatusCode() >= http.StatusBadRequest {
		return errors.New(written.Status() + ": " + string(written.Body))
	}
	role, err := broker.BrokerReadRoleWithResponse(ctx, "made")
	if err != nil {
		return err
	}
	child, err := broker.BrokerGenerateCredentialsWithResponse(ctx, "made", &generated.BrokerGenerateCredentialsParams{Scopes: &scopes, Ttl: &ttl})
	if err != nil {
		return err
	}
	if child.JSON200 == nil || child.JSON200.AccessToken == nil || role.JSON200 == nil {
		return errors.New(role.Status() + ", " + child.Status() + ": " + string(child.Body))
	}
	killed, err := broker.BrokerRevokeGrantWithResponse(ctx, *child.JSON200.GrantId)
	if err != nil {
		return err
	}
	if killed.JSON200 == nil {
		return errors.New(killed.Status() + ": " + string(killed.Body))
	}
	fmt.Printf("a role of %d s, a token for %v, %d revoked\n", *role.JSON200.Ttl, *child.JSON200.Scopes, *killed.JSON200.Revoked)
	return nil
}
