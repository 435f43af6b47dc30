package oauth2

import (
	"context"
	"testing"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/providertest"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

func TestConformance(t *testing.T) {
	scope := access.Exactly("read", "write")
	api := access.Exactly("https://api.test/")
	for name, test := range map[string]struct {
		options authserver.Options
		fields  with
		asked   access.Access
	}{
		"client credentials":             {authserver.Options{}, with{}, access.Access{Scopes: scope}},
		"post, introspected":             {authserver.Options{}, with{"auth_method": "client_secret_post", "verify": "introspect", "audience_parameter": "audience", "confirm_revocation": true}, access.Access{Scopes: scope, Audiences: api}},
		"JWTs":                           {authserver.Options{JWT: true, TLS: true}, with{"verify": "jwt", "audience_parameter": "resource"}, access.Access{Scopes: scope, Resources: api}},
		"nothing to revoke with":         {authserver.Options{WithoutRevocation: true}, with{}, access.Access{Scopes: scope}},
		"rotating refresh token":         {authserver.Options{RotateRefresh: true}, with{"grant": "refresh_token"}, access.Access{Scopes: scope}},
		"rotating refresh token, killed": {authserver.Options{RotateRefresh: true, WithoutIntrospection: true}, with{"grant": "refresh_token", "revocation": "token"}, access.Access{Scopes: scope}},
	} {
		t.Run(name, func(t *testing.T) {
			providertest.Run(t, func(t *testing.T) providertest.Subject {
				f := newFixture(t, test.options, test.fields)
				f.setTimeout(3 * time.Second)
				return f.subject(test.asked)
			})
		})
	}
}

// TestExchangeConformance: an exchange keeps every promise that a mint keeps.
func TestExchangeConformance(t *testing.T) {
	asked := access.Access{Scopes: access.Exactly("read", "write"), Audiences: access.Exactly("https://api.test/")}
	for name, test := range map[string]struct {
		options authserver.Options
		fields  with
	}{
		"token exchange":                        {authserver.Options{}, with{"audience_parameter": "audience"}},
		"token exchange, JWTs":                  {authserver.Options{JWT: true, TLS: true}, with{"verify": "jwt", "audience_parameter": "resource"}},
		"jwt-bearer, introspected":              {authserver.Options{}, with{"exchange": "jwt-bearer", "verify": "introspect", "audience_parameter": "audience", "confirm_revocation": true}},
		"on-behalf-of, nothing to revoke with":  {authserver.Options{WithoutRevocation: true}, with{"exchange": "on-behalf-of", "audience_parameter": "audience"}},
		"beside a refresh token, which is idle": {authserver.Options{RotateRefresh: true}, with{"grant": "refresh_token", "audience_parameter": "audience"}},
	} {
		t.Run(name, func(t *testing.T) {
			providertest.Run(t, func(t *testing.T) providertest.Subject {
				f := exchangeFixture(t, test.options, test.fields)
				f.setTimeout(3 * time.Second)
				s := f.subject(asked)
				s.Provider, s.OutlivesCaller = forWhom{f.Provider}, false
				return s
			})
		})
	}
}

// forWhom mints by exchanging Jane's token.
type forWhom struct{ *Provider }

func (p forWhom) Mint(ctx context.Context, r provider.Request) (*provider.Child, error) {
	r.Subject = jane()
	return p.Exchange(ctx, r)
}

func (f *fixture) subject(asked access.Access) providertest.Subject {
	all := []authserver.Endpoint{authserver.EndpointToken, authserver.EndpointRevoke, authserver.EndpointIntrospect}
	breakAll := func(fault authserver.Fault) func() {
		return func() {
			for _, e := range all {
				f.server.Break(e, fault)
			}
		}
	}
	return providertest.Subject{
		Provider:       f.Provider,
		Type:           Type{},
		Request:        provider.Request{Access: asked, TTL: time.Hour},
		Store:          f.store,
		Alive:          providertest.Token(f.server.Active),
		Minted:         func() int { return f.server.Counts().Minted },
		Echo:           breakAll(authserver.Echo()),
		Stall:          breakAll(authserver.Slow(time.Minute)),
		OutlivesCaller: f.settings.Grant == grantRefreshToken,
	}
}
