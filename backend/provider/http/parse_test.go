package httpapi

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// example is the definition that docs/http.md shows.
func example(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile("../../../docs/http.md")
	require.NoError(t, err)
	_, rest, found := strings.Cut(string(page), "```json\n")
	require.True(t, found)
	text, _, _ := strings.Cut(rest, "```")
	return text
}

func TestTheExampleOfThePageIsADefinition(t *testing.T) {
	d, err := Parse([]byte(example(t)))
	require.NoError(t, err)
	require.Equal(t, "Gitea 1.26.0", d.Tried)
	require.Len(t, d.Mint, 1)
	require.Len(t, d.Mint[0].Undo.Path, 4)
}

// A mistake is named with its place, and what to do.
func TestAMistakeHasItsPlace(t *testing.T) {
	for name, c := range map[string]struct{ old, new, says string }{
		"an unknown member":           {`"class"`, `"klass"`, `/klass is not known`},
		"no class":                    {`"class": "token",`, ``, `/class must be token`},
		"a member deep down":          {`"gone": {"status"`, `"gone": {"statuses"`, `/mint/0/undo/gone/statuses is not known`},
		"a literal password":          {`"Basic {{basic}}"`, `"Basic Y29ycmVjdA=="`, `/parent/headers/Authorization must be one expression`},
		"a literal beside it":         {`"Basic {{basic}}"`, `"Basic {{basic}}hunter2"`, `/parent/headers/Authorization must be one expression`},
		"a literal for a scheme":      {`"Basic {{basic}}"`, `"hunter2-hunter2-hunter2 {{basic}}"`, `/parent/headers/Authorization must be one expression`},
		"a credential of a step":      {`"path": "user"`, `"path": "user", "headers": {"X-Api-Key": "hunter2"}`, `/check/headers/X-Api-Key is a header for a credential`},
		"a cookie of all":             {`"class"`, `"headers": {"Cookie": "a={{settings.a}}"}, "settings": {"a": {"about": "A."}}, "class"`, `/headers/Cookie is a header for a credential`},
		"a parent's header of a step": {`"path": "user"`, `"path": "user", "headers": {"authorization": "Bearer {{username}}"}`, `/check/headers/Authorization is a header of the parent's`},
		"the parent in a body":        {`"name": "{{name}}"`, `"name": "{{password}}"`, `/mint/0/json/name has {{password}}, which is the parent's`},
		"the parent in a path":        {`"path": "user"`, `"path": "user/{{token}}"`, `/check/path has {{token}}, which is the parent's`},
		"the parent in a child":       {`"access_token": "{{taken.token}}"`, `"access_token": "{{secrets.x}}"`, `/child/secrets/access_token has {{secrets.x}}, which is the parent's`},
		"a basic in a child":          {`"access_token": "{{taken.token}}"`, `"access_token": "{{basic.token}}"`, `which is the parent's`},
		"a login in a child":          {`"access_token": "{{taken.token}}"`, `"access_token": "{{login.x}}"`, `which is the parent's`},
		"a password in a body":        {`"name": "{{name}}",`, `"name": "{{name}}", "password": "hunter2",`, `/mint/0/json/password is a secret by its name`},
		"a secret in camel case":      {`"name": "{{name}}",`, `"name": "{{name}}", "clientSecret": "hunter2",`, `/mint/0/json/clientSecret is a secret by its name`},
		"somebody's token":            {`"name": "{{name}}",`, `"name": "{{name}}", "bot_token": "hunter2",`, `/mint/0/json/bot_token is a secret by its name`},
		"a pattern of a part":         {`"pattern": "(read|write):[a-z]+|all"`, `"pattern": "all)|(?:read"`, `/access/scopes/pattern is no regular expression`},
		"a secret in a URL":           {`"path": "user"`, `"path": "user", "query": {"access-token": "hunter2"}`, `/check/query/access-token is a secret by its name`},
		"random in a URL": {`users/{{username}}/tokens",
      "json"`, `users/{{random}}/tokens", "json"`, `a secret, in a URL`},
		"the way up":               {`"path": "user"`, `"path": "a/../user"`, `/check/path has the segment ".."`},
		"an encoded way up":        {`"path": "user"`, `"path": "a/%2e%2e/user"`, `/check/path has the segment`},
		"a query in a path":        {`"path": "user"`, `"path": "user?a=b"`, `/check/path must not have a ?`},
		"an empty segment":         {`"path": "user"`, `"path": "a//user"`, `/check/path has an empty segment`},
		"no path":                  {`"path": "user"`, `"path": "/"`, `/check/path must be a path below base_url`},
		"the host":                 {`"path": "user"`, `"path": "user", "headers": {"Host": "evil.example"}`, `/check/headers/Host is a header that says where`},
		"what no step takes":       {`{{taken.id}}"`, `{{taken.ID}}"`, `/mint/0/undo/path has {{taken.ID}}, which no step before has taken`},
		"a dimension not declared": {`"scopes": "{{scopes}}"`, `"scopes": "{{resources}}"`, `/access/resources does not say`},
		"a dimension not sent":     {`, "scopes": "{{scopes}}"`, ``, `/access/scopes is asked for, and no step`},
		"a dimension not proven":   {`"granted": {"scopes": {"from": "scopes", "as": "list"}}`, `"granted": {}`, `/access/scopes is checked`},
		"a list in a text":         {`"scopes": "{{scopes}}"`, `"scopes": "a {{scopes}}"`, `within a text`},
		"a list in a path": {`"path": "users/{{username}}/tokens",
      "json"`, `"path": "users/{{scopes}}/tokens", "json"`, `/mint/0/path has {{scopes}} within a text`},
		"a time without a unit":     {`"name": "{{name}}",`, `"name": "{{name}}", "ttl": "{{ttl}}",`, `without its unit`},
		"an unknown filter":         {`"scopes": "{{scopes}}"`, `"scopes": "{{scopes | spaces}}"`, `has the filter spaces`},
		"a filter of another kind":  {`"scopes": "{{scopes}}"`, `"scopes": "{{scopes | days}}"`, `has the filter days of {{scopes}}`},
		"an unclosed expression":    {`"{{name}}", "scopes"`, `"{{name}", "scopes"`, `has a {{ without a }}`},
		"an undo that is a refusal": {`"gone": {"status": [404]}`, `"gone": {"status": [401, 404]}`, `/gone/status has 401`},
		"an undo that is a failure": {`"gone": {"status": [404]}`, `"gone": {"status": [500]}`, `/gone/status has 500`},
		"expiry with an undo":       {`"class": "token"`, `"class": "expiry"`, `/class is expiry, and there is an undo`},
		"asked for and not sent":    {`"expires": "never"`, `"expires": "asked"`, `/child/expires is asked, and no step sends`},
		"a find by nothing":         {`"where": [{"at": "/name", "is": "{{name}}"}]`, `"where": [{"at": "/name", "is": "broker"}]`, `/mint/0/find/where must tell`},
		"a find of others as well":  {`"is": "{{name}}"}]`, `"is": ["{{name}}", "broker"]}]`, `/mint/0/find/where must tell`},
		"a find that fills no undo": {`"take": {"id": "/id"}
      }`, `"take": {"number": "/id"}}`, `/mint/0/find/take does not fill`},
		"a pointer that is none":    {`"id": "/id", "scopes"`, `"id": "id", "scopes"`, `/mint/0/take/id is no JSON Pointer`},
		"a field that there is":     {`"username": "{{username}}"}`, `"grant_id": "{{username}}"}`, `/child/shown/grant_id is a field`},
		"a child that is no secret": {`"access_token": "{{taken.token}}"`, `"access_token": "{{name}}"`, `is no secret`},
		"a setting not declared":    {`"path": "user"`, `"path": "user/{{settings.x}}"`, `which /settings does not declare`},
		"a setting not used":        {`"class"`, `"settings": {"x": {"about": "X."}}, "class"`, `/settings/x is used nowhere`},
		"a setting that is secret":  {`"path": "user"`, `"path": "user/{{settings.api_key}}"}, "settings": {"api_key": {"about": "Key."}`, `/settings/api_key is called like a secret`},
		"a short name":              {`"most": 63`, `"most": 25`, `/name leaves too little room`},
		"two bodies":                {`"json": {"name"`, `"form": {"a": "b"}, "json": {"name"`, `/mint/0 has both json and form`},
		"a base_url that is none":   {`"class"`, `"base_url": "http://user:hunter2@gitea.example", "class"`, `/base_url must not hold user information`},
	} {
		t.Run(name, func(t *testing.T) {
			whole := example(t)
			require.Contains(t, whole, c.old)
			_, err := Parse([]byte(strings.Replace(whole, c.old, c.new, 1)))
			require.ErrorContains(t, err, c.says)
		})
	}
}

// What people are told of many mistakes is bounded.
func TestAllMistakesAreNamedAtOnce(t *testing.T) {
	_, err := Parse([]byte(`{"klass": 1, "mint": [{"method": "TRACE"}], "child": {"secrets": 3}}`))
	require.ErrorContains(t, err, "/klass is not known")
	require.ErrorContains(t, err, "/mint/0/method must be one of")
	require.ErrorContains(t, err, "/child/secrets must be an object")
	for _, text := range []string{``, `[]`, `null`, `{"a":1,"a":2}`, strings.Repeat(`[`, 100), `{"about":"` + strings.Repeat("x", maxDefinition) + `"}`} {
		_, err := Parse([]byte(text))
		require.Error(t, err)
		require.Less(t, len(err.Error()), 4<<10)
	}
}
