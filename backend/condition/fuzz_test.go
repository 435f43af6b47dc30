package condition

import (
	"encoding/json"
	"errors"
	"testing"
	"time"
)

// slow is when a fuzzed evaluation is called stuck: far beyond MaxCost, with a
// margin for a machine that does other things too.
const slow = 30 * time.Second

// FuzzCompile: no text makes the compiler panic, and what it accepts evaluates
// in bounded time to one of the three outcomes, whichever plan runs it.
func FuzzCompile(f *testing.F) {
	for _, expr := range []string{
		typical, `true`, `identity.nmae == ""`, `subject.claims.a.b[0] == 1`,
		`identity.groups.map(g, g + g).exists(g, g.matches("a*"))`,
		`[identity.name].all(x, x in {"a": 1})`, `"a".split("").size() > 1`,
		`{"a": [1, 2]}["a"].exists_one(x, x == 1) ? now.getHours("Europe/Berlin") < 3 : has(subject.claims.x)`,
		`request.ttl < duration("1h") && b"x" == bytes(identity.name)`,
		`sets.intersects(request.scopes, ["a"]) || !(1.0 < double(identity.name))`,
		`identity.aliases.filter(a, a.mount_type == "jwt") != identity.aliases`,
		`identity.name.matches("^[a-z]{2,16}$") || (identity.groups + request.scopes) == identity.groups`,
		`["a"].map(x, x + x).map(x, x + x) == ["a" + "b"]`, `type(identity) == type(request)`,
	} {
		f.Add(expr)
	}
	f.Fuzz(func(t *testing.T, expr string) {
		p, err := Compile(expr)
		if err != nil {
			return
		}
		began := time.Now()
		evaluate(t, p, sample())
		evaluate(t, p, Input{})
		if took := time.Since(began); took > slow {
			t.Fatalf("%q took %v", expr, took)
		}
	})
}

// FuzzEval: claims of any shape never make a condition panic, and the plan
// without accounting says what the one with it says.
func FuzzEval(f *testing.F) {
	var programs []*Program
	for _, expr := range []string{
		`subject.claims.sub == identity.name`,
		`subject.claims.level >= 3`,
		`"a" in subject.claims.groups`,
		`subject.claims.groups.all(g, g != "root")`,
		`subject.claims.nested.x.y[0] == "z"`,
		`has(subject.claims.nested.x)`,
		`subject.claims.exists(k, subject.claims[k] == k)`,
		`subject.claims == {"a": 1}`,
		`string(subject.claims.sub).matches("^a+$")`,
		`timestamp(string(subject.claims.iat)) < now`,
		`size(subject.claims.sub) > 2 && subject.claims.sub + "x" != "y"`,
	} {
		programs = append(programs, compile(f, expr))
	}
	f.Add([]byte(`{"sub":"alice","level":3,"groups":["a"],"nested":{"x":{"y":["z"]}},"iat":"2025-01-01T00:00:00Z"}`))
	f.Add([]byte(`{"sub":null,"level":"3","groups":{"a":1},"nested":{"x":[]},"iat":1e400}`))
	f.Add([]byte(`{"sub":{},"level":-0.5,"groups":[[["a"]]],"nested":null}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var claims map[string]any
		if json.Unmarshal(raw, &claims) != nil {
			return
		}
		in := sample()
		in.Subject.Claims = claims
		for _, p := range programs {
			evaluate(t, p, in)
		}
	})
}

// evaluate checks the shape of the outcome, and that both plans agree.
func evaluate(t *testing.T, p *Program, in Input) {
	err := p.Eval(in)
	var failure *Failure
	if err != nil && (!errors.As(err, &failure) || failure.Expr != p.String() || failure.Cause == nil) {
		t.Fatalf("%q: %v", p, err)
	}
	if p.plain == nil || !p.usual(&in) {
		return
	}
	counted := &Program{expr: p.expr, counted: p.counted, uses: p.uses, unmet: p.unmet}
	if again := counted.Eval(in); (again == nil) != (err == nil) || errors.Is(again, ErrFalse) != errors.Is(err, ErrFalse) {
		t.Fatalf("%q: without accounting %v, with it %v", p, err, again)
	}
}
