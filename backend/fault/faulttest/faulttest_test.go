package faulttest

import "testing"

func TestSays(t *testing.T) {
	for _, c := range []struct {
		text, part string
		want       bool
	}{
		{"invalid_grant: the token's iss is missing", "iss", true},
		{"invalid_grant: the issuer is unknown", "iss", false},
		{"invalid_grant: the issuer; iss", "iss", true},
		{"invalid_grant: it is gone", "grant", false},
		{"invalid_grant: it is gone", "invalid_grant: it", true},
		{"invalid_request: the max_limit", "limit", false},
		{"invalid_request: limit=3", "limit=", true},
		{"plain iss", "iss", true},
		{"the issuer a: write b", "a", true},
		{"plain iss", "", false},
		{"x: \u00e4iss", "iss", false},
	} {
		if Says(c.text, c.part) != c.want {
			t.Errorf("%q says %q: %v", c.text, c.part, !c.want)
		}
	}
}
