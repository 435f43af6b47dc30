package backend

import (
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/gitlab/fake"
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

// At three in the morning the first question is whose tokens live on.
func TestTheOutboxIsShownByProvider(t *testing.T) {
	r := &rack{stuck: errors.New("down")}
	m := newRack(t, r, "", nil)
	m.must(m.write("providers/rack/q", map[string]any{"account": "one"}))
	require.Contains(t, m.metrics(), `broker_outbox_oldest_seconds{provider="rack/p"} 0`+"\n")
	l := m.to(alice)
	require.Error(t, m.revoke(l))
	m.clock.advance(90 * time.Second)
	shown := m.metrics()
	require.Contains(t, shown, `broker_outbox_depth{provider="rack/p"} 1`+"\n")
	require.Contains(t, shown, `broker_outbox_oldest_seconds{provider="rack/p"} 90`+"\n")
	require.Contains(t, shown, `broker_outbox_depth{provider="rack/q"} 0`+"\n")
	require.Contains(t, shown, `broker_outbox_oldest_seconds{provider="rack/q"} 0`+"\n")
	r.set(func(r *rack) { r.stuck = nil })
	require.NoError(t, m.periodic())
	m.waitForKills()
	shown = m.metrics()
	require.Contains(t, shown, `broker_outbox_depth{provider="rack/p"} 0`+"\n")
	require.Contains(t, shown, `broker_outbox_oldest_seconds{provider="rack/p"} 0`+"\n")
}

// The end of a lease exposes nobody; what a kill leaves is shown until it is over, after a
// restart too.
func TestMetricsShowForHowLongTheDeadAreAccepted(t *testing.T) {
	m := newJWTMount(t, map[string]any{"revocation": "expiry"})
	shows := func(seconds string) {
		t.Helper()
		require.Contains(t, m.metrics(), "broker_residual_exposure_seconds "+seconds+"\n")
	}
	require.NoError(t, m.revoke(m.signedTo(alice, "j", nil)))
	shows("0")
	m.signedTo(alice, "j", nil)
	m.must(m.write("revoke/entity/"+alice, nil))
	m.waitForKills()
	shows("600")
	m.clock.advance(time.Minute)
	m.start()
	require.NoError(t, m.periodic())
	shows("540")
	m.clock.advance(9 * time.Minute)
	shows("0")
}

func TestMetricsShowWhenAParentEnds(t *testing.T) {
	m, server, _, spare := newGitLabMount(t) // the spare ends before the other
	ends := `broker_parent_end_timestamp_seconds{provider="gitlab/p"} `
	shown := ends + scientific(server.Get(spare).Ends) + "\n"
	require.Contains(t, m.metrics(), shown, "the write has proven it")
	m.start()
	require.Contains(t, m.metrics(), shown, "it is on record")
	m.must(m.write("providers/gitlab/p", map[string]any{"timeout": "9s"}))
	require.Contains(t, m.metrics(), shown, "it is the same parent")
	m.clock.advance(48 * time.Hour)
	m.must(m.write("providers/gitlab/p/rotate", nil))
	require.Contains(t, m.metrics(), ends)
	require.NotContains(t, m.metrics(), shown, "it has another one")
	m.must(m.write("providers/gitlab/p", map[string]any{"token": m.hide(server.Personal(fake.Maintainer, 5, "api")), "verify_connection": false}))
	require.NotContains(t, m.metrics(), ends, "nobody has said it of this one")
	m.must(m.write("providers/gitlab/p/check", nil))
	require.Contains(t, m.metrics(), ends)
}

func TestMetricsShowHowOldAnIssuersKeysAre(t *testing.T) {
	m := newTrustingMount(t)
	require.NotContains(t, m.metrics(), "broker_issuer_keys_timestamp_seconds{")
	m.resting()
	shown := m.metrics()
	for _, name := range []string{"idp", "agents"} {
		require.Contains(t, shown, fmt.Sprintf("broker_issuer_keys_timestamp_seconds{issuer=%q} %s\n", name, scientific(m.clock.Now())))
	}
	require.NotContains(t, shown, `issuer="pem"`, "they are written")
}

func TestMetricsTellOfTheProcess(t *testing.T) {
	require.Contains(t, newMount(t, setup{}).metrics(), "broker_process_start_time_seconds ")
}

// A counter that begins with its first event hides that from Prometheus.
func TestSeldomCountersBeginAtZero(t *testing.T) {
	m := newMount(t, setup{})
	violations, lost := `broker_provider_violations_total{provider="oauth2/p"} `, `broker_lost_answers_total{provider="oauth2/p"} `
	shown := m.metrics()
	require.Contains(t, shown, violations+"0\n")
	require.Contains(t, shown, lost+"0\n")
	m.server.Break(authserver.EndpointToken, authserver.Set("scope", "read admin"))
	_, err := m.creds(nil)
	requireCode(t, err, fault.ProviderViolation, "granted more")
	m.server.Break(authserver.EndpointToken, authserver.Hangup())
	_, err = m.creds(nil)
	require.Error(t, err)
	m.lost++
	shown = m.metrics()
	require.Contains(t, shown, violations+"1\n")
	require.Contains(t, shown, lost+"1\n")
}
