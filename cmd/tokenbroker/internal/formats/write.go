package formats

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tokenbroker/vault-plugin-secrets-broker/cmd/tokenbroker/internal/fail"
)

func line(v any) (string, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	return string(text) + "\n", nil
}

// GitRequest is what git asks (gitcredentials(7), git-credential(1)).
type GitRequest struct {
	Protocol, Host, Password string
	Bearer                   bool // git can send another header than Basic
}

// ParseGit reads git's lines.
func ParseGit(text string) GitRequest {
	var r GitRequest
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimRight(line, "\r\n"), "=")
		switch name {
		case "protocol":
			r.Protocol = value
		case "host":
			r.Host = value
		case "password", "credential":
			r.Password = value
		case "capability[]":
			r.Bearer = r.Bearer || value == "authtype"
		case "url":
			if protocol, rest, ok := strings.Cut(value, "://"); ok {
				r.Protocol, r.Host = protocol, hostOf(rest)
			}
		}
	}
	return r
}

// Loopback reports whether a host is this machine.
func Loopback(host string) bool {
	name := strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if at := strings.LastIndex(name, ":"); at >= 0 && !strings.Contains(name[:at], ":") {
		name = name[:at]
	} else if at := strings.Index(name, "]:"); at >= 0 {
		name = name[:at]
	}
	return name == "localhost" || name == "::1" || strings.HasPrefix(name, "127.")
}

// defaultUsername is what forges take for "the password is a token".
const defaultUsername = "x-access-token"

// Git answers git. A token that is no password of anybody's goes into a header of its own
// where git can do that (from 2.46 on), and else stands beside a user's name that says so.
func (c Credential) Git(r GitRequest) (string, error) {
	token, err := c.token(Git)
	if err != nil {
		return "", err
	}
	name := c.username("")
	var lines []string
	if r.Bearer && name == "" {
		lines = append(lines, "capability[]=authtype", "authtype=Bearer", "credential="+token, "ephemeral=1")
	} else {
		if name == "" {
			name = defaultUsername
		}
		lines = append(lines, "username="+name, "password="+token)
	}
	if err := oneLine(name, token); err != nil {
		return "", err
	}
	return join(append(lines, fmt.Sprintf("password_expiry_utc=%d", c.Until.Unix()))), nil
}

// AWS answers credential_process of AWS' SDKs and command.
func (c Credential) AWS() (string, error) {
	key, secret := c.Child.Text(awsKey), c.Child.Text(awsSecret)
	if key == "" || secret == "" {
		return "", c.cannot(AWS, "lacks "+awsKey+" or "+awsSecret)
	}
	return line(struct {
		Version         int
		AccessKeyId     string //nolint:revive // AWS' own spelling
		SecretAccessKey string
		SessionToken    string `json:",omitempty"`
		Expiration      string
	}{1, key, secret, c.Child.Text(awsSession), rfc3339(c.Until)})
}

// Kubectl answers kubectl and client-go: info is the content of KUBERNETES_EXEC_INFO.
func (c Credential) Kubectl(info string) (string, error) {
	token, err := c.token(Kubectl)
	if err != nil {
		return "", err
	}
	version := "client.authentication.k8s.io/v1"
	if info != "" {
		var asked struct {
			APIVersion string `json:"apiVersion"`
			Kind       string `json:"kind"`
		}
		if err := json.Unmarshal([]byte(info), &asked); err != nil || asked.Kind != "ExecCredential" {
			return "", fail.New(fail.Usage, "KUBERNETES_EXEC_INFO is no ExecCredential")
		}
		if asked.APIVersion != version && asked.APIVersion != version+"beta1" {
			return "", fail.New(fail.Usage, "the kubeconfig asks for %s: write %s there", asked.APIVersion, version)
		}
		version = asked.APIVersion
	}
	return line(map[string]any{
		"apiVersion": version, "kind": "ExecCredential",
		"status": map[string]any{"token": token, "expirationTimestamp": rfc3339(c.Until)},
	})
}

// DockerNotFound is what docker takes for "ask without credentials".
const DockerNotFound = "credentials not found in native keychain"

// Docker answers docker and its like.
func (c Credential) Docker(server string) (string, error) {
	token, err := c.token(Docker)
	if err != nil {
		return "", err
	}
	return line(struct{ ServerURL, Username, Secret string }{server, c.username("oauth2accesstoken"), token})
}

// GCPTokenTypes are the kinds of subject token that the answer of an executable can be.
var GCPTokenTypes = []string{"urn:ietf:params:oauth:token-type:jwt", "urn:ietf:params:oauth:token-type:id_token"}

// GCP answers Google's libraries (workload identity federation, executable-sourced).
func (c Credential) GCP(tokenType string) (string, error) {
	field := c.Field
	if field == "" && c.Child.Text("id_token") != "" {
		field = "id_token"
	}
	c.Field = field
	token, err := c.token(GCP)
	if err != nil {
		return "", err
	}
	if strings.Count(token, ".") != 2 || !strings.HasPrefix(token, "eyJ") {
		return "", c.cannot(GCP, "is no JWT")
	}
	return line(struct {
		Version        int    `json:"version"`
		Success        bool   `json:"success"`
		TokenType      string `json:"token_type"`
		IDToken        string `json:"id_token"`
		ExpirationTime int64  `json:"expiration_time"`
	}{1, true, tokenType, token, c.Until.Unix()})
}

// GCPFailure is the answer that says what went wrong.
func GCPFailure(err error) string {
	text, failed := line(struct {
		Version int    `json:"version"`
		Success bool   `json:"success"`
		Code    string `json:"code"`
		Message string `json:"message"`
	}{1, false, fmt.Sprint(int(fail.KindOf(err))), err.Error()})
	if failed != nil {
		return `{"version":1,"success":false,"code":"70","message":"see stderr"}` + "\n"
	}
	return text
}

// Terraform answers Terraform and OpenTofu.
func (c Credential) Terraform() (string, error) {
	token, err := c.token(Terraform)
	if err != nil {
		return "", err
	}
	return line(map[string]string{"token": token})
}

// Bazel answers Bazel and whatever else speaks its protocol.
func (c Credential) Bazel() (string, error) {
	value, err := c.bearer(Bazel)
	if err != nil {
		return "", err
	}
	if err := oneLine(value); err != nil {
		return "", err
	}
	return line(map[string]any{"headers": map[string][]string{"Authorization": {value}}, "expires": rfc3339(c.Until)})
}

// Headers answers headersHelper of Claude Code and its like.
func (c Credential) Headers(name string) (string, error) {
	var value string
	var err error
	if strings.EqualFold(name, "Authorization") {
		value, err = c.bearer(MCP)
	} else {
		value, err = c.token(MCP)
	}
	if err != nil {
		return "", err
	}
	if err := oneLine(value); err != nil {
		return "", err
	}
	return line(map[string]string{name: value})
}

// Bare is the token and nothing else.
func (c Credential) Bare() (string, error) {
	token, err := c.token(Token)
	if err != nil {
		return "", err
	}
	return token + "\n", nil
}

// CargoRequest is one line of cargo's.
type CargoRequest struct {
	Version  int `json:"v"`
	Registry struct {
		IndexURL string `json:"index-url"`
		Name     string `json:"name"`
	} `json:"registry"`
	Kind string   `json:"kind"`
	Args []string `json:"args"`
}

// CargoHello is what is said before cargo asks.
const CargoHello = `{"v":[1]}` + "\n"

// Cargo answers one request.
func (c Credential) Cargo() (string, error) {
	token, err := c.token(Cargo)
	if err != nil {
		return "", err
	}
	return line(map[string]any{"Ok": map[string]any{
		"kind": "get", "token": token, "cache": "expires", "expiration": c.Until.Unix(), "operation_independent": true,
	}})
}

// CargoFailure is a refusal: a kind of cargo's, or other with a text.
func CargoFailure(kind string, err error) string {
	failure := map[string]any{"kind": kind}
	if kind == "other" {
		failure["message"], failure["caused-by"] = valid(err.Error()), []string{}
	}
	text, failed := line(map[string]any{"Err": failure})
	if failed != nil {
		return `{"Err":{"kind":"unknown"}}` + "\n"
	}
	return text
}

func valid(text string) string {
	if utf8.ValidString(text) {
		return text
	}
	return strings.ToValidUTF8(text, "?")
}

// HoldsShortly is for how long a child is kept for a tool that asks each time; HoldsLong
// for one that keeps what it got until it ends, and asks much too early for a short one.
const (
	HoldsShortly = 15 * time.Minute
	HoldsLong    = time.Hour
)
