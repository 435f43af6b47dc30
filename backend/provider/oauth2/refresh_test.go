package oauth2

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

func rotating(t *testing.T, more with) *fixture {
	t.Helper()
	fields := with{"grant": "refresh_token"}
	for name, value := range more {
		fields[name] = value
	}
	return newFixture(t, authserver.Options{RotateRefresh: true}, fields)
}

func (f *fixture) stored() string { return f.store.Parent().Secrets["refresh_token"].Reveal() }

func TestRefreshesOfOneParentAreSerialised(t *testing.T) {
	f := rotating(t, nil)
	// Two Providers on one parent, as after an edit of the configuration.
	other := f.setup.OpenOn(t, f.store)
	var wg sync.WaitGroup
	for n := range 40 {
		p := provider.Provider(f.Provider)
		if n%2 == 1 {
			p = other
		}
		wg.Go(func() {
			_, err := p.Mint(context.Background(), provider.Request{Access: scopes("read")})
			if err != nil {
				t.Errorf("a refresh token was used twice: %v", err)
			}
		})
	}
	wg.Wait()
	require.Equal(t, 40, f.server.Counts().Minted)
	require.Equal(t, 40, f.store.Saves())
	require.True(t, f.server.Active(f.stored()))
}

func TestWaitingForTheTurnObeysTheContext(t *testing.T) {
	f := rotating(t, nil)
	release, err := f.store.Turn(context.Background())
	require.NoError(t, err)
	defer release()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
	defer cancel()
	_, err = f.Mint(ctx, provider.Request{Access: scopes("read")})
	requireCode(t, err, fault.TemporarilyUnavailable, "another request")
	require.Zero(t, f.requests(authserver.EndpointToken))
}

func TestACallerWhoGivesUpDoesNotLoseTheNextRefreshToken(t *testing.T) {
	f := rotating(t, nil)
	worked, release := make(chan struct{}), make(chan struct{})
	f.server.Break(authserver.EndpointToken, authserver.Once(authserver.Hold(worked, release)))
	ctx, giveUp := context.WithCancel(context.Background())
	go func() {
		<-worked
		giveUp()
		close(release)
	}()
	child, err := f.Mint(ctx, provider.Request{Access: scopes("read")})
	require.NoError(t, err)
	require.NotNil(t, child)
	require.True(t, f.server.Active(f.stored()))
	f.mustMint(scopes("read"))
}

func TestTheNextRefreshTokenIsStoredBeforeTheChildIsAnswered(t *testing.T) {
	f := rotating(t, with{"revocation": "token"})
	first := f.stored()
	f.store.FailSaves(errors.New("storage is sealed"))

	child, err := f.mint(scopes("read"))
	requireCode(t, err, fault.TemporarilyUnavailable, "stored")
	require.NotNil(t, child, "the caller must kill it")
	require.NoError(t, f.Revoke(context.Background(), child.Handle))
	require.Empty(t, f.server.Live())
	require.Equal(t, first, f.stored())

	// While storage fails nothing more is asked of the provider.
	asked := f.requests(authserver.EndpointToken)
	child, err = f.mint(scopes("read"))
	requireCode(t, err, fault.TemporarilyUnavailable, "stored")
	require.Nil(t, child)
	require.Equal(t, asked, f.requests(authserver.EndpointToken))

	// The configuration is edited, so the Provider is opened anew, and the token
	// that only memory holds is not forgotten.
	f.Provider = f.setup.OpenOn(t, f.store).(*Provider)
	f.store.FailSaves(nil)
	f.mustMint(scopes("read"))
	require.NotEqual(t, first, f.stored())
	require.True(t, f.server.Active(f.stored()))
	require.False(t, f.succession().Waiting(secret.New(first)))
}

func TestAnOperatorsNewTokenStands(t *testing.T) {
	f := rotating(t, nil)
	mine := f.server.IssueRefreshToken(testClient)
	f.server.Break(authserver.EndpointToken, f.meanwhile(func() {
		f.store.Write(map[string]string{"client_secret": testSecret, "refresh_token": mine})
	}))
	child, err := f.mint(scopes("read"))
	require.NoError(t, err)
	require.NotNil(t, child)
	require.Equal(t, mine, f.stored())
	require.True(t, f.server.Active(mine))
	f.mustMint(scopes("read"))
	require.NotEqual(t, mine, f.stored(), "from then on it is the one that rotates")
}

func TestAnOperatorWhoWritesAnotherSecretDoesNotLoseTheRefreshToken(t *testing.T) {
	f := rotating(t, nil)
	first := f.stored()
	f.server.Break(authserver.EndpointToken, f.meanwhile(func() {
		f.store.Write(map[string]string{"client_secret": testSecret, "client_secret_next": nextSecret, "refresh_token": first})
	}))
	f.mustMint(scopes("read"))
	require.NotEqual(t, first, f.stored())
	require.True(t, f.server.Active(f.stored()))
	require.Equal(t, nextSecret, f.store.Parent().Secrets["client_secret_next"].Reveal())
	f.mustMint(scopes("read"))
}

// meanwhile does something while a request is under way, the first time.
func (f *fixture) meanwhile(do func()) authserver.Fault {
	return authserver.Once(authserver.Before(do))
}

func TestARefusedRefreshTokenIsRemembered(t *testing.T) {
	f := rotating(t, nil)
	f.server.Kill(f.stored())
	_, err := f.mint(scopes("read"))
	requireCode(t, err, fault.ParentRefused, "invalid_grant")
	require.Contains(t, f.store.Parent().Refused, "invalid_grant")

	asked := f.requests(authserver.EndpointToken)
	for range 3 {
		_, err = f.mint(scopes("read"))
		requireCode(t, err, fault.ParentRefused, "write a new refresh_token")
	}
	require.Equal(t, asked, f.requests(authserver.EndpointToken))
	_, err = f.Check(context.Background())
	requireCode(t, err, fault.ParentRefused, "write a new refresh_token")
	require.Equal(t, asked+2, f.requests(authserver.EndpointToken), "a check asks, and makes sure")

	f.store.Write(map[string]string{"client_secret": testSecret, "refresh_token": f.server.IssueRefreshToken(testClient)})
	f.mustMint(scopes("read"))
	require.Empty(t, f.store.Parent().Refused)
}

// Some servers answer invalid_grant for what was asked, not for the token: a check
// that the token passes ends the refusal.
func TestACheckEndsARefusalThatWasNone(t *testing.T) {
	f := rotating(t, nil)
	f.server.Break(authserver.EndpointToken, authserver.Answer(400, "application/json", `{"error":"invalid_grant"}`))
	_, err := f.mint(scopes("read"))
	requireCode(t, err, fault.ParentRefused, "invalid_grant")
	f.server.Break(authserver.EndpointToken, nil)
	_, err = f.mint(scopes("read"))
	requireCode(t, err, fault.ParentRefused, "check")
	_, err = f.Check(context.Background())
	require.NoError(t, err)
	require.Empty(t, f.store.Parent().Refused)
	f.mustMint(scopes("read"))
}

func TestARefusalThatCouldNotBeStoredIsRememberedToo(t *testing.T) {
	f := rotating(t, nil)
	f.server.Kill(f.stored())
	f.store.FailSaves(errors.New("storage is sealed"))
	_, err := f.mint(scopes("read"))
	requireCode(t, err, fault.ParentRefused, "invalid_grant")
	asked := f.requests(authserver.EndpointToken)
	_, err = f.mint(scopes("read"))
	require.Error(t, err)
	f.store.FailSaves(nil)
	_, err = f.mint(scopes("read"))
	requireCode(t, err, fault.ParentRefused, "write a new refresh_token")
	require.Equal(t, asked, f.requests(authserver.EndpointToken))
	require.Contains(t, f.store.Parent().Refused, "invalid_grant")
}

func TestAParentThatCannotBeReadIsNotGuessed(t *testing.T) {
	f := rotating(t, nil)
	f.store.FailLoads(errors.New("storage is sealed"))
	_, err := f.mint(scopes("read"))
	requireCode(t, err, fault.TemporarilyUnavailable, "could not be read")
	_, err = f.Check(context.Background())
	requireCode(t, err, fault.TemporarilyUnavailable, "could not be read")
	require.Zero(t, f.requests(authserver.EndpointToken)+f.requests(authserver.EndpointIntrospect))
}

func TestAProviderThatIsDeletedMeanwhile(t *testing.T) {
	f := rotating(t, nil)
	f.server.Break(authserver.EndpointToken, f.meanwhile(func() {
		f.store.Write(nil)
		f.store.FailLoads(provider.ErrParentChanged)
	}))
	child, err := f.mint(scopes("read"))
	require.NoError(t, err)
	require.NotNil(t, child)
	require.Empty(t, f.stored())
}

func TestAStorageThatFailsWhileAnOperatorWrites(t *testing.T) {
	f := rotating(t, nil)
	first := f.stored()
	f.server.Break(authserver.EndpointToken, f.meanwhile(func() {
		f.store.Write(map[string]string{"client_secret": testSecret, "refresh_token": first})
		f.store.FailLoads(errors.New("storage is sealed"))
	}))
	_, err := f.mint(scopes("read"))
	requireCode(t, err, fault.TemporarilyUnavailable, "stored")
	f.store.FailLoads(nil)
	f.mustMint(scopes("read"))
	require.True(t, f.server.Active(f.stored()))
}

func TestOtherRefusalsDoNotCondemnTheParent(t *testing.T) {
	for name, answer := range map[string]authserver.Fault{
		"invalid_client": authserver.Answer(401, "application/json", `{"error":"invalid_client"}`),
		"invalid_scope":  authserver.Answer(400, "application/json", `{"error":"invalid_scope"}`),
		"busy":           authserver.Busy(time.Second),
		"502":            authserver.Answer(502, "text/html", ""),
		"HTML":           authserver.HTML(),
	} {
		f := rotating(t, nil)
		f.server.Break(authserver.EndpointToken, answer)
		_, err := f.mint(scopes("read"))
		require.Error(t, err, name)
		require.Empty(t, f.store.Parent().Refused, name)
		f.server.Break(authserver.EndpointToken, nil)
		f.mustMint(scopes("read"))
	}
}

func TestTheNextRefreshTokenIsTakenFromABrokenAnswer(t *testing.T) {
	for name, broken := range map[string]authserver.Fault{
		"malformed lifetime":    authserver.Set("expires_in", -1),
		"unknown type":          authserver.Set("token_type", "mac"),
		"endless":               authserver.EndlessAfterToken(),
		"cut at its end":        authserver.Cut(-1),
		"no token in it at all": authserver.Drop("access_token"),
	} {
		t.Run(name, func(t *testing.T) {
			f := rotating(t, nil)
			first := f.stored()
			f.server.Break(authserver.EndpointToken, broken)
			_, err := f.mint(scopes("read"))
			require.Error(t, err)
			require.NotEqual(t, first, f.stored())
			f.server.Break(authserver.EndpointToken, nil)
			f.mustMint(scopes("read"))
		})
	}
}

func TestARefreshTokenFromAnErrorIsNotTaken(t *testing.T) {
	for name, answer := range map[string]authserver.Fault{
		"an error":         authserver.Answer(400, "application/json", `{"error":"invalid_scope","refresh_token":"x"}`),
		"200 and an error": authserver.Answer(200, "application/json", `{"error":"invalid_scope","refresh_token":"x"}`),
		"unprintable":      authserver.Set("refresh_token", "a\x00b"),
		"our secret":       authserver.Set("refresh_token", testSecret),
		"empty":            authserver.Set("refresh_token", ""),
		"a number":         authserver.Set("refresh_token", 7),
	} {
		f := newFixture(t, authserver.Options{}, with{"grant": "refresh_token"})
		first := f.stored()
		f.server.Break(authserver.EndpointToken, answer)
		_, _ = f.mint(scopes("read"))
		require.Equal(t, first, f.stored(), name)
	}
}

// Hydra and others kill a refresh token together with an access token of its
// family. By default the end of a lease must not do that.
func TestTheEndOfALeaseDoesNotKillTheParent(t *testing.T) {
	options := authserver.Options{FamilyRevocation: true}
	f := newFixture(t, options, with{"grant": "refresh_token"})
	child := f.mustMint(scopes("read"))
	require.True(t, child.Handle.Empty())
	require.Equal(t, provider.ClassExpiry, f.Traits().Class)
	f.mustMint(scopes("read"))

	// An operator who says token gets what the server does.
	f = newFixture(t, options, with{"grant": "refresh_token", "revocation": "token"})
	child = f.mustMint(scopes("read"))
	require.NoError(t, f.Revoke(context.Background(), child.Handle))
	require.False(t, f.server.Active(f.stored()))
}

func TestARefreshTokenIsNeverSentToBeRevoked(t *testing.T) {
	f := rotating(t, with{"revocation": "token"})
	for range 3 {
		child := f.mustMint(scopes("read"))
		require.NoError(t, f.Revoke(context.Background(), child.Handle))
	}
	revocations := 0
	for _, r := range f.server.Requests() {
		if r.Path == string(authserver.EndpointRevoke) {
			revocations++
			kind, _ := f.server.Lookup(r.Form().Get("token"))
			require.False(t, kind.Refresh)
			require.Equal(t, "access_token", r.Form().Get("token_type_hint"))
		}
	}
	require.Equal(t, 3, revocations)
	require.True(t, f.server.Active(f.stored()))

	forged := handle{Version: handleVersion, URL: f.at.Revocation, Tokens: []doomed{{Token: f.stored(), Hint: hintRefresh}}}
	require.Error(t, f.Revoke(context.Background(), forged.encode()))
	require.True(t, f.server.Active(f.stored()))
}

// noConsent refuses the scope write, as a server does to which nobody has consented to
// it, with the code that it has for a dead refresh token.
func noConsent() authserver.Fault {
	return authserver.If(func(form url.Values) bool { return strings.Contains(form.Get("scope"), "write") },
		authserver.Answer(400, "application/json", `{"error":"invalid_grant"}`))
}

func TestARefusedScopeIsNotTheParents(t *testing.T) {
	f := rotating(t, with{"revocation": "token"})
	f.server.Break(authserver.EndpointToken, noConsent())
	child, err := f.mint(scopes("write"))
	requireCode(t, err, fault.InvalidRequest, "although it takes the parent")
	require.NotNil(t, child, "the parent was proven by a use, whose token must be killed")
	require.False(t, child.ExpiresAt.IsZero())
	require.NoError(t, f.Revoke(context.Background(), child.Handle))
	require.Empty(t, f.server.Live())
	require.Empty(t, f.store.Parent().Refused)
	require.True(t, f.server.Active(f.stored()), "the next refresh token is stored")

	asked := f.requests(authserver.EndpointToken)
	_, err = f.mint(scopes("write"))
	requireCode(t, err, fault.InvalidRequest, "although it takes the parent")
	require.Equal(t, asked, f.requests(authserver.EndpointToken), "remembered")
	f.mustMint(scopes("read"))
}

func TestARefusalOfWhatWasAskedForIsForgotten(t *testing.T) {
	for name, do := range map[string]func(f *fixture){
		"in time":    func(f *fixture) { f.later(refusedFor) },
		"by a check": func(f *fixture) { _, err := f.Check(context.Background()); require.NoError(t, err) },
	} {
		t.Run(name, func(t *testing.T) {
			f := rotating(t, nil)
			f.server.Break(authserver.EndpointToken, noConsent())
			_, err := f.mint(scopes("write"))
			requireCode(t, err, fault.InvalidRequest)
			f.server.Break(authserver.EndpointToken, nil)
			_, err = f.mint(scopes("write"))
			requireCode(t, err, fault.InvalidRequest)
			do(f)
			f.mustMint(scopes("write"))
		})
	}
}

func TestWhereNobodyKnowsWhetherItIsTheParentItStays(t *testing.T) {
	for name, then := range map[string]authserver.Fault{
		"it fails":  authserver.Answer(500, "text/plain", ""),
		"no answer": authserver.Silent(),
		"busy":      authserver.Busy(time.Second),
	} {
		t.Run(name, func(t *testing.T) {
			f := rotating(t, nil)
			refuse := authserver.Answer(400, "application/json", `{"error":"invalid_grant"}`)
			f.server.Break(authserver.EndpointToken, authserver.Choose(sequence(refuse, then)))
			_, err := f.mint(scopes("read"))
			requireCode(t, err, fault.TemporarilyUnavailable, "could not be found out")
			require.Empty(t, f.store.Parent().Refused)
			f.server.Break(authserver.EndpointToken, nil)
			f.mustMint(scopes("write"))
			asked := f.requests(authserver.EndpointToken)
			_, err = f.mint(scopes("read"))
			requireCode(t, err, fault.TemporarilyUnavailable, "could not be found out")
			require.Equal(t, asked, f.requests(authserver.EndpointToken))
			f.later(refusedFor)
			f.mustMint(scopes("read"))
		})
	}
}

// later lets time pass.
func (f *fixture) later(d time.Duration) {
	now := f.deps.Now
	f.deps.Now = func() time.Time { return now().Add(d) }
}

// sequence picks one fault after the other.
func sequence(faults ...authserver.Fault) func() authserver.Fault {
	var at atomic.Int64
	return func() authserver.Fault { return faults[min(int(at.Add(1)), len(faults))-1] }
}
