package httpapi

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
)

func answering(status int, body string) func(http.ResponseWriter, *http.Request, string) {
	return func(w http.ResponseWriter, _ *http.Request, _ string) {
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}
}

// Wherever a mint stops, there is a handle for all that it has made, or the system can be
// asked for that.
func TestAMintLeavesNothingWhereverItStops(t *testing.T) {
	for name, c := range map[string]struct {
		breaks func(w *world)
		made   int // accounts
		handle bool
		lost   bool
		code   fault.Code
	}{
		"the first step is refused":       {func(w *world) { w.instead["POST accounts"] = answering(422, "{}") }, 0, false, false, fault.InvalidScope},
		"the first step fails":            {func(w *world) { w.instead["POST accounts"] = answering(500, "") }, 0, false, true, fault.TemporarilyUnavailable},
		"the first step is too much":      {func(w *world) { w.instead["POST accounts"] = answering(429, "") }, 0, false, false, fault.TemporarilyUnavailable},
		"the first answer is lost":        {func(w *world) { w.hangUp = "POST accounts" }, 1, false, true, fault.TemporarilyUnavailable},
		"the first answer is nonsense":    {func(w *world) { w.instead["POST accounts"] = answering(201, "no JSON") }, 0, false, true, fault.ProviderViolation},
		"the first answer has no id":      {func(w *world) { w.instead["POST accounts"] = answering(201, `{"id":null}`) }, 0, false, true, fault.ProviderViolation},
		"the first answer's id is a path": {func(w *world) { w.instead["POST accounts"] = answering(201, `{"id":"../x"}`) }, 0, false, true, fault.ProviderViolation},
		"the first answer's id is a list": {func(w *world) { w.instead["POST accounts"] = answering(201, `{"id":["x"]}`) }, 0, false, true, fault.ProviderViolation},
		"another success":                 {func(w *world) { w.instead["POST accounts"] = answering(200, `{"id":"x"}`) }, 0, false, true, fault.ProviderViolation},
		"a redirect":                      {func(w *world) { w.instead["POST accounts"] = answering(302, "") }, 0, false, false, fault.ProviderViolation},
		"the second step is refused":      {func(w *world) { w.instead["POST keys"] = answering(422, "") }, 1, true, false, fault.InvalidScope},
		"the second answer is lost":       {func(w *world) { w.hangUp = "POST keys" }, 1, true, true, fault.TemporarilyUnavailable},
		"the second answer is nonsense":   {func(w *world) { w.instead["POST keys"] = answering(200, "[]") }, 1, true, true, fault.ProviderViolation},
		"its key is empty":                {func(w *world) { w.instead["POST keys"] = answering(200, `{"key":"","scopes":[],"seconds":1}`) }, 1, true, true, fault.ProviderViolation},
		"its scopes are none":             {func(w *world) { w.instead["POST keys"] = answering(200, `{"key":"k","scopes":{},"seconds":1}`) }, 1, true, true, fault.ProviderViolation},
		"its end is none":                 {func(w *world) { w.instead["POST keys"] = answering(200, `{"key":"k","scopes":[],"seconds":"soon"}`) }, 1, true, true, fault.ProviderViolation},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, rigDefinition)
			c.breaks(w)
			child, err := w.Mint(t.Context(), rigRequest())
			require.Equal(t, c.code, fault.CodeOf(err), "%v", err)
			require.Equal(t, c.made, w.left()) // whose answer it hung up on may go on
			require.Equal(t, c.handle, child != nil && !child.Handle.Empty())
			if c.lost && !c.handle {
				require.ErrorIs(t, err, provider.ErrAnswerLost)
			}
			w.with(func() { clear(w.instead); w.hangUp = "" })
			if c.handle {
				require.NoError(t, w.Provider.(provider.Revoker).Revoke(t.Context(), child.Handle))
			}
			found, err := w.Provider.(provider.Finder).Find(t.Context(), provider.Trace{GrantID: rigRequest().GrantID})
			require.NoError(t, err)
			for _, f := range found {
				require.NoError(t, w.Provider.(provider.Revoker).Revoke(t.Context(), f.Handle))
			}
			require.Zero(t, w.left())
		})
	}
}

// A kill needs nothing that an operator can write but base_url: what was minted by another
// definition dies as that said.
func TestAHandleOutlivesItsDefinition(t *testing.T) {
	w := newWorld(t, rigDefinition)
	child, err := w.Mint(t.Context(), rigRequest())
	require.NoError(t, err)
	another := strings.NewReplacer(`"DELETE"`, `"POST"`, `"path": "t/`, `"path": "v2/t/`).Replace(rigDefinition)
	setup := w.setup(another, nil, map[string]string{"token": rigToken})
	next, _ := setup.Open(t)
	require.NoError(t, next.(provider.Revoker).Revoke(t.Context(), child.Handle))
	require.False(t, w.alive(child.Token().Reveal()))
}

// A number is itself however a system writes it: some know no whole ones.
func TestAnIDIsANumberHoweverItIsWritten(t *testing.T) {
	for written, id := range map[string]string{"7": "7", "7.0": "7", "1e+14": "100000000000000", "1.2E3": "1200", "12345678901234567890123": "12345678901234567890123"} {
		w := newWorld(t, rigDefinition)
		w.with(func() {
			w.instead["POST accounts"] = answering(201, `{"id": `+written+`}`)
			w.accounts[id] = "somebody"
		})
		child, err := w.Mint(t.Context(), rigRequest())
		require.NoError(t, err)
		require.NoError(t, w.Provider.(provider.Revoker).Revoke(t.Context(), child.Handle))
		require.Zero(t, w.left(), written)
	}
}

// A gateway knows nothing of what is behind it: it is the system whose word counts.
func TestGoneIsTheSystemsWord(t *testing.T) {
	w := newWorld(t, rigDefinition)
	child, err := w.Mint(t.Context(), rigRequest())
	require.NoError(t, err)
	w.with(func() {
		w.instead["DELETE one"], w.instead["GET me"] = answering(404, "no upstream"), answering(404, "no upstream")
	})
	err = w.Provider.(provider.Revoker).Revoke(t.Context(), child.Handle)
	require.Equal(t, fault.TemporarilyUnavailable, fault.CodeOf(err))
	w.with(func() { delete(w.instead, "GET me") })
	require.NoError(t, w.Provider.(provider.Revoker).Revoke(t.Context(), child.Handle))
}

// What a caller brings stays where it is put, or is refused.
func TestWhatACallerBringsStaysInItsPlace(t *testing.T) {
	const definition = `{"class": "token", "parent": {"headers": {"Authorization": "Bearer {{token}}"}},
		"access": {"resources": {"ask": true, "required": true}, "audiences": {"ask": true}},
		"mint": [{"method": "POST", "path": "t/{{resources | one}}/accounts", "query": {"aud": "{{audiences?}}", "q": "x={{resources | one}}"}, "headers": {"X-Team": "{{resources | one}}"},
			"json": {"name": "{{name}}", "for": "{{resources | one}}", "list": {"$each": "resources", "key": "{{item}}", "value": {"in": "a {{item}}"}}}, "take": {"id": "/id"},
			"undo": {"method": "DELETE", "path": "t/{{resources | one}}/{{taken.id}}", "gone": {"status": [404]}}}],
		"child": {"secrets": {"access_token": "{{taken.id}}"}, "expires": "never"}}`
	for value, stays := range map[string]bool{
		"team":                          true,
		"a team, of: (several) = words": true,
		"ünïcode":                       false, // in a header
		"a&b=c":                         true,
		"..":                            false,
		".":                             false,
		"a/b":                           false,
		"a\\b":                          false,
		"a%2fb":                         false,
		"%2e%2e":                        false,
		"a?b":                           false,
		"a#b":                           false,
		"a;b":                           false,
		`a"b`:                           false,
		"a\r\nX-Evil: 1":                false,
		"a\x00b":                        false,
		" a":                            false, // in a header
		"*":                             false,
		"a.\u2024./b":                   false,
		"\uff0e\uff0e":                  false,
	} {
		t.Run(value, func(t *testing.T) {
			w := newWorld(t, definition)
			r := provider.Request{Access: access.Access{Resources: access.Exactly(value), Audiences: access.Exactly("x&y=z", "w")}, TTL: time.Hour, GrantID: "g"}
			_, err := w.Mint(t.Context(), r)
			if !stays {
				require.Error(t, err)
				require.Contains(t, []fault.Code{fault.InvalidTarget, fault.InvalidRequest}, fault.CodeOf(err), "%v", err)
				require.Empty(t, w.requests())
				return
			}
			require.NoError(t, err)
			require.Len(t, w.requests(), 1)
			line, body, _ := strings.Cut(strings.TrimPrefix(w.requests()[0], "POST "), " ")
			req, err := http.NewRequest(http.MethodPost, "http://x"+line, nil)
			require.NoError(t, err)
			require.Equal(t, "/t/"+value+"/accounts", req.URL.Path)
			require.Equal(t, []string{"w", "x&y=z"}, req.URL.Query()["aud"])
			require.Equal(t, "x="+value, req.URL.Query().Get("q"))
			var sent map[string]any
			require.NoError(t, json.Unmarshal([]byte(body), &sent))
			require.Equal(t, value, sent["for"])
			require.Equal(t, map[string]any{value: map[string]any{"in": "a " + value}}, sent["list"])
		})
	}
}

// A list of which nothing is left is never sent as all.
func TestNothingIsNotAll(t *testing.T) {
	w := newWorld(t, rigDefinition)
	for _, a := range []access.Access{{}, access.Everything()} {
		_, err := w.Mint(t.Context(), provider.Request{Access: a, TTL: time.Hour, GrantID: "g"})
		require.Equal(t, fault.InvalidScope, fault.CodeOf(err))
	}
	require.Empty(t, w.requests())
	require.Error(t, w.Provider.(provider.CeilingChecker).CheckCeiling(provider.ModeMint, nil, access.Access{Scopes: access.Exactly("READ")}))
	require.NoError(t, w.Provider.(provider.CeilingChecker).CheckCeiling(provider.ModeMint, nil, access.Access{Scopes: access.Exactly("read:all")}))
}

// Times go out in every unit, rounded up, and what was asked for is when a child ends.
func TestTimesGoOutInEveryUnit(t *testing.T) {
	now := time.Date(2026, 11, 28, 10, 30, 0, 500, time.UTC)
	for expression, c := range map[string]struct {
		ttl  time.Duration
		want string
		ends time.Time
	}{
		"ttl | seconds":        {90*time.Second + 1, "91", now.Add(91 * time.Second)},
		"ttl | minutes":        {90 * time.Second, "2", now.Add(2 * time.Minute)},
		"ttl | hours":          {time.Hour, "1", now.Add(time.Hour)},
		"ttl | days":           {time.Hour, "1", now.Add(24 * time.Hour)},
		"ttl | duration":       {2 * time.Hour, "2h", now.Add(2 * time.Hour)},
		"expires | rfc3339":    {time.Hour, "2026-11-28T11:30:01Z", time.Date(2026, 11, 28, 11, 30, 1, 0, time.UTC)},
		"expires | rfc3339_ms": {time.Hour, "2026-11-28T11:30:00.001Z", time.Date(2026, 11, 28, 11, 30, 0, 1e6, time.UTC)},
		"expires | unix":       {time.Hour, "1795865401", time.Unix(1795865401, 0).UTC()},
		"expires | unix_ms":    {time.Hour, "1795865400001", time.UnixMilli(1795865400001).UTC()},
		"expires | date":       {time.Hour, "2026-11-29", time.Date(2026, 11, 29, 0, 0, 0, 0, time.UTC)},
	} {
		t.Run(expression, func(t *testing.T) {
			text, err := parseTemplate("{{" + expression + "}}")
			require.NoError(t, err)
			f := &filling{now: now, ttl: c.ttl}
			got, err := f.must(text)
			require.NoError(t, err)
			require.Equal(t, c.want, got)
			require.Equal(t, c.ends, f.ends)
		})
	}
	for ttl, want := range map[time.Duration]string{90 * time.Minute: "90m", 5401 * time.Second: "5401s", 1500 * time.Millisecond: "2s"} {
		require.Equal(t, want, (&filling{now: now}).span(filter{name: "duration"}, ttl))
	}
}

// Times come in as systems write them.
func TestTimesComeInInEveryUnit(t *testing.T) {
	now := time.Date(2026, 11, 28, 10, 30, 0, 0, time.UTC)
	for _, c := range []struct {
		as   string
		v    any
		want time.Time
	}{
		{"rfc3339", "2026-11-28T11:30:00.5+01:00", time.Date(2026, 11, 28, 10, 30, 0, 5e8, time.UTC)},
		{"rfc3339", "2026-11-28T11:30:00+0000", time.Date(2026, 11, 28, 11, 30, 0, 0, time.UTC)},
		{"date", "2026-12-01", time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)},
		{"unix", json.Number("1795865400"), time.Unix(1795865400, 0)},
		{"unix", "1795865400", time.Unix(1795865400, 0)},
		{"unix_ms", json.Number("1.7958654e12"), time.Unix(1795865400, 0)},
		{"seconds", json.Number("60"), now.Add(time.Minute)},
		{"minutes", json.Number("2"), now.Add(2 * time.Minute)},
		{"hours", json.Number("3"), now.Add(3 * time.Hour)},
		{"days", json.Number("4"), now.Add(96 * time.Hour)},
		{"unix", json.Number("-1"), time.Time{}},
		{"unix", nil, time.Time{}},
	} {
		got, err := (&Moment{As: c.as, Never: []any{json.Number("-1"), nil}}).when(c.v, now)
		require.NoError(t, err)
		require.True(t, c.want.Equal(got), "%s %v: %s", c.as, c.v, got)
	}
	for _, c := range []struct {
		as string
		v  any
	}{{"rfc3339", "tomorrow"}, {"unix", json.Number("0")}, {"unix", json.Number("1e15")}, {"seconds", json.Number("-5")}, {"seconds", json.Number("1e30")}, {"date", "2026-13-01"}, {"seconds", true}, {"unix", []any{}}} {
		_, err := (&Moment{As: c.as}).when(c.v, now)
		require.Error(t, err, "%s %v", c.as, c.v)
	}
}

// A list is read to its end, by whatever leads on, and one that never ends is given up.
func TestAListIsReadToItsEnd(t *testing.T) {
	name := newWorld(t, rigDefinition).Provider.(*finding).names.Of("g")
	item := func(name, id string) string { return fmt.Sprintf(`{"name":%q,"id":%q}`, name, id) }
	all := func(next string, items ...string) string {
		return `{"items":[` + strings.Join(items, ",") + `],"next":` + next + `}`
	}
	for how, c := range map[string]struct {
		page  string
		pages map[string]string // by what was asked
		found int
		says  string
	}{
		"by number": {`{"query": "page"}`, map[string]string{"page=1": all(`0`, item("a", "1"), item(name, "2")), "page=2": all(`0`, item(name, "3")), "page=3": all(`0`)}, 2, ""},
		"by offset": {`{"query": "start", "first": 0, "step": 2}`, map[string]string{"start=0": all(`0`, item("a", "1"), item("b", "2")), "start=2": all(`0`, item(name, "3")), "start=4": all(`0`)}, 1, ""},
		"by more":   {`{"query": "page", "more": "/next"}`, map[string]string{"page=1": all(`true`, item("a", "1")), "page=2": all(`false`, item(name, "3"))}, 1, ""},
		"by cursor": {`{"query": "cursor", "next": "/next"}`, map[string]string{"": all(`"a&b"`, item("a", "1")), "cursor=a%26b": all(`null`, item(name, "3"))}, 1, ""},
		"no pages":  {`{"query": "page"}`, map[string]string{"page=1": all(`0`, item("a", "1"), item(name, "2")), "page=2": all(`0`, item("a", "1"), item(name, "2"))}, 1, ""},
		"never":     {`{"query": "page"}`, map[string]string{"page=1": all(`0`, item("a", "1")), "page=2": all(`0`, item("a", "1"))}, 0, "does not go on"},
		"no list":   {`{"query": "page"}`, map[string]string{"page=1": `{"itens":[]}`}, 0, "no list"},
		"no JSON":   {`{"query": "page"}`, map[string]string{"page=1": `<html>`}, 0, "no JSON"},
		"no id":     {`{"query": "page"}`, map[string]string{"page=1": all(`0`, `{"name":"`+name+`"}`)}, 0, "has no account"},
		"a bad id":  {`{"query": "page"}`, map[string]string{"page=1": all(`0`, item(name, "../x"))}, 0, "cannot be undone"},
	} {
		t.Run(how, func(t *testing.T) {
			w := newWorld(t, strings.Replace(rigDefinition, `"page": {"query": "page"}`, `"page": `+c.page, 1))
			w.instead["GET accounts"] = func(rw http.ResponseWriter, r *http.Request, _ string) {
				_, _ = rw.Write([]byte(c.pages[r.URL.RawQuery]))
			}
			found, err := w.Provider.(provider.Finder).Find(t.Context(), provider.Trace{GrantID: "g"})
			if c.says != "" {
				require.ErrorContains(t, err, c.says)
				return
			}
			require.NoError(t, err)
			require.Len(t, found, c.found)
		})
	}
}

// An orphan is looked for by the name that it was made with, whatever names are like now.
func TestAnOrphanIsLookedForByItsFormerName(t *testing.T) {
	w := newWorld(t, rigDefinition)
	where, err := w.Provider.(provider.Locating).Where(rigRequest())
	require.NoError(t, err)
	w.hangUp = "POST accounts"
	_, err = w.Mint(t.Context(), rigRequest())
	require.ErrorIs(t, err, provider.ErrAnswerLost)
	next, _ := w.setup(strings.Replace(rigDefinition, `{"class"`, `{"name": {"prefix": "other-"}, "class"`, 1), nil, map[string]string{"token": rigToken}).Open(t)
	found, err := next.(provider.Finder).Find(t.Context(), provider.Trace{GrantID: rigRequest().GrantID, Where: where})
	require.NoError(t, err)
	require.Len(t, found, 1)
}

// What multiplies is bounded.
func TestABodyIsNoBomb(t *testing.T) {
	value := `"{{item}}"`
	for range 6 {
		value = `{"$each": "scopes", "value": ` + value + `}`
	}
	w := newWorld(t, strings.Replace(rigDefinition, `"json": {"scopes": "{{scopes}}"`, `"json": {"bomb": `+value+`, "scopes": "{{scopes}}"`, 1))
	var scopes []string
	for c := 'a'; c <= 'z'; c++ {
		scopes = append(scopes, string(c))
	}
	child, err := w.Mint(t.Context(), provider.Request{Access: access.Access{Scopes: access.Exactly(scopes...)}, TTL: time.Hour, GrantID: "g"})
	require.Equal(t, fault.InvalidRequest, fault.CodeOf(err))
	require.NotNil(t, child, "the first step was done")
}

// A life that the system always gives is the only one that there is.
func TestALifeThatIsAlwaysGiven(t *testing.T) {
	definition := strings.Replace(rigDefinition, `"expires": {"from": "ends", "as": "seconds"}`, `"expires": {"assumed": "1h"}`, 1)
	w := newWorld(t, strings.Replace(definition, `"life": {"least": "5m", "most": "24h"},`, ``, 1))
	require.Equal(t, provider.Life{Least: time.Hour, Most: time.Hour}, w.Traits().Life)
	child, err := w.Mint(t.Context(), rigRequest())
	require.NoError(t, err)
	require.Equal(t, w.now.Add(time.Hour), child.ExpiresAt)
}
