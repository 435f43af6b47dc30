package acceptance

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
)

// TestAnAgentActsForAUser is the whole of delegation on real parts: a user logs in at
// an OpenID Provider, an agent with a Vault login of its own exchanges that login, the
// broker vouches for the agent, and the provider issues what a service verifies with
// both identities in it.
func TestAnAgentActsForAUser(t *testing.T) {
	t.Parallel()
	vault := sharedVault(t)
	s := &scene{Mount: vault.Enable(t, ""), vault: vault, client: harness.OPJWT}
	issuer := vault.Addr + "/v1/" + s.Path
	s.Write(t, "config", harness.Fields{"issuer": issuer})
	op := harness.StartOPTrusting(t, map[string]string{issuer: issuer + "/.well-known/jwks.json"})
	s.useOP(t, op, nil)
	s.exchangeRole(t, "delegate", harness.Fields{
		"actor": "entity", "parameters": harness.Fields{"subject_token_type": "urn:ietf:params:oauth:token-type:id_token"},
	})
	agent := s.agent(t, harness.Agent{Name: "agent"})
	login, own := op.Login(t, harness.OPJWT, "email", "profile")
	confidential("subject token", login)
	confidential("access token", own)

	c := issue(t, s.As(agent), "delegate", harness.Fields{"subject_token": login, "scopes": "openid,email"})
	require.Equal(t, opUser, text(c.Secret, "subject"))
	require.Equal(t, agent.EntityID, text(c.Secret, "actor"))
	record := s.Read(t, "grants/"+c.GrantID)
	require.Equal(t, opUser, text(record, "subject"))
	require.Equal(t, agent.EntityID, text(record, "actor"))

	claims, err := verifiedAt(t, op, c.Token, harness.OPAPI.ID)
	require.NoError(t, err)
	require.Equal(t, opUser, claims.Subject(), "the user stays the subject")
	act, _ := claims.Get("act")
	require.Equal(t, map[string]any{"sub": agent.EntityID, "iss": issuer}, act, "the agent is who acts")
	require.Equal(t, []string{harness.OPAPI.ID}, claims.Audience(), "narrower than the login")
	_, err = verifiedAt(t, op, c.Token, harness.OPJWT.ID)
	require.ErrorContains(t, err, "aud")

	op.MustBeActive(t, harness.OPAPI, c.Token)
	killed := s.Write(t, "revoke/entity/"+agent.EntityID, nil)
	require.Equal(t, json.Number("1"), killed.Data["revoked"])
	op.MustBeInactive(t, harness.OPAPI, c.Token)
	op.MustBeActive(t, harness.OPJWT, own)

	_, err = s.TryWrite(t, "creds/delegate", harness.Fields{"subject_token": login})
	refused(t, err, 403, "access_denied", "no entity")
}
