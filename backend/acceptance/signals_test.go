package acceptance

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/transmitter"
)

// A user logs in, agents work in her name, and the identity provider says that her session
// is over. No transmitter that others wrote can be had, so that is one of ours.

const streamToken = "the-token-of-a-stream-1f2e3d4c"

// settled waits until the transmitter has nothing left that was not acknowledged.
func settled(t *testing.T, s *transmitter.Server) {
	t.Helper()
	require.Eventually(t, func() bool { return len(s.Pending()) == 0 }, patience, 10*time.Millisecond)
	require.Empty(t, s.Refused())
}

func TestARevokedSessionEndsWhatAgentsHold(t *testing.T) {
	t.Parallel()
	op := sharedOP(t)
	s := newScene(t, harness.HydraClient{}, nil) // for the second agent, who works elsewhere
	onMount(t, s.vault, s.Mount, op, nil)
	s.exchangeRole(t, "here", harness.Fields{"parameters": harness.Fields{"subject_token_type": "urn:ietf:params:oauth:token-type:id_token"}})
	s.role(t, "there", harness.Fields{"subject_issuers": "op"})
	s.Write(t, "providers/oauth2/service", harness.Fields{"issuer": op.URL, "client_id": harness.OPService.ID, "client_secret": harness.OPService.Secret})
	s.Write(t, "roles/own", harness.Fields{"provider": "oauth2/service", "scopes": "profile", "ttl": "2m"})

	events := transmitter.New(t, transmitter.Options{Tokens: []string{confidential("token of a stream", streamToken)}, Hold: time.Minute})
	s.Write(t, "signals/idp", harness.Fields{"issuer": events.URL, "token": streamToken, "events": harness.Fields{"session-revoked": "kill", "account-disabled": "freeze"}})
	settled(t, events) // the sign of life that was asked for has come

	first, second := s.agent(t, harness.Agent{Name: "first"}), s.agent(t, harness.Agent{Name: "second"})
	login, access := op.Login(t, harness.OPJWT, "email", "profile")
	confidential("subject token", login)
	confidential("access token", access)
	one := issue(t, s.As(first), "here", harness.Fields{"subject_token": login, "scopes": "openid,email"})
	two := issue(t, s.As(second), "there", harness.Fields{"subject_token": login, "scopes": "repo:read"})
	own := []child{read(t, s.As(first), "own"), read(t, s.As(second), "own")}
	op.MustBeActive(t, harness.OPAPI, one.Token)
	s.hydra.MustBeActive(t, two.Token)

	subject := transmitter.IssSub(op.URL, opUser)
	sent := time.Now()
	id := events.Send(transmitter.SessionRevoked(map[string]any{
		"format": "complex", "user": subject, "session": map[string]any{"format": "opaque", "id": "of-this-morning"},
	}))
	settled(t, events)
	require.Eventually(t, func() bool { return !op.Introspect(t, harness.OPAPI, one.Token).Active }, patience, 10*time.Millisecond)
	inactiveWithin(t, s.hydra, two.Token, patience)
	t.Logf("both were dead at their servers after %s", time.Since(sent).Round(time.Millisecond))
	for _, c := range own {
		op.MustBeActive(t, harness.OPService, c.Token)
	}
	op.MustBeActive(t, harness.OPJWT, access) // the user's own is the identity provider's affair
	require.Contains(t, events.Acknowledged(), id)
	require.Equal(t, "ok", text(s.Read(t, "signals/idp"), "health"))
	record := s.recordOf(t, id)
	require.Equal(t, "signal idp (jti "+id+")", text(record, "by"))
	require.Equal(t, "signal/session-revoked", text(record, "cause"))
	require.Equal(t, json.Number("2"), record.Data["revoked"])
	require.Contains(t, text(record, "note"), "session")
	require.Contains(t, text(record, "report"), one.GrantID)

	events.Send(transmitter.AccountDisabled(subject))
	settled(t, events)
	_, err := s.As(first).TryWrite(t, "creds/here", harness.Fields{"subject_token": login, "scopes": "openid"})
	refused(t, err, 403, "access_denied", "frozen")

	s.Delete(t, "signals/idp")
	require.Zero(t, events.Streams(), "the broker had set it up")
}

// recordOf is the record of the kill on the word of an event, once it is complete.
func (s *scene) recordOf(t *testing.T, jti string) *api.Secret {
	t.Helper()
	var found *api.Secret
	harness.Eventually(t, patience, "a record tells of the kill", func() error {
		for _, id := range s.List(t, "kills") {
			record := s.Read(t, "kills/"+id)
			if strings.Contains(text(record, "by"), jti) && text(record, "state") == "complete" {
				found = record
				return nil
			}
		}
		return fmt.Errorf("no complete record of %s", jti)
	})
	return found
}

// A change of leader loses no event: what the former has not acknowledged comes to the
// next, who knows what was handled, and what is sent in between is handled by it.
func TestAFailoverLosesNoEvent(t *testing.T) {
	t.Parallel()
	needsServers(t)
	cluster, hydra := harness.StartCluster(t, harness.VaultOptions{}), sharedHydra(t)
	leader := cluster.Leader(t)
	s := sceneOn(t, leader, hydra, harness.HydraClient{}, nil)
	idp := newSigner(t, "https://idp.example.com")
	idp.trust(t, s.Mount, "idp")
	s.role(t, "behalf", harness.Fields{"subject_issuers": "idp"})
	agent := s.agent(t, harness.Agent{Name: "ann"})
	behalf := func(node *harness.Vault, user string) child {
		t.Helper()
		return issue(t, node.As(agent.Token).Mount(s.Path), "behalf", harness.Fields{"subject_token": idp.token(t, harness.Fields{"sub": user})})
	}
	events := transmitter.New(t, transmitter.Options{Tokens: []string{streamToken}, Hold: time.Minute})
	s.Write(t, "signals/idp", harness.Fields{"issuer": events.URL, "token": streamToken, "poll_interval": "1s"})
	settled(t, events)
	session := func(user string) { events.Send(transmitter.SessionRevoked(transmitter.IssSub(idp.issuer, user))) }

	before, during := behalf(leader, "before"), behalf(leader, "during")
	events.Break(events.Forgetful()) // the leader kills, and its acknowledgement is lost
	session("before")
	inactiveWithin(t, hydra, before.Token, patience)
	killed, next := cluster.KillLeader(t)
	require.Equal(t, leader, killed)
	session("during")
	events.Break(nil)
	settled(t, events)
	inactiveWithin(t, hydra, during.Token, patience)
	again := behalf(next, "before")
	root := next.As(leader.Token).Mount(s.Path)
	require.Equal(t, "ok", text(root.Read(t, "signals/idp"), "health"))
	hydra.MustBeActive(t, again.Token)

	killed.Restart(t)
	after := behalf(next, "after")
	third := cluster.StepDown(t)
	session("after")
	inactiveWithin(t, hydra, after.Token, patience)
	settled(t, events)
	require.True(t, strings.HasPrefix(text(third.As(leader.Token).Mount(s.Path).Read(t, "signals/idp"), "last_poll"), "20"))
}
