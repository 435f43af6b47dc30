package github

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/github/fake"
)

// BenchmarkRead is what GitHub's answer costs to read, which describes each repository at
// length.
func BenchmarkRead(b *testing.B) {
	for _, count := range []int{1, 100} {
		b.Run(fmt.Sprint(count), func(b *testing.B) {
			var repositories string
			names := make([]string, count)
			for i := range count {
				names[i] = fmt.Sprintf("acme/r%d", i)
				if i > 0 {
					repositories += ","
				}
				repositories += string(fake.Repository("acme", names[i][5:], int64(i+1)))
			}
			body := []byte(`{"token":"ghs_12345678","expires_at":"2099-01-01T00:00:00Z","permissions":{"contents":"read","metadata":"read"},"repository_selection":"selected","repositories":[` + repositories + `]}`)
			p, in, asked := &Provider{}, &installation{at: place{fieldOrganization, "acme"}}, asking(b, names...).Access
			b.ReportAllocs()
			for b.Loop() {
				child, err := p.read(body, in, asked)
				require.NoError(b, err)
				require.NotEmpty(b, child.Confirmed)
			}
		})
	}
}
