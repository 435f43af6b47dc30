package acceptance

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
)

// A person is an entity of Vault's, a second one, and a subject in whose name an agent holds
// tokens.

// people are a scene with an identity provider whose subjects are called as Vault's users
// are, and an agent who gets tokens on their behalf.
type people struct {
	*scene
	idp   *authserver.Server
	agent *harness.Session
	jti   int
}

func newPeople(t *testing.T) *people {
	t.Helper()
	p := &people{scene: newScene(t, harness.HydraClient{}, nil), idp: authserver.New(t, authserver.Options{})}
	p.Write(t, "issuers/idp", harness.Fields{
		"jwks_url": p.idp.Endpoint(authserver.EndpointJWKS), "bound_issuer": p.idp.URL, "bound_audiences": "broker",
		"entity_alias_mount": p.accessor(t, "userpass/"), "entity_metadata": harness.Fields{"number": "employee"},
	})
	p.role(t, "own", nil)
	p.role(t, "behalf", harness.Fields{"subject_issuers": "idp"})
	p.agent = p.scene.agent(t, harness.Agent{Name: "agent"})
	return p
}

// behalf is what the agent gets on somebody's behalf.
func (p *people) behalf(t *testing.T, sub string) (child, error) {
	t.Helper()
	p.jti++
	token := p.idp.SignClaims("JWT", map[string]any{
		"iss": p.idp.URL, "sub": sub, "aud": "broker", "jti": fmt.Sprint(p.jti), "iat": time.Now().Unix(), "exp": time.Now().Add(10 * time.Minute).Unix(),
	})
	secret, err := p.As(p.agent).TryWrite(t, "creds/behalf", harness.Fields{"subject_token": token})
	if err != nil {
		return child{}, err
	}
	return given(t, secret), nil
}

func (p *people) mustBehalf(t *testing.T, sub string) child {
	t.Helper()
	c, err := p.behalf(t, sub)
	require.NoError(t, err)
	return c
}

func TestAPersonLeaves(t *testing.T) {
	t.Parallel()
	p := newPeople(t)
	number := harness.Fields{"metadata_key": "number", "metadata_value": p.local("7")}
	alice := p.scene.agent(t, harness.Agent{Name: "alice", Metadata: map[string]string{"number": p.local("7")}})
	again := p.scene.agent(t, harness.Agent{Name: "alice-again", Metadata: map[string]string{"number": p.local("7")}})
	bert := p.scene.agent(t, harness.Agent{Name: "bert", Metadata: map[string]string{"number": ""}})
	hers := []child{read(t, p.As(alice), "own"), p.mustBehalf(t, p.local("alice"))}
	others := []child{read(t, p.As(p.agent), "own"), read(t, p.As(bert), "own"), p.mustBehalf(t, p.local("bert"))}

	seen := p.Write(t, "revoke/person", with(number, harness.Fields{"dry_run": true}))
	require.Len(t, seen.Data["identities"], 2, "the second entity has no grant: nobody can find it")
	require.Equal(t, json.Number("0"), seen.Data["revoked"])
	p.hydra.MustBeActive(t, hers[0].Token)

	killed := p.Write(t, "revoke/person", with(number, harness.Fields{"freeze": true}))
	require.Equal(t, json.Number("2"), killed.Data["revoked"])
	require.Equal(t, true, killed.Data["frozen"])
	for _, c := range hers {
		p.hydra.MustBeInactive(t, c.Token)
	}
	for _, session := range []*harness.Session{alice, again} {
		_, err := p.As(session).TryRead(t, "creds/own")
		refused(t, err, 403, "access_denied", "the person is frozen")
	}
	_, err := p.behalf(t, p.local("alice"))
	refused(t, err, 403, "access_denied", "the person is frozen")
	for _, c := range others {
		p.hydra.MustBeActive(t, c.Token)
	}
	thawed := p.Write(t, "revoke/person", with(number, harness.Fields{"freeze": false}))
	require.Equal(t, false, thawed.Data["frozen"])
	read(t, p.As(again), "own")
}

// TestAnEntityThatLeavesTakesItsSubjectsAlong, as Vault itself tells of one that is
// disabled, deleted or merged into another.
func TestAnEntityThatLeavesTakesItsSubjectsAlong(t *testing.T) {
	t.Parallel()
	p := newPeople(t)
	logical := p.vault.Client(t).Logical()
	sessions, behalf := map[string]*harness.Session{}, map[string]child{}
	for _, name := range []string{"disabled", "deleted", "merged", "into", "stays"} {
		sessions[name] = p.scene.agent(t, harness.Agent{Name: name})
		read(t, p.As(sessions[name]), "own")
		behalf[name] = p.mustBehalf(t, p.local(name))
	}
	p.Write(t, "sweep", nil) // which writes down what ties them

	_, err := logical.Write("identity/entity/id/"+sessions["disabled"].EntityID, harness.Fields{"disabled": true})
	require.NoError(t, err)
	_, err = logical.Delete("identity/entity/id/" + sessions["deleted"].EntityID)
	require.NoError(t, err)
	// One entity has one alias at a mount: the other's goes, and its own stays with it.
	_, err = logical.Delete("identity/entity-alias/id/" + aliasOf(t, p, sessions["into"]))
	require.NoError(t, err)
	_, err = logical.Write("identity/entity/merge", harness.Fields{"from_entity_ids": sessions["merged"].EntityID, "to_entity_id": sessions["into"].EntityID})
	require.NoError(t, err)

	p.sweepAway(t, behalf["disabled"], behalf["deleted"])
	p.hydra.MustBeInactive(t, behalf["disabled"].Token)
	p.hydra.MustBeInactive(t, behalf["deleted"].Token)
	p.hydra.MustBeActive(t, behalf["merged"].Token)
	p.hydra.MustBeActive(t, behalf["stays"].Token)
	require.True(t, strings.Contains(fmt.Sprint(p.Write(t, "revoke/person", harness.Fields{"entity_id": sessions["merged"].EntityID, "dry_run": true}).Data["identities"]), sessions["into"].EntityID), "a merged entity is who it was merged into")
}

// aliasOf is the id of the session's alias.
func aliasOf(t *testing.T, p *people, session *harness.Session) string {
	t.Helper()
	entity, err := p.vault.Client(t).Logical().Read("identity/entity/id/" + session.EntityID)
	require.NoError(t, err)
	return entity.Data["aliases"].([]any)[0].(map[string]any)["id"].(string)
}
