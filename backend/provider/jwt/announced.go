package jwt

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/jwks"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/kit"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// discoveryPath is where a verifier looks first (OpenID Connect Discovery 1.0, 4).
const discoveryPath = "/.well-known/openid-configuration"

// announced makes sure that a verifier finds at the issuer's own URL the keys by which what
// the broker signs verifies: it does what a verifier does. Another mount may stand there, or
// none, since a mount can be moved and an issuer is but a name.
func (p *Provider) announced(ctx context.Context, issuer string, signed []secret.Text) error {
	document, err := p.document(ctx, issuer+discoveryPath)
	if err != nil {
		return err
	}
	var discovery struct {
		Issuer  string `json:"issuer"`
		JWKSURI string `json:"jwks_uri"`
	}
	if err := json.Unmarshal(document, &discovery); err != nil || discovery.Issuer != issuer {
		return misplaced("what stands at %s is not the discovery document of the issuer %s", issuer+discoveryPath, issuer)
	}
	at := discovery.JWKSURI
	switch err := httpclient.CheckEndpoint(at, false); {
	case err != nil:
		return misplaced("the jwks_uri in %s %s", issuer+discoveryPath, err)
	case httpclient.IsHTTPS(issuer) && !httpclient.IsHTTPS(at), httpclient.IsLoopback(at) && !httpclient.IsLoopback(issuer):
		return misplaced("the jwks_uri in %s is not one that other machines can trust", issuer+discoveryPath)
	}
	if document, err = p.document(ctx, at); err != nil {
		return err
	}
	keys, err := jwks.Static(document)
	if err != nil {
		return misplaced("what stands at the jwks_uri in %s is no set of keys", issuer+discoveryPath)
	}
	for _, token := range signed {
		if _, _, err := keys.Verify(ctx, token.Reveal(), jwks.Algorithms()); err != nil {
			return misplaced("what this broker signs does not verify by the keys that stand there for the issuer %s: they are another mount's, or a copy from before the keys were rotated (an hour old at least, or five minutes after an emergency)", issuer).Because(err)
		}
	}
	return nil
}

// document fetches a public document as anybody could.
func (p *Provider) document(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, misplaced("%s cannot be asked for", url)
	}
	req.Header.Set("Accept", "application/json")
	resp, err := p.client.Public().Do(req)
	switch {
	case err != nil:
		return nil, kit.Unreached(err, "%s could not be reached, where services look for the keys of what this broker signs: let config issuer be the URL at which they reach this mount, and see the provider's ca_pem and proxy_url for the broker's own way there", url)
	case resp.Status >= 500 || resp.Status == http.StatusTooManyRequests:
		return nil, fault.New(fault.TemporarilyUnavailable, "%s, where services look for the keys of what this broker signs, answered HTTP %d: try again", url, resp.Status)
	case resp.Status/100 != 2:
		return nil, misplaced("%s, where services look for the keys of what this broker signs, answered HTTP %d", url, resp.Status)
	}
	return httpclient.Document(resp.Body), nil
}

// misplaced is an issuer's name at which the broker's keys are not found.
func misplaced(format string, args ...any) *fault.Error {
	f := fault.New(fault.InvalidRequest, format, args...)
	f.Message += ". Write config issuer as the URL at which services reach this mount, such as https://vault.example.com:8200/v1/<mount>; after vault secrets move, write it anew"
	return f
}
