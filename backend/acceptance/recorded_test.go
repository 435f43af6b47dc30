package acceptance

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
)

// The unit tests of the type http believe what testdata/http says that products answered.
// These two are here, and must answer so still: with the same statuses, members and kinds of
// values.

// recorded are the answers of one system.yaml by their calls: the usual one, and that of an
// end for which there is nothing.
type recorded struct {
	Routes []struct {
		Call   string         `yaml:"call"`
		Answer recordedAnswer `yaml:"answer"`
		Gone   recordedAnswer `yaml:"gone"`
		Item   any            `yaml:"item"`
	} `yaml:"routes"`
	Stranger recordedAnswer `yaml:"stranger"`
}

type recordedAnswer struct {
	Status int `yaml:"status"`
	Body   any `yaml:"body"`
}

func readRecorded(t *testing.T, system string) recorded {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("..", "..", "testdata", "http", system, "system.yaml"))
	require.NoError(t, err)
	var r recorded
	require.NoError(t, yaml.Unmarshal(raw, &r))
	return r
}

// product is a server that is asked without the broker, as somebody.
type product struct {
	t      *testing.T
	base   string
	header http.Header
}

// says asks, and compares the answer's shape with what was recorded of such a call.
func (p product) says(was recordedAnswer, method, path string, body any) map[string]any {
	p.t.Helper()
	raw, err := json.Marshal(body)
	require.NoError(p.t, err)
	request, err := http.NewRequestWithContext(p.t.Context(), method, p.base+path, bytes.NewReader(raw))
	require.NoError(p.t, err)
	request.Header = p.header.Clone()
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	require.NoError(p.t, err)
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	require.NoError(p.t, err)
	require.Equal(p.t, was.Status, response.StatusCode, "%s %s: %s", method, path, answer)
	if was.Body == nil {
		require.Empty(p.t, answer)
		return nil
	}
	var is any
	require.NoError(p.t, json.Unmarshal(answer, &is))
	require.Equal(p.t, shape(was.Body), shape(is), "%s %s", method, path)
	object, _ := is.(map[string]any)
	return object
}

// shape is a value with its kinds for its values.
func shape(v any) any {
	switch v := v.(type) {
	case map[string]any:
		all := map[string]any{}
		for name, member := range v {
			all[name] = shape(member)
		}
		return all
	case []any:
		if len(v) == 0 {
			return []any{}
		}
		return []any{shape(v[0])}
	case int, float64:
		return "number"
	}
	return fmt.Sprintf("%T", v)
}

func TestGiteaAnswersAsItWasRecorded(t *testing.T) {
	t.Parallel()
	gitea := sharedGitea(t)
	bot := gitea.CreateUser(t, "recorded")
	was, tokens := readRecorded(t, "gitea"), "/users/"+bot.ID+"/tokens"
	basic := func(password string) http.Header {
		return http.Header{"Authorization": {"Basic " + base64.StdEncoding.EncodeToString([]byte(bot.ID+":"+password))}}
	}
	p := product{t, gitea.URL + "/api/v1", basic("another")}
	p.says(was.Stranger, http.MethodPost, tokens, harness.Fields{"name": "tb-one", "scopes": []string{"read:repository"}})
	p.header = basic(bot.Secret)

	made := p.says(was.Routes[0].Answer, http.MethodPost, tokens, harness.Fields{"name": "tb-one", "scopes": []string{"read:repository", "write:issue"}})
	listed := recordedAnswer{Status: http.StatusOK, Body: []any{was.Routes[2].Item}}
	p.says(listed, http.MethodGet, tokens+"?limit=50&page=1", nil)
	p.says(was.Routes[2].Answer, http.MethodGet, tokens+"?limit=50&page=2", nil)
	path := fmt.Sprintf("%s/%v", tokens, made["id"])
	p.says(was.Routes[1].Answer, http.MethodDelete, path, nil)
	p.says(was.Routes[1].Gone, http.MethodDelete, path, nil)
}

func TestVaultAnswersAsItWasRecorded(t *testing.T) {
	t.Parallel()
	needsServers(t)
	there := downstreamVault(t)
	parent := put(t, there, "auth/token/create-orphan", harness.Fields{"policies": []string{"broker"}, "period": "24h"}).Auth.ClientToken
	was := readRecorded(t, "vault")
	p := product{t, there.Addr + "/v1", http.Header{"X-Vault-Token": {"another"}}}
	asked := harness.Fields{"policies": []string{"reader"}, "ttl": 600, "no_default_policy": true, "meta": harness.Fields{"broker_grant": "tb-one"}}
	p.says(was.Stranger, http.MethodPost, "/auth/token/create/agents", asked)
	p.header = http.Header{"X-Vault-Token": {parent}}

	made := p.says(was.Routes[0].Answer, http.MethodPost, "/auth/token/create/agents", asked)
	auth, _ := made["auth"].(map[string]any)
	accessor := harness.Fields{"accessor": auth["accessor"]}
	p.says(was.Routes[1].Answer, http.MethodPost, "/auth/token/revoke-accessor", accessor)
	p.says(was.Routes[1].Gone, http.MethodPost, "/auth/token/revoke-accessor", accessor)
}
