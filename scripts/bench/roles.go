package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwt"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
)

// roleWriter writes into a build of the broker what a case needs, and returns the engine that
// serves it. A broker that cannot do what the case needs refuses; that is told as a
// *notBuilt.
type roleWriter func(t harness.TB, w *world, at *site) (engine, error)

// notBuilt is the broker's refusal of what a case needs.
type notBuilt struct{ answer string }

func (n *notBuilt) Error() string { return n.answer }

// entitled is what every role says; the lease is as long as the floor's.
var entitled = harness.Fields{"ttl": "1h", "max_ttl": "24h", "scopes": "read"}

func mintRole(t harness.TB, w *world, at *site) (engine, error) {
	return w.role(t, at, "mint", harness.Fields{"provider": "oauth2/fast"})
}

// twoRoles are of a provider each.
func twoRoles(t harness.TB, w *world, at *site) (engine, error) {
	if err := w.write(t, at, "providers/oauth2/other", w.fast()); err != nil {
		return engine{}, err
	}
	other, err := w.role(t, at, "other", harness.Fields{"provider": "oauth2/other"})
	if err != nil {
		return engine{}, err
	}
	e, err := mintRole(t, w, at)
	e.also = other.creds
	return e, err
}

// spareRole is mintRole on a mount of its own, whose ledger is empty.
func spareRole(t harness.TB, w *world, at *site) (engine, error) {
	spare := w.mountAt(t, at.plugin, at.spare)
	fields := maps.Clone(entitled)
	fields["provider"] = "oauth2/fast"
	spare.Write(t, "roles/mint", fields)
	return engine{plugin: at.plugin, creds: at.spare + "/creds/mint"}, nil
}

func sharingRole(t harness.TB, w *world, at *site) (engine, error) {
	return w.role(t, at, "sharing", harness.Fields{"provider": "oauth2/fast", "sharing": "entity"})
}

// jwtRole makes the broker an issuer of its own, at the URL of its mount.
func jwtRole(t harness.TB, w *world, at *site) (engine, error) {
	if err := w.write(t, at, "config", harness.Fields{"issuer": w.vault.Addr + "/v1/" + at.path}); err != nil {
		return engine{}, err
	}
	if err := w.write(t, at, "providers/jwt/own", harness.Fields{}); err != nil {
		return engine{}, err
	}
	return w.role(t, at, "jwt", harness.Fields{"provider": "jwt/own", "audiences": "https://api.example.com"})
}

// githubRole is for one repository of an App whose key is made here.
func githubRole(t harness.TB, w *world, at *site) (engine, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return engine{}, err
	}
	if err := w.write(t, at, "providers/github/fast", harness.Fields{
		"base_url": w.auth.URL + "/github", "app_id": "1", "installation_id": "1",
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})),
	}); err != nil {
		return engine{}, err
	}
	return w.role(t, at, "github", harness.Fields{
		"provider": "github/fast", "scopes": nil, "resources": "bench/api", "permissions": map[string]any{"contents": "read"},
	})
}

const (
	subjectIssuer   = "https://ci.example.com"
	subjectAudience = "broker"
	subjectLife     = 12 * time.Hour
)

// exchangeRole trusts an issuer whose key is here, and gives each caller a subject
// token by it.
func exchangeRole(t harness.TB, w *world, at *site) (engine, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return engine{}, err
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return engine{}, err
	}
	if err := w.write(t, at, "issuers/ci", harness.Fields{
		"jwks_pem":        string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})),
		"bound_issuer":    subjectIssuer,
		"bound_audiences": subjectAudience,
	}); err != nil {
		return engine{}, err
	}
	e, err := w.role(t, at, "exchange", harness.Fields{"provider": "oauth2/fast", "mode": "exchange", "subject_issuers": "ci", "actor": "none"})
	if err != nil {
		return engine{}, err
	}
	for i := range w.callers {
		body, err := subjectBody(key, i)
		if err != nil {
			return engine{}, err
		}
		e.bodies = append(e.bodies, body)
	}
	return e, nil
}

func subjectBody(key *ecdsa.PrivateKey, caller int) ([]byte, error) {
	now := time.Now()
	token, err := jwt.NewBuilder().Issuer(subjectIssuer).Subject(fmt.Sprintf("repo:example/%d", caller)).
		Audience([]string{subjectAudience}).IssuedAt(now).Expiration(now.Add(subjectLife)).Build()
	if err != nil {
		return nil, err
	}
	signed, err := jwt.Sign(token, jwt.WithKey(jwa.ES256, key))
	if err != nil {
		return nil, err
	}
	return json.Marshal(map[string]string{"subject_token": string(signed)})
}

func (w *world) role(t harness.TB, at *site, name string, fields harness.Fields) (engine, error) {
	all := maps.Clone(entitled)
	maps.Copy(all, fields)
	maps.DeleteFunc(all, func(_ string, value any) bool { return value == nil })
	err := w.write(t, at, "roles/"+name, all)
	return engine{plugin: at.plugin, creds: at.path + "/creds/" + name}, err
}

// write tells a refusal by *notBuilt; other failures are the benchmark's own.
func (w *world) write(t harness.TB, at *site, path string, fields harness.Fields) error {
	_, err := at.mount.TryWrite(t, path, fields)
	var refused *api.ResponseError
	if !errors.As(err, &refused) {
		return err
	}
	switch refused.StatusCode {
	case http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed:
		return &notBuilt{answer: path + ": " + inBrief(strings.Join(refused.Errors, "; "))}
	default:
		return err
	}
}

// briefly is how much of a refusal is shown; the rest is for who writes to the path.
const briefly = 100

// inBrief is Vault's list of errors as one line.
func inBrief(answer string) string {
	answer = strings.TrimPrefix(answer, "1 error occurred:")
	answer = strings.Join(strings.Fields(answer), " ")
	answer = strings.TrimPrefix(answer, "* ")
	if len(answer) > briefly {
		answer = strings.ToValidUTF8(answer[:briefly], "") + "…"
	}
	return answer
}
