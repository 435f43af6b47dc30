package acceptance

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
)

// An agent exchanges what it got from a user for something narrower, at servers
// that nobody here wrote.

func TestAnAgentExchangesAUsersLogin(t *testing.T) {
	t.Parallel()
	op := sharedOP(t)
	s := atOP(t, op, nil)
	s.exchangeRole(t, "behalf", harness.Fields{"parameters": harness.Fields{"subject_token_type": "urn:ietf:params:oauth:token-type:id_token"}})
	agent := s.agent(t, harness.Agent{Name: "agent"})
	login, access := op.Login(t, harness.OPJWT, "email", "profile")
	confidential("subject token", login)
	confidential("access token", access)

	c := issue(t, s.As(agent), "behalf", harness.Fields{"subject_token": login, "scopes": "openid,email"})
	require.Equal(t, opUser, text(c.Secret, "subject"))
	require.Equal(t, "op", text(c.Secret, "subject_issuer"))
	require.Equal(t, "urn:ietf:params:oauth:token-type:access_token", text(c.Secret, "issued_token_type"))
	require.Equal(t, []string{"email", "openid"}, list(c.Secret, "scopes"))
	require.Equal(t, []string{harness.OPAPI.ID}, list(c.Secret, "audiences"))
	require.Empty(t, list(c.Secret, "unverified"))
	require.Equal(t, "token", text(c.Secret, "revocation"))

	claims, err := verifiedAt(t, op, c.Token, harness.OPAPI.ID)
	require.NoError(t, err)
	require.Equal(t, opUser, claims.Subject())
	_, err = verifiedAt(t, op, c.Token, harness.OPWeb.ID)
	require.Error(t, err, "it is not for that service")
	found := op.Introspect(t, harness.OPAPI, c.Token)
	require.True(t, found.Active)
	require.Equal(t, opUser, found.Subject)
	require.Equal(t, "email openid", found.Scope, "the profile stayed behind")
	require.Equal(t, opUser, text(s.Read(t, "grants/"+c.GrantID), "subject"))

	require.NoError(t, endLease(t, s.vault.Session, c.LeaseID))
	op.MustBeInactive(t, harness.OPAPI, c.Token)
	op.MustBeActive(t, harness.OPJWT, access) // the user's own lives on

	second := issue(t, s.As(agent), "behalf", harness.Fields{"subject_token": login})
	op.MustBeActive(t, harness.OPAPI, second.Token)
	killed := s.Write(t, "revoke/entity/"+agent.EntityID, nil)
	require.Equal(t, json.Number("1"), killed.Data["revoked"])
	op.MustBeInactive(t, harness.OPAPI, second.Token)
	op.MustBeActive(t, harness.OPJWT, access)

	_, err = s.As(agent).TryWrite(t, "creds/behalf", harness.Fields{"subject_token": login, "scopes": "phone"})
	refused(t, err, 400, "invalid_scope")
	_, err = s.As(agent).TryWrite(t, "creds/behalf", harness.Fields{"subject_token": login, "audiences": harness.OPWeb.ID})
	refused(t, err, 400, "invalid_target")
}

// The whole way: a user's login, an agent's own login at Vault, and a service that
// sees both in one token. The OP trusts the broker's keys as it finds them.
func TestTheBrokerVouchesForTheAgent(t *testing.T) {
	t.Parallel()
	vault := sharedVault(t)
	m := vault.Enable(t, "")
	issuer := becomeIssuer(t, vault, m)
	op := harness.StartOPTrusting(t, map[string]string{issuer: issuer + "/.well-known/jwks.json"})
	s := onMount(t, vault, m, op, nil)
	s.exchangeRole(t, "delegate", harness.Fields{
		"actor": "entity", "parameters": harness.Fields{"subject_token_type": "urn:ietf:params:oauth:token-type:id_token"},
	})
	agent := s.agent(t, harness.Agent{Name: "agent"})
	login, _ := op.Login(t, harness.OPJWT, "email")
	confidential("subject token", login)

	c := issue(t, s.As(agent), "delegate", harness.Fields{"subject_token": login, "scopes": "openid"})
	require.Equal(t, opUser, text(c.Secret, "subject"))
	require.Equal(t, agent.EntityID, text(c.Secret, "actor"))
	grant := s.Read(t, "grants/"+c.GrantID)
	require.Equal(t, agent.EntityID, text(grant, "actor"))
	claims, err := verifiedAt(t, op, c.Token, harness.OPAPI.ID)
	require.NoError(t, err)
	require.Equal(t, opUser, claims.Subject())
	act, _ := claims.Get("act")
	require.Equal(t, map[string]any{"sub": agent.EntityID, "iss": issuer}, act)
	_, err = verifiedAt(t, op, c.Token, harness.OPWeb.ID)
	require.Error(t, err, "it is for one service")

	op.MustBeActive(t, harness.OPAPI, c.Token)
	s.Write(t, "revoke/entity/"+agent.EntityID, nil)
	op.MustBeInactive(t, harness.OPAPI, c.Token)

	_, err = s.TryWrite(t, "creds/delegate", harness.Fields{"subject_token": login})
	refused(t, err, 403, "access_denied", "no entity")
}

// delegation is a scene at an OP of its own that trusts the issuers idp and agents,
// as the broker does.
func delegation(t *testing.T, provider harness.Fields) (s *scene, op *harness.OP, idp, agents *signer) {
	t.Helper()
	needsServers(t)
	idp, agents = newSigner(t, "https://idp.example.com"), newSigner(t, "https://agents.example.com")
	op = harness.StartOPTrusting(t, map[string]string{idp.issuer: idp.publish(t), agents.issuer: agents.publish(t)})
	s = atOP(t, op, provider)
	idp.trust(t, s.Mount, "idp")
	agents.trust(t, s.Mount, "agents")
	return s, op, idp, agents
}

func TestAnActorTokenNamesWhoActs(t *testing.T) {
	t.Parallel()
	s, op, idp, agents := delegation(t, nil)
	strangers := newSigner(t, "https://strangers.example.com")
	strangers.trust(t, s.Mount, "strangers") // and the OP does not
	s.exchangeRole(t, "delegate", harness.Fields{
		"subject_issuers": "idp", "actor": "token", "actor_issuers": "agents,strangers", "subject_single_use": true,
	})
	mayAct := func(who string) harness.Fields {
		return harness.Fields{"may_act": harness.Fields{"iss": agents.issuer, "sub": who}}
	}
	ask := func(subject, actor string) harness.Fields {
		return harness.Fields{"subject_token": subject, "actor_token": actor, "scopes": "openid"}
	}
	actor := agents.person(t, "planner", op.URL, nil)
	user := idp.person(t, opUser, op.URL, mayAct("planner"))
	c := issue(t, s.Mount, "delegate", ask(user, actor))
	require.Equal(t, opUser, text(c.Secret, "subject"))
	require.Equal(t, "planner", text(c.Secret, "actor"))
	require.Equal(t, "planner", text(s.Read(t, "grants/"+c.GrantID), "actor"))
	claims, err := verifiedAt(t, op, c.Token, harness.OPAPI.ID)
	require.NoError(t, err)
	require.Equal(t, opUser, claims.Subject())
	act, _ := claims.Get("act")
	require.Equal(t, map[string]any{"sub": "planner", "iss": agents.issuer}, act)
	op.MustBeActive(t, harness.OPAPI, c.Token)
	require.NoError(t, endLease(t, s.vault.Session, c.LeaseID))
	op.MustBeInactive(t, harness.OPAPI, c.Token)

	_, err = s.TryWrite(t, "creds/delegate", ask(user, actor))
	refused(t, err, 400, "invalid_grant", "used already")
	fresh := func(claims harness.Fields) string { return idp.person(t, opUser, op.URL, claims) }
	for name, refusal := range map[string]struct {
		fields harness.Fields
		status int
		code   string
	}{
		"an actor that may not act": {ask(fresh(mayAct("another")), actor), 403, "access_denied"},
		"no actor":                  {harness.Fields{"subject_token": fresh(nil)}, 400, "invalid_request"},
		"an expired subject":        {ask(fresh(harness.Fields{"exp": time.Now().Add(-2 * time.Minute).Unix()}), actor), 400, "invalid_grant"},
		"another's subject":         {ask(newSigner(t, idp.issuer).person(t, opUser, op.URL, nil), actor), 400, "invalid_grant"},
		"for another audience":      {ask(fresh(harness.Fields{"aud": op.URL}), actor), 400, "invalid_grant"},
		"an actor as the subject":   {ask(actor, actor), 400, "invalid_grant"},
		"an expired actor":          {ask(fresh(nil), agents.person(t, "planner", op.URL, harness.Fields{"exp": time.Now().Add(-2 * time.Minute).Unix()})), 400, "invalid_grant"},
		"not meant for the server":  {ask(fresh(harness.Fields{"aud": vaultAudience}), actor), 400, "invalid_request"},
		"unknown to the server":     {ask(idp.person(t, "stranger", op.URL, nil), actor), 400, "invalid_request"},
		"an actor of its own trust": {ask(fresh(nil), strangers.person(t, "planner", op.URL, nil)), 400, "invalid_request"},
		"more than the role has":    {with(ask(fresh(nil), actor), harness.Fields{"scopes": "phone"}), 400, "invalid_scope"},
	} {
		_, err := s.TryWrite(t, "creds/delegate", refusal.fields)
		require.Error(t, err, name)
		refused(t, err, refusal.status, refusal.code)
	}
}

func TestHydraRedeemsAnAssertion(t *testing.T) {
	t.Parallel()
	hydra := sharedHydra(t)
	s := newScene(t, harness.HydraClient{
		Grants: []string{"urn:ietf:params:oauth:grant-type:jwt-bearer", "client_credentials"}, JWT: true,
	}, harness.Fields{"exchange": "jwt-bearer"})
	idp := newSigner(t, "https://idp-of-"+s.Path+".example.com")
	idp.trust(t, s.Mount, "idp")
	other := newSigner(t, idp.issuer+"/other")
	other.trust(t, s.Mount, "other")
	hydra.TrustIssuer(t, idp.issuer, idp.jwk(t), "repo:read", "repo:write")
	s.role(t, "behalf", harness.Fields{"mode": "exchange", "subject_issuers": "idp,other", "audiences": nil})
	s.role(t, "narrow", harness.Fields{"mode": "exchange", "subject_issuers": "idp"})
	endpoint := hydra.URL + "/oauth2/token"

	c := issue(t, s.Mount, "behalf", harness.Fields{"subject_token": idp.person(t, "jane", endpoint, nil), "scopes": "repo:read"})
	found := hydra.Introspect(t, c.Token)
	require.True(t, found.Active)
	require.Equal(t, "jane", found.Subject)
	require.Equal(t, "repo:read", found.Scope)
	require.Equal(t, "jane", text(c.Secret, "subject"))
	require.Equal(t, []string{"repo:read"}, list(c.Secret, "scopes"))
	require.LessOrEqual(t, c.LeaseDuration, 300, "a lease never outlives the subject token")
	require.NoError(t, endLease(t, s.vault.Session, c.LeaseID))
	hydra.MustBeInactive(t, c.Token)

	// Hydra takes an assertion once (RFC 7523 3) and none that is not for it.
	used := idp.person(t, "jane", endpoint, nil)
	again := issue(t, s.Mount, "behalf", harness.Fields{"subject_token": used})
	hydra.MustBeActive(t, again.Token)
	for name, token := range map[string]string{
		"replayed":           used,
		"not meant for it":   idp.person(t, "jane", "https://elsewhere.example.com", nil),
		"from nobody it has": other.person(t, "jane", endpoint, nil),
	} {
		_, err := s.TryWrite(t, "creds/behalf", harness.Fields{"subject_token": token})
		require.Error(t, err, name)
		require.Equal(t, 400, harness.StatusOf(err), "%s: %v", name, err)
		require.NotContains(t, err.Error(), token)
	}
	require.Equal(t, "ok", keyInfo(t, s.Mount, "providers", "oauth2/hydra")["health"], "none of this is the parent's fault")

	// Hydra makes the assertion's own audience the token's, beside what was asked
	// for (fosite, handler/rfc7523). That is wider than the role's, and so it is
	// killed instead of handed out.
	_, err := s.TryWrite(t, "creds/narrow", harness.Fields{"subject_token": idp.person(t, "jane", endpoint, nil)})
	refused(t, err, 501, "provider_violation", endpoint)
	require.NotContains(t, err.Error(), "not dead yet")

	_, err = s.TryWrite(t, "roles/acting", harness.Fields{"provider": "oauth2/hydra", "mode": "exchange", "subject_issuers": "idp", "scopes": "repo:read", "actor": "entity"})
	refused(t, err, 400, "invalid_request", "takes no actor")
	_, err = s.TryWrite(t, "roles/typed", harness.Fields{"provider": "oauth2/hydra", "mode": "exchange", "subject_issuers": "idp", "scopes": "repo:read", "parameters": harness.Fields{"requested_token_type": "urn:ietf:params:oauth:token-type:jwt"}})
	refused(t, err, 400, "invalid_request", "exchange=jwt-bearer")
}

// TestTheOPRedeemsAServicesAssertion is RFC 7523 at the OP, which calls it the JWT
// profile: a service speaks for itself, so its sub is its iss.
func TestTheOPRedeemsAServicesAssertion(t *testing.T) {
	t.Parallel()
	needsServers(t)
	service := newSigner(t, "https://service.example.com")
	op := harness.StartOPTrusting(t, map[string]string{service.issuer: service.publish(t)})
	s := atOP(t, op, harness.Fields{
		"exchange": "jwt-bearer", "verify": "response", "audience_parameter": "none",
		// The example notes no client with such a token, and lets only that one revoke it.
		"revocation": "expiry",
	})
	service.trust(t, s.Mount, "service")
	s.exchangeRole(t, "itself", harness.Fields{"subject_issuers": "service", "scopes": "openid", "audiences": nil})

	c := issue(t, s.Mount, "itself", harness.Fields{"subject_token": service.person(t, service.issuer, op.URL, nil)})
	require.Equal(t, service.issuer, text(c.Secret, "subject"))
	require.Equal(t, []string{"openid"}, list(c.Secret, "scopes"))
	require.Equal(t, "expiry", text(c.Secret, "revocation"))
	require.LessOrEqual(t, c.LeaseDuration, 300)

	for name, token := range map[string]string{
		"about somebody else": service.person(t, "jane", op.URL, nil),
		"not meant for it":    service.person(t, service.issuer, "https://elsewhere.example.com", nil),
	} {
		_, err := s.TryWrite(t, "creds/itself", harness.Fields{"subject_token": token})
		require.Error(t, err, name)
		require.NotContains(t, err.Error(), token)
	}
}
