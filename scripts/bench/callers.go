package main

import (
	"fmt"

	"github.com/hashicorp/vault/api"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
)

const callerPolicy = `
path "floor/creds/*"     { capabilities = ["read", "update"] }
path "broker/creds/*"    { capabilities = ["read", "update"] }
path "base/creds/*"      { capabilities = ["read", "update"] }
path "spare-broker/creds/*" { capabilities = ["read", "update"] }
path "spare-base/creds/*" { capabilities = ["read", "update"] }
path "sys/leases/renew"  { capabilities = ["update"] }
path "sys/leases/revoke" { capabilities = ["update"] }
`

// logIn makes the callers: entities that have logged in by approle, whose secrets
// Vault checks faster than it does passwords.
func (w *world) logIn(t harness.TB) {
	client := w.vault.Client(t)
	must := func(secret *api.Secret, err error) *api.Secret {
		if err != nil {
			t.Fatalf("making the callers: %v", err)
		}
		return secret
	}
	must(nil, client.Sys().PutPolicy("caller", callerPolicy))
	must(nil, client.Sys().EnableAuthWithOptions("approle", &api.EnableAuthOptions{Type: "approle"}))
	for i := range w.settings.callers {
		name := fmt.Sprintf("caller-%d", i)
		role := "auth/approle/role/" + name
		must(client.Logical().Write(role, harness.Fields{"role_id": name, "token_policies": "caller", "token_ttl": "24h"}))
		secret := must(client.Logical().Write(role+"/secret-id", nil))
		login := must(client.Logical().Write("auth/approle/login", harness.Fields{"role_id": name, "secret_id": secret.Data["secret_id"]}))
		if login.Auth == nil || login.Auth.EntityID == "" {
			t.Fatalf("%s has no entity", name)
		}
		if w.callers = append(w.callers, login.Auth.ClientToken); i == 0 {
			w.first = login.Auth.EntityID
		}
	}
}
