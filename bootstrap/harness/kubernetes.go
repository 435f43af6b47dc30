package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"time"
)

// KubernetesOptions configures StartKubernetes. All of it is optional.
type KubernetesOptions struct {
	OIDC KubernetesOIDC
	Args []string // further flags of kube-apiserver
}

// KubernetesOIDC is the OpenID Connect issuer whose tokens the API server accepts.
// The zero value is none.
//
// The API server asks for the issuer's discovery document when it starts, and again
// every ten seconds until it has it: an issuer that is there first is trusted from
// the start.
type KubernetesOIDC struct {
	Issuer         string   // https, as in the tokens' iss and the discovery document
	ClientID       string   // what must be among the tokens' aud
	CA             []byte   // PEM; default the system's authorities
	UsernameClaim  string   // default sub
	UsernamePrefix string   // default the issuer and "#"; "-" for none
	SigningAlgs    []string // default RS256
}

// Kubernetes is a running kube-apiserver with an etcd of its own, and nothing else:
// no controller and no node. It decides by RBAC.
type Kubernetes struct {
	URL   string
	CA    []byte // PEM, what to trust at URL
	Admin string // the token of a cluster administrator

	client  *http.Client
	process *server
}

// KubernetesTokenCache is for how long the API server may go on to accept a token
// that it has accepted before, even if it has expired meanwhile. No flag changes it.
const KubernetesTokenCache = 10 * time.Second

const kubernetesAdmin = "only-for-tests-administrator"

// StartKubernetes starts an API server that ends with the test.
func StartKubernetes(t TB, options KubernetesOptions) *Kubernetes {
	t.Helper()
	dir := t.TempDir()
	port := freePort(t)
	served := newCertificate(t, dir, "kube-apiserver")
	k := &Kubernetes{
		URL: "https://" + address(port), CA: served.pem, Admin: kubernetesAdmin,
		client: &http.Client{Transport: served.transport(), Timeout: httpTimeout, CheckRedirect: doNotFollow},
	}
	tokens := filepath.Join(dir, "tokens.csv")
	writeFile(t, tokens, []byte(kubernetesAdmin+",administrator,administrator,system:masters\n"))
	args := []string{
		"--etcd-servers=" + startEtcd(t, dir),
		"--bind-address=127.0.0.1",
		fmt.Sprintf("--secure-port=%d", port),
		"--advertise-address=127.0.0.1",
		"--endpoint-reconciler-type=none",
		"--tls-cert-file=" + served.certFile,
		"--tls-private-key-file=" + served.keyFile,
		"--service-cluster-ip-range=10.96.0.0/16",
		"--authorization-mode=RBAC",
		"--token-auth-file=" + tokens,
		// It insists on a key for service accounts; which one matters to nobody here.
		"--service-account-issuer=" + k.URL,
		"--service-account-signing-key-file=" + served.keyFile,
		"--service-account-key-file=" + served.certFile,
	}
	args = append(args, options.OIDC.flags(t, dir)...)
	k.process = start(t, "kube-apiserver", dir, executable(t, "", "kube-apiserver", "kube"), append(args, options.Args...)...)
	k.process.await(t, "it is ready", func(ctx context.Context) error {
		status, body, err := k.send(ctx, k.Admin, http.MethodGet, "/readyz", nil)
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("status %d: %s", status, body)
		}
		return err
	})
	return k
}

// startEtcd returns the URL for clients.
func startEtcd(t TB, dir string) string {
	t.Helper()
	clients, peers := "http://"+address(freePort(t)), "http://"+address(freePort(t))
	etcd := start(t, "etcd", dir, executable(t, "", "etcd", "kube"),
		"--name=harness",
		"--data-dir="+filepath.Join(dir, "etcd"),
		"--listen-client-urls="+clients,
		"--advertise-client-urls="+clients,
		"--listen-peer-urls="+peers,
		"--initial-advertise-peer-urls="+peers,
		"--initial-cluster=harness="+peers,
		"--log-level=warn",
		"--unsafe-no-fsync", // what it stores is to survive nothing
	)
	etcd.await(t, "it is healthy", answersOK(clients+"/health"))
	return clients
}

func (o KubernetesOIDC) flags(t TB, dir string) []string {
	t.Helper()
	if o.Issuer == "" {
		return nil
	}
	flags := []string{"--oidc-issuer-url=" + o.Issuer, "--oidc-client-id=" + o.ClientID}
	if len(o.CA) > 0 {
		file := filepath.Join(dir, "oidc-ca.crt")
		writeFile(t, file, o.CA)
		flags = append(flags, "--oidc-ca-file="+file)
	}
	if o.UsernameClaim != "" {
		flags = append(flags, "--oidc-username-claim="+o.UsernameClaim)
	}
	if o.UsernamePrefix != "" {
		flags = append(flags, "--oidc-username-prefix="+o.UsernamePrefix)
	}
	if len(o.SigningAlgs) > 0 {
		flags = append(flags, "--oidc-signing-algs="+strings.Join(o.SigningAlgs, ","))
	}
	return flags
}

// LogFile is where the API server's output goes.
func (k *Kubernetes) LogFile() string { return k.process.log }

// Do sends a request as the bearer of token, with body in JSON unless it is nil, and
// returns the status and the object that came back. A refusal is an answer too: a
// status of 401 for a token that is not accepted, 403 for a user who may not.
func (k *Kubernetes) Do(t TB, token, method, path string, body any) (status int, object map[string]any) {
	t.Helper()
	status, answer, err := k.send(context.Background(), token, method, path, body)
	if err == nil && !(status == http.StatusNotFound && !json.Valid(answer)) { // of a path, not of an object
		err = json.Unmarshal(answer, &object)
	}
	if err != nil {
		t.Fatalf("kubernetes: %s %s: status %d: %v in %q", method, path, status, err, answer)
	}
	return status, object
}

func (k *Kubernetes) send(ctx context.Context, token, method, path string, body any) (status int, answer []byte, err error) {
	content := []byte{}
	if body != nil {
		if content, err = json.Marshal(body); err != nil {
			return 0, nil, err
		}
	}
	request, err := http.NewRequestWithContext(ctx, method, k.URL+path, bytes.NewReader(content))
	if err != nil {
		return 0, nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := k.client.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(response.Body, maxBody))
	return response.StatusCode, answer, err
}

// KubernetesUser is whom the API server takes a bearer for.
type KubernetesUser struct {
	Username string              `json:"username"`
	UID      string              `json:"uid"`
	Groups   []string            `json:"groups"`
	Extra    map[string][]string `json:"extra"`
}

// User asks whom the API server takes the bearer of token for. It is false for a
// token that is not accepted; why not is in the log only.
func (k *Kubernetes) User(t TB, token string) (KubernetesUser, bool) {
	t.Helper()
	const path = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
	status, body, err := k.send(context.Background(), token, http.MethodPost, path,
		Fields{"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"})
	if err == nil && status == http.StatusUnauthorized {
		return KubernetesUser{}, false
	}
	var review struct {
		Status struct {
			UserInfo KubernetesUser `json:"userInfo"`
		} `json:"status"`
	}
	if err == nil {
		err = json.Unmarshal(body, &review)
	}
	if err != nil || status != http.StatusCreated {
		t.Fatalf("kubernetes: who the bearer is: status %d, %v, %s", status, err, body)
	}
	return review.Status.UserInfo, true
}

// Allow lets a user do things with a resource of the core group in the whole
// cluster, such as list namespaces.
func (k *Kubernetes) Allow(t TB, username, resource string, verbs ...string) {
	t.Helper()
	role := k.createRBAC(t, "clusterroles", Fields{
		"rules": []Fields{{"apiGroups": []string{""}, "resources": []string{resource}, "verbs": verbs}},
	})
	k.createRBAC(t, "clusterrolebindings", Fields{
		"roleRef":  Fields{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
		"subjects": []Fields{{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": username}},
	})
}

// createRBAC returns the name that the object got.
func (k *Kubernetes) createRBAC(t TB, kind string, object Fields) string {
	t.Helper()
	object["metadata"] = Fields{"generateName": "harness-"}
	status, created := k.Do(t, k.Admin, http.MethodPost, "/apis/rbac.authorization.k8s.io/v1/"+kind, object)
	metadata, _ := created["metadata"].(map[string]any)
	name, _ := metadata["name"].(string)
	if status != http.StatusCreated || name == "" {
		t.Fatalf("kubernetes: creating one of the %s: status %d, %v", kind, status, created)
	}
	return name
}
