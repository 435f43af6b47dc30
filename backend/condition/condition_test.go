package condition

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/cel-go/cel"
	"github.com/stretchr/testify/require"
)

const typical = `identity.metadata["team"] == "payments" && "deploy" in identity.groups && request.scopes.all(s, s.startsWith("repo:")) && now.getHours() >= 6`

func sample() Input {
	return Input{
		Identity: Identity{
			EntityID: "e-1", Name: "alice",
			Metadata: map[string]string{"team": "payments"},
			Groups:   []string{"deploy", "staff"},
			Aliases: []Alias{
				{Name: "alice@corp", MountAccessor: "auth_jwt_1", MountType: "jwt", Metadata: map[string]string{"repo": "acme/api"}},
				{Name: "alice", MountAccessor: "auth_userpass_1", MountType: "userpass"},
			},
		},
		Request: Request{
			Scopes:      []string{"repo:read", "repo:write", "repo:status"},
			Audiences:   []string{"https://api.example"},
			Resources:   []string{"https://api.example/v1"},
			Permissions: map[string]string{"contents": "read"},
			TTL:         15 * time.Minute,
			RemoteAddr:  "10.1.2.3",
		},
		Subject: Subject{Claims: map[string]any{
			"sub": "alice", "admin": true, "level": float64(3), "big": json.Number("9007199254740993"),
			"ratio": json.Number("0.5"), "huge": json.Number("1e999"), "none": nil,
			"groups": []any{"a", "b"}, "nested": map[string]any{"x": "y"},
			"exp": time.Date(2025, 6, 1, 13, 0, 0, 0, time.UTC), "aud": []string{"vault"},
		}},
		Now: time.Date(2025, 6, 1, 12, 30, 0, 0, time.UTC),
	}
}

func compile(t testing.TB, expr string) *Program {
	t.Helper()
	p, err := Compile(expr)
	require.NoError(t, err, expr)
	return p
}

func TestEval(t *testing.T) {
	const (
		yes    = "true"
		no     = "false"
		failed = "error"
	)
	for expr, want := range map[string]string{
		typical: yes,

		`identity.entity_id == "e-1" && identity.name == "alice"`:                                  yes,
		`identity.metadata.team == "payments"`:                                                     yes,
		`identity.metadata["team"] == "platform"`:                                                  no,
		`identity.metadata["missing"] == "x"`:                                                      failed,
		`has(identity.metadata.missing) && identity.metadata.missing == "x"`:                       no,
		`"missing" in identity.metadata`:                                                           no,
		`has(identity.name) && has(identity.groups) && has(request.ttl)`:                           yes,
		`"deploy" in identity.groups`:                                                              yes,
		`identity.groups.exists_one(g, g == "deploy")`:                                             yes,
		`identity.groups[7] == "x"`:                                                                failed,
		`sets.contains(identity.groups, ["deploy", "staff"])`:                                      yes,
		`identity.groups.filter(g, g.startsWith("d")).size() == 1`:                                 yes,
		`identity.groups.map(g, g.upperAscii()) == ["DEPLOY", "STAFF"]`:                            yes,
		`identity.aliases.exists(a, a.mount_type == "jwt" && a.metadata.repo == "acme/api")`:       yes,
		`identity.aliases.all(a, a.mount_type == "jwt")`:                                           no,
		`identity.aliases.exists(a, a.mount_accessor == "auth_jwt_1" && a.name.endsWith("@corp"))`: yes,
		`identity.aliases[0] == identity.aliases[0] && identity.aliases[0] != identity.aliases[1]`: yes,
		`identity == identity`:                                                                     yes,
		// The fields of an object whose type is not known are not looked up.
		`dyn(identity).name == "alice"`: failed,

		`request.permissions == {"contents": "read"}`:                                   yes,
		`request.permissions.all(p, request.permissions[p] != "admin")`:                 yes,
		`request.audiences == ["https://api.example"] && request.resources.size() == 1`: yes,
		`request.ttl <= duration("15m") && request.ttl > duration("899s")`:              yes,
		`request.remote_addr.startsWith("10.")`:                                         yes,
		`request.scopes.exists(s, s.matches("^repo:(write|admin)$"))`:                   yes,

		`subject.claims.sub == identity.name`:                          yes,
		`subject.claims["admin"] == true`:                              yes,
		`subject.claims.level >= 3 && subject.claims.level == 3`:       yes,
		`subject.claims.big == 9007199254740993`:                       yes,
		`subject.claims.big == 9007199254740992`:                       no,
		`subject.claims.ratio < 1`:                                     yes,
		`subject.claims.huge > 1`:                                      failed,
		`subject.claims.none == null`:                                  yes,
		`"a" in subject.claims.groups`:                                 yes,
		`subject.claims.nested.x == "y"`:                               yes,
		`subject.claims.nested.missing == "y"`:                         failed,
		`subject.claims.missing == "y"`:                                failed,
		`has(subject.claims.missing)`:                                  no,
		`subject.claims.sub > 3`:                                       failed,
		`subject.claims.sub == 3`:                                      no,
		`subject.claims.level.startsWith("3")`:                         failed,
		`subject.claims.sub.all(x, x == "a")`:                          failed,
		`subject.claims.groups.filter(g, g == "a").size() == 1`:        yes,
		`subject.claims.groups.map(g, string(g)) == ["a", "b"]`:        yes,
		`subject.claims.exp > now && "vault" in subject.claims.aud`:    yes,
		`subject.claims.missing == "y" || subject.claims.sub != ""`:    yes,
		`subject.claims.missing == "y" && subject.claims.sub == "bob"`: no,
		`subject.claims.missing == "y" || subject.claims.sub == "bob"`: failed,

		`now.getHours() == 12 && now.getHours("+02:00") == 14`: yes,
		`now == timestamp("2025-06-01T12:30:00Z")`:             yes,
		`now.getDayOfWeek() in [0, 6]`:                         yes,

		`{"e-1": ["a", "b"]}[identity.entity_id].exists(x, x == "b")`: yes,
		`[identity.name, identity.entity_id].exists(x, x == "e-1")`:   yes,
		`1 / (identity.groups.size() - 2) == 1`:                       failed,
	} {
		t.Run(expr, func(t *testing.T) {
			err := compile(t, expr).Eval(sample())
			switch want {
			case yes:
				require.NoError(t, err)
			case no:
				require.ErrorIs(t, err, ErrFalse)
			default:
				require.Error(t, err)
				require.NotErrorIs(t, err, ErrFalse)
			}
		})
	}
}

// A caller without entity or subject token meets no condition by accident.
func TestEvalOfNothing(t *testing.T) {
	for _, expr := range []string{
		`identity.entity_id != ""`, `identity.metadata.team == "x"`, `"a" in identity.groups`,
		`identity.aliases.exists(a, true)`, `subject.claims.sub != ""`, `has(subject.claims)`,
		`has(subject.claims.sub)`, `"sub" in subject.claims`, `now > timestamp("2000-01-01T00:00:00Z")`,
		`request.ttl > duration("0s")`, `has(identity.entity_id)`,
	} {
		require.Error(t, compile(t, expr).Eval(Input{}), expr)
	}
}

func TestCompileRefuses(t *testing.T) {
	for expr, part := range map[string]string{
		``:                                  "empty",
		strings.Repeat("a", MaxLength+1):    "bytes",
		"\"\xff\" == \"a\"":                 "UTF-8",
		`identity.nmae == "x"`:              "undefined field 'nmae'",
		`has(identity.nmae)`:                "undefined field 'nmae'",
		`identity.aliases.all(a, a.x == 1)`: "undefined field 'x'",
		`request.scope == []`:               "undefined field 'scope'",
		`idenity.name == "x"`:               "undeclared reference",
		`identity.name`:                     "must be a bool",
		`subject.claims.admin`:              "must be a bool",
		`identity.name == 1`:                "no matching overload",
		`identity.groups == "x"`:            "no matching overload",
		`now.getHours() >= "6"`:             "no matching overload",
		`request.ttl < 3600`:                "no matching overload",
		`identity.name ==`:                  "Syntax error",
		`identity.name.matches("(")`:        "matches",

		`broker.Alias{name: "x"} in identity.aliases`:                      "cannot be made",
		`google.protobuf.Int32Value{value: 1} == 1`:                        "cannot be made",
		`identity.name.matches(identity.metadata.re)`:                      "constant",
		`identity.name.replace("a", identity.name) == "x"`:                 "replace is not available",
		`identity.groups.join(identity.name) == "x"`:                       "join is not available",
		`"%s".format([identity.name]) == "x"`:                              "",
		`now.getHours(identity.metadata.zone) == 1`:                        "constant",
		`now.getHours("Mars/Olympus") == 1`:                                "not known",
		`[subject.claims, subject.claims] == []`:                           "plain values",
		`[identity.groups, identity.groups] == []`:                         "plain values",
		`{"a": subject.claims.x} == {}`:                                    "plain values",
		`subject.claims.l.map(x, subject.claims.m).size() == 0`:            "plain values",
		`[[1]].map(x, [x, x]).map(x, [x, x]) == []`:                        "plain values",
		strings.Repeat("(", 200) + "true" + strings.Repeat(")", 200):       "recursion",
		"true" + strings.Repeat(" && (true", 90) + strings.Repeat(")", 90): "recursion",
	} {
		_, err := Compile(expr)
		require.ErrorContains(t, err, part, expr)
	}
}

func TestCostIsBounded(t *testing.T) {
	in := sample()
	for i := range 2000 {
		in.Identity.Groups = append(in.Identity.Groups, fmt.Sprintf("group-%d", i))
	}
	in.Request.Scopes = in.Identity.Groups
	for i := range 500 {
		in.Subject.Claims[fmt.Sprint("k", i)] = []any{"a", map[string]any{"x": 1.0, "y": []any{"z"}}}
	}
	for _, expr := range []string{
		`identity.groups.all(a, request.scopes.all(b, a != b + "x"))`,
		`identity.groups.all(a, identity.groups.all(b, identity.groups.exists(c, c == a)))`,
		`identity.groups.all(a, sets.contains(identity.groups, request.scopes))`,
		`identity.groups.map(a, a + a).all(b, identity.groups.map(c, c + b).size() > 0)`,
		`identity.groups.all(a, a in request.scopes)`,
		`subject.claims.all(k, subject.claims == subject.claims)`,
		`subject.claims.all(k, subject.claims.all(m, [1, 2].all(n, subject.claims != subject.claims || true)))`,
		`["` + strings.Repeat("x", 64) + `"]` + strings.Repeat(`.map(x, x + x)`, 40) + `.size() == 1`,
	} {
		p := compile(t, expr)
		began := time.Now()
		err := p.Eval(in)
		require.ErrorContains(t, errors.Unwrap(err), "cost limit", expr)
		require.NotErrorIs(t, err, ErrFalse)
		// Some milliseconds; the margin is for a busy machine.
		require.Less(t, time.Since(began), 30*time.Second, expr)
	}
}

// joined is an expression for 2^n copies of a list, which CEL joins at once and copies
// when they are compared.
func joined(list string, n int) string {
	if n == 0 {
		return list
	}
	half := joined(list, n-1)
	return "(" + half + "+" + half + ")"
}

// What CEL itself takes for one step is charged for what it is.
func TestNothingIsDoneForFree(t *testing.T) {
	in := sample()
	var long, many []any
	for i := range 5000 {
		long = append(long, fmt.Sprint(i))
	}
	for i := range 15_000 {
		many = append(many, float64(i))
	}
	in.Subject.Claims["lists"], in.Subject.Claims["many"] = []any{long}, many
	in.Subject.Claims["text"] = strings.Repeat("a", 60_000)
	for _, expr := range []string{
		`subject.claims.lists.exists(l, ` + joined("l", 8) + ` == ` + joined("l", 8) + `)`,
		`subject.claims.lists.exists(l, "x" in ` + joined("l", 9) + `)`,
		`subject.claims.many.all(x, now.getHours("Europe/Berlin") < 25)`,
		`subject.claims.many.all(x, size(string(subject.claims.text)) > 0)`,
		`subject.claims.many.all(x, string(subject.claims.text).matches("^a{1000}"))`,
		`string(subject.claims.text).matches("(a?){800}b")`,
	} {
		p := compile(t, expr)
		began := time.Now()
		err := p.Eval(in)
		require.ErrorContains(t, errors.Unwrap(err), "cost limit", expr)
		require.Less(t, time.Since(began), 2*time.Second, "some milliseconds, and seconds if it were for free: %s", expr)
	}
	// To weigh a list takes no longer than to compare it.
	require.Equal(t, uint64(1), lighter(env(t).CELTypeAdapter().NativeToValue(long), env(t).CELTypeAdapter().NativeToValue([]any{})))
	for _, expr := range []string{
		`identity.groups.filter(g, g.startsWith("group-")).size() == 2000`, `identity.groups.map(g, g).size() == 2002`,
		`(identity.groups + request.scopes).exists(g, g == "repo:read")`,
	} {
		in := sample()
		for i := range 2000 {
			in.Identity.Groups = append(in.Identity.Groups, fmt.Sprintf("group-%d", i))
		}
		require.NoError(t, compile(t, expr).Eval(in), "a loop over many groups is not expensive")
	}
}

func env(t *testing.T) *cel.Env {
	t.Helper()
	e, err := environment()
	require.NoError(t, err)
	return e
}

// A repetition is an ordinary pattern, and has made CEL's own limit panic, which is the
// end of a plugin's process.
func TestPatternsWithRepetitions(t *testing.T) {
	require.NoError(t, compile(t, `identity.name.matches("^[a-z]{2,16}$") && matches(identity.entity_id, "^e-[0-9]{1}$")`).Eval(sample()))
	require.ErrorIs(t, compile(t, `identity.name.matches("^[a-z]{2,3}$")`).Eval(sample()), ErrFalse)
	_, err := Compile(`identity.name.matches("` + strings.Repeat("(a{30}b?){30}", 5) + `")`)
	require.ErrorContains(t, err, "too large")
}

// A single call is judged before it runs: what it costs is not found out by paying.
func TestNoCallBeginsThatCostsTooMuch(t *testing.T) {
	in := sample()
	in.Request.Scopes, in.Identity.Groups = nil, nil
	for i := range 20_000 {
		in.Identity.Groups = append(in.Identity.Groups, fmt.Sprintf("group-%05d", i))
	}
	for i := range 10_000 {
		in.Request.Scopes = append(in.Request.Scopes, fmt.Sprintf("scope-%05d", i))
	}
	deep := map[string]any{}
	for i := range 300 {
		deep[fmt.Sprint(i)] = []any{"x", "y"}
	}
	var many []any
	for range 200 {
		many = append(many, deep)
	}
	in.Subject.Claims["deep"] = many
	in.Subject.Claims["text"] = strings.Repeat("ab", 32_000)
	in.Subject.Claims["part"] = strings.Repeat("ab", 16_000) + "c"
	pattern := strings.Repeat("(a|ab|b)*", 400) + "c"
	for _, expr := range []string{
		`sets.contains(identity.groups, request.scopes) || true`,
		`sets.contains(identity.groups, identity.groups)`,
		`sets.intersects(identity.groups, request.scopes)`,
		`sets.equivalent(identity.groups, identity.groups)`,
		`sets.contains(identity.groups + request.scopes, request.scopes)`,
		`sets.contains(subject.claims.deep, subject.claims.deep)`,
		`string(subject.claims.text).indexOf(string(subject.claims.part)) >= 0`,
		`string(subject.claims.text).indexOf(string(subject.claims.part), 1) >= 0`,
		`string(subject.claims.text).lastIndexOf(string(subject.claims.part)) >= 0`,
		`string(subject.claims.text).lastIndexOf(string(subject.claims.part), 40000) >= 0`,
		`string(subject.claims.text).matches("` + pattern + `")`,
		`matches(string(subject.claims.text), "` + pattern + `")`,
		`[1, 2, 3].all(i, sets.contains(identity.groups, request.scopes) || true)`,
	} {
		p := compile(t, expr)
		began := time.Now()
		err := p.Eval(in)
		require.ErrorContains(t, errors.Unwrap(err), "cost limit", expr)
		// A millisecond or so; the margin is for a busy machine, and sets.contains over
		// these takes half a minute.
		require.Less(t, time.Since(began), 5*time.Second, expr)
	}
	usual := sample()
	for range usualItems - 3 {
		usual.Request.Scopes = append(usual.Request.Scopes, strings.Repeat("s", usualString))
	}
	usual.Identity.Groups = usual.Request.Scopes
	for _, expr := range []string{
		`sets.contains(identity.groups, request.scopes)`,
		`sets.equivalent(identity.groups, request.scopes)`,
		`request.scopes.exists(s, s.matches("^(s|t|u|v|w|x|y|z)+$") && s.indexOf("ss") == 0)`,
	} {
		require.NoError(t, compile(t, expr).Eval(usual), expr)
	}
}

// One loop over many groups is not yet expensive.
func TestLargeInputsAreServed(t *testing.T) {
	in := sample()
	for i := range 2000 {
		in.Identity.Groups = append(in.Identity.Groups, fmt.Sprintf("group-%d", i))
	}
	require.NoError(t, compile(t, typical).Eval(in))
	require.NoError(t, compile(t, `identity.groups.exists(g, g.startsWith("group-1999"))`).Eval(in))
}

// The plan without accounting is only for what surely is cheap.
func TestPlainPlan(t *testing.T) {
	for expr, want := range map[string]bool{
		typical: true,
		`identity.aliases.exists(a, a.mount_type == "jwt" && a.metadata.repo == "acme/api")`: true,
		`"a" in subject.claims.groups`: true,
		`identity.groups.all(a, identity.groups.all(b, identity.groups.exists(c, c == a)))`: false,
		`identity.groups.map(g, g + g).size() == 2`:                                         false,
		`now.getHours("Europe/Berlin") < 6`:                                                 false,
		`identity.name.matches("^(a?){100}$")`:                                              false,
		`identity.name.matches("^[a-z]+$")`:                                                 true,
		`(identity.groups + request.scopes) == identity.groups`:                             false,
	} {
		require.Equal(t, want, compile(t, expr).plain != nil, expr)
	}
	p := compile(t, typical)
	in := sample()
	require.True(t, p.usual(&in))
	in.Subject.Claims["deep"] = strings.Repeat("x", usualString+1)
	require.True(t, p.usual(&in), "a variable that is not used does not matter")
	in.Identity.Groups = append(in.Identity.Groups, strings.Repeat("x", usualString+1))
	require.False(t, p.usual(&in))
}

func TestUsualClaims(t *testing.T) {
	deep := any("x")
	for range usualDepth + 1 {
		deep = []any{deep}
	}
	many := map[string]any{}
	for i := range 10 {
		many[fmt.Sprint(i)] = make([]any, 100)
	}
	for name, claims := range map[string]map[string]any{
		"deep":    {"a": deep},
		"many":    many,
		"wide":    {"a": make([]any, usualItems+1)},
		"long":    {"a": strings.Repeat("x", usualString+1)},
		"key":     {strings.Repeat("x", usualString+1): 1},
		"strange": {"a": struct{}{}},
	} {
		require.False(t, usualClaimSet(claims), name)
	}
	require.True(t, usualClaimSet(sample().Subject.Claims))
	require.True(t, usualClaimSet(nil))
}

// What denies is told; what it was evaluated over is not.
func TestErrorsDoNotLeak(t *testing.T) {
	const secret = "hunter2"
	in := sample()
	in.Identity.Metadata["pin"] = secret
	in.Subject.Claims["pin"] = secret
	in.Subject.Claims[secret] = secret
	for _, expr := range []string{
		`int(identity.metadata.pin) == 1`,
		`int(string(subject.claims.pin)) == 1`,
		`identity.metadata[string(subject.claims.pin)] == "x"`,
		`subject.claims.pin > 3`,
		`timestamp(identity.metadata.pin) < now`,
		`identity.metadata.pin == "x"`,
	} {
		err := compile(t, expr).Eval(in)
		require.Error(t, err, expr)
		require.NotContains(t, err.Error(), secret)
		require.Contains(t, err.Error(), fmt.Sprintf("%q", expr), "it says which condition")
		var f *Failure
		require.ErrorAs(t, err, &f)
		require.Equal(t, expr, f.Expr)
		require.Error(t, f.Cause)
	}
}

func TestUses(t *testing.T) {
	for expr, want := range map[string]string{
		`true`:                  "",
		typical:                 "identity request now groups",
		`identity.name == "x"`:  "identity",
		`.identity.name == "x"`: "identity",
		`has(identity.groups)`:  "identity groups",
		`identity.aliases.exists(a, a.name == "x")`: "identity",
		`identity == identity`:                      "identity groups",
		`dyn(identity).groups == 1`:                 "identity groups",
		`[identity].exists(i, "g" in i.groups)`:     "identity groups",
		`subject.claims.groups == 1`:                "subject",
		`now > timestamp("2000-01-01T00:00:00Z")`:   "now",
		`request.scopes.all(s, s == "now")`:         "request",
	} {
		p := compile(t, expr)
		var got []string
		for _, v := range []string{"identity", "request", "subject", "now"} {
			if p.Uses(v) {
				got = append(got, v)
			}
		}
		if p.UsesGroups() {
			got = append(got, "groups")
		}
		require.Equal(t, want, strings.Join(got, " "), expr)
	}
}

func TestConcurrentUse(t *testing.T) {
	var wg sync.WaitGroup
	p := compile(t, typical)
	for range 8 {
		wg.Go(func() {
			for range 50 {
				if err := p.Eval(sample()); err != nil {
					t.Error(err)
				}
				in := sample()
				in.Identity.Metadata["team"] = "x"
				if err := p.Eval(in); !errors.Is(err, ErrFalse) {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// bothPlans are the program as it is and one that always counts: what the plan without
// accounting buys.
func bothPlans(p *Program) map[string]*Program {
	counting := *p
	counting.plain = nil
	return map[string]*Program{"as it is": p, "always counting": &counting}
}

func BenchmarkEval(b *testing.B) {
	for name, expr := range map[string]string{
		"typical": typical,
		"claims":  `subject.claims.sub == identity.name && "a" in subject.claims.groups && subject.claims.level >= 2`,
		"aliases": `identity.aliases.exists(a, a.mount_type == "jwt" && a.metadata.repo == "acme/api")`,
		"counted": `identity.groups.map(g, g.upperAscii()) == ["DEPLOY", "STAFF"]`,
	} {
		for plans, p := range bothPlans(compile(b, expr)) {
			b.Run(name+"/"+plans, func(b *testing.B) {
				in := sample()
				b.ReportAllocs()
				for b.Loop() {
					if err := p.Eval(in); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func BenchmarkCompile(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		compile(b, typical)
	}
}
