package harness

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"
)

func TestHydra(t *testing.T) {
	slow(t)
	hydra := StartHydra(t, HydraOptions{})

	t.Run("a token works until it is revoked", func(t *testing.T) {
		client := hydra.CreateClient(t, HydraClient{
			ID:        "with space+and:colon",
			Secret:    "se cret+%:",
			Scopes:    []string{"read", "write"},
			Audiences: []string{"https://api.example"},
		})
		token := hydra.Token(t, client, []string{"read"}, []string{"https://api.example"})
		found := hydra.Introspect(t, token)
		if !found.Active || found.Scope != "read" || found.ClientID != client.ID {
			t.Fatalf("unexpected introspection %+v", found)
		}
		hydra.Revoke(t, client, token)
		hydra.MustBeInactive(t, token)
	})

	t.Run("a client has its own token life", func(t *testing.T) {
		const life = 3 * time.Second
		client := hydra.CreateClient(t, HydraClient{TokenTTL: life})
		began := time.Now()
		token := hydra.Token(t, client, nil, nil)
		// Before anybody has looked its time may be over.
		if !hydra.Introspect(t, token).Active && time.Since(began) < life-time.Second {
			t.Fatal("the token died before its time")
		}
		Eventually(t, Patience, "the token expires", func() error {
			if hydra.Introspect(t, token).Active {
				return errors.New("still active")
			}
			return nil
		})
		hydra.SetTokenTTL(t, client.ID, time.Hour)
		later := hydra.Introspect(t, hydra.Token(t, client, nil, nil))
		if left := time.Until(time.Unix(later.ExpiresAt, 0)); left < 50*time.Minute {
			t.Fatalf("the new life is %s", left)
		}
	})

	t.Run("a secret is changed", func(t *testing.T) {
		client := hydra.CreateClient(t, HydraClient{})
		hydra.SetSecret(t, client.ID, "another-secret")
		client.Secret = "another-secret"
		hydra.MustBeActive(t, hydra.Token(t, client, nil, nil))
	})

	t.Run("an access token is a JWT on request", func(t *testing.T) {
		client := hydra.CreateClient(t, HydraClient{JWT: true})
		if token := hydra.Token(t, client, nil, nil); strings.Count(token, ".") != 2 {
			t.Fatalf("%s is no JWT", token)
		}
	})

	t.Run("a refresh token without a person", func(t *testing.T) {
		client := hydra.CreateClient(t, HydraClient{
			Grants:    []string{"authorization_code", "refresh_token"},
			Scopes:    []string{"read"},
			Audiences: []string{"https://api.example"},
		})
		token := hydra.RefreshToken(t, client, []string{"read"}, []string{"https://api.example"})
		found := hydra.Introspect(t, token)
		if !found.Active || found.Subject != "test-user" {
			t.Fatalf("unexpected introspection %+v", found)
		}
	})
}

func TestOP(t *testing.T) {
	slow(t)
	op := StartOP(t)

	t.Run("a token works until it is revoked", func(t *testing.T) {
		token := op.Token(t, OPService, "openid")
		found := op.Introspect(t, OPService, token)
		if !found.Active || found.ClientID != OPService.ID || found.Subject != OPService.ID {
			t.Fatalf("unexpected introspection %+v", found)
		}
		op.Revoke(t, OPService, token)
		op.MustBeInactive(t, OPService, token)
	})

	t.Run("a refresh token without a person", func(t *testing.T) {
		tokens := op.UserTokens(t, OPWeb)
		op.MustBeActive(t, OPWeb, tokens.AccessToken)
		op.Revoke(t, OPWeb, tokens.AccessToken)
		op.MustBeInactive(t, OPWeb, tokens.AccessToken)
		refresh(t, op.URL+"/oauth/token", OPWeb, tokens.RefreshToken)
	})
}

func TestVault(t *testing.T) {
	slow(t)
	for _, storage := range []Storage{Dev, File, Raft} {
		t.Run("storage "+string(storage), func(t *testing.T) {
			t.Parallel()
			vault := StartVault(t, VaultOptions{Storage: storage, WithoutPlugin: true})
			if status := vault.CLI(t, "status"); !strings.Contains(status, "1.21.4") {
				t.Fatalf("unexpected status:\n%s", status)
			}
			if output, err := vault.As("wrong").TryCLI(t, "secrets", "list"); err == nil || !strings.Contains(output, "permission denied") {
				t.Fatalf("a wrong token: %v\n%s", err, output)
			}
			if storage == Dev {
				return
			}
			if _, err := vault.Client(t).Logical().Write("cubbyhole/kept", Fields{"by": "storage"}); err != nil {
				t.Fatal(err)
			}
			vault.Seal(t)
			vault.Unseal(t)
			vault.Restart(t)
			vault.Kill(t)
			vault.Restart(t)
			secret, err := vault.Client(t).Logical().Read("cubbyhole/kept")
			if err != nil || secret == nil || secret.Data["by"] != "storage" {
				t.Fatalf("after the restarts: %v, %v", secret, err)
			}
		})
	}
}

func TestVaultWithTLS(t *testing.T) {
	slow(t)
	for _, storage := range []Storage{Dev, File} {
		t.Run("storage "+string(storage), func(t *testing.T) {
			t.Parallel()
			vault := StartVault(t, VaultOptions{Storage: storage, TLS: true, WithoutPlugin: true})
			if status := vault.CLI(t, "status"); !strings.Contains(status, "1.21.4") {
				t.Fatalf("unexpected status:\n%s", status)
			}
			if storage != Dev {
				vault.Restart(t)
			}
			if block, _ := pem.Decode(vault.CA); block == nil || !strings.HasPrefix(vault.Addr, "https://127.0.0.1:") {
				t.Fatalf("at %s with the authority %q", vault.Addr, vault.CA)
			}
			_, err := httpClient.Get(vault.Addr + "/v1/sys/health")
			if unknown := new(x509.UnknownAuthorityError); !errors.As(err, unknown) {
				t.Fatalf("a client that does not know its authority: %v", err)
			}
		})
	}
}

func TestAgent(t *testing.T) {
	slow(t)
	vault := StartVault(t, VaultOptions{WithoutPlugin: true})
	audit := vault.EnableAudit(t)
	agent := vault.Login(t, Agent{
		Name:     "builder",
		Policy:   `path "secret/data/*" { capabilities = ["create", "update", "read"] }`,
		Metadata: map[string]string{"team": "blue"},
		Groups:   []string{"builders"},
	})
	second := vault.Login(t, Agent{Name: "second", Groups: []string{"builders"}})
	if agent.EntityID == "" || agent.EntityID == second.EntityID {
		t.Fatalf("entities %q and %q", agent.EntityID, second.EntityID)
	}
	agent.CLI(t, "kv", "put", "secret/x", "value=hidden")
	group, err := vault.Client(t).Logical().Read("identity/group/name/builders")
	if err != nil || len(group.Data["member_entity_ids"].([]any)) != 2 {
		t.Fatalf("group: %+v, %v", group, err)
	}
	if len(audit.Responses(t, "secret/data/x")) != 1 || strings.Contains(audit.Text(t), "hidden") {
		t.Fatalf("unexpected audit log:\n%s", audit.Text(t))
	}
}

func TestRun(t *testing.T) {
	var out bytes.Buffer
	var ended []string
	var dir string
	err := Run(&out, func(t TB) {
		dir = t.TempDir()
		t.Cleanup(func() { ended = append(ended, "first") })
		t.Cleanup(func() {
			ended = append(ended, "second")
			t.Fatalf("and %s", "more")
		})
		t.Logf("so far so %s", "good")
		t.Fatalf("then it %s", "broke")
		t.Logf("never")
	})
	if err == nil || err.Error() != "then it broke\nand more" {
		t.Errorf("error %v", err)
	}
	if out.String() != "so far so good\n" {
		t.Errorf("output %q", out.String())
	}
	if strings.Join(ended, " ") != "second first" {
		t.Errorf("cleanups %v", ended)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("%s is left: %v", dir, err)
	}
	if err := Run(&out, func(TB) {}); err != nil {
		t.Errorf("an uneventful story: %v", err)
	}
}

func TestDeathIsReportedWithTheLog(t *testing.T) {
	err := Run(&bytes.Buffer{}, func(t TB) {
		s := start(t, "mortal", t.TempDir(), "/bin/sh", "-c", "echo famous last words; exit 3")
		s.await(t, "it answers", func(context.Context) error { return errors.New("no answer") })
	})
	for _, part := range []string{"mortal", "it answers", "exit status 3", "no answer", "famous last words"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%q is not in %v", part, err)
		}
	}
}

// A server's log is told from what the test itself says, and there is not too much of it.
func TestLogsAreMarkedAndShort(t *testing.T) {
	var out bytes.Buffer
	err := Run(&out, func(t TB) {
		s := start(t, "talker", t.TempDir(), "/bin/sh", "-c", "for i in $(seq 1000); do echo line $i; done")
		<-s.done
		t.Fatalf("over")
	})
	if err == nil || err.Error() != "over" {
		t.Fatalf("error %v", err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != tailLines || lines[0] != "talker | line 941" || lines[tailLines-1] != "talker | line 1000" {
		t.Fatalf("%d lines, %q to %q", len(lines), lines[0], lines[len(lines)-1])
	}
}

func slow(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("starts real servers")
	}
}

func refresh(t *testing.T, endpoint string, client Credentials, token string) {
	t.Helper()
	postForm(t, endpoint, client, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}})
}

func TestCluster(t *testing.T) {
	slow(t)
	// With TLS: of clusters without, the acceptance tests have enough.
	cluster := StartCluster(t, VaultOptions{WithoutPlugin: true, TLS: true})
	first := cluster.Leader(t)
	if err := first.Client(t).Sys().PutPolicy("kept", `path "x" {}`); err != nil {
		t.Fatal(err)
	}
	// Whoever it is asked of, the leader or not: it has settled.
	ask := func(after string) {
		t.Helper()
		for _, node := range cluster.Nodes {
			if !node.process.alive() {
				continue
			}
			if rules, err := node.Client(t).Sys().GetPolicy("kept"); err != nil || rules == "" {
				t.Fatalf("%s after %s: %q, %v", node.nodeID, after, rules, err)
			}
		}
	}
	second := cluster.StepDown(t)
	if second == first {
		t.Fatal("the leader did not change")
	}
	ask("a step-down")
	killed, third := cluster.KillLeader(t)
	if killed != second || third == second {
		t.Fatal("the leader did not change")
	}
	ask("a leader's death")
	killed.Restart(t)
	ask("its return")
}
