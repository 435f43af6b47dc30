package trials

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/auth/credentials"
	"github.com/aws/aws-sdk-go-v2/credentials/processcreds"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2/google/externalaccount"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/tokenbroker/vault-plugin-secrets-broker/cmd/tokenbroker/internal/vaulttest"
)

// jwt is the form of one. Nobody here looks at the signature.
const jwt = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJlMSJ9.c2ln%"

type scene struct {
	*vaulttest.Server
	home, bin string
}

// tried is a Vault and a home in which tokenbroker is on the PATH.
func tried(t *testing.T) *scene {
	t.Helper()
	s := &scene{Server: vaulttest.Start(t), home: t.TempDir()}
	bin, err := filepath.Abs("../../../bin")
	require.NoError(t, err)
	s.bin = filepath.Join(bin, "tokenbroker")
	require.FileExists(t, s.bin, "make tokenbroker builds it")
	dir, err := os.MkdirTemp("", "tb")
	require.NoError(t, err)
	for name, value := range map[string]string{
		"PATH": filepath.Join(s.home, "bin") + ":" + bin + ":" + os.Getenv("PATH"), "HOME": s.home, "XDG_RUNTIME_DIR": dir,
		"VAULT_ADDR": s.URL, "VAULT_TOKEN": vaulttest.Token, "TOKENBROKER_AGENT": "",
		"RUSTUP_HOME": or(os.Getenv("RUSTUP_HOME"), filepath.Join(os.Getenv("HOME"), ".rustup")),
		"PYENV_ROOT":  or(os.Getenv("PYENV_ROOT"), filepath.Join(os.Getenv("HOME"), ".pyenv")),
	} {
		t.Setenv(name, value)
	}
	require.NoError(t, os.Mkdir(filepath.Join(s.home, "bin"), 0o700))
	t.Cleanup(func() {
		require.NoError(t, exec.Command(s.bin, "agent", "stop").Run())
		require.Empty(t, s.Live())
		require.NoError(t, os.RemoveAll(dir))
	})
	s.SetRole("deploy", vaulttest.Role{Provider: "oauth2/acme", Fields: map[string]any{"access_token": "deploy-token-%", "token_type": "Bearer"}})
	s.SetRole("own", vaulttest.Role{Provider: "jwt/own", Fields: map[string]any{"access_token": jwt, "token_type": "Bearer"}})
	s.SetRole("cloud", vaulttest.Role{Provider: "http/cloud", Fields: map[string]any{
		"access_key_id": "AKIA%", "secret_access_key": "cloud-secret-%", "session_token": "cloud-session-%",
	}})
	return s
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// needs skips a trial of a tool that is not here.
func needs(t *testing.T, tool string) {
	t.Helper()
	if _, err := exec.LookPath(tool); err != nil {
		t.Skipf("NOT TRIED: there is no %s here", tool)
	}
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	text, err := exec.Command(name, args...).CombinedOutput()
	require.NoError(t, err, "%s", text)
	return string(text)
}

func (s *scene) write(t *testing.T, name, content string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(s.home, name)
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
	require.NoError(t, os.WriteFile(path, []byte(content), mode))
	return path
}

// serve is a server that tells with what it was asked.
func serve(t *testing.T, handle func(r *http.Request) any) (*httptest.Server, *[]string) {
	t.Helper()
	var seen []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := handle(r)
		seen = append(seen, r.URL.Path+" "+r.Header.Get("Authorization"))
		if answer == nil {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(answer)
	}))
	t.Cleanup(server.Close)
	return server, &seen
}

func TestAWSLibrary(t *testing.T) {
	s := tried(t)
	provider := processcreds.NewProvider("tokenbroker aws-credential-process cloud")
	for range 2 {
		got, err := provider.Retrieve(t.Context())
		require.NoError(t, err)
		require.Equal(t, "AKIA1", got.AccessKeyID)
		require.Equal(t, "cloud-secret-1", got.SecretAccessKey)
		require.Equal(t, "cloud-session-1", got.SessionToken)
		require.True(t, got.CanExpire)
		require.WithinDuration(t, time.Now().Add(time.Hour), got.Expires, time.Minute)
	}
	_, err := processcreds.NewProvider("tokenbroker aws-credential-process deploy").Retrieve(t.Context())
	require.ErrorContains(t, err, "exit status 65")
	require.Equal(t, 2, s.Issued())
}

func TestAWSCommand(t *testing.T) {
	needs(t, "aws")
	s := tried(t)
	s.write(t, ".aws/config", "[default]\nregion = eu-central-1\ncredential_process = tokenbroker aws-credential-process cloud\n", 0o600)
	var signed, session string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		signed, session = r.Header.Get("Authorization"), r.Header.Get("X-Amz-Security-Token")
		_, _ = w.Write([]byte(`<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult>` +
			`<Arn>arn:aws:sts::1:assumed-role/x/y</Arn><UserId>u</UserId><Account>1</Account></GetCallerIdentityResult></GetCallerIdentityResponse>`))
	}))
	t.Cleanup(server.Close)
	require.Contains(t, run(t, "aws", "--endpoint-url", server.URL, "sts", "get-caller-identity"), "assumed-role/x/y")
	require.Contains(t, signed, "AWS4-HMAC-SHA256 Credential=AKIA1/")
	require.Equal(t, "cloud-session-1", session)
}

func kubeconfig(server string) string {
	return `{"apiVersion": "v1", "kind": "Config", "current-context": "x",
"clusters": [{"name": "x", "cluster": {"server": "` + server + `"}}],
"contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
"users": [{"name": "x", "user": {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "tokenbroker",
  "args": ["kubectl-credential", "own"], "interactiveMode": "Never"}}}]}`
}

// cluster is as much of an API server as a first question needs.
func cluster(t *testing.T) (*httptest.Server, *[]string) {
	t.Helper()
	return serveTLS(t, func(r *http.Request) any {
		if r.URL.Path == "/version" {
			return map[string]any{"major": "1", "minor": "36", "gitVersion": "v1.36.3"}
		}
		return map[string]any{"kind": "NamespaceList", "apiVersion": "v1", "metadata": map[string]any{}, "items": []any{}}
	})
}

func serveTLS(t *testing.T, handle func(r *http.Request) any) (*httptest.Server, *[]string) {
	t.Helper()
	var seen []string
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, r.URL.Path+" "+r.Header.Get("Authorization"))
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(handle(r))
	}))
	t.Cleanup(server.Close)
	return server, &seen
}

func TestKubernetesLibrary(t *testing.T) {
	s := tried(t)
	server, seen := cluster(t)
	config, err := clientcmd.RESTConfigFromKubeConfig([]byte(strings.Replace(kubeconfig(server.URL), `"server"`, `"insecure-skip-tls-verify": true, "server"`, 1)))
	require.NoError(t, err)
	client, err := rest.HTTPClientFor(config)
	require.NoError(t, err)
	answer, err := client.Get(server.URL + "/api/v1/namespaces")
	require.NoError(t, err)
	require.NoError(t, answer.Body.Close())
	require.Equal(t, []string{"/api/v1/namespaces Bearer " + strings.ReplaceAll(jwt, "%", "1")}, *seen)
	require.Equal(t, 1, s.Issued())
}

func TestKubectl(t *testing.T) {
	needs(t, "kubectl")
	s := tried(t)
	server, seen := cluster(t)
	file := s.write(t, "kubeconfig", strings.Replace(kubeconfig(server.URL), `"server"`, `"insecure-skip-tls-verify": true, "server"`, 1), 0o600)
	run(t, "kubectl", "--kubeconfig", file, "get", "--raw", "/version")
	require.NotEmpty(t, *seen)
	for _, request := range *seen {
		require.Equal(t, "/version Bearer "+strings.ReplaceAll(jwt, "%", "1"), request)
	}
}

// gcp is the configuration of a workload identity pool, and the server that exchanges.
func gcp(t *testing.T, role string) (configuration []byte, asked *[]string) {
	t.Helper()
	var subjects []string
	server, _ := serve(t, func(r *http.Request) any {
		if r.URL.Path == "/introspect" {
			return map[string]any{"active": true, "username": "principal://iam.googleapis.com/x"}
		}
		_ = r.ParseForm()
		subjects = append(subjects, r.Form.Get("subject_token_type")+" "+r.Form.Get("subject_token"))
		return map[string]any{"access_token": "ya29.x", "issued_token_type": "urn:ietf:params:oauth:token-type:access_token", "token_type": "Bearer", "expires_in": 3600}
	})
	t.Setenv("GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES", "1")
	configuration, err := json.Marshal(map[string]any{
		"type": "external_account", "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/x",
		"subject_token_type": "urn:ietf:params:oauth:token-type:jwt", "token_url": server.URL, "token_info_url": server.URL + "/introspect",
		"credential_source": map[string]any{"executable": map[string]any{"command": "tokenbroker gcp-executable " + role, "timeout_millis": 30000}},
	})
	require.NoError(t, err)
	return configuration, &subjects
}

func TestGoogleLibraries(t *testing.T) {
	for name, token := range map[string]func(ctx context.Context, configuration []byte) (string, error){
		"cloud.google.com/go/auth": func(ctx context.Context, configuration []byte) (string, error) {
			found, err := credentials.NewCredentialsFromJSON(credentials.ExternalAccount, configuration, &credentials.DetectOptions{Scopes: []string{"x"}})
			if err != nil {
				return "", err
			}
			got, err := found.Token(ctx)
			if err != nil {
				return "", err
			}
			return got.Value, nil
		},
		"golang.org/x/oauth2": func(ctx context.Context, configuration []byte) (string, error) {
			var c struct {
				Audience         string `json:"audience"`
				SubjectTokenType string `json:"subject_token_type"`
				TokenURL         string `json:"token_url"`
				Source           struct {
					Executable struct {
						Command string `json:"command"`
					} `json:"executable"`
				} `json:"credential_source"`
			}
			if err := json.Unmarshal(configuration, &c); err != nil {
				return "", err
			}
			source, err := externalaccount.NewTokenSource(ctx, externalaccount.Config{
				Audience: c.Audience, SubjectTokenType: c.SubjectTokenType, TokenURL: c.TokenURL, Scopes: []string{"x"},
				CredentialSource: &externalaccount.CredentialSource{Executable: &externalaccount.ExecutableConfig{Command: c.Source.Executable.Command}},
			})
			if err != nil {
				return "", err
			}
			got, err := source.Token()
			if err != nil {
				return "", err
			}
			return got.AccessToken, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			tried(t)
			configuration, subjects := gcp(t, "own")
			got, err := token(t.Context(), configuration)
			require.NoError(t, err)
			require.Equal(t, "ya29.x", got)
			require.Equal(t, []string{"urn:ietf:params:oauth:token-type:jwt " + strings.ReplaceAll(jwt, "%", "1")}, *subjects)
			configuration, _ = gcp(t, "deploy")
			_, err = token(t.Context(), configuration)
			require.ErrorContains(t, err, "role deploy (oauth2/acme) cannot serve gcp-executable")
		})
	}
}

func TestGoogleCommand(t *testing.T) {
	needs(t, "gcloud")
	s := tried(t)
	configuration, subjects := gcp(t, "own")
	file := s.write(t, "gcp.json", string(configuration), 0o600)
	t.Setenv("CLOUDSDK_CONFIG", filepath.Join(s.home, "gcloud"))
	t.Setenv("CLOUDSDK_CORE_DISABLE_PROMPTS", "1")
	run(t, "gcloud", "--quiet", "auth", "login", "--cred-file="+file)
	require.Contains(t, run(t, "gcloud", "--quiet", "auth", "print-access-token"), "ya29.x")
	require.Contains(t, strings.Join(*subjects, "\n"), "token-type:jwt "+strings.ReplaceAll(jwt, "%", "1"))
}

func TestCargo(t *testing.T) {
	needs(t, "cargo")
	s := tried(t)
	server, seen := serve(t, func(r *http.Request) any {
		switch {
		case r.URL.Path == "/index/config.json" && r.Header.Get("Authorization") != "":
			return map[string]any{"dl": "http://" + r.Host + "/dl", "api": "http://" + r.Host, "auth-required": true}
		case r.Header.Get("Authorization") != "":
			return map[string]any{"users": []any{map[string]any{"id": 1, "login": "alice", "name": "Alice"}}}
		}
		return nil
	})
	host := strings.TrimPrefix(server.URL, "http://")
	s.write(t, ".cargo/config.toml", "[registries.acme]\nindex = \"sparse+"+server.URL+"/index/\"\n"+
		"credential-provider = [\"tokenbroker\", \"deploy\", \"--host\", \""+host+"\"]\n", 0o600)
	t.Setenv("CARGO_HOME", filepath.Join(s.home, ".cargo"))
	text := run(t, "cargo", "owner", "--list", "api", "--registry", "acme")
	require.Contains(t, text, "alice")
	require.Contains(t, *seen, "/index/config.json deploy-token-1")
	require.Contains(t, *seen, "/api/v1/crates/api/owners deploy-token-1")
	require.Equal(t, 1, s.Issued())
}

func TestTerraform(t *testing.T) {
	needs(t, "terraform")
	s := tried(t)
	// Discovery would be by https with a certificate of the system's: the configuration
	// says where the host's service is.
	const host = "modules.acme.example"
	server, seen := serve(t, func(*http.Request) any {
		return map[string]any{"modules": []any{map[string]any{"versions": []any{}}}}
	})
	s.write(t, ".terraform.d/plugins/terraform-credentials-broker", "#!/bin/sh\nexec tokenbroker terraform-credentials deploy --host "+host+" \"$@\"\n", 0o700)
	s.write(t, ".terraformrc", "credentials_helper \"broker\" {}\nhost \""+host+"\" {\n  services = {\n    \"modules.v1\" = \""+server.URL+"/\"\n  }\n}\n", 0o600)
	s.write(t, "work/main.tf", "module \"x\" {\n  source = \""+host+"/acme/x/null\"\n}\n", 0o600)
	t.Setenv("TF_CLI_CONFIG_FILE", filepath.Join(s.home, ".terraformrc"))
	t.Setenv("CHECKPOINT_DISABLE", "1")
	c := exec.Command("terraform", "init", "-no-color")
	c.Dir = filepath.Join(s.home, "work")
	text, err := c.CombinedOutput()
	require.Error(t, err, "there is no such module")
	require.Contains(t, *seen, "/acme/x/null/versions Bearer deploy-token-1", "%s", text)
}

func TestDocker(t *testing.T) {
	needs(t, "docker")
	s := tried(t)
	s.write(t, "bin/docker-credential-broker", "#!/bin/sh\nexec tokenbroker docker-credential deploy --host images.acme.example \"$@\"\n", 0o700)
	s.write(t, ".docker/config.json", `{"credHelpers": {"images.acme.example": "broker"}}`, 0o600)
	// The daemon's side is ours: it sees what docker sends with a pull.
	var auth []string
	daemon := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", "1.47")
		if header := r.Header.Get("X-Registry-Auth"); header != "" {
			auth = append(auth, header)
		}
		_, _ = w.Write([]byte("{}"))
	}))
	t.Cleanup(daemon.Close)
	t.Setenv("DOCKER_HOST", "tcp://"+strings.TrimPrefix(daemon.URL, "http://"))
	_, _ = exec.Command("docker", "pull", "images.acme.example/api:1").CombinedOutput()
	require.Len(t, auth, 1)
	require.Equal(t, map[string]any{"username": "oauth2accesstoken", "password": "deploy-token-1", "serveraddress": "images.acme.example"}, decoded(t, auth[0]))
}

func decoded(t *testing.T, header string) map[string]any {
	t.Helper()
	text, err := base64.URLEncoding.DecodeString(header)
	require.NoError(t, err)
	var all map[string]any
	require.NoError(t, json.Unmarshal(text, &all))
	return all
}
