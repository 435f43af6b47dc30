package form

import (
	"encoding/json"
	"testing"
)

// A token answer and a token's header, of which each issue reads some.
var (
	answer = []byte(`{"access_token":"ory_at_cS6r2hXc3YqRk1W0Dq8uC1v2gD0E1l8kH7uQ2mN3pT4.aB5cD6eF7gH8iJ9kL0mN1oP2qR3sT4uV5wX6yZ7aB8","token_type":"bearer","expires_in":3599,"scope":"read write"}`)
	header = []byte(`{"alg":"ES256","kid":"mP1w0Yx2kq3H8d7s6f5g4h3j2k1l0m9n8b7v6c5x4z3","typ":"at+jwt"}`)
)

func BenchmarkMembers(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		_, _, _ = Members(answer)
	}
}

// What encoding/json takes for the same.
func BenchmarkUnmarshal(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		var m map[string]json.RawMessage
		_ = json.Unmarshal(answer, &m)
	}
}

func BenchmarkObject(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		_, _ = Object(header, 4)
	}
}
