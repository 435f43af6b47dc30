package keyring

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func BenchmarkSign(b *testing.B) {
	for _, alg := range Algorithms() {
		b.Run(alg, func(b *testing.B) {
			r := ringOf(b, alg)
			claims := childClaims()
			b.ReportAllocs()
			for b.Loop() {
				if _, err := r.Sign(Child, epoch, claims); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkVerify(b *testing.B) {
	for _, alg := range Algorithms() {
		b.Run(alg, func(b *testing.B) {
			r := ringOf(b, alg)
			token, err := r.Sign(Child, epoch, childClaims())
			require.NoError(b, err)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := r.Verify(Child, token, epoch); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func ringOf(b *testing.B, alg string) *Ring {
	b.Helper()
	terms := usual
	terms.Algorithm = alg
	return advance(b, &Ring{}, epoch, terms)
}

// childClaims are those of an ordinary child token.
func childClaims() map[string]any {
	return map[string]any{
		"iss": "https://vault.example.com:8200/v1/broker", "sub": "11111111-aaaa-4aaa-8aaa-111111111111",
		"aud": []string{"https://api.example.com"}, "client_id": "broker", "jti": "11111111-aaaa-4aaa-8aaa-111111111111.0123456789",
		"iat": epoch.Unix(), "exp": epoch.Add(time.Hour).Unix(), "scope": fmt.Sprintf("repo:%s repo:%s", "read", "write"),
	}
}
