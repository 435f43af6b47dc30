package acceptance

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
)

// setUp runs those commands of a page that begin with prefix, or read from a pipe with it,
// as root.
func (k *kitchen) setUp(t *testing.T, page, prefix string, here ...string) {
	t.Helper()
	content, err := os.ReadFile(recipes + page)
	require.NoError(t, err)
	var commands []string
	for _, b := range blocksOf(t, page, string(content)) {
		for _, c := range b.commands {
			if strings.HasPrefix(c.text, prefix) || strings.Contains(strings.Join(strings.Fields(c.text), " "), "| "+prefix) {
				commands = append(commands, strings.NewReplacer(here...).Replace(k.told(c.text)))
			}
		}
	}
	require.NotEmpty(t, commands)
	shell := exec.Command("sh", "-e")
	shell.Dir = t.TempDir()
	shell.Stdin = strings.NewReader(strings.Join(commands, "\n"))
	shell.Env = []string{"PATH=" + harness.PathWithVault(t), "HOME=" + shell.Dir, "VAULT_ADDR=" + k.vault.Addr, "VAULT_TOKEN=" + k.vault.Token}
	output, err := shell.CombinedOutput()
	require.NoError(t, err, "%s", output)
}

// job is what runs a CI's steps: the shell's program and first arguments, the script, and
// the environment that the CI gives it.
type job struct {
	shell  []string
	script string
	env    []string
	dir    string
}

// deploy is the work: it tells with which token it was done, whether that works, and fails if
// it is told to.
func (j *job) deploy(t *testing.T, k *kitchen, code string) (token, output string, ended int) {
	t.Helper()
	j.dir = t.TempDir()
	work := "#!/bin/sh\nprintf %s \"$API_TOKEN\" >seen.new && mv seen.new seen\nuntil [ -e go ]; do sleep 0.05; done\nexit " + code + "\n"
	require.NoError(t, os.WriteFile(filepath.Join(j.dir, "deploy.sh"), []byte(work), 0o700))
	c := exec.Command(j.shell[0], append(j.shell[1:], j.script)...)
	c.Dir = j.dir
	c.Env = append([]string{"PATH=" + harness.PathWithVault(t), "HOME=" + j.dir, "VAULT_ADDR=" + k.vault.Addr}, j.env...)
	said, err := os.Create(filepath.Join(t.TempDir(), "log"))
	require.NoError(t, err)
	defer said.Close()
	c.Stdout, c.Stderr = said, said
	require.NoError(t, c.Start())
	ends := make(chan error, 1)
	go func() { ends <- c.Wait() }()
	t.Cleanup(func() { _ = c.Process.Kill() })
	token = k.next(t, filepath.Join(j.dir, "seen"), "")
	k.hydra.MustBeActive(t, token)
	require.Equal(t, []string{"seen"}, holds(t, j.dir, token))
	require.NoError(t, os.WriteFile(filepath.Join(j.dir, "go"), nil, 0o600))
	<-ends
	content, err := os.ReadFile(said.Name())
	require.NoError(t, err)
	return token, string(content), c.ProcessState.ExitCode()
}

// refused runs the job as somebody whom Vault must not let in.
func (j *job) refused(t *testing.T, k *kitchen, who string) {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "deploy.sh"), []byte("#!/bin/sh\n>deployed\n"), 0o700))
	c := exec.Command(j.shell[0], append(j.shell[1:], j.script)...)
	c.Dir = dir
	c.Env = append([]string{"PATH=" + harness.PathWithVault(t), "HOME=" + dir, "VAULT_ADDR=" + k.vault.Addr}, j.env...)
	output, err := c.CombinedOutput()
	require.Error(t, err, "%s got in: %s", who, output)
	require.Contains(t, string(output), "400", who)
	require.NoFileExists(t, filepath.Join(dir, "deployed"), who)
}

// yamlOf reads a file of a page.
func yamlOf(t *testing.T, page, file string, into any) {
	t.Helper()
	content := harness.PageFiles(t, recipes+page)[file]
	require.NotEmpty(t, content)
	require.NoError(t, yaml.Unmarshal([]byte(content), into))
}

// docs/recipes/github-actions.md: the step as it stands there, with the environment that a
// runner gives it. GitHub itself is a fake, which signs what GitHub would.
func TestAJobOfGitHub(t *testing.T) {
	t.Parallel()
	needsCommands(t, "bash", "curl", "jq")
	k := newKitchen(t)
	ci := authserver.New(t, authserver.Options{OIDCOnly: true})
	k.setUp(t, "github-actions.md", "vault auth enable", "-path=github", "-path="+k.local("github"))
	k.setUp(t, "github-actions.md", "vault write auth/github/", "https://token.actions.githubusercontent.com", ci.URL, "broker-build", k.policy())
	const request = "the-runners-request-token"
	const main = "acme/api/.github/workflows/deploy.yml@refs/heads/main"
	ref, workflow := "refs/heads/main", main
	runner := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+request || r.URL.Query().Get("api-version") == "" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		token := ci.SignClaims("JWT", map[string]any{
			"iss": ci.URL, "sub": "repo:acme/api:ref:" + ref, "aud": r.URL.Query().Get("audience"), "iat": time.Now().Unix(),
			"exp": time.Now().Add(5 * time.Minute).Unix(), "repository": "acme/api", "ref": ref, "workflow_ref": workflow,
		})
		_ = json.NewEncoder(w).Encode(map[string]any{"count": len(token), "value": confidential("token of the job", token)})
	}))
	t.Cleanup(runner.Close)
	var deploy struct {
		Permissions map[string]string
		Jobs        map[string]struct {
			Env   map[string]string
			Steps []struct{ Run string }
		}
	}
	yamlOf(t, "github-actions.md", "deploy.yml", &deploy)
	require.Equal(t, "write", deploy.Permissions["id-token"])
	require.Equal(t, "https://vault.example.com:8200", deploy.Jobs["deploy"].Env["VAULT_ADDR"])
	steps := deploy.Jobs["deploy"].Steps
	j := job{
		shell: []string{"bash", "-e", "-c"}, script: k.told(steps[len(steps)-1].Run), // as a runner starts it
		env: []string{"ACTIONS_ID_TOKEN_REQUEST_URL=" + runner.URL + "/idtoken?api-version=2.0", "ACTIONS_ID_TOKEN_REQUEST_TOKEN=" + request},
	}
	for _, code := range []string{"0", "7"} {
		token, output, ended := j.deploy(t, k, code)
		require.Equal(t, code, strconv.Itoa(ended), output)
		require.Contains(t, output, "::add-mask::"+token)
		require.NotContains(t, strings.ReplaceAll(output, "::add-mask::"+token, ""), token)
		soonInactive(t, k.hydra, token)
	}
	require.NotRegexp(t, `-H "[^"]*\$`, j.script, "every user of the host sees the arguments of a command")
	ref, workflow = "refs/heads/other", "acme/api/.github/workflows/deploy.yml@refs/heads/other"
	j.refused(t, k, "another branch")
	// What a stranger's pull request may start by pull_request_target runs as the default branch.
	ref, workflow = "refs/heads/main", "acme/api/.github/workflows/label.yml@refs/heads/main"
	j.refused(t, k, "another workflow")
}

// docs/recipes/gitlab-ci.md: the script as it stands there, with the token that GitLab would
// have put into the job's environment.
func TestAJobOfGitLab(t *testing.T) {
	t.Parallel()
	k := newKitchen(t)
	ci := authserver.New(t, authserver.Options{OIDCOnly: true})
	k.setUp(t, "gitlab-ci.md", "vault auth enable", "-path=gitlab", "-path="+k.local("gitlab"))
	k.setUp(t, "gitlab-ci.md", "vault write auth/", "https://gitlab.com", ci.URL, "broker-build", k.policy())
	var pipeline map[string]struct {
		IDTokens map[string]struct{ Aud string } `yaml:"id_tokens"`
		Script   []string
	}
	yamlOf(t, "gitlab-ci.md", ".gitlab-ci.yml", &pipeline)
	deploy := pipeline["deploy"]
	j := job{shell: []string{"bash", "-e", "-c"}, script: k.told(strings.Join(deploy.Script, "\n"))}
	bring := func(protected string) {
		j.env = nil
		for name, asked := range deploy.IDTokens {
			j.env = append(j.env, name+"="+confidential("token of the job", ci.SignClaims("JWT", map[string]any{
				"iss": ci.URL, "sub": "project_path:acme/api:ref_type:branch:ref:main", "aud": k.told(asked.Aud), "iat": time.Now().Unix(),
				"exp": time.Now().Add(5 * time.Minute).Unix(), "project_path": "acme/api", "ref": "main", "ref_protected": protected,
			})))
		}
	}
	bring("true")
	for _, code := range []string{"0", "7"} {
		token, output, ended := j.deploy(t, k, code)
		require.Equal(t, code, strconv.Itoa(ended), output)
		require.NotContains(t, output, token)
		soonInactive(t, k.hydra, token)
	}
	// A merge request's pipeline has the name of the branch that it comes from, a fork's too.
	bring("false")
	j.refused(t, k, "a merge request from a branch of the same name")
}

// cluster is an API server whose service accounts Vault knows, as docs/recipes/kubernetes.md
// has it.
func (k *kitchen) cluster(t *testing.T) *harness.Kubernetes {
	t.Helper()
	cluster := harness.StartKubernetes(t, harness.KubernetesOptions{})
	const binding = "kubectl create clusterrolebinding issuer-discovery \\\n    --clusterrole=system:service-account-issuer-discovery --group=system:unauthenticated"
	require.Contains(t, harness.PageCommands(t, recipes+"kubernetes.md"), binding)
	create(t, cluster, "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", map[string]any{
		"metadata": map[string]any{"name": "issuer-discovery"},
		"roleRef":  map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:service-account-issuer-discovery"},
		"subjects": []any{map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:unauthenticated"}},
	})
	ca := filepath.Join(t.TempDir(), "cluster.crt")
	require.NoError(t, os.WriteFile(ca, cluster.CA, 0o600))
	k.setUp(t, "kubernetes.md", "vault auth enable", "-path=cluster", "-path="+k.local("cluster"))
	k.setUp(t, "kubernetes.md", "vault write auth/", "https://kubernetes.default.svc.cluster.local", cluster.URL, "@cluster.crt", "@"+ca, "broker-build", k.policy())
	return cluster
}

// create creates an object, of which nothing may be unknown.
func create(t *testing.T, cluster *harness.Kubernetes, path string, object map[string]any) map[string]any {
	t.Helper()
	status, answer := cluster.Do(t, cluster.Admin, http.MethodPost, path+"?fieldValidation=Strict", object)
	require.Equal(t, http.StatusCreated, status, "%v", answer)
	return answer
}

const namespace = "/api/v1/namespaces/default/"

// docs/recipes/kubernetes.md: a real API server takes the objects and signs for the service
// account, and Agent does with its configuration what it would do in the pod. There is no
// kubelet: the pod itself does not run.
func TestAPodsAgent(t *testing.T) {
	t.Parallel()
	k := newKitchen(t)
	cluster := k.cluster(t)
	agent := ""
	for _, o := range objects(t, "kubernetes.md", "pod.yaml") {
		create(t, cluster, namespace+map[string]string{"ServiceAccount": "serviceaccounts", "ConfigMap": "configmaps", "Pod": "pods"}[o.kind], o.all)
		if data, ok := o.all["data"].(map[string]any); ok {
			agent, _ = data["agent.hcl"].(string)
		}
	}
	answer := create(t, cluster, namespace+"serviceaccounts/build/token", map[string]any{
		"spec": map[string]any{"audiences": []string{"vault"}, "expirationSeconds": 600},
	})
	identity, _ := answer["status"].(map[string]any)["token"].(string)

	dir := t.TempDir()
	k.here = append(k.here, "/run/vault/token", filepath.Join(dir, "identity"), "/run/broker/token", filepath.Join(dir, "token"))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "identity"), []byte(confidential("token of the pod", identity)), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "agent.hcl"), []byte(k.told(agent)), 0o600))
	k.run(t, dir, "agent", "agent.hcl")
	k.hydra.MustBeActive(t, k.next(t, filepath.Join(dir, "token"), ""))
	require.FileExists(t, filepath.Join(dir, "identity"))
}

// object is one of Kubernetes.
type object struct {
	kind string
	all  map[string]any
}

// objects are those in a file of a page.
func objects(t *testing.T, page, file string) []object {
	t.Helper()
	content := harness.PageFiles(t, recipes+page)[file]
	require.NotEmpty(t, content)
	var found []object
	for document := range strings.SplitSeq(content, "\n---\n") {
		var o object
		require.NoError(t, yaml.Unmarshal([]byte(document), &o.all))
		o.kind, _ = o.all["kind"].(string)
		found = append(found, o)
	}
	return found
}
