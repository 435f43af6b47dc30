package subject

import (
	"bytes"
	"encoding/json"
	"reflect"
	"testing"

	"github.com/lestrrat-go/jwx/v2/jwa"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// FuzzClaims: whatever the claims and bounds, no panic, and what is read is what
// encoding/json reads.
func FuzzClaims(f *testing.F) {
	for _, s := range []string{`{}`, `{"a":1,"a":2}`, `{"a":[1,"x",{"b":null}]}`, `{"\ud800":1e999}`, `[`, `{"exp":1.5e9,"aud":["x"]}`} {
		f.Add([]byte(s), "a", "x*")
	}
	for _, s := range readShapes(f) {
		raw, err := json.Marshal(s.Claims)
		must(err)
		f.Add(raw, "/kubernetes.io/namespace", "my-*")
	}
	f.Fuzz(func(t *testing.T, raw []byte, name, value string) {
		claims, err := form.Object(raw, maxDepth)
		if err != nil {
			return
		}
		d := json.NewDecoder(bytes.NewReader(raw))
		d.UseNumber()
		var want map[string]any
		if err := d.Decode(&want); err != nil || !reflect.DeepEqual(claims, want) {
			t.Fatalf("%v, want %v (%v)", claims, want, err)
		}
		if token, err := newToken(claims); err == nil && (token.Subject == "" || token.Issuer == "" || token.ExpiresAt.IsZero()) {
			t.Fatal("a token without its required claims")
		}
		bounds, err := CompileClaims(map[string][]string{name: {value}})
		if err != nil {
			return
		}
		if failed := bounds.Check(claims); failed != nil && !reflect.DeepEqual(failed, []string{name}) {
			t.Fatalf("failed %q", failed)
		}
	})
}

// FuzzSubjectToken: no text is a token but what the issuer signed, and every
// refusal has a code.
func FuzzSubjectToken(f *testing.F) {
	keys := map[jwa.SignatureAlgorithm]any{jwa.ES256: goodKeys()[jwa.ES256]}
	cfg := IssuerConfig{Name: "fuzz", JWKSPEM: string(keySetJSON(goodKeys())), BoundIssuer: "https://i",
		BoundAudiences: []string{audience}, AllowedAlgorithms: algorithmNames()}
	issuer, err := Open(cfg, "", nil, nil)
	must(err)
	good := signRaw(jwa.ES256, keys[jwa.ES256], []byte(`{"alg":"ES256"}`),
		[]byte(`{"iss":"https://i","sub":"s","aud":"`+audience+`","exp":1772366500}`))
	if _, err := issuer.Verify(f.Context(), good, noon); err != nil {
		f.Fatal(err)
	}
	f.Add(good.Reveal())
	for _, s := range []string{"", ".", "..", "a.b.c", "eyJhbGciOiJub25lIn0.e30.", "eyJhbGciOiJFUzI1NiJ9.e30.AA"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		raw := secret.New(s)
		token, err := issuer.Verify(t.Context(), raw, noon)
		// An ECDSA signature can be made over into another of the same message, so
		// it is the signed part that must be ours.
		if err == nil && (token.Subject != "s" || signed(s) != signed(good.Reveal())) {
			t.Fatal("a forgery was accepted")
		}
		if err != nil {
			code := fault.CodeOf(err)
			if code != fault.InvalidGrant && (code != fault.InvalidRequest || s != "") {
				t.Fatalf("code %s", code)
			}
		}
		_, _ = pickIssuer(raw, []*Issuer{issuer})
	})
}

// signed is a token without its signature.
func signed(token string) string {
	for i := len(token) - 1; i >= 0; i-- {
		if token[i] == '.' {
			return token[:i]
		}
	}
	return ""
}

func BenchmarkClaimBounds(b *testing.B) {
	claims := readShapes(b)["github_actions"].Claims
	bounds, err := CompileClaims(map[string][]string{
		"repository": {"octo-org/*"}, "/ref": {"refs/heads/main", "refs/tags/**"}, "repository_id": {"74"}})
	must(err)
	b.ReportAllocs()
	for b.Loop() {
		if bounds.Check(claims) != nil {
			b.Fatal("refused")
		}
	}
}

func BenchmarkVerify(b *testing.B) {
	cfg := IssuerConfig{Name: "bench", JWKSPEM: string(keySetJSON(goodKeys())), BoundIssuer: "https://i",
		BoundAudiences: []string{audience}}
	issuer, err := Open(cfg, "", nil, nil)
	must(err)
	raw := signRaw(jwa.ES256, goodKeys()[jwa.ES256], []byte(`{"alg":"ES256","kid":"ES256"}`),
		[]byte(`{"iss":"https://i","sub":"s","aud":"`+audience+`","exp":1772366500}`))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := issuer.Verify(b.Context(), raw, noon); err != nil {
			b.Fatal(err)
		}
	}
}
