package backend

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

func TestMetricsTellARefusedParentFromAnOutage(t *testing.T) {
	m := newMount(t, setup{})
	require.Contains(t, m.metrics(), `broker_provider_health{provider="oauth2/p",state="unknown"} 1`)
	m.mustCreds(nil)
	require.Contains(t, m.metrics(), `broker_provider_health{provider="oauth2/p",state="ok"} 1`)
	m.server.Break(authserver.EndpointToken, invalidClient)
	_, err := m.creds(nil)
	require.Error(t, err)
	shown := m.metrics()
	require.Contains(t, shown, `broker_provider_health{provider="oauth2/p",state="refused"} 1`)
	require.Contains(t, shown, `broker_provider_health{provider="oauth2/p",state="unreachable"} 0`)
	require.Contains(t, shown, `broker_refusals_total{code="parent_refused",provider="oauth2/p",role="r"} 1`)
	m.must(m.write("providers/oauth2/p", map[string]any{"disabled": true}))
	require.Contains(t, m.metrics(), `broker_provider_health{provider="oauth2/p",state="disabled"} 1`)
}

// What a caller makes up is no label.
func TestARefusalOfARoleThatThereIsNotHasNoLabel(t *testing.T) {
	m := newMount(t, setup{})
	for n := range 3 {
		_, err := m.read(fmt.Sprintf("creds/made-up-%d", n))
		require.Error(t, err)
	}
	shown := m.metrics()
	require.Contains(t, shown, `broker_refusals_total{code="invalid_request",provider="",role=""} 3`)
	require.NotContains(t, shown, "made-up")
}

func TestMetricsTellExpiredFromKilled(t *testing.T) {
	m := newMount(t, setup{provider: map[string]any{"revocation": "expiry"}})
	m.mustCreds(nil)
	m.clock.advance(2 * time.Hour)
	m.sweep()
	shown := m.metrics()
	require.Contains(t, shown, `broker_grants_expired_total{provider="oauth2/p"} 1`)
	require.NotContains(t, shown, `broker_grants_killed_total{cause="expired"`)
	require.Contains(t, shown, fmt.Sprintf("broker_sweep_last_timestamp_seconds %s", scientific(m.clock.Now())))
}

// scientific is a time as Prometheus' text format has it.
func scientific(t time.Time) string { return strconv.FormatFloat(float64(t.Unix()), 'g', -1, 64) }

func TestMetricsShowWhatEndsAndWhatIsFrozen(t *testing.T) {
	m := newIssuingMount(t, nil)
	m.must(m.write("providers/oauth2/tls", m.providerFields(map[string]any{"auth_method": "self_signed_tls_client_auth", "token_url": "https://tls.test/token", "issuer": nil, "client_secret": nil})))
	m.must(m.write("revoke/entity/"+alice, map[string]any{"freeze": true}))
	shown := m.metrics()
	require.Contains(t, shown, `broker_frozen{kind="entity"} 1`)
	require.Contains(t, shown, `broker_frozen{kind="provider"} 0`)
	require.Contains(t, shown, `broker_build_info{version="`+Version+`"} 1`)
	require.Contains(t, shown, `broker_client_certificate_end_timestamp_seconds{field="client_certificate",provider="oauth2/tls"} `)
	require.Regexp(t, `broker_signing_key_rotation_timestamp_seconds\{purpose="[a-z_-]+"\} \S+`, shown)
}
