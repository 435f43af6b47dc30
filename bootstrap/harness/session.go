package harness

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"unicode"

	"github.com/hashicorp/vault/api"
)

// Session is one token's view of a Vault.
type Session struct {
	Token    string
	EntityID string // set by Login

	vault *Vault
}

// As is the view of the holder of token.
func (s *Session) As(token string) *Session { return &Session{vault: s.vault, Token: token} }

// Client is a client of its own, without the retries that would hide a failure.
func (s *Session) Client(t TB) *api.Client {
	t.Helper()
	config := api.DefaultConfig()
	if config.Error != nil {
		t.Fatalf("vault client: %v", config.Error)
	}
	config.Address = s.vault.Addr
	config.MaxRetries = 0
	config.Timeout = Patience // longer than Vault's own bound on a request
	config.HttpClient = &http.Client{Transport: s.vault.transport, CheckRedirect: doNotFollow}
	client, err := api.NewClient(config)
	if err != nil {
		t.Fatalf("vault client: %v", err)
	}
	client.ClearNamespace()
	client.SetToken(s.Token)
	return client
}

// CLI runs the vault command and returns what it printed. It must succeed.
func (s *Session) CLI(t TB, args ...string) string {
	t.Helper()
	output, err := s.TryCLI(t, args...)
	if err != nil {
		t.Fatalf("vault %s: %v\n%s", strings.Join(args, " "), err, output)
	}
	return output
}

// TryCLI runs the vault command and returns what it printed on both streams; the
// error is its exit status.
func (s *Session) TryCLI(t TB, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, executable(t, "VAULT", "vault", "vault"), args...)
	cmd.Dir = s.vault.Dir
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"),
		"HOME=" + s.vault.Dir,
		"VAULT_ADDR=" + s.vault.Addr,
		"VAULT_TOKEN=" + s.Token,
		"VAULT_MAX_RETRIES=0",
	}
	if s.vault.tls != nil {
		cmd.Env = append(cmd.Env, "VAULT_CACERT="+s.vault.tls.certFile)
	}
	output, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		err = fmt.Errorf("not within %s: %w", Patience, ctx.Err())
	}
	return strings.TrimSpace(string(output)), err
}

// Mount is a broker as one token sees it.
type Mount struct {
	Path string // without a slash at the end

	session *Session
}

// Mount is the broker at path, which somebody has enabled.
func (s *Session) Mount(path string) *Mount {
	return &Mount{Path: strings.Trim(path, "/"), session: s}
}

// As is the same mount for another token.
func (m *Mount) As(other *Session) *Mount { return other.Mount(m.Path) }

// At is the full path of one of the mount's own.
func (m *Mount) At(path string) string { return m.Path + "/" + path }

// Write updates path; it must succeed.
func (m *Mount) Write(t TB, path string, fields Fields) *api.Secret {
	t.Helper()
	secret, err := m.TryWrite(t, path, fields)
	return m.must(t, "write", path, secret, err)
}

// TryWrite updates path.
func (m *Mount) TryWrite(t TB, path string, fields Fields) (*api.Secret, error) {
	t.Helper()
	return m.session.Client(t).Logical().Write(m.At(path), fields)
}

// Read reads path, with parameters in the query if there are any; it must succeed.
// The answer is nil where there is nothing.
func (m *Mount) Read(t TB, path string, query ...string) *api.Secret {
	t.Helper()
	secret, err := m.TryRead(t, path, query...)
	return m.must(t, "read", path, secret, err)
}

// TryRead reads path. The query is given as "name=value".
func (m *Mount) TryRead(t TB, path string, query ...string) (*api.Secret, error) {
	t.Helper()
	values := map[string][]string{}
	for _, parameter := range query {
		name, value, _ := strings.Cut(parameter, "=")
		values[name] = append(values[name], value)
	}
	return m.session.Client(t).Logical().ReadWithData(m.At(path), values)
}

// List returns the keys under path; it must succeed.
func (m *Mount) List(t TB, path string) []string {
	t.Helper()
	secret, err := m.session.Client(t).Logical().List(m.At(path))
	if m.must(t, "list", path, secret, err) == nil {
		return nil
	}
	found, _ := secret.Data["keys"].([]any)
	keys := make([]string, len(found))
	for i, key := range found {
		keys[i] = fmt.Sprint(key)
	}
	return keys
}

// Delete deletes path; it must succeed.
func (m *Mount) Delete(t TB, path string) {
	t.Helper()
	secret, err := m.session.Client(t).Logical().Delete(m.At(path))
	m.must(t, "delete", path, secret, err)
}

func (m *Mount) must(t TB, operation, path string, secret *api.Secret, err error) *api.Secret {
	t.Helper()
	if err != nil {
		t.Fatalf("%s %s: %v", operation, m.At(path), err)
	}
	return secret
}

// Tune changes the mount's settings, such as max_lease_ttl.
func (m *Mount) Tune(t TB, settings Fields) {
	t.Helper()
	if _, err := m.session.Client(t).Logical().Write("sys/mounts/"+m.Path+"/tune", settings); err != nil {
		t.Fatalf("tuning %s: %v", m.Path, err)
	}
}

// RevokeLease ends one lease; wait until it is done at the provider too.
func (s *Session) RevokeLease(t TB, leaseID string) {
	t.Helper()
	_, err := s.Client(t).Logical().Write("sys/leases/revoke", Fields{"lease_id": leaseID, "sync": true})
	if err != nil {
		t.Fatalf("revoking the lease %s: %v", leaseID, err)
	}
}

// StatusOf is the HTTP status in an error of the client, or 0.
func StatusOf(err error) int {
	var refused *api.ResponseError
	if errors.As(err, &refused) {
		return refused.StatusCode
	}
	return 0
}

// vaultsList is what Vault puts before the only error of a request.
const vaultsList = "1 error occurred:\n\t* "

// SaidBy is the text of the plugin's answer in an error of the client, without what
// Vault and its client put around it, and the word in front of the first colon.
func SaidBy(err error) (code, text string) {
	var refused *api.ResponseError
	if !errors.As(err, &refused) || len(refused.Errors) == 0 {
		return "", ""
	}
	text = strings.TrimSpace(strings.TrimPrefix(refused.Errors[0], vaultsList))
	code, _, ok := strings.Cut(text, ": ")
	if !ok || strings.ContainsFunc(code, unicode.IsSpace) {
		return "", text
	}
	return code, text
}

// Agent describes an identity for Login.
type Agent struct {
	Name     string
	Policy   string // rules in HCL; it becomes the policy of the agent's name
	Metadata map[string]string
	Groups   []string // created where they do not exist
}

const agentPassword = "only-for-tests"

// Login makes an entity that logs in by userpass, and returns its view.
func (v *Vault) Login(t TB, agent Agent) *Session {
	t.Helper()
	must := func(secret *api.Secret, err error) *api.Secret {
		t.Helper()
		if err != nil {
			t.Fatalf("making the agent %s: %v", agent.Name, err)
		}
		return secret
	}
	client := v.Client(t)
	logical := client.Logical()

	auths, err := client.Sys().ListAuth()
	if err != nil {
		t.Fatalf("listing auth methods: %v", err)
	}
	if auths["userpass/"] == nil {
		must(nil, client.Sys().EnableAuthWithOptions("userpass", &api.EnableAuthOptions{Type: "userpass"}))
		auths, err = client.Sys().ListAuth()
		must(nil, err)
	}
	if agent.Policy != "" {
		must(nil, client.Sys().PutPolicy(agent.Name, agent.Policy))
	}
	must(logical.Write("auth/userpass/users/"+agent.Name, Fields{"password": agentPassword, "token_policies": agent.Name}))
	entity := must(logical.Write("identity/entity", Fields{"name": agent.Name, "metadata": agent.Metadata}))
	id, _ := entity.Data["id"].(string)
	must(logical.Write("identity/entity-alias", Fields{
		"name":           agent.Name,
		"canonical_id":   id,
		"mount_accessor": auths["userpass/"].Accessor,
	}))
	for _, group := range agent.Groups {
		v.addToGroup(t, group, id)
	}
	login := must(logical.Write("auth/userpass/login/"+agent.Name, Fields{"password": agentPassword}))
	session := v.As(login.Auth.ClientToken)
	session.EntityID = id
	return session
}

func (v *Vault) addToGroup(t TB, group, entityID string) {
	t.Helper()
	path := "identity/group/name/" + group
	existing, err := v.Client(t).Logical().Read(path)
	if err != nil {
		t.Fatalf("group %s: %v", group, err)
	}
	members := []any{entityID}
	if existing != nil {
		already, _ := existing.Data["member_entity_ids"].([]any)
		members = append(members, already...)
	}
	if _, err := v.Client(t).Logical().Write(path, Fields{"member_entity_ids": members}); err != nil {
		t.Fatalf("group %s: %v", group, err)
	}
}
