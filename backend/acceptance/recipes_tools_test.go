package acceptance

import (
	"archive/zip"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
)

// tool is a program that only make recipes builds, which takes minutes.
func tool(t *testing.T, name string) string {
	t.Helper()
	needsServers(t)
	path := filepath.Join(filepath.Dir(harness.PluginPath(t)), name)
	if _, err := os.Stat(path); err != nil {
		require.Empty(t, os.Getenv("RECIPES"), "there is no %s: make recipes builds it", path)
		t.Skipf("NOT RUN: make recipes builds %s", name)
	}
	return path
}

// docs/recipes/github-actions.md: GitHub would take the workflow, as far as its linter knows.
func TestTheWorkflowIsOne(t *testing.T) {
	t.Parallel()
	linter := tool(t, "actionlint")
	dir := filepath.Join(t.TempDir(), ".github", "workflows")
	require.NoError(t, os.MkdirAll(dir, 0o700))
	content := harness.PageFiles(t, recipes+"github-actions.md")["deploy.yml"]
	file := filepath.Join(dir, "deploy.yml")
	require.NoError(t, os.WriteFile(file, []byte(content), 0o600))
	output, err := exec.Command(linter, "-no-color", file).CombinedOutput()
	require.NoError(t, err, "%s", output)
	require.NoError(t, os.WriteFile(file, []byte(strings.Replace(content, "runs-on", "runs_on", 1)), 0o600))
	require.Error(t, exec.Command(linter, "-no-color", file).Run(), "it takes everything")
}

// docs/recipes/opentofu.md: the token is used, is dead afterwards, and stands in no file: not
// in the state, not in the plan.
func TestNoTokenInTheState(t *testing.T) {
	t.Parallel()
	tofu := tool(t, "tofu")
	programs := map[string]string{"tofu": tofu}
	if terraform, err := exec.LookPath("terraform"); err == nil {
		programs["terraform"] = terraform
	} else {
		t.Log("NOT RUN: there is no terraform here")
	}
	for name, program := range programs {
		t.Run(name, func(t *testing.T) {
			k := newKitchen(t)
			agent := k.agent(t, harness.Agent{Name: "builder", Policy: mayRevoke})
			dir := k.serve(t, "opentofu.md")
			seen := filepath.Join(t.TempDir(), "seen")
			work := "#!/bin/sh\nprintf %s \"$API_TOKEN\" >" + seen + "\n"
			require.NoError(t, os.WriteFile(filepath.Join(dir, "release.sh"), []byte(work), 0o700))
			bin := filepath.Join(t.TempDir(), "tofu")
			require.NoError(t, os.Symlink(program, bin))
			run := func(command string) string {
				c := k.tokenbroker(t, agent)
				shell := exec.Command("sh", "-ec", k.told(command))
				shell.Dir, shell.Env = dir, append(c.Env, "CHECKPOINT_DISABLE=1")
				shell.Env[0] = "PATH=" + filepath.Dir(bin) + ":" + filepath.Dir(harness.PluginPath(t)) + ":" + os.Getenv("PATH")
				output, err := shell.CombinedOutput()
				require.NoError(t, err, "%s", output)
				return string(output)
			}
			commands := harness.PageCommands(t, recipes+"opentofu.md")
			require.Len(t, commands, 3)
			for _, command := range commands {
				output := run(command)
				if content, err := os.ReadFile(seen); err == nil {
					require.NotContains(t, output, string(content))
				}
			}
			content, err := os.ReadFile(seen)
			require.NoError(t, err)
			token := confidential("child token", string(content))
			require.Len(t, strings.Split(token, "."), 2, "a token of Hydra's")
			k.hydra.MustBeInactive(t, token)
			require.Empty(t, holds(t, dir, token))
			require.FileExists(t, filepath.Join(dir, "terraform.tfstate"))
			plan, err := zip.OpenReader(filepath.Join(dir, "plan"))
			require.NoError(t, err)
			defer plan.Close()
			require.NotEmpty(t, plan.File)
			for _, part := range plan.File {
				content, err := fs.ReadFile(plan, part.Name)
				require.NoError(t, err)
				require.NotContains(t, string(content), token, part.Name)
			}
		})
	}
}

// definitions has a cluster take what a module of an operator's brings.
func definitions(t *testing.T, cluster *harness.Kubernetes, module, folder string) {
	t.Helper()
	download := exec.Command("go", "mod", "download", "-json", module)
	download.Dir = "../../bootstrap/crds"
	answer, err := download.Output()
	require.NoError(t, err, "%s", answer)
	var found struct{ Dir string }
	require.NoError(t, json.Unmarshal(answer, &found))
	files, err := filepath.Glob(filepath.Join(found.Dir, folder, "*.yaml"))
	require.NoError(t, err)
	taken := 0
	for _, file := range files {
		content, err := os.ReadFile(file)
		require.NoError(t, err)
		var definition map[string]any
		require.NoError(t, yaml.Unmarshal(content, &definition))
		if definition["kind"] != "CustomResourceDefinition" {
			continue
		}
		create(t, cluster, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition)
		taken++
	}
	require.Positive(t, taken)
}

// takes has a cluster take the objects of a page, once it knows their kinds.
func (k *kitchen) takes(t *testing.T, cluster *harness.Kubernetes, page, file string) {
	t.Helper()
	for _, o := range objects(t, page, file) {
		content, err := json.Marshal(o.all)
		require.NoError(t, err)
		told := strings.ReplaceAll(k.told(string(content)), `"mount":"cluster"`, `"mount":"`+k.local("cluster")+`"`)
		told = strings.ReplaceAll(told, `"mount":"broker"`, `"mount":"`+k.Path+`"`)
		var object map[string]any
		require.NoError(t, json.Unmarshal([]byte(told), &object))
		path := fmt.Sprintf("/apis/%s/namespaces/default/%ss?fieldValidation=Strict", o.all["apiVersion"], strings.ToLower(o.kind))
		harness.Eventually(t, patience, "it takes a "+o.kind, func() error {
			status, answer := cluster.Do(t, cluster.Admin, http.MethodPost, path, object)
			switch status {
			case http.StatusCreated, http.StatusConflict:
				return nil
			case http.StatusBadRequest, http.StatusUnprocessableEntity:
				t.Fatalf("%v", answer)
			}
			return fmt.Errorf("status %d: %v", status, answer)
		})
	}
}

// docs/recipes/external-secrets.md and vault-secrets-operator.md: the operators' own
// definitions take the objects, and nothing that is not in them.
func TestTheOperatorsTakeTheObjects(t *testing.T) {
	t.Parallel()
	tool(t, "actionlint") // a sign that make recipes is at work, and not make test
	k := newKitchen(t)
	cluster := harness.StartKubernetes(t, harness.KubernetesOptions{})
	definitions(t, cluster, "github.com/external-secrets/external-secrets@v1.3.2", "config/crds/bases")
	definitions(t, cluster, "github.com/hashicorp/vault-secrets-operator@v0.10.0", "config/crd/bases")
	k.takes(t, cluster, "external-secrets.md", "external-secret.yaml")
	k.takes(t, cluster, "vault-secrets-operator.md", "vault-dynamic-secret.yaml")
}

// background runs a command until the test ends, and shows what it said if that has failed.
func background(t *testing.T, c *exec.Cmd) {
	t.Helper()
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	log, err := os.Create(filepath.Join(c.Dir, "log"))
	require.NoError(t, err)
	c.Stdout, c.Stderr = log, log
	require.NoError(t, c.Start())
	t.Cleanup(func() {
		_ = syscall.Kill(-c.Process.Pid, syscall.SIGKILL)
		_ = c.Wait()
		_ = log.Close()
		if content, err := os.ReadFile(log.Name()); t.Failed() && err == nil {
			t.Logf("%s", content)
		}
	})
}
