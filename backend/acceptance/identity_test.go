package acceptance

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
)

// Who gets a token: Vault's entities, groups and aliases as a role asks for them.

func TestRolesAskWho(t *testing.T) {
	t.Parallel()
	s := newScene(t, harness.HydraClient{}, nil)
	alice := s.agent(t, harness.Agent{Name: "alice", Groups: []string{"payments"}, Metadata: map[string]string{"team": "payments", "level": "3"}})
	bob := s.agent(t, harness.Agent{Name: "bob", Metadata: map[string]string{"team": "search"}})
	carol := s.agent(t, harness.Agent{Name: "carol", Groups: []string{"platform"}})
	s.inherit(t, "all-engineers", "payments", "platform")
	accessor := s.accessor(t, "userpass/")

	everybody := map[string]*harness.Session{"alice": alice, "bob": bob, "carol": carol, "root": s.vault.Session}
	for name, c := range map[string]struct {
		role  harness.Fields
		admit []string
		say   string // to the others
	}{
		"nobody in particular":  {nil, []string{"alice", "bob", "carol", "root"}, ""},
		"entity ids":            {harness.Fields{"bound_entity_ids": []string{alice.EntityID, bob.EntityID}}, []string{"alice", "bob"}, "bound_entity_ids"},
		"a group":               {harness.Fields{"bound_group_names": s.local("payments")}, []string{"alice"}, "bound_group_names"},
		"an inherited group":    {harness.Fields{"bound_group_names": s.local("all-engineers")}, []string{"alice", "carol"}, "bound_group_names"},
		"metadata":              {harness.Fields{"bound_entity_metadata": map[string]string{"team": "payments", "level": "3"}}, []string{"alice"}, "bound_entity_metadata"},
		"an address":            {harness.Fields{"bound_cidrs": "127.0.0.0/8"}, []string{"alice", "bob", "carol", "root"}, ""},
		"another address":       {harness.Fields{"bound_cidrs": "10.0.0.0/8,2001:db8::/32"}, nil, "bound_cidrs"},
		"groups in a condition": {harness.Fields{"condition": fmt.Sprintf("%q in identity.groups", s.local("all-engineers"))}, []string{"alice", "carol"}, "condition"},
		"an alias in a condition": {harness.Fields{"condition": fmt.Sprintf(
			"identity.aliases.exists(a, a.name == %q && a.mount_type == 'userpass' && a.mount_accessor == %q)", s.local("bob"), accessor)}, []string{"bob"}, "condition"},
		"name and metadata in a condition": {harness.Fields{"condition": fmt.Sprintf(
			"identity.name == %q && identity.metadata['level'] == '3'", s.local("alice"))}, []string{"alice"}, "condition"},
		"all at once": {harness.Fields{
			"bound_entity_ids": []string{alice.EntityID, bob.EntityID}, "bound_group_names": s.local("payments"),
			"bound_entity_metadata": `{"team":"payments"}`, "bound_cidrs": "127.0.0.1/32",
			"condition": "request.scopes.all(x, x.startsWith('repo:')) && request.ttl <= duration('15m')",
		}, []string{"alice"}, "bound_"},
	} {
		t.Run(name, func(t *testing.T) {
			s.role(t, "guarded", with(harness.Fields{
				"bound_entity_ids": "", "bound_group_names": "", "bound_entity_metadata": harness.Fields{}, "bound_cidrs": "", "condition": "",
			}, c.role))
			admitted := map[string]bool{}
			for _, who := range c.admit {
				admitted[who] = true
			}
			for who, session := range everybody {
				if admitted[who] {
					got := read(t, s.As(session), "guarded")
					holder, _, _ := strings.Cut(got.GrantID, ".")
					require.Equal(t, holderOf(session), holder)
					s.hydra.MustBeActive(t, got.Token)
					continue
				}
				_, err := s.As(session).TryRead(t, "creds/guarded")
				refused(t, err, 403, "access_denied")
				if who != "root" { // who has no entity at all, which is said first
					require.ErrorContains(t, err, c.say)
				}
				for other, secret := range everybody {
					if other != who && secret.EntityID != "" {
						require.NotContains(t, err.Error(), secret.EntityID, "a refusal tells about somebody else")
					}
				}
			}
		})
	}
}

func TestLeaverCannotRenew(t *testing.T) {
	t.Parallel()
	s := newScene(t, harness.HydraClient{}, nil)
	stayer := s.agent(t, harness.Agent{Name: "stayer", Groups: []string{"payments"}})
	leaver := s.agent(t, harness.Agent{Name: "leaver", Groups: []string{"payments"}})
	s.role(t, "payments", harness.Fields{"bound_group_names": s.local("payments"), "ttl": "5m", "max_ttl": "1h"})
	stays, leaves := read(t, s.As(stayer), "payments"), read(t, s.As(leaver), "payments")
	for session, c := range map[*harness.Session]child{stayer: stays, leaver: leaves} {
		_, err := session.Client(t).Sys().Renew(c.LeaseID, 600)
		require.NoError(t, err)
	}

	_, err := s.vault.Client(t).Logical().Write("identity/group/name/"+s.local("payments"), harness.Fields{"member_entity_ids": []string{stayer.EntityID}})
	require.NoError(t, err)
	_, err = stayer.Client(t).Sys().Renew(stays.LeaseID, 600)
	require.NoError(t, err)
	_, err = leaver.Client(t).Sys().Renew(leaves.LeaseID, 600)
	require.ErrorContains(t, err, "access_denied: the entity is in none of the role's bound_group_names")
	_, err = s.As(leaver).TryRead(t, "creds/payments")
	refused(t, err, 403, "access_denied", "bound_group_names")

	// The sweep does not wait for the lease to end.
	s.sweepAway(t, leaves)
	s.hydra.MustBeInactive(t, leaves.Token)
	s.hydra.MustBeActive(t, stays.Token)
	require.NoError(t, endLease(t, s.vault.Session, leaves.LeaseID))
}

// Vault itself turns a disabled entity away, and revokes none of its leases.
func TestDisabledAndDeletedEntitiesLoseWhatTheyHold(t *testing.T) {
	t.Parallel()
	s := newScene(t, harness.HydraClient{}, nil)
	s.role(t, "deploy", nil)
	disabled := s.agent(t, harness.Agent{Name: "disabled"})
	deleted := s.agent(t, harness.Agent{Name: "deleted"})
	first, second := read(t, s.As(disabled), "deploy"), read(t, s.As(deleted), "deploy")

	logical := s.vault.Client(t).Logical()
	_, err := logical.Write("identity/entity/id/"+disabled.EntityID, harness.Fields{"disabled": true})
	require.NoError(t, err)
	_, err = logical.Delete("identity/entity/id/" + deleted.EntityID)
	require.NoError(t, err)

	_, err = s.As(disabled).TryRead(t, "creds/deploy")
	require.Equal(t, 403, harness.StatusOf(err), "%v", err)
	explained := s.Write(t, "roles/deploy/explain", harness.Fields{"entity_id": disabled.EntityID})
	require.Equal(t, false, explained.Data["allowed"])
	require.Contains(t, fmt.Sprint(explained.Data["reasons"]), "access_denied: the entity is disabled")
	explained = s.Write(t, "roles/deploy/explain", harness.Fields{"entity_id": deleted.EntityID})
	require.Equal(t, false, explained.Data["allowed"])
	require.Contains(t, fmt.Sprint(explained.Data["reasons"]), "there is no such entity")
	for _, c := range []child{first, second} {
		_, err := s.vault.Client(t).Sys().Renew(c.LeaseID, 600) // root may ask, the holder may not have it
		require.ErrorContains(t, err, "access_denied: ")
		s.hydra.MustBeActive(t, c.Token)
	}

	s.sweepAway(t, first, second)
	s.hydra.MustBeInactive(t, first.Token)
	s.hydra.MustBeInactive(t, second.Token)
}

// TestWhoLeavesIsRefusedAtOnce: also by a role that looks at nothing but the caller's
// id, for which the broker does not ask Vault every time. A deleted or disabled entity
// is refused by Vault itself; one that became part of another within moments by the broker.
func TestWhoLeavesIsRefusedAtOnce(t *testing.T) {
	t.Parallel()
	s := newScene(t, harness.HydraClient{}, nil)
	s.role(t, "open", nil)
	logical := s.vault.Client(t).Logical()
	for name, leave := range map[string]func(who *harness.Session) error{
		"disabled": func(who *harness.Session) error {
			_, err := logical.Write("identity/entity/id/"+who.EntityID, harness.Fields{"disabled": true})
			return err
		},
		"deleted": func(who *harness.Session) error {
			_, err := logical.Delete("identity/entity/id/" + who.EntityID)
			return err
		},
	} {
		who := s.agent(t, harness.Agent{Name: name})
		s.hydra.MustBeActive(t, read(t, s.As(who), "open").Token)
		require.NoError(t, leave(who))
		_, err := s.As(who).TryRead(t, "creds/open")
		require.Equal(t, 403, harness.StatusOf(err), "%s: %v", name, err)
	}

	merged := s.agent(t, harness.Agent{Name: "merged"})
	got := read(t, s.As(merged), "open")
	other, err := logical.Write("identity/entity", harness.Fields{"name": s.local("survivor")})
	require.NoError(t, err)
	_, err = logical.Write("identity/entity/merge", harness.Fields{"from_entity_ids": merged.EntityID, "to_entity_id": other.Data["id"]})
	require.NoError(t, err)
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		_, err := s.As(merged).TryRead(t, "creds/open")
		assert.Equal(c, 403, harness.StatusOf(err), "%v", err)
		assert.ErrorContains(c, err, "there is no such entity")
	}, patience, 100*time.Millisecond)
	s.sweepAway(t, got)
	s.hydra.MustBeInactive(t, got.Token)
}

func TestLoginByJWT(t *testing.T) {
	t.Parallel()
	s := newScene(t, harness.HydraClient{}, nil)
	ci := newSigner(t, "https://ci.example.com")
	path := s.local("jwt")
	client := s.vault.Client(t)
	require.NoError(t, client.Sys().EnableAuthWithOptions(path, &api.EnableAuthOptions{Type: "jwt"}))
	require.NoError(t, client.Sys().PutPolicy(path, holderPolicy(s.Mount)))
	for what, fields := range map[string]harness.Fields{
		"config":    {"jwt_validation_pubkeys": ci.pem(t), "bound_issuer": ci.issuer},
		"role/jobs": {"role_type": "jwt", "user_claim": "sub", "bound_audiences": vaultAudience, "claim_mappings": map[string]string{"repository": "repository"}, "token_policies": path},
	} {
		_, err := client.Logical().Write("auth/"+path+"/"+what, fields)
		require.NoError(t, err, what)
	}
	s.role(t, "ci", harness.Fields{"condition": "identity.aliases.exists(a, a.mount_type == 'jwt' && " +
		"a.name == 'repo:org/payments:ref:refs/heads/main' && a.metadata['repository'] == 'org/payments')"})
	login := func(claims harness.Fields) *harness.Session {
		secret, err := client.Logical().Write("auth/"+path+"/login", harness.Fields{"role": "jobs", "jwt": ci.token(t, claims)})
		require.NoError(t, err)
		session := s.vault.As(confidential("Vault token", secret.Auth.ClientToken))
		session.EntityID = secret.Auth.EntityID
		return session
	}
	job := login(nil)
	c := read(t, s.As(job), "ci")
	s.hydra.MustBeActive(t, c.Token)
	require.Equal(t, job.EntityID, text(s.Read(t, "grants/"+c.GrantID), "entity_id"))
	_, err := s.As(login(harness.Fields{"sub": "repo:org/payments:pull_request"})).TryRead(t, "creds/ci")
	refused(t, err, 403, "access_denied", "condition")
}

// inherit makes a group of groups.
func (s *scene) inherit(t *testing.T, parent string, children ...string) {
	t.Helper()
	var ids []string
	for _, name := range children {
		group, err := s.vault.Client(t).Logical().Read("identity/group/name/" + s.local(name))
		require.NoError(t, err)
		ids = append(ids, text(group, "id"))
	}
	_, err := s.vault.Client(t).Logical().Write("identity/group/name/"+s.local(parent), harness.Fields{"member_group_ids": ids})
	require.NoError(t, err)
}

// accessor is that of an auth method.
func (s *scene) accessor(t *testing.T, path string) string {
	t.Helper()
	auths, err := s.vault.Client(t).Sys().ListAuth()
	require.NoError(t, err)
	require.NotNil(t, auths[path])
	return auths[path].Accessor
}

// holderOf is what grants call the session's identity.
func holderOf(session *harness.Session) string {
	if session.EntityID == "" {
		return "none"
	}
	return session.EntityID
}
