package secret_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

func TestNoVerbPrintsASecret(t *testing.T) {
	s := secret.New("hunter2")
	holder := struct {
		S secret.Text
		P *secret.Text
		M map[string]secret.Text
	}{s, &s, map[string]secret.Text{"k": s}}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		require.NotContains(t, fmt.Sprintf(verb, s), "hunter2", verb)
		require.NotContains(t, fmt.Sprintf(verb, holder), "hunter2", verb)
		require.NotContains(t, fmt.Sprintf(verb, holder), "68756e74657232", verb)
	}
	raw, err := json.Marshal(holder)
	require.NoError(t, err)
	require.NotContains(t, string(raw), "hunter2")
	require.Contains(t, string(raw), "[redacted]")
}

func TestEqualAndFingerprint(t *testing.T) {
	require.True(t, secret.New("a").Equal(secret.New("a")))
	require.False(t, secret.New("a").Equal(secret.New("b")))
	require.False(t, secret.New("a").Equal(secret.Text{}))
	require.Empty(t, secret.Text{}.Fingerprint())
	require.Equal(t, "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb", secret.New("a").Fingerprint())
}
