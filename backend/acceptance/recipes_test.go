package acceptance

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
)

// kitchen is where the recipes of docs/recipes are cooked as they are written there, but for
// the names of hosts, of the mount and of the logins.
type kitchen struct {
	*scene
	here []string // pairs: what stands in a page, and what is here
}

const recipes = "../../docs/recipes/"

func newKitchen(t *testing.T) *kitchen {
	t.Helper()
	k := &kitchen{scene: newScene(t, harness.HydraClient{Scopes: []string{"repo:read"}, Audiences: []string{"https://api.acme.example"}}, nil)}
	k.here = []string{"https://vault.example.com:8200", k.vault.Addr, "broker/creds", k.Path + "/creds"}
	for _, name := range []string{"approle", "github", "gitlab", "cluster"} {
		k.here = append(k.here, "auth/"+name, "auth/"+k.local(name))
	}
	k.build(t, "10m", "1h")
	policy := harness.PageFiles(t, recipes+"README.md")["build.hcl"]
	require.NotEmpty(t, policy)
	require.NoError(t, k.vault.Client(t).Sys().PutPolicy(k.policy(), k.told(policy)))
	return k
}

func (k *kitchen) policy() string { return k.local("broker-build") }

// told is what a page says, as it is here.
func (k *kitchen) told(text string) string {
	for i := 0; i < len(k.here); i += 2 {
		text = strings.ReplaceAll(text, k.here[i], k.here[i+1])
	}
	return text
}

// enable lets programs log in by a method of Vault's.
func (k *kitchen) enable(t *testing.T, name, method string) {
	t.Helper()
	require.NoError(t, k.vault.Client(t).Sys().EnableAuthWithOptions(k.local(name), &api.EnableAuthOptions{Type: method}))
}

// build writes the role of the recipes.
func (k *kitchen) build(t *testing.T, ttl, maxTTL string) {
	t.Helper()
	k.Write(t, "roles/build", harness.Fields{
		"provider": "oauth2/hydra", "scopes": "repo:read", "audiences": "https://api.acme.example", "ttl": ttl, "max_ttl": maxTTL,
	})
}

// kill kills what the role has handed out.
func (k *kitchen) kill(t *testing.T) {
	t.Helper()
	require.Equal(t, json.Number("1"), k.Write(t, "revoke/role/build", nil).Data["revoked"])
}

// root does what an operator does beforehand.
func (k *kitchen) root(t *testing.T, path string, fields harness.Fields) *api.Secret {
	t.Helper()
	secret, err := k.vault.Client(t).Logical().Write(path, fields)
	require.NoError(t, err)
	return secret
}

// approle says who may log in, as the recipes have it but for fields.
func (k *kitchen) approle(t *testing.T, name string, fields harness.Fields) {
	t.Helper()
	k.root(t, k.told("auth/approle/role/")+name, with(harness.Fields{"token_policies": k.policy(), "token_period": "20m", "secret_id_num_uses": 1}, fields))
}

// secretOf is what an AppRole logs in with; the second part is wrapped, if that is wanted.
func (k *kitchen) secretOf(t *testing.T, name string, wrapped bool) (roleID, secretID string) {
	t.Helper()
	client := k.vault.Client(t)
	role, err := client.Logical().Read(k.told("auth/approle/role/") + name + "/role-id")
	require.NoError(t, err)
	if wrapped {
		client.SetWrappingLookupFunc(func(string, string) string { return "60s" })
	}
	secret, err := client.Logical().Write(k.told("auth/approle/role/")+name+"/secret-id", nil)
	require.NoError(t, err)
	if wrapped {
		return text(role, "role_id"), confidential("wrapping token", secret.WrapInfo.Token)
	}
	return text(role, "role_id"), confidential("secret_id", text(secret, "secret_id"))
}

// login logs an AppRole in.
func (k *kitchen) login(t *testing.T, name string) string {
	t.Helper()
	roleID, secretID := k.secretOf(t, name, false)
	auth := k.root(t, k.told("auth/approle/login"), harness.Fields{"role_id": roleID, "secret_id": secretID}).Auth
	return confidential("Vault token", auth.ClientToken)
}

// serve puts the files of a page into a folder.
func (k *kitchen) serve(t *testing.T, page string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range harness.PageFiles(t, recipes+page) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(k.told(content)), 0o600))
	}
	return dir
}

// start runs Vault Agent or Proxy in the folder, with a login that works once.
func (k *kitchen) start(t *testing.T, dir, what, config string) *exec.Cmd {
	t.Helper()
	k.enable(t, "approle", "approle")
	k.approle(t, "build", nil)
	roleID, secretID := k.secretOf(t, "build", true)
	for name, content := range map[string]string{"role_id": roleID, "secret_id": secretID} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
	}
	return k.run(t, dir, what, config)
}

func (k *kitchen) run(t *testing.T, dir, what, config string) *exec.Cmd {
	t.Helper()
	c := exec.Command(harness.VaultPath(t), what, "-config="+config)
	c.Dir, c.Env = dir, []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir}
	background(t, c)
	return c
}

// next waits until a file holds another token, which works.
func (k *kitchen) next(t *testing.T, file, before string) string {
	t.Helper()
	token := ""
	harness.Eventually(t, patience, "there is a token in "+filepath.Base(file), func() error {
		content, err := os.ReadFile(file)
		token = strings.TrimSpace(string(content))
		if err == nil && (token == "" || token == before) {
			err = fmt.Errorf("the same as before")
		}
		return err
	})
	confidential("child token", token)
	return token
}

// holds looks for a text in all that is in a folder.
func holds(t *testing.T, dir, text string) (files []string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		if bytes.Contains(content, []byte(text)) {
			files = append(files, entry.Name())
		}
		return err
	}))
	return files
}

// docs/recipes/vault-agent.md, the file: it holds a token that works, the next one before the
// lease's end, another one when that was killed, and Agent ends when it may have none.
func TestAgentKeepsAFileWithATokenThatWorks(t *testing.T) {
	t.Parallel()
	k := newKitchen(t)
	k.build(t, "10s", "20s")
	k.here = append(k.here, "vault {\n", "vault {\n  retry {\n    num_retries = 3\n  }\n") // it gives up sooner
	dir := k.serve(t, "vault-agent.md")
	agent := k.start(t, dir, "agent", "agent.hcl")
	file := filepath.Join(dir, "token")
	first := k.next(t, file, "")
	k.hydra.MustBeActive(t, first)
	about, err := os.Stat(file)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), about.Mode().Perm())
	require.NoFileExists(t, filepath.Join(dir, "secret_id"))
	require.Equal(t, []string{"token"}, holds(t, dir, first))

	second := k.next(t, file, first)
	stillWorked := k.hydra.Introspect(t, first).Active
	k.hydra.MustBeActive(t, second)
	require.True(t, stillWorked, "the first token was dead before the second was there")
	soonInactive(t, k.hydra, first)

	k.kill(t)
	k.hydra.MustBeInactive(t, second)
	third := k.next(t, file, second)
	k.hydra.MustBeActive(t, third)

	k.Write(t, "revoke/role/build", harness.Fields{"freeze": true})
	k.hydra.MustBeInactive(t, third)
	require.Error(t, agent.Wait(), "Agent has ended well")
	require.Equal(t, []string{"token"}, holds(t, dir, third), "what stays there is the dead one")
}

// docs/recipes/vault-agent.md, the environment: the program is started again with the next
// token, and by nothing else.
func TestAgentRunsAProgramWithAToken(t *testing.T) {
	t.Parallel()
	k := newKitchen(t)
	k.build(t, "6s", "12s")
	dir := k.serve(t, "vault-agent.md")
	work := "#!/bin/sh\nprintf %s \"$API_TOKEN\" >seen.new && mv seen.new seen && echo started >>starts\nexec sleep 600\n"
	require.NoError(t, os.WriteFile(filepath.Join(dir, "work.sh"), []byte(work), 0o700))
	k.start(t, dir, "agent", "supervise.hcl")
	first := k.next(t, filepath.Join(dir, "seen"), "")
	k.hydra.MustBeActive(t, first)
	second := k.next(t, filepath.Join(dir, "seen"), first)
	k.hydra.MustBeActive(t, second)
	soonInactive(t, k.hydra, first)
	starts, err := os.ReadFile(filepath.Join(dir, "starts"))
	require.NoError(t, err)
	require.LessOrEqual(t, bytes.Count(starts, []byte("started")), 3)
}

// asks is a request to Proxy as the recipe's curl makes it.
func asks(t *testing.T, dir, method, path, body string) (status int, answer *api.Secret) {
	t.Helper()
	client := http.Client{Transport: socket(filepath.Join(dir, "proxy.sock")), Timeout: patience}
	defer client.CloseIdleConnections()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://localhost"+path, strings.NewReader(body))
	require.NoError(t, err)
	r.Header.Set("X-Vault-Request", "true")
	got, err := client.Do(r)
	if err != nil {
		return 0, nil
	}
	defer got.Body.Close()
	answer, _ = api.ParseSecret(got.Body)
	return got.StatusCode, answer
}

// docs/recipes/vault-proxy.md: whoever may open the socket gets the same token, the next one
// before the lease's end, and a new one when it says that the old was refused.
func TestProxyHandsOutTokensThatWork(t *testing.T) {
	t.Parallel()
	k := newKitchen(t)
	k.build(t, "10s", "20s")
	dir := k.serve(t, "vault-proxy.md")
	k.start(t, dir, "proxy", "proxy.hcl")
	creds := "/v1/" + k.At("creds/build")
	ask := func(before string) string {
		token := ""
		harness.Eventually(t, patience, "Proxy hands out another token", func() error {
			status, answer := asks(t, dir, http.MethodGet, creds, "")
			if status != http.StatusOK {
				return fmt.Errorf("status %d", status)
			}
			if token = text(answer, "access_token"); token == before {
				return fmt.Errorf("the same as before")
			}
			return nil
		})
		return confidential("child token", token)
	}
	first := ask("")
	require.Equal(t, first, ask(""), "two who ask get the same")
	k.hydra.MustBeActive(t, first)
	require.Empty(t, holds(t, dir, first))
	second := ask(first)
	require.True(t, k.hydra.Introspect(t, first).Active, "the first token was dead before there was another")
	k.hydra.MustBeActive(t, second)

	k.build(t, "10m", "1h")
	third := ask(second)
	k.Write(t, "revoke/role/build", nil)
	k.hydra.MustBeInactive(t, third)
	require.Equal(t, third, ask(""), "Proxy does not know")
	status, _ := asks(t, dir, http.MethodPost, "/proxy/v1/cache-clear", `{"type": "request_path", "value": "`+creds+`"}`)
	require.Equal(t, http.StatusOK, status)
	k.hydra.MustBeActive(t, ask(third))

	k.Write(t, "revoke/role/build", harness.Fields{"freeze": true})
	asks(t, dir, http.MethodPost, "/proxy/v1/cache-clear", `{"type": "request_path", "value": "`+creds+`"}`)
	status, _ = asks(t, dir, http.MethodGet, creds, "")
	require.Equal(t, http.StatusForbidden, status)
}

// docs/recipes/login-ends.md: what its table says of each kind of login.
func TestATokenEndsWithTheLoginThatReadIt(t *testing.T) {
	t.Parallel()
	k := newKitchen(t)
	k.enable(t, "approle", "approle")
	const short = 8 * time.Second
	begin := time.Now()
	got, sessions := map[string]child{}, map[string]*harness.Session{}
	for name, fields := range map[string]harness.Fields{
		"ends":     {"token_period": 0, "token_ttl": "8s", "token_max_ttl": "8s"},
		"batch":    {"token_period": 0, "token_ttl": "8s", "token_type": "batch"},
		"periodic": {"token_period": "8s"},
	} {
		k.approle(t, name, fields)
		sessions[name] = k.vault.As(k.login(t, name))
		got[name] = read(t, k.As(sessions[name]), "build")
	}
	maker := k.local("maker")
	require.NoError(t, k.vault.Client(t).Sys().PutPolicy(maker, `path "auth/token/create" { capabilities = ["sudo", "update"] }`))
	parent := k.root(t, "auth/token/create", harness.Fields{"policies": []string{maker, k.policy()}}).Auth.ClientToken
	for name, orphan := range map[string]bool{"child": false, "orphan": true} {
		made, err := k.vault.As(parent).Client(t).Auth().Token().Create(&api.TokenCreateRequest{NoParent: orphan, Policies: []string{k.policy()}})
		require.NoError(t, err)
		got[name] = read(t, k.As(k.vault.As(made.Auth.ClientToken)), "build")
	}
	require.LessOrEqual(t, got["batch"].LeaseDuration, 8, "Vault has cut the lease")
	require.Greater(t, got["ends"].LeaseDuration, 500, "Vault has not")

	k.root(t, "auth/token/revoke", harness.Fields{"token": parent})
	soonInactive(t, k.hydra, got["child"].Token)
	k.hydra.MustBeActive(t, got["orphan"].Token)
	for time.Since(begin) < 2*short {
		_, err := sessions["periodic"].Client(t).Auth().Token().RenewSelf(0)
		require.NoError(t, err)
		activeUntil(t, k.hydra, got["ends"].Token, begin.Add(short))
		time.Sleep(short / 8)
	}
	soonInactive(t, k.hydra, got["ends"].Token)
	soonInactive(t, k.hydra, got["batch"].Token)
	k.hydra.MustBeActive(t, got["periodic"].Token)
	k.hydra.MustBeActive(t, got["orphan"].Token)
}

// service is a resource server that asks the authorization server about each token.
func (k *kitchen) service(t *testing.T, refused *int) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if !k.hydra.Introspect(t, token).Active {
			*refused++
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		fmt.Fprint(w, "at your service\n")
	}))
	t.Cleanup(server.Close)
	return server
}

// docs/recipes/killed.md: the script gets over a token's death, stops where it is frozen, and
// leaves for later what is only away.
func TestAProgramThatHeedsAKill(t *testing.T) {
	t.Parallel()
	needsCommands(t, "curl")
	k := newKitchen(t)
	k.enable(t, "approle", "approle")
	k.approle(t, "build", nil)
	token := k.login(t, "build")
	refused := 0
	service := k.service(t, &refused)
	dir := k.serve(t, "killed.md")
	script, err := os.ReadFile(filepath.Join(dir, "call.sh"))
	require.NoError(t, err)
	call := func(addr, between string) (code int, output string) {
		// What happens between the token and the call is the test's.
		content := strings.Replace(string(script), "token\ncall", "token\n"+between+"\ncall", 1)
		c := exec.Command("sh", "-c", content, "call.sh", service.URL)
		c.Dir, c.Env = dir, []string{"PATH=" + harness.PathWithVault(t), "HOME=" + dir, "VAULT_ADDR=" + addr, "VAULT_TOKEN=" + token, "VAULT_MAX_RETRIES=0", "ROOT=" + k.vault.Token}
		said, _ := c.CombinedOutput()
		return c.ProcessState.ExitCode(), string(said)
	}
	kill := "VAULT_TOKEN=$ROOT vault write -f " + k.At("revoke/role/build")
	code, output := call(k.vault.Addr, "")
	require.Equal(t, 0, code, output)
	require.Equal(t, "at your service\n", output)
	require.Zero(t, refused)

	code, output = call(k.vault.Addr, kill+" >killed")
	require.Equal(t, 0, code, output)
	require.Equal(t, "at your service\n", output)
	require.Equal(t, 1, refused)

	code, output = call(k.vault.Addr, kill+" freeze=true >killed")
	require.Equal(t, 77, code, output)
	require.Contains(t, output, "the role is frozen")
	require.Equal(t, 2, refused, "it has not asked the service again")

	code, output = call("http://127.0.0.1:1", "")
	require.Equal(t, 75, code, output)
}

// needsCommands skips a story where a command is missing. CI must have all but jq, of which
// nothing else here has a use.
func needsCommands(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			require.True(t, name == "jq" || os.Getenv("CI") == "", "there is no %s here", name)
			t.Skipf("NOT RUN: there is no %s here", name)
		}
	}
}

// socket reaches a server by its socket.
func socket(path string) *http.Transport {
	return &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}
}
