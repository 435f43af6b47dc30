package condition

import (
	"testing"
	"time"
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
			Permissions: map[string]string{"contents": "read"},
			TTL:         15 * time.Minute,
			RemoteAddr:  "10.1.2.3",
		},
		Subject: Subject{Claims: map[string]any{
			"sub": "alice", "admin": true, "level": float64(3),
			"groups": []any{"a", "b"}, "nested": map[string]any{"x": "y"},
		}},
		Now: time.Date(2025, 6, 1, 12, 0, 0, 0, time.UTC),
	}
}

func BenchmarkEval(b *testing.B) {
	p, err := Compile(typical)
	if err != nil {
		b.Fatal(err)
	}
	in := sample()
	b.ReportAllocs()
	for b.Loop() {
		if err := p.Eval(in); err != nil {
			b.Fatal(err)
		}
	}
}
