package conformance

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/hashicorp/go-retryablehttp"
	"github.com/stretchr/testify/require"
	gitlab "gitlab.com/gitlab-org/api/client-go/v2"
)

// exchange is one request of testdata/wire/gitlab, and its answer.
type exchange struct {
	method, uri    string
	request        []byte
	status         int
	answer         []byte
	place, account string // of the path
	id             int64
}

// GitLab's own client sends, for each thing that the broker asks of GitLab, the same request
// as the broker, and understands what the broker's tests have GitLab answer.
func TestGitLab(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("..", "..", "testdata", "wire", "gitlab", "*.txt"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	seen := map[string]bool{}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			raw, err := os.ReadFile(file)
			require.NoError(t, err)
			for _, e := range exchanges(t, string(raw)) {
				seen[compare(t, e)] = true
			}
		})
	}
	for _, c := range calls {
		require.True(t, seen[c.name], "nothing on record is %s", c.name)
	}
}

var first = regexp.MustCompile(`(?m)^(GET|POST|DELETE) (/api/v4/\S+)$`)

func exchanges(t *testing.T, text string) (all []exchange) {
	t.Helper()
	at := first.FindAllStringSubmatchIndex(text, -1)
	for i, m := range at {
		end := len(text)
		if i+1 < len(at) {
			end = at[i+1][0]
		}
		e := exchange{method: text[m[2]:m[3]], uri: text[m[4]:m[5]]}
		asked, answered, found := strings.Cut(text[m[1]:end], "\n> ")
		require.True(t, found)
		if begin := strings.Index(asked, "\n{"); begin >= 0 {
			e.request = []byte(strings.TrimSpace(asked[begin:]))
		}
		status, body, _ := strings.Cut(answered, "\n")
		var err error
		e.status, err = strconv.Atoi(strings.TrimSpace(status))
		require.NoError(t, err)
		e.answer = []byte(strings.TrimSpace(body))
		all = append(all, e)
	}
	return all
}

// call is how the vendor's client does what a request of the broker's does. into is what
// the body is to the client, back what the answer is.
type call struct {
	name string
	line *regexp.Regexp
	into func() any
	do   func(c *gitlab.Client, e exchange, options any) (any, error)
}

// The members that the released client does not know yet (its merge request 3178): the
// vendor's page of 19.6 has them.
var later = []string{"granular_scopes"}

const token = `/access_tokens`

var calls = []call{
	{"a project", regexp.MustCompile(`^GET /projects/(?P<place>[^/?]+)$`), nil, func(c *gitlab.Client, e exchange, _ any) (any, error) {
		got, _, err := c.Projects.GetProject(e.place, nil)
		return got, err
	}},
	{"a group", regexp.MustCompile(`^GET /groups/(?P<place>[^/?]+)\?with_projects=false$`), nil, func(c *gitlab.Client, e exchange, _ any) (any, error) {
		got, _, err := c.Groups.GetGroup(e.place, &gitlab.GetGroupOptions{WithProjects: gitlab.Ptr(false)})
		return got, err
	}},
	{"making a project's token", regexp.MustCompile(`^POST /projects/(?P<place>[^/]+)` + token + `$`), func() any { return &gitlab.CreateProjectAccessTokenOptions{} },
		func(c *gitlab.Client, e exchange, o any) (any, error) {
			got, _, err := c.ProjectAccessTokens.CreateProjectAccessToken(e.place, o.(*gitlab.CreateProjectAccessTokenOptions))
			return got, err
		}},
	{"making a group's token", regexp.MustCompile(`^POST /groups/(?P<place>[^/]+)` + token + `$`), func() any { return &gitlab.CreateGroupAccessTokenOptions{} },
		func(c *gitlab.Client, e exchange, o any) (any, error) {
			got, _, err := c.GroupAccessTokens.CreateGroupAccessToken(e.place, o.(*gitlab.CreateGroupAccessTokenOptions))
			return got, err
		}},
	{"making a service account's token", regexp.MustCompile(`^POST /groups/(?P<place>[^/]+)/service_accounts/(?P<account>\d+)/personal_access_tokens$`), func() any { return &gitlab.CreateServiceAccountPersonalAccessTokenOptions{} },
		func(c *gitlab.Client, e exchange, o any) (any, error) {
			got, _, err := c.Groups.CreateServiceAccountPersonalAccessToken(e.place, number(e.account), o.(*gitlab.CreateServiceAccountPersonalAccessTokenOptions))
			return got, err
		}},
	{"making a user's token", regexp.MustCompile(`^POST /users/(?P<account>\d+)/personal_access_tokens$`), func() any { return &gitlab.CreatePersonalAccessTokenOptions{} },
		func(c *gitlab.Client, e exchange, o any) (any, error) {
			got, _, err := c.Users.CreatePersonalAccessToken(number(e.account), o.(*gitlab.CreatePersonalAccessTokenOptions))
			return got, err
		}},
	{"making a token of one's own", regexp.MustCompile(`^POST /user/personal_access_tokens$`), func() any { return &gitlab.CreatePersonalAccessTokenForCurrentUserOptions{} },
		func(c *gitlab.Client, _ exchange, o any) (any, error) {
			got, _, err := c.Users.CreatePersonalAccessTokenForCurrentUser(o.(*gitlab.CreatePersonalAccessTokenForCurrentUserOptions))
			return got, err
		}},
	{"ending oneself", regexp.MustCompile(`^DELETE /personal_access_tokens/self$`), nil, func(c *gitlab.Client, _ exchange, _ any) (any, error) {
		_, err := c.PersonalAccessTokens.RevokePersonalAccessTokenSelf()
		return nil, err
	}},
	{"ending a token", regexp.MustCompile(`^DELETE /personal_access_tokens/(?P<id>\d+)$`), nil, func(c *gitlab.Client, e exchange, _ any) (any, error) {
		_, err := c.PersonalAccessTokens.RevokePersonalAccessTokenByID(e.id)
		return nil, err
	}},
	{"ending a project's token", regexp.MustCompile(`^DELETE /projects/(?P<place>[^/]+)` + token + `/(?P<id>\d+)$`), nil, func(c *gitlab.Client, e exchange, _ any) (any, error) {
		_, err := c.ProjectAccessTokens.RevokeProjectAccessToken(e.place, e.id)
		return nil, err
	}},
	{"ending a group's token", regexp.MustCompile(`^DELETE /groups/(?P<place>[^/]+)` + token + `/(?P<id>\d+)$`), nil, func(c *gitlab.Client, e exchange, _ any) (any, error) {
		_, err := c.GroupAccessTokens.RevokeGroupAccessToken(e.place, e.id)
		return nil, err
	}},
	{"ending a service account's token", regexp.MustCompile(`^DELETE /groups/(?P<place>[^/]+)/service_accounts/(?P<account>\d+)/personal_access_tokens/(?P<id>\d+)$`), nil, func(c *gitlab.Client, e exchange, _ any) (any, error) {
		_, err := c.Groups.RevokeServiceAccountPersonalAccessToken(e.place, number(e.account), e.id)
		return nil, err
	}},
	{"about oneself", regexp.MustCompile(`^GET /personal_access_tokens/self$`), nil, func(c *gitlab.Client, _ exchange, _ any) (any, error) {
		got, _, err := c.PersonalAccessTokens.GetSinglePersonalAccessToken()
		return got, err
	}},
	{"replacing oneself", regexp.MustCompile(`^POST /personal_access_tokens/self/rotate$`), func() any { return &gitlab.RotatePersonalAccessTokenOptions{} },
		func(c *gitlab.Client, _ exchange, o any) (any, error) {
			got, _, err := c.PersonalAccessTokens.RotatePersonalAccessTokenSelf(o.(*gitlab.RotatePersonalAccessTokenOptions))
			return got, err
		}},
	{"looking for a token", regexp.MustCompile(`^GET /personal_access_tokens\?`), nil, func(c *gitlab.Client, e exchange, _ any) (any, error) {
		q := query(e)
		got, _, err := c.PersonalAccessTokens.ListPersonalAccessTokens(&gitlab.ListPersonalAccessTokensOptions{ListOptions: gitlab.ListOptions{PerPage: 100}, Search: gitlab.Ptr(q.Get("search")), State: gitlab.Ptr("active")})
		return got, err
	}},
	{"looking for a service account's token", regexp.MustCompile(`^GET /groups/(?P<place>[^/]+)/service_accounts/(?P<account>\d+)/personal_access_tokens\?`), nil, func(c *gitlab.Client, e exchange, _ any) (any, error) {
		q := query(e)
		got, _, err := c.Groups.ListServiceAccountPersonalAccessTokens(e.place, number(e.account), &gitlab.ListServiceAccountPersonalAccessTokensOptions{ListOptions: gitlab.ListOptions{PerPage: 100}, Search: gitlab.Ptr(q.Get("search")), State: gitlab.Ptr("active")})
		return got, err
	}},
	// The released client has no search there; the vendor's page has.
	{"looking for a project's token", regexp.MustCompile(`^GET /projects/(?P<place>[^/]+)` + token + `\?`), nil, func(c *gitlab.Client, e exchange, _ any) (any, error) {
		got, _, err := c.ProjectAccessTokens.ListProjectAccessTokens(e.place, &gitlab.ListProjectAccessTokensOptions{ListOptions: gitlab.ListOptions{PerPage: 100}, State: gitlab.Ptr("active")}, withSearch(e))
		return got, err
	}},
	{"looking for a group's token", regexp.MustCompile(`^GET /groups/(?P<place>[^/]+)` + token + `\?`), nil, func(c *gitlab.Client, e exchange, _ any) (any, error) {
		got, _, err := c.GroupAccessTokens.ListGroupAccessTokens(e.place, &gitlab.ListGroupAccessTokensOptions{ListOptions: gitlab.ListOptions{PerPage: 100}, State: gitlab.Ptr(gitlab.AccessTokenState("active"))}, withSearch(e))
		return got, err
	}},
}

func number(text string) int64 {
	n, _ := strconv.ParseInt(text, 10, 64)
	return n
}

func query(e exchange) url.Values {
	u, _ := url.Parse(e.uri)
	return u.Query()
}

// compare is the name of the call that the exchange is.
func compare(t *testing.T, e exchange) string {
	t.Helper()
	line := e.method + " " + strings.TrimPrefix(e.uri, "/api/v4")
	for _, c := range calls {
		m := c.line.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		for i, name := range c.line.SubexpNames() {
			switch name {
			case "place":
				place, err := url.PathUnescape(m[i])
				require.NoError(t, err)
				e.place = place
			case "account":
				e.account = m[i]
			case "id":
				e.id = number(m[i])
			}
		}
		c.compare(t, e)
		return c.name
	}
	t.Fatalf("no call of the vendor's client is %s", line)
	return ""
}

func (c call) compare(t *testing.T, e exchange) {
	t.Helper()
	var sent *http.Request
	var body []byte
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sent = r
		body, _ = io.ReadAll(r.Body)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(e.status)
		_, _ = w.Write(e.answer)
	}))
	defer server.Close()
	client, err := gitlab.NewClient("token", gitlab.WithBaseURL(server.URL), gitlab.WithCustomRetryMax(0))
	require.NoError(t, err)
	asked := without(t, e.request)
	var options any
	if c.into != nil {
		options = c.into()
		strictly(t, asked, options)
	}
	got, err := c.do(client, e, options)
	require.NoError(t, err, "the vendor's client understands the answer")
	require.NotNil(t, sent, c.name)
	require.Equal(t, e.method, sent.Method)
	require.Equal(t, canonical(t, e.uri), canonical(t, sent.URL.RequestURI()))
	if c.into != nil {
		require.JSONEq(t, string(asked), string(body))
	}
	if got != nil {
		answered(t, e.answer, got)
	}
}

// canonical is a URI in one spelling.
func canonical(t *testing.T, uri string) string {
	t.Helper()
	u, err := url.Parse(uri)
	require.NoError(t, err)
	return strings.ReplaceAll(u.EscapedPath(), "%2E", ".") + "?" + u.Query().Encode()
}

// strictly reads JSON into what the client has for it, and nothing is left over.
func strictly(t *testing.T, raw []byte, into any) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	require.NoError(t, d.Decode(into), "%s", raw)
}

// answered holds an answer against what the client has for it: it has no member that the
// client does not know.
func answered(t *testing.T, raw []byte, into any) {
	t.Helper()
	strictly(t, without(t, raw), reflect.New(reflect.TypeOf(into)).Interface())
}

// without is JSON without the members that are later than the client.
func without(t *testing.T, raw []byte) []byte {
	t.Helper()
	if len(raw) == 0 {
		return raw
	}
	var v any
	require.NoError(t, json.Unmarshal(raw, &v))
	cut(v)
	out, err := json.Marshal(v)
	require.NoError(t, err)
	return out
}

func cut(v any) {
	switch v := v.(type) {
	case map[string]any:
		for _, name := range later {
			delete(v, name)
		}
	case []any:
		for _, e := range v {
			cut(e)
		}
	}
}

func withSearch(e exchange) gitlab.RequestOptionFunc {
	return func(r *retryablehttp.Request) error {
		q := r.URL.Query()
		q.Set("search", query(e).Get("search"))
		r.URL.RawQuery = q.Encode()
		return nil
	}
}
