package jwks

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jws"
)

func FuzzVerify(f *testing.F) {
	k, err := jwk.FromRaw(edKey().Public())
	if err != nil {
		f.Fatal(err)
	}
	raw, _ := json.Marshal(map[string]any{"keys": []any{k}})
	s, err := Static(raw)
	if err != nil {
		f.Fatal(err)
	}
	signed, err := jws.Sign([]byte(claims), jws.WithKey(jwa.EdDSA, edKey()))
	if err != nil {
		f.Fatal(err)
	}
	good := string(signed)
	f.Add(good)
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	f.Add("a.b.c")
	f.Fuzz(func(t *testing.T, token string) {
		payload, _, err := s.Verify(context.Background(), token, everything)
		// Ed25519 signatures have one spelling, so there is one valid token.
		if err == nil && token != good {
			t.Fatalf("accepted %q with payload %q", token, payload)
		}
	})
}

func FuzzDocument(f *testing.F) {
	f.Add([]byte(`{"keys":[{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}]}`))
	f.Add([]byte("-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----\n"))
	f.Fuzz(func(t *testing.T, document []byte) {
		keys, err := parseDocument(document, false)
		if (err == nil) != (len(keys) > 0) {
			t.Fatalf("%d keys with error %v", len(keys), err)
		}
	})
}
