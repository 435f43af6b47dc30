package acceptance

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
)

// On whose behalf: subject tokens of issuers that the operator trusts.

func TestSubjectTokenOfATrustedKey(t *testing.T) {
	t.Parallel()
	s := newScene(t, harness.HydraClient{}, nil)
	ci, impostor := newSigner(t, "https://ci.example.com"), newSigner(t, "https://ci.example.com")
	ci.trust(t, s.Mount, "ci")
	s.role(t, "ci", harness.Fields{
		"subject_issuers":      "ci",
		"bound_subject_claims": harness.Fields{"repository": []string{"org/*"}, "/sub": "repo:org/payments:**"},
	})
	forNow := ci.token(t, harness.Fields{"exp": time.Now().Add(2 * time.Minute).Unix()})
	c := issue(t, s.Mount, "ci", harness.Fields{"subject_token": forNow})
	require.Equal(t, "repo:org/payments:ref:refs/heads/main", text(c.Secret, "subject"))
	require.Equal(t, "ci", text(c.Secret, "subject_issuer"))
	require.LessOrEqual(t, c.LeaseDuration, 120, "nothing outlives what it derives from")
	require.Greater(t, c.LeaseDuration, 90)
	s.hydra.MustBeActive(t, c.Token)
	require.Equal(t, text(c.Secret, "subject"), text(s.Read(t, "grants/"+c.GrantID), "subject"))
	_, err := s.vault.Client(t).Sys().Renew(c.LeaseID, 3600)
	require.NoError(t, err)
	lookup, err := s.vault.Client(t).Sys().Lookup(c.LeaseID)
	require.NoError(t, err)
	require.LessOrEqual(t, text(lookup, "expire_time"), time.Now().Add(2*time.Minute).UTC().Format(time.RFC3339Nano))

	for name, refusal := range map[string]struct {
		token  string
		status int
		code   string
	}{
		"another repository": {ci.token(t, harness.Fields{"repository": "elsewhere/payments"}), 403, "access_denied"},
		"another audience":   {ci.token(t, harness.Fields{"aud": "https://other.example.com"}), 400, "invalid_grant"},
		"another issuer":     {ci.token(t, harness.Fields{"iss": "https://evil.example.com"}), 400, "invalid_grant"},
		"another key":        {impostor.token(t, nil), 400, "invalid_grant"},
		"expired":            {ci.token(t, harness.Fields{"exp": time.Now().Add(-2 * time.Minute).Unix()}), 400, "invalid_grant"},
		"without an end":     {ci.token(t, harness.Fields{"exp": nil}), 400, "invalid_grant"},
		"unsigned":           {unsigned(forNow), 400, "invalid_grant"},
		"no token":           {"not-a-token", 400, "invalid_grant"},
	} {
		_, err := s.TryWrite(t, "creds/ci", harness.Fields{"subject_token": refusal.token})
		refused(t, err, refusal.status, refusal.code)
		require.NotContains(t, err.Error(), refusal.token, name)
		require.NotContains(t, err.Error(), "elsewhere/payments", name)
	}
	_, err = s.TryWrite(t, "creds/ci", nil)
	refused(t, err, 400, "invalid_request", "subject_token is missing")
	// Vault writes every URL to its audit log, so this one is no real token.
	_, err = s.TryRead(t, "creds/ci", "subject_token=in.the.url")
	refused(t, err, 400, "invalid_request", "a URL is no place for a token")

	s.role(t, "nobody", nil)
	_, err = s.TryWrite(t, "creds/nobody", harness.Fields{"subject_token": forNow})
	refused(t, err, 400, "invalid_request", "takes no subject_token")
}

// unsigned is the token with the algorithm none (RFC 8725 2.1).
func unsigned(token string) string {
	parts := strings.Split(token, ".")
	return "eyJhbGciOiJub25lIn0." + parts[1] + "."
}

func TestSubjectTokenOfADiscoveredIssuer(t *testing.T) {
	t.Parallel()
	t.Run("an access token of Hydra narrows to its own scopes", func(t *testing.T) {
		t.Parallel()
		s := newScene(t, harness.HydraClient{}, nil)
		caller := s.hydra.CreateClient(t, harness.HydraClient{JWT: true, Scopes: []string{"repo:read", "unrelated"}, Audiences: []string{vaultAudience}})
		s.Write(t, "issuers/hydra", harness.Fields{"oidc_discovery_url": s.hydra.URL, "bound_audiences": vaultAudience})
		s.role(t, "behalf", harness.Fields{"subject_issuers": "hydra", "bound_subject_claims": harness.Fields{"client_id": caller.ID}})
		token := confidential("subject token", s.hydra.Token(t, caller, []string{"repo:read", "unrelated"}, []string{vaultAudience}))
		c := issue(t, s.Mount, "behalf", harness.Fields{"subject_token": token})
		require.Equal(t, []string{"repo:read"}, list(c.Secret, "scopes"))
		require.Equal(t, "repo:read", s.hydra.Introspect(t, c.Token).Scope)
		require.Equal(t, caller.ID, text(c.Secret, "subject"))
		_, err := s.TryWrite(t, "creds/behalf", harness.Fields{"subject_token": token, "scopes": "repo:write"})
		refused(t, err, 400, "invalid_scope", "nothing is left")
	})
	t.Run("an ID token of the OpenID Provider", func(t *testing.T) {
		t.Parallel()
		op := sharedOP(t)
		s := newScene(t, harness.HydraClient{}, nil)
		s.Write(t, "issuers/op", harness.Fields{"oidc_discovery_url": op.URL, "bound_audiences": harness.OPWeb.ID})
		s.role(t, "behalf", harness.Fields{"subject_issuers": "op", "max_auth_age": "5m"})
		tokens := op.UserTokens(t, harness.OPWeb)
		token, _ := tokens.Extra("id_token").(string)
		require.NotEmpty(t, token)
		confidential("subject token", token)
		c := issue(t, s.Mount, "behalf", harness.Fields{"subject_token": token})
		require.Equal(t, "op", text(c.Secret, "subject_issuer"))
		require.NotEmpty(t, text(c.Secret, "subject"))
		s.hydra.MustBeActive(t, c.Token)
	})
}

func TestSubjectTokenWorksOnce(t *testing.T) {
	t.Parallel()
	s, w := severable(t)
	ci := newSigner(t, "https://ci.example.com")
	ci.trust(t, s.Mount, "ci")
	s.role(t, "once", harness.Fields{"subject_issuers": "ci", "subject_single_use": true})

	token := ci.token(t, nil)
	explained := s.Write(t, "roles/once/explain", harness.Fields{"subject_token": token})
	require.Equal(t, true, explained.Data["allowed"], "explaining uses nothing up: %v", explained.Data)
	issue(t, s.Mount, "once", harness.Fields{"subject_token": token})
	_, err := s.TryWrite(t, "creds/once", harness.Fields{"subject_token": token})
	refused(t, err, 400, "invalid_grant", "used already")
	_, err = s.TryWrite(t, "creds/once", harness.Fields{"subject_token": ci.token(t, harness.Fields{"jti": nil})})
	refused(t, err, 400, "invalid_grant", "jti")

	// An answer that was lost may have been a token, so this one is used up too.
	lost := ci.token(t, nil)
	w.Cut()
	_, err = s.TryWrite(t, "creds/once", harness.Fields{"subject_token": lost})
	refused(t, err, 503, "temporarily_unavailable")
	w.Mend()
	_, err = s.TryWrite(t, "creds/once", harness.Fields{"subject_token": lost})
	refused(t, err, 400, "invalid_grant", "used already")
}

func TestStepUpSaysWhatIsNeeded(t *testing.T) {
	t.Parallel()
	s := newScene(t, harness.HydraClient{}, nil)
	idp := newSigner(t, "https://idp.example.com")
	idp.trust(t, s.Mount, "idp")
	s.role(t, "admin", harness.Fields{
		"subject_issuers": "idp", "required_acr": "urn:acr:phr,urn:acr:mfa", "required_amr": "hwk", "max_auth_age": "5m",
	})
	login := func(claims harness.Fields) harness.Fields {
		return harness.Fields{"subject_token": idp.token(t, with(harness.Fields{
			"sub": "jane", "acr": "urn:acr:mfa", "amr": []string{"pwd", "hwk"}, "auth_time": time.Now().Add(-time.Minute).Unix(),
		}, claims))}
	}
	c := issue(t, s.Mount, "admin", login(nil))
	require.Equal(t, "jane", text(c.Secret, "subject"))
	for _, weak := range []harness.Fields{
		{"acr": "urn:acr:pwd"}, {"acr": nil}, {"amr": []string{"pwd"}}, {"auth_time": time.Now().Add(-time.Hour).Unix()}, {"auth_time": nil},
	} {
		_, err := s.TryWrite(t, "creds/admin", login(weak))
		refused(t, err, 403, "insufficient_user_authentication", `acr_values="urn:acr:phr urn:acr:mfa"`, "max_age=")
	}
}

func TestGoneIssuersAreNobodysIssuers(t *testing.T) {
	t.Parallel()
	s := newScene(t, harness.HydraClient{}, nil)
	ci := newSigner(t, "https://ci.example.com")
	_, err := s.TryWrite(t, "roles/ci", harness.Fields{"provider": "oauth2/hydra", "scopes": "repo:read", "subject_issuers": "ci"})
	refused(t, err, 400, "invalid_request", "issuers/ci")
	ci.trust(t, s.Mount, "ci")
	s.role(t, "ci", harness.Fields{"subject_issuers": "ci"})
	issue(t, s.Mount, "ci", harness.Fields{"subject_token": ci.token(t, nil)})
	s.Delete(t, "issuers/ci")
	_, err = s.TryWrite(t, "creds/ci", harness.Fields{"subject_token": ci.token(t, nil)})
	refused(t, err, 400, "invalid_grant")
}
