package chaos

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
)

// What a message says besides its code may change, and may quote anything.
func TestAnOutcomeIsToldByStatusAndCode(t *testing.T) {
	answer := func(status int, text string) error {
		return &api.ResponseError{HTTPMethod: "PUT", StatusCode: status, Errors: []string{"1 error occurred:\n\t* " + text + "\n\n"}}
	}
	const patient = callPatience
	for name, c := range map[string]struct {
		err      error
		patience time.Duration
		want     Outcome
	}{
		"given":                       {want: Given},
		"a failure, in any words":     {err: answer(503, "temporarily_unavailable: zzz"), want: Failed},
		"an answer that is not whole": {err: answer(501, "provider_violation: zzz"), want: Failed},
		"a failure that quotes a code": {
			err: answer(503, "temporarily_unavailable: the provider says access_denied: no"), want: Failed,
		},
		"a refusal that quotes a failure": {
			err: answer(403, "access_denied: did not arrive whole or in time: the provider failed (HTTP 503)"), want: Refused,
		},
		"bare, as an older Vault answers":  {err: &api.ResponseError{StatusCode: 429, Errors: []string{"slow_down: zzz"}}, want: Refused},
		"a code at another status":         {err: answer(500, "temporarily_unavailable: zzz"), want: Broken},
		"a code at another place":          {err: answer(503, "rpc error: temporarily_unavailable: zzz"), want: Broken},
		"a code that is none":              {err: answer(400, "invalid_thing: zzz"), want: Broken},
		"a longer word":                    {err: answer(403, "not_access_denied: zzz"), want: Broken},
		"Vault's own refusal":              {err: answer(403, "permission denied"), want: Broken},
		"Vault is sealed":                  {err: &api.ResponseError{StatusCode: 503, Errors: []string{"Vault is sealed"}}, want: Broken},
		"an answer without a text":         {err: &api.ResponseError{StatusCode: 503}, want: Broken},
		"no answer":                        {err: &url.Error{Op: "Put", Err: io.EOF}, want: Broken},
		"no answer in Vault's own time":    {err: fmt.Errorf("x: %w", context.DeadlineExceeded), want: Broken},
		"no answer in the client's time":   {err: fmt.Errorf("x: %w", context.DeadlineExceeded), patience: shortPatience, want: GaveUp},
		"a refusal of an impatient client": {err: answer(403, "access_denied: zzz"), patience: shortPatience, want: Refused},
	} {
		t.Run(name, func(t *testing.T) {
			if c.patience == 0 {
				c.patience = patient
			}
			require.Equal(t, c.want, outcome(c.err, c.patience))
		})
	}
	require.NotEmpty(t, brokersCodes)
	for _, code := range brokersCodes {
		want := Refused
		if code == fault.ProviderViolation || code == fault.TemporarilyUnavailable {
			want = Failed
		}
		require.Equal(t, want, outcome(answer(code.Status(), string(code)+": zzz"), patient), code)
	}
}
