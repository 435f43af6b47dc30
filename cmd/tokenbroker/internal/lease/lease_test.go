package lease

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/cmd/tokenbroker/internal/fail"
	"github.com/tokenbroker/vault-plugin-secrets-broker/cmd/tokenbroker/internal/vault"
)

// fake is a Vault that answers as it is told.
type fake struct {
	began   time.Time
	renewed []time.Duration // when, after the beginning
	revoked int
	renew   func(after time.Duration) (time.Duration, bool, error) // new end, after the beginning
	revoke  func(after time.Duration) error
}

func (f *fake) Renew(context.Context, *vault.Child) (time.Time, bool, error) {
	after := time.Since(f.began)
	f.renewed = append(f.renewed, after)
	ends, renewable, err := f.renew(after)
	return f.began.Add(ends), renewable, err
}

func (f *fake) Revoke(context.Context, string) error {
	f.revoked++
	return f.revoke(time.Since(f.began))
}

func begin(f *fake, renewable bool) *Lease {
	f.began = time.Now()
	return New(f, &vault.Child{Role: "deploy", LeaseID: "l1", Renewable: renewable, Lease: time.Minute, Ends: f.began.Add(time.Minute)})
}

func TestALeaseIsRenewedBeforeTwoThirdsOfIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{renew: func(after time.Duration) (time.Duration, bool, error) { return after + time.Minute, true, nil }}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Second)
		defer cancel()
		require.NoError(t, begin(f, true).Keep(ctx))
		require.Equal(t, []time.Duration{30 * time.Second, 60 * time.Second, 90 * time.Second}, f.renewed)
	})
}

func TestAKeeperSaysWhenItCanKeepNoLonger(t *testing.T) {
	unavailable := fail.New(fail.Unavailable, "Vault is sealed")
	for name, c := range map[string]struct {
		fixed bool
		renew func(after time.Duration) (time.Duration, bool, error)
		when  time.Duration
		kind  fail.Kind
	}{
		"not renewable": {fixed: true, when: 30 * time.Second, kind: fail.Refused},
		"capped": {
			renew: func(time.Duration) (time.Duration, bool, error) { return 80 * time.Second, true, nil },
			// Renewed at 30 s to 80 s, at 55 s by nothing, given up half of the rest later.
			when: 67*time.Second + 500*time.Millisecond, kind: fail.Refused,
		},
		"killed": {
			renew: func(time.Duration) (time.Duration, bool, error) {
				return 0, false, fail.New(fail.Refused, "the token of this lease is dead")
			},
			when: 30 * time.Second, kind: fail.Refused,
		},
		"sealed to the end": {
			renew: func(time.Duration) (time.Duration, bool, error) { return 0, false, unavailable },
			when:  time.Minute, kind: fail.Unavailable,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fake{renew: c.renew}
				err := begin(f, !c.fixed).Keep(t.Context())
				require.Error(t, err)
				require.Equal(t, c.kind, fail.KindOf(err), err)
				require.InDelta(t, c.when.Seconds(), time.Since(f.began).Seconds(), 0.5)
			})
		})
	}
}

func TestASealedVaultIsAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{}
		f.renew = func(after time.Duration) (time.Duration, bool, error) {
			if after < 50*time.Second {
				return 0, false, fail.New(fail.Unavailable, "Vault is sealed")
			}
			return after + time.Minute, true, nil
		}
		ctx, cancel := context.WithTimeout(t.Context(), 70*time.Second)
		defer cancel()
		l := begin(f, true)
		require.NoError(t, l.Keep(ctx))
		require.Greater(t, time.Until(l.Ends()), 30*time.Second)
		require.Less(t, len(f.renewed), 20)
	})
}

func TestARevocationIsRepeatedAsLongAsNobodyAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{revoke: func(after time.Duration) error {
			if after < 3*time.Second {
				return fail.New(fail.Unavailable, "Vault is sealed")
			}
			return nil
		}}
		require.NoError(t, begin(f, true).Revoke(t.Context()))
		require.Greater(t, f.revoked, 1)

		f.revoke = func(time.Duration) error { return fail.New(fail.Refused, "permission denied") }
		f.revoked = 0
		require.Error(t, begin(f, true).Revoke(t.Context()))
		require.Equal(t, 1, f.revoked)

		f.revoke = func(time.Duration) error { return fail.New(fail.Unavailable, "Vault is sealed") }
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		require.Equal(t, fail.Unavailable, fail.KindOf(begin(f, true).Revoke(ctx)))
	})
}
