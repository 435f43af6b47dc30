package backend

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault/faulttest"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/github/fake"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

// This file reads testdata/messages: what people write by mistake, and what they are
// told. The README there describes the format. It is strict: a key that is not known
// here fails the test, and so does a row that wants nothing.

// mistake is one row.
type mistake struct {
	Mistake string `yaml:"mistake"`
	Given   []step `yaml:"given"`
	Step    step   `yaml:",inline"`
	Answer  told   `yaml:"answer"`
}

// step is one thing that somebody does, or that happens meanwhile: just one of the
// first seven.
type step struct {
	Write  string            `yaml:"write"`
	Read   string            `yaml:"read"`
	List   string            `yaml:"list"`
	Delete string            `yaml:"delete"`
	Renew  time.Duration     `yaml:"renew"`
	Wait   time.Duration     `yaml:"wait"`
	Server map[string]string `yaml:"server"`

	As    string            `yaml:"as"`
	From  string            `yaml:"from"`
	Files map[string]string `yaml:"files"`
	Keep  map[string]string `yaml:"keep"`
	Fails bool              `yaml:"fails"`
}

// told is what has to come back.
type told struct {
	Status   int                       `yaml:"status"`
	Code     string                    `yaml:"code"`
	Says     []string                  `yaml:"says"`
	NotSays  []string                  `yaml:"does_not_say"`
	Warnings []string                  `yaml:"warnings"`
	Quiet    bool                      `yaml:"no_warnings"`
	Fields   map[string]any            `yaml:"fields"`
	Absent   []string                  `yaml:"absent"`
	Keys     []string                  `yaml:"keys"`
	KeyInfo  map[string]map[string]any `yaml:"key_info"`
}

// wanting is what is wrong with the row itself.
func (m *mistake) wanting() error {
	a := &m.Answer
	refusal := a.Status != 0 || a.Code != "" || len(a.Says) > 0
	success := len(a.Warnings) > 0 || a.Quiet || len(a.Fields) > 0 || len(a.Absent) > 0 || a.Keys != nil || len(a.KeyInfo) > 0
	switch {
	case m.Mistake == "":
		return errors.New("a row without a mistake")
	case m.Step.kinds() != 1 || m.Step.Wait != 0 || m.Step.Server != nil || m.Step.Keep != nil || m.Step.Fails:
		return errors.New("a row writes, reads, lists, deletes or renews one thing")
	case slices.ContainsFunc(m.Given, func(s step) bool { return s.kinds() != 1 }):
		return errors.New("a step of given is one thing")
	case refusal == success:
		return errors.New("an answer is a refusal (status, code and says) or something of a success, and not both")
	case refusal && (a.Status < 400 || len(a.Says) == 0 || a.Code == "" && a.Status != http.StatusNotFound):
		return errors.New("a refusal has status, code and says")
	case a.Quiet && len(a.Warnings) > 0:
		return errors.New("warnings and no_warnings")
	}
	return nil
}

func (s *step) kinds() int {
	n := 0
	for _, is := range []bool{s.Write != "", s.Read != "", s.List != "", s.Delete != "", s.Renew != 0, s.Wait != 0, s.Server != nil} {
		if is {
			n++
		}
	}
	return n
}

func TestMistakes(t *testing.T) {
	files, err := filepath.Glob("../testdata/messages/*.yaml")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		rows, err := readMistakes(file)
		require.NoError(t, err, file)
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			for _, row := range rows {
				t.Run(row.Mistake, func(t *testing.T) { newDesk(t).judge(row) })
			}
		})
	}
}

func readMistakes(file string) ([]*mistake, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	var rows []*mistake
	if err := dec.Decode(&rows); err != nil {
		return nil, err
	}
	if err := dec.Decode(new(any)); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the rows")
	}
	seen := map[string]bool{}
	for _, row := range rows {
		if err := row.wanting(); err != nil {
			return nil, fmt.Errorf("%q: %w", row.Mistake, err)
		}
		if seen[row.Mistake] {
			return nil, fmt.Errorf("%q stands twice", row.Mistake)
		}
		seen[row.Mistake] = true
	}
	return rows, nil
}

// TestMistakesAreReadStrictly: what is misspelled there is found, and not taken for
// nothing.
func TestMistakesAreReadStrictly(t *testing.T) {
	for name, c := range map[string]struct{ text, err string }{
		"a refusal":              {"[{mistake: a, read: broker/x, answer: {status: 400, code: c, says: [x]}}]", ""},
		"a success":              {"[{mistake: a, read: broker/x, answer: {warnings: [x]}}]", ""},
		"unknown key":            {"[{mistake: a, reed: broker/x, answer: {warnings: [x]}}]", "reed"},
		"unknown expectation":    {"[{mistake: a, read: broker/x, answer: {warning: [x]}}]", "warning"},
		"unknown key of given":   {"[{mistake: a, given: [{rite: broker/x}], read: broker/x, answer: {warnings: [x]}}]", "rite"},
		"nothing wanted":         {"[{mistake: a, read: broker/x, answer: {}}]", "an answer is"},
		"no answer":              {"[{mistake: a, read: broker/x}]", "an answer is"},
		"only a status":          {"[{mistake: a, read: broker/x, answer: {status: 400}}]", "a refusal has"},
		"both":                   {"[{mistake: a, read: broker/x, answer: {status: 400, code: c, says: [x], warnings: [x]}}]", "not both"},
		"nothing done":           {"[{mistake: a, answer: {warnings: [x]}}]", "a row writes"},
		"two things done":        {"[{mistake: a, read: broker/x, list: broker/y, answer: {warnings: [x]}}]", "a row writes"},
		"nothing said of it":     {"[{read: broker/x, answer: {warnings: [x]}}]", "without a mistake"},
		"the same mistake twice": {"[{mistake: a, read: broker/x, answer: {no_warnings: true}}, {mistake: a, read: broker/x, answer: {no_warnings: true}}]", "twice"},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "rows.yaml")
			require.NoError(t, os.WriteFile(file, []byte(c.text), 0o600))
			rows, err := readMistakes(file)
			if c.err == "" {
				require.NoError(t, err)
				require.Len(t, rows, 1)
				return
			}
			require.ErrorContains(t, err, c.err)
		})
	}
}

// desk is where the rows are tried: a mount of its own for each of them.
type desk struct {
	*mount
	kept  []string
	lease *lease // the last one that was handed out
}

func newDesk(t *testing.T) *desk {
	g := fake.New(t, fake.Options{})
	app := g.NewApp("the-broker")
	g.Install(app, "organization", "acme", githubPermissions, "api", "web")
	m := newEmptyMount(t, setup{client: authserver.Client{
		ID: parentClient, Secrets: []string{parentSecret}, Scopes: []string{"repo:read", "repo:write", "repo:admin"}, Audiences: []string{"https://api.test"},
	}})
	d := &desk{mount: m, kept: []string{"{server}", m.server.URL, "{secret}", parentSecret, "{alice}", alice, "{bob}", bob,
		"{github}", g.URL, "{app}", app.ClientID, "{app_key}", m.hide(app.PrivateKey)}}
	for _, command := range []string{
		"broker/config issuer=" + ownURL,
		"broker/providers/oauth2/acme issuer={server} client_id=" + parentClient + " client_secret={secret} audience_parameter=audience",
		"broker/providers/jwt/own max_ttl=1h",
		"broker/roles/deploy provider=oauth2/acme scopes=repo:read,repo:write ttl=10m max_ttl=1h",
		"broker/roles/orders provider=jwt/own audiences=https://orders.test scopes=read,write ttl=10m",
		"broker/issuers/idp jwks_url={server}/jwks bound_issuer={server} bound_audiences=broker",
	} {
		_, err := d.do(&step{Write: command})
		require.NoError(t, err, command)
	}
	return d
}

func (d *desk) judge(row *mistake) {
	d.t.Helper()
	for i := range row.Given {
		s := &row.Given[i]
		resp, err := d.do(s)
		if s.Fails {
			require.Error(d.t, err, "given %d", i)
			continue
		}
		require.NoError(d.t, err, "given %d", i)
		for name, field := range s.Keep {
			value, ok := resp.Data[field].(string)
			require.True(d.t, ok, "no %s to keep in %v", field, resp.Data)
			d.kept = append(d.kept, "{"+name+"}", value)
		}
	}
	resp, err := d.do(&row.Step)
	if row.Answer.Status != 0 {
		d.refused(&row.Answer, err)
		return
	}
	require.NoError(d.t, err)
	d.answered(&row.Answer, resp)
}

func (d *desk) refused(want *told, err error) {
	d.t.Helper()
	require.Error(d.t, err)
	var coded logical.HTTPCodedError
	require.ErrorAs(d.t, err, &coded)
	require.Equal(d.t, want.Status, coded.Code(), err.Error())
	if want.Code != "" {
		require.True(d.t, strings.HasPrefix(err.Error(), want.Code+": "), "%q does not begin with %s", err, want.Code)
	}
	require.NotContains(d.t, err.Error(), "\n")
	for _, w := range want.Says {
		require.True(d.t, faulttest.Says(err.Error(), d.fill(w)), "%q does not say %q", err, w)
	}
	for _, w := range want.NotSays {
		require.NotContains(d.t, err.Error(), d.fill(w))
	}
}

func (d *desk) answered(want *told, resp *logical.Response) {
	d.t.Helper()
	if resp == nil {
		resp = &logical.Response{}
	}
	for _, w := range want.Warnings {
		said := slices.ContainsFunc(resp.Warnings, func(text string) bool { return faulttest.Says(text, d.fill(w)) })
		require.True(d.t, said, "no warning says %q: %q", w, resp.Warnings)
	}
	if want.Quiet {
		require.Empty(d.t, resp.Warnings)
	}
	for _, w := range want.NotSays {
		require.NotContains(d.t, strings.Join(resp.Warnings, "\n"), d.fill(w))
	}
	d.holds(want.Fields, resp.Data)
	for _, name := range want.Absent {
		require.NotContains(d.t, resp.Data, name)
	}
	if want.Keys != nil {
		keys, _ := resp.Data["keys"].([]string)
		filled := []string{}
		for _, key := range want.Keys {
			filled = append(filled, d.fill(key))
		}
		require.ElementsMatch(d.t, filled, keys)
	}
	for key, fields := range want.KeyInfo {
		all, _ := resp.Data["key_info"].(map[string]any)
		info, ok := all[d.fill(key)].(map[string]any)
		require.True(d.t, ok, "no key_info of %s in %v", key, all)
		d.holds(fields, info)
	}
}

// holds compares as JSON: what a client sees.
func (d *desk) holds(want, got map[string]any) {
	d.t.Helper()
	for name, value := range want {
		raw, err := json.Marshal(value)
		require.NoError(d.t, err)
		require.Contains(d.t, got, name)
		seen, err := json.Marshal(got[name])
		require.NoError(d.t, err)
		require.JSONEq(d.t, d.fill(string(raw)), string(seen), name)
	}
}

// fill puts what the row cannot know in the place of {names}.
func (d *desk) fill(text string) string { return strings.NewReplacer(d.kept...).Replace(text) }

// do does one step.
func (d *desk) do(s *step) (*logical.Response, error) {
	d.t.Helper()
	switch {
	case s.Wait != 0:
		d.clock.advance(s.Wait)
		return nil, nil
	case s.Server != nil:
		for name, what := range s.Server {
			endpoint, ok := endpoints[name]
			require.True(d.t, ok, "the server has no endpoint %q", name)
			d.server.Break(endpoint, faultOf(d.t, what))
		}
		return nil, nil
	case s.Renew != 0:
		require.NotNil(d.t, d.lease, "nothing was handed out that could be renewed")
		_, err := d.renew(d.lease, s.Renew)
		return nil, err
	}
	c := call{entity: alice, addr: s.From}
	switch s.As {
	case "", "alice":
	case "bob":
		c.entity = bob
	case "nobody":
		c.entity = ""
	default:
		require.Fail(d.t, "nobody is called "+s.As)
	}
	var command string
	for op, text := range map[logical.Operation]string{
		logical.UpdateOperation: s.Write, logical.ReadOperation: s.Read, logical.ListOperation: s.List, logical.DeleteOperation: s.Delete,
	} {
		if text != "" {
			c.op, command = op, text
		}
	}
	c.path, c.data = d.parse(command, s.Files)
	resp, err := d.mount.do(c)
	if err == nil && strings.HasPrefix(c.path, "creds/") {
		d.lease = d.leaseOf(resp)
	}
	if err == nil && resp == nil && c.op == logical.ReadOperation {
		return nil, logical.CodedError(http.StatusNotFound, "No value found at broker/"+c.path) // the client's words
	}
	return resp, err
}

// endpoints of the authorization server, as rows call them.
var endpoints = map[string]authserver.Endpoint{
	"token": authserver.EndpointToken, "revoke": authserver.EndpointRevoke, "introspect": authserver.EndpointIntrospect,
	"jwks": authserver.EndpointJWKS, "metadata": authserver.EndpointMetadata,
}

// faultOf is what the authorization server answers from now on, such as "401
// invalid_client" or "503"; "down" for nothing at all, "works" for the truth.
func faultOf(t testing.TB, what string) authserver.Fault {
	t.Helper()
	switch what {
	case "works":
		return nil
	case "down":
		return authserver.Silent()
	}
	number, code, _ := strings.Cut(what, " ")
	status, err := strconv.Atoi(number)
	require.NoError(t, err, "a server that answers %q", what)
	return authserver.Answer(status, "application/json", fmt.Sprintf(`{"error":%q}`, code))
}

// parse reads a command line as the shell and Vault's client do: words, quotes, and
// field=value, field=@file; a field that is given twice is a list.
func (d *desk) parse(command string, files map[string]string) (path string, data map[string]any) {
	d.t.Helper()
	words := shellWords(d.t, command)
	words = slices.DeleteFunc(words, func(w string) bool { return w == "-f" || w == "-detailed" })
	require.NotEmpty(d.t, words)
	path, ok := strings.CutPrefix(d.fill(words[0]), "broker/")
	require.True(d.t, ok, "%q is not below broker/", words[0])
	for _, w := range words[1:] {
		name, value, ok := strings.Cut(w, "=")
		require.True(d.t, ok, "%q is no field=value", w)
		value = d.fill(value)
		if file, isFile := strings.CutPrefix(value, "@"); isFile {
			text, ok := files[file]
			require.True(d.t, ok, "files has no %s", file)
			value = d.fill(text)
		}
		if data == nil {
			data = map[string]any{}
		}
		switch before := data[name].(type) {
		case nil:
			data[name] = value
		case []any:
			data[name] = append(before, value)
		default:
			data[name] = []any{before, value}
		}
	}
	return path, data
}

// shellWords takes a line apart as a POSIX shell does, without its expansions.
func shellWords(t testing.TB, line string) []string {
	t.Helper()
	var words []string
	var word strings.Builder
	var quote rune
	inWord, escaped := false, false
	for _, r := range strings.TrimSpace(line) + " " {
		switch {
		case escaped:
			escaped = false
			word.WriteRune(r)
		case quote == 0 && r == '\\' || quote == '"' && r == '\\':
			escaped, inWord = true, true
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quote, inWord = r, true
		case r == ' ' || r == '\n' || r == '\t':
			if inWord {
				words = append(words, word.String())
			}
			word.Reset()
			inWord = false
		default:
			inWord = true
			word.WriteRune(r)
		}
	}
	require.Zero(t, quote, "an open quote in %s", line)
	return words
}
