package acceptance

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	github "github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/github/fake"
	gitlab "github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/gitlab/fake"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/transmitter"
)

// notRun is how many commands of the documents are not run. Each says why.
const notRun = 11

// documents are the pages in the order in which a newcomer meets them: what a page needs
// stands on one before. The runbook comes last, since it ends by removing the mount; the
// first hour has a test of its own.
func documents(t *testing.T) []string {
	t.Helper()
	ordered := []string{"../../README.md", "../../docs/operating.md", "../../docs/roles.md", "../../docs/agents.md"}
	const last = "../../docs/runbook.md"
	for _, pattern := range []string{"../../docs/*.md", "../../docs/coming-from/*.md", "../../docs/recipes/*.md"} {
		found, err := filepath.Glob(pattern)
		require.NoError(t, err)
		for _, name := range found {
			if name != last && name != firstHour && !slices.Contains(ordered, name) {
				ordered = append(ordered, name)
			}
		}
	}
	return append(ordered, last)
}

// TestTheDocumentsRun runs every command that the documents show, as they show it and in
// their order, with the policies that they show. CONTRIBUTING.md has the rules.
func TestTheDocumentsRun(t *testing.T) {
	t.Parallel()
	needsServers(t)
	documents := documents(t)
	d := newDesk(t)
	run, skipped := 0, 0
	for _, name := range documents {
		content, err := os.ReadFile(name)
		require.NoError(t, err)
		d.keepFiles(t, name)
		for _, b := range blocksOf(t, strings.TrimPrefix(name, "../../"), string(content)) {
			if !b.never {
				d.sit(t, b)
			}
			for _, c := range b.commands {
				if c.never {
					skipped++
					continue
				}
				d.enter(t, c)
				run++
			}
		}
	}
	require.Greater(t, run, 50)
	d.mentioned(t, documents)
	require.Equal(t, notRun, skipped, "commands that are not run")
	log := d.audit.Text(t)
	for _, said := range []string{`"freeze":"true"`, `"freeze":"false"`, `"emergency":"true"`} {
		require.True(t, strings.Contains(log, said), "the audit log does not say %s", said)
	}
	for what, secret := range d.secrets {
		require.False(t, strings.Contains(log, secret), "the audit log holds %s", what)
	}
}

var (
	inText = regexp.MustCompile("`(vault [^`]+)`")
	anyOne = regexp.MustCompile(`\\?<[a-z_]+>`)
)

// mentioned wants each command that a document's text speaks of to be one that was run, or
// the beginning of one.
func (d *desk) mentioned(t *testing.T, documents []string) {
	t.Helper()
	for _, name := range documents {
		content, err := os.ReadFile(name)
		require.NoError(t, err)
		for _, found := range inText.FindAllStringSubmatch(string(content), -1) {
			said := strings.Join(strings.Fields(found[1]), " ")
			like, err := regexp.Compile(`(^|[ (])` + anyOne.ReplaceAllString(regexp.QuoteMeta(said), `\S+`) + `($|[ )])`)
			require.NoError(t, err)
			require.True(t, slices.ContainsFunc(d.ran, like.MatchString), "%s speaks of %q, which no block shows", name, said)
		}
	}
}

// desk is where somebody sits with the documents: a Vault without the plugin, a shell, and
// the servers that the documents speak of.
type desk struct {
	vault   *harness.Vault
	audit   *harness.Audit
	acme    *authserver.Server // login.acme.example, and login.example.com
	ci      *authserver.Server // token.actions.githubusercontent.com
	signals *transmitter.Server
	gitea   *harness.Gitea // git.acme.example
	github  *github.GitHub // ghe.acme.example
	gitlab  *gitlab.Server // gitlab.acme.example
	dir     string
	shell   io.Writer
	lines   <-chan string
	secrets map[string]string

	ran    []string // commands
	agents int
	name   string            // of the agent who is there now
	values map[string]string // of placeholders

	tokens   map[string]string // by whose they are
	policies map[string]string // of docs/operating.md, by name
}

// deskPassword is everybody's here.
const deskPassword = "for-the-documents-alone"

func newDesk(t *testing.T) *desk {
	t.Helper()
	dir := t.TempDir()
	plugins := filepath.Join(dir, "plugins")
	for _, made := range []string{plugins, filepath.Join(dir, "bin")} {
		require.NoError(t, os.Mkdir(made, 0o700))
	}
	require.NoError(t, os.Symlink(harness.PluginPath(t), filepath.Join(dir, "bin", harness.PluginName)))
	d := &desk{
		vault:   harness.StartVault(t, harness.VaultOptions{WithoutPlugin: true, Config: map[string]any{"plugin_directory": plugins}}),
		acme:    authserver.New(t, authserver.Options{OIDCOnly: true}, deskClient("the-first-secret")),
		ci:      authserver.New(t, authserver.Options{OIDCOnly: true}),
		signals: transmitter.New(t, transmitter.Options{Tokens: []string{"the-token-of-the-stream"}, Hold: time.Second}),
		gitea:   sharedGitea(t),
		github:  github.New(t, github.Options{Base: "/api/v3"}),
		gitlab:  gitlab.New(t, time.Now),
		dir:     dir,
		secrets: map[string]string{"the first secret": "the-first-secret", "the next secret": "the-next-secret", "the stream's token": "the-token-of-the-stream"},
		values:  map[string]string{}, tokens: map[string]string{}, policies: map[string]string{},
	}
	d.audit = d.vault.EnableAudit(t)
	d.vault.Login(t, harness.Agent{Name: "operator"})
	d.bringFiles(t)
	d.keepPolicies(t)
	d.arrive(t)
	d.know(plugins)
	d.openShell(t, "PATH="+harness.PathWithVault(t, filepath.Dir(harness.PluginPath(t))), "HOME="+d.dir, "XDG_RUNTIME_DIR="+d.dir, "VAULT_ADDR="+d.vault.Addr, "VAULT_MAX_RETRIES=0")
	return d
}

// bringFiles writes the files that commands read and no page shows.
func (d *desk) bringFiles(t *testing.T) {
	t.Helper()
	hour := time.Now().Add(time.Hour).Unix()
	user := d.acme.SignClaims("JWT", map[string]any{
		"iss": d.acme.URL, "sub": "carol", "aud": "portal", "iat": time.Now().Unix(), "exp": hour, "groups": []string{"staff"},
	})
	d.acme.Trust(user, authserver.Bearer{Subject: "carol"})
	job := d.ci.SignClaims("JWT", map[string]any{
		"iss": d.ci.URL, "sub": "repo:acme/api:ref:refs/heads/main", "aud": "vault", "iat": time.Now().Unix(), "exp": hour, "jti": "1",
		"repository": "acme/api", "ref": "refs/heads/main", "workflow_ref": "acme/api/.github/workflows/deploy.yml@refs/heads/main",
	})
	bot := d.gitea.CreateUser(t, "bot")
	app := d.github.NewApp("the-broker")
	d.github.Install(app, "organization", "acme", map[string]string{"contents": "write", "issues": "write", "metadata": "read"}, "api", "svc-a", "svc-b")
	d.values["Iv23liAcmeBroker"] = app.ClientID
	parent, next := d.gitlab.Personal(gitlab.Maintainer, 300, "api"), d.gitlab.Personal(gitlab.Maintainer, 300, "api")
	d.secrets["the App's key"], d.secrets["GitLab's parent"], d.secrets["GitLab's next parent"] = app.PrivateKey, parent, next
	d.secrets["the user's token"], d.secrets["the job's token"], d.secrets["the bot's password"] = user, job, bot.Secret
	for name, content := range map[string]string{
		"secret.txt": "the-first-secret\n", "stream.txt": "the-token-of-the-stream\n", "new.txt": "the-next-secret\n", "new.pem": d.ci.KeyPEM(t), "user.jwt": user, "id_token.jwt": job,
		"bot.txt": bot.Secret + "\n", "app.pem": app.PrivateKey, "gitlab.txt": parent, "gitlab_next.txt": next,
		"deploy.sts.yaml": "issuer: " + d.ci.URL + "\nsubject_pattern: repo:acme/api:ref:refs/heads/.*\npermissions:\n  contents: read\n",
	} {
		require.NoError(t, os.WriteFile(filepath.Join(d.dir, name), []byte(content), 0o600))
	}
}

// keepFiles writes the files that a page shows.
func (d *desk) keepFiles(t *testing.T, page string) {
	t.Helper()
	for name, content := range harness.PageFiles(t, page) {
		for _, written := range slices.Sorted(maps.Keys(d.values)) {
			content = strings.ReplaceAll(content, written, d.values[written])
		}
		require.NoError(t, os.WriteFile(filepath.Join(d.dir, name), []byte(content), 0o600))
	}
}

// keepPolicies writes the policies that the documents show, so that none of their commands is
// run by root.
func (d *desk) keepPolicies(t *testing.T) {
	t.Helper()
	page, err := os.ReadFile("../../docs/operating.md")
	require.NoError(t, err)
	require.Len(t, harness.PageFiles(t, "../../docs/operating.md"), strings.Count(string(page), "```hcl\n"), "each policy begins with the name of its file")
	for _, name := range documents(t) {
		for file, content := range harness.PageFiles(t, name) {
			policy, isHCL := strings.CutSuffix(file, ".hcl")
			if !isHCL || !strings.Contains(content, "\npath ") {
				continue
			}
			require.Empty(t, d.policies[policy], "%s shows the policy %s again", name, policy)
			require.NoError(t, d.vault.Client(t).Sys().PutPolicy("broker-"+policy, content))
			d.policies[policy] = content
		}
	}
}

// know is what stands here for what the documents write.
func (d *desk) know(plugins string) {
	d.values["/etc/vault/plugins/"] = plugins + "/"
	d.values["https://vault.example.com:8200"] = d.vault.Addr
	d.values["https://login.acme.example"], d.values["https://login.example.com"] = d.acme.URL, d.acme.URL
	d.values["https://signals.acme.example"] = d.signals.URL
	d.values["https://git.acme.example"] = d.gitea.URL
	d.values["https://ghe.acme.example/api/v3"], d.values["https://gitlab.acme.example"] = d.github.URL, d.gitlab.URL
	d.values["https://token.actions.githubusercontent.com"], d.values["<issuer>"] = d.ci.URL, d.ci.URL
	d.values["https://gitlab.com"] = d.ci.URL
}

// openShell has a shell read what is entered, until the test ends.
func (d *desk) openShell(t *testing.T, env ...string) {
	t.Helper()
	cmd := exec.Command("sh")
	cmd.Dir, cmd.Env = d.dir, env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	output, err := cmd.StdoutPipe()
	require.NoError(t, err)
	cmd.Stderr = cmd.Stdout
	require.NoError(t, cmd.Start())
	lines := make(chan string, 1000)
	go func() {
		defer close(lines)
		for scanner := bufio.NewScanner(output); scanner.Scan(); {
			lines <- scanner.Text()
		}
	}()
	t.Cleanup(func() {
		if !slices.Contains(env, "TOKENBROKER_AGENT=off") {
			keeps := exec.Command(filepath.Join(filepath.Dir(harness.PluginPath(t)), "tokenbroker"), "agent", "stop")
			keeps.Env = cmd.Env
			_ = keeps.Run() // if a command has failed before it came to that
		}
		_ = stdin.Close()
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // with what it has left running
		_ = cmd.Wait()
	})
	d.shell, d.lines = stdin, lines
}

// arrive brings a new agent, who holds a grant as soon as there is a role.
func (d *desk) arrive(t *testing.T) {
	t.Helper()
	d.agents++
	d.name = fmt.Sprintf("agent-%d", d.agents)
	agent := d.vault.Login(t, harness.Agent{Name: d.name, Policy: d.policies["agents"], Metadata: map[string]string{"team": "payments"}, Groups: []string{"deployers"}})
	d.values["<entity_id>"], d.values["<entity_name>"] = agent.EntityID, d.name
	mounts, err := d.vault.Client(t).Sys().ListMounts()
	require.NoError(t, err)
	if mounts["broker/"] == nil {
		return
	}
	// A lease can be ended by its holder also over HTTP, where its id is in the body; no
	// other can.
	agent.RevokeLease(t, read(t, agent.Mount("broker"), "deploy").LeaseID)
	_, err = agent.Client(t).Logical().Write("sys/leases/revoke", harness.Fields{"lease_id": "database/creds/x/y", "sync": true})
	require.Equal(t, 403, harness.StatusOf(err))
	held := read(t, agent.Mount("broker"), "deploy")
	d.values["<grant_id>"], d.values["<lease_id>"] = held.GrantID, held.LeaseID
	// And somebody without an entity has one, too.
	root := d.vault.Mount("broker")
	root.Write(t, "roles/anybody", harness.Fields{"provider": "oauth2/acme", "scopes": "repo:read", "ttl": "10m"})
	read(t, root, "anybody")
}

// login is a token of somebody with some of the documents' policies.
func (d *desk) login(t *testing.T, name string, policies ...string) string {
	t.Helper()
	whose := name + ": " + strings.Join(policies, ", ")
	if d.tokens[whose] != "" {
		return d.tokens[whose]
	}
	policies = slices.Clone(policies)
	for i := range policies {
		policies[i] = "broker-" + policies[i]
	}
	client := d.vault.Client(t).Logical()
	_, err := client.Write("auth/userpass/users/"+name, harness.Fields{"password": deskPassword, "token_policies": policies})
	require.NoError(t, err)
	secret, err := client.Write("auth/userpass/login/"+name, harness.Fields{"password": deskPassword})
	require.NoError(t, err)
	d.tokens[whose] = secret.Auth.ClientToken
	return d.tokens[whose]
}

// sit gives the shell the token of whom the block is for: an agent's, with all policies
// that it needs, or else an operator's.
func (d *desk) sit(t *testing.T, b block) {
	t.Helper()
	if strings.HasPrefix(b.where, "docs/runbook.md") {
		d.arrive(t)
	}
	who := "operator"
	if slices.Contains(b.as, "agents") {
		who = d.name
	}
	d.run(t, b.where, "export VAULT_TOKEN="+d.login(t, who, b.as...))
}

// step does what a reader does elsewhere.
func (d *desk) step(t *testing.T, c command) {
	t.Helper()
	if c.text == "# end the laptop's logins, in Vault and at the identity provider" {
		return // nobody has one here
	}
	secrets := map[string][]string{
		"# make the new secret valid at the provider": {"the-first-secret", "the-next-secret"},
		"# end the old secret at the provider":        {"the-next-secret"},
	}[c.text]
	require.NotNil(t, secrets, "%s: nobody knows how to %s", c.where, c.text)
	d.acme.SetClient(deskClient(secrets...))
}

// deskClient is the broker as acme's server knows it.
func deskClient(secrets ...string) authserver.Client {
	return authserver.Client{
		ID: "broker", Secrets: secrets, Scopes: []string{"repo:read", "repo:write", "orders:read", "deploy"},
		Audiences: []string{"https://api.acme.example", "https://orders.acme.example"},
	}
}

// enter runs a command. It must succeed, or say that there is nothing where the document
// says so, and print what the document shows of it.
func (d *desk) enter(t *testing.T, c command) (output string) {
	t.Helper()
	if c.step {
		d.step(t, c)
		return ""
	}
	if _, err := exec.LookPath("curl"); err != nil && strings.HasPrefix(c.text, "curl ") {
		require.Empty(t, os.Getenv("CI"), "there is no curl here")
		t.Logf("%s: NOT RUN, there is no curl here: %s", c.where, c.text)
		return ""
	}
	d.ran = append(d.ran, strings.Join(strings.Fields(c.text), " "))
	status, output := d.run(t, c.where, d.fill(t, c.where, c.text))
	want := "0"
	if slices.ContainsFunc(c.shown, func(line string) bool { return strings.HasPrefix(line, "No value found") }) {
		want = "2"
	}
	require.Equal(t, want, status, "%s: %s\n%s", c.where, c.text, output)
	rest := output
	for _, line := range c.shown {
		for part := range strings.SplitSeq(d.fill(t, c.where, line), "…") {
			_, after, found := strings.Cut(rest, strings.TrimSpace(part))
			require.True(t, found, "%s: %s prints\n%s\nand not %s", c.where, c.text, output, part)
			rest = after
		}
	}
	if lease := leaseLine.FindStringSubmatch(output); lease != nil {
		d.values["<lease_id>"] = lease[1]
	}
	if grant := grantLine.FindStringSubmatch(output); grant != nil {
		d.values["<grant_id>"] = grant[1]
	}
	if kill := killLine.FindStringSubmatch(output); kill != nil {
		d.values["<kill_id>"] = kill[1]
	}
	return output
}

var (
	leaseLine   = regexp.MustCompile(`(?m)(?:^lease_id\s+|"lease_id":")([^\s"]+)`)
	grantLine   = regexp.MustCompile(`(?m)^grant_id\s+(\S+)$`)
	killLine    = regexp.MustCompile(`(?m)^kill_id\s+(\S+)$`)
	named       = regexp.MustCompile(`(providers?/oauth2|issuers?|roles?)/<name>`)
	placeholder = regexp.MustCompile(`<[a-z_]+>`)
)

// fill puts what is here in place of what the documents write for it.
func (d *desk) fill(t *testing.T, where, text string) string {
	t.Helper()
	text = named.ReplaceAllStringFunc(text, func(path string) string {
		kind := strings.TrimSuffix(path, "/<name>")
		name := map[string]string{"provider/oauth2": "acme", "providers/oauth2": "acme", "role": "deploy", "roles": "deploy"}[kind]
		if name == "" {
			name = "github"
		}
		return kind + "/" + name
	})
	for _, written := range slices.Sorted(maps.Keys(d.values)) {
		text = strings.ReplaceAll(text, written, d.values[written])
	}
	require.NotRegexp(t, placeholder, text, where)
	return text
}

// run runs a command in the shell, and returns its exit status and what it printed.
func (d *desk) run(t *testing.T, where, text string) (status, output string) {
	t.Helper()
	const end = "-- the end: "
	_, err := fmt.Fprintf(d.shell, "{ %s\n} </dev/null; status=$?; echo; echo \"%s$status\"\n", text, end)
	require.NoError(t, err)
	patience := time.After(patience)
	for {
		select {
		case line, open := <-d.lines:
			require.True(t, open, "%s: the shell has ended after %s\n%s", where, text, output)
			if after, found := strings.CutPrefix(line, end); found {
				return after, strings.TrimSpace(output)
			}
			output += line + "\n"
		case <-patience:
			t.Fatalf("%s: %s does not end\n%s", where, text, output)
		}
	}
}
