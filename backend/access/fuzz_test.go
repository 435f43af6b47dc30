package access

import (
	"encoding/json"
	"strings"
	"testing"
)

// FuzzGlob compares with the definition, on values short enough for it, and
// checks that what is claimed to be within is.
func FuzzGlob(f *testing.F) {
	f.Add("repo:*", "repo:a/b", "**")
	f.Add("a**b*c", "ab/:bc", "a**")
	f.Add("***", "\n", "*")
	f.Add("*a*a*a", "aaaaab", "*a*")
	f.Fuzz(func(t *testing.T, pattern, value, wider string) {
		g, err := ParseGlob(pattern)
		if err != nil {
			return
		}
		got := g.Match(value)
		if len(value) <= 16 && len(pattern) <= 16 && got != matchesByDefinition(pattern, value) {
			t.Fatalf("%q matches %q: %v", pattern, value, got)
		}
		if again, err := ParseGlob(g.String()); err != nil || again.Match(value) != got {
			t.Fatalf("%q means something else when read again: %v", pattern, err)
		}
		if h, err := ParseGlob(wider); err == nil && g.within(h) && got && len(value) <= MaxTarget && !h.Match(value) {
			t.Fatalf("%q is not within %q: %q", pattern, wider, value)
		}
	})
}

// FuzzParseDetails: what is accepted is JSON in which nothing was lost, reads
// as itself, and is neither more nor less than itself.
func FuzzParseDetails(f *testing.F) {
	f.Add([]byte(`[{"type":"payment","actions":["a","b"],"amount":{"currency":"EUR","n":1e2}}]`))
	f.Add([]byte(`{"type":"a","locations":[],"x":[null,true,"\ud800"]}`))
	f.Add([]byte(`[{"type":"a"},{"type":"a","privileges":["x"]}]`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		d, err := ParseDetails(raw)
		if err != nil {
			return
		}
		if !json.Valid(raw) {
			t.Fatalf("accepted %q", raw)
		}
		if d.IsNothing() {
			return
		}
		again, err := ParseDetails(d.JSON())
		if err != nil || !again.Equal(d) || string(again.JSON()) != string(d.JSON()) {
			t.Fatalf("%s became %s: %v", d.JSON(), again.JSON(), err)
		}
		if !d.Within(again) || !d.Meet(d).Equal(d) || len(d.Excess(d)) > 0 || d.Within(Details{}) {
			t.Fatalf("%s is not itself", d.JSON())
		}
	})
}

// FuzzCheckScope: an accepted scope is one token of the space-separated list
// that goes over the wire (RFC 6749 3.3), and survives it.
func FuzzCheckScope(f *testing.F) {
	for _, v := range []string{"repo", "a b", "a\"", "é", "", "\x7f"} {
		f.Add(v)
	}
	f.Fuzz(func(t *testing.T, v string) {
		if CheckScope(v) != nil {
			return
		}
		if fields := strings.Fields("x " + v + " y"); len(fields) != 3 || fields[1] != v {
			t.Fatalf("%q is not one token", v)
		}
		if strings.ContainsAny(v, "\"\\") || len(v) > MaxScope {
			t.Fatalf("%q", v)
		}
	})
}
