package github

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/github/fake"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

const (
	saysSuspended    = "This installation has been suspended"
	saysSecondary    = "You have exceeded a secondary rate limit. Please wait a few minutes before you try again."
	saysPermissions  = "The permissions requested are not granted to this installation."
	saysRepositories = "There is at least one repository that does not exist or is not accessible to the parent installation."
	saysAllowList    = "Although you appear to have the correct authorization credentials, the `acme` organization has an IP allow list enabled, and 192.0.2.1 is not permitted to access this resource."
)

// GitHub refuses in many ways, some of which have one status. Each becomes the code that
// says who must act, and advice.
func TestWhatGitHubRefusesBecomesTheRightCode(t *testing.T) {
	at := func(w *world, in time.Duration) string { return fmt.Sprint(w.now.Add(in).Unix()) }
	for name, c := range map[string]struct {
		answer func(w *world) fake.Fault
		code   fault.Code
		word   string
		wait   time.Duration
		lost   bool
	}{
		"suspended":           {func(*world) fake.Fault { return fake.Say(403, saysSuspended) }, fault.ParentRefused, "unsuspend it", 0, false},
		"allow list":          {func(*world) fake.Fault { return fake.Say(403, saysAllowList) }, fault.ParentRefused, "IP allow list", 0, false},
		"forbidden":           {func(*world) fake.Fault { return fake.Say(403, "Resource not accessible by integration") }, fault.ParentRefused, "policies for Apps", 0, false},
		"secondary 403":       {func(*world) fake.Fault { return fake.Say(403, saysSecondary) }, fault.TemporarilyUnavailable, "rate limit", time.Minute, false},
		"secondary 403 named": {func(*world) fake.Fault { return fake.Say(403, saysSecondary, "Retry-After", "17") }, fault.TemporarilyUnavailable, "rate limit", 17 * time.Second, false},
		"secondary 429":       {func(*world) fake.Fault { return fake.Say(429, "Too many requests") }, fault.TemporarilyUnavailable, "rate limit", time.Minute, false},
		"secondary 429 named": {func(*world) fake.Fault { return fake.Say(429, saysSecondary, "Retry-After", "90") }, fault.TemporarilyUnavailable, "rate limit", 90 * time.Second, false},
		"primary 403": {func(w *world) fake.Fault {
			return fake.Say(403, "API rate limit exceeded for installation ID 1.", "X-RateLimit-Remaining", "0", "X-RateLimit-Reset", at(w, 200*time.Second))
		}, fault.TemporarilyUnavailable, "rate limit", 200 * time.Second, false},
		"primary 429": {func(*world) fake.Fault {
			return fake.Say(429, "x", "X-RateLimit-Remaining", "0", "X-RateLimit-Reset", "soon")
		}, fault.TemporarilyUnavailable, "rate limit", time.Minute, false},
		"permissions":  {func(*world) fake.Fault { return fake.Say(422, saysPermissions) }, fault.InvalidScope, "added to the App", 0, false},
		"repositories": {func(*world) fake.Fault { return fake.Say(422, saysRepositories) }, fault.InvalidTarget, "renamed, transferred or deleted", 0, false},
		"another 422":  {func(*world) fake.Fault { return fake.Say(422, "Validation Failed") }, fault.InvalidRequest, "other resources", 0, false},
		"unknown App":  {func(*world) fake.Fault { return fake.Say(401, "A JSON web token could not be decoded") }, fault.ParentRefused, "private_key", 0, false},
		"failed":       {func(*world) fake.Fault { return fake.Say(502, "Server Error") }, fault.TemporarilyUnavailable, "failed", 0, true},
		"moved": {func(*world) fake.Fault {
			return fake.Say(301, "Moved Permanently", "Location", "https://api.example/x")
		}, fault.ProviderViolation, "redirect", 0, false},
		"no 201":          {func(*world) fake.Fault { return fake.Answer(200, `{"id":1}`) }, fault.ProviderViolation, "HTTP 200", 0, true},
		"nothing arrives": {func(*world) fake.Fault { return fake.HangUp }, fault.TemporarilyUnavailable, "did not arrive", 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.mint(t, asking(t, "acme/api"))
			w.github.Before(fake.Mint, c.answer(w))
			before := w.github.Count(fake.Mint)
			err := w.refused(t, c.code, asking(t, "acme/api"), c.word)
			require.Equal(t, before+1, w.github.Count(fake.Mint), "asked for once")
			require.Equal(t, c.lost, errors.Is(err, provider.ErrAnswerLost))
			var later provider.RetryLater
			if require.Equal(t, c.wait > 0, errors.As(err, &later)); c.wait > 0 {
				require.Equal(t, c.wait, later.RetryAfter())
			}
		})
	}
}

// Where roles name installations, one that is suspended is no word of the App.
func TestASuspendedInstallationIsNotTheApp(t *testing.T) {
	w := newWorld(t, func(_ *world, f map[string]any) { delete(f, "organization") })
	w.github.Change(func() { w.in.Suspended = true })
	r := asking(t, "acme/api")
	r.Parameters = map[string]string{"organization": "acme"}
	w.refused(t, fault.AccessDenied, r, "organization=acme is suspended")
	w.github.Change(func() { w.in.Suspended = false })
	child := w.mint(t, r)
	w.github.Change(func() { w.in.Suspended = true })
	w.refused(t, fault.AccessDenied, r, "is suspended")

	require.ErrorContains(t, w.Revoke(t.Context(), child.Handle), "suspended")
	w.github.Change(func() { w.in.Suspended = false })
	require.True(t, w.alive(child), "it would have come back")
	require.NoError(t, w.Revoke(t.Context(), child.Handle))
	require.False(t, w.alive(child))
}

// The answer is the proof. Whatever of it is more than was asked for, or not there, is
// seen, and the token is there to be killed.
func TestTheAnswerIsTheProof(t *testing.T) {
	const (
		good  = `"permissions":{"contents":"read","metadata":"read"},"repository_selection":"selected","repositories":[{"id":5,"full_name":"acme/api"}]`
		start = `{"token":"ghs_12345678","expires_at":"2099-01-01T00:00:00Z",`
	)
	for name, c := range map[string]struct {
		body  string
		code  fault.Code // "" where the decision is to refuse it
		token bool
	}{
		"all repositories":        {start + `"permissions":{"contents":"read"},"repository_selection":"all","repositories":[{"id":5,"full_name":"acme/api"}]}`, fault.ProviderViolation, true},
		"no selection":            {start + `"permissions":{"contents":"read"},"repositories":[{"id":5,"full_name":"acme/api"}]}`, fault.ProviderViolation, true},
		"no repositories":         {start + `"permissions":{"contents":"read"},"repository_selection":"selected"}`, fault.ProviderViolation, true},
		"none of them":            {start + `"permissions":{"contents":"read"},"repository_selection":"selected","repositories":[]}`, fault.ProviderViolation, true},
		"no permissions":          {start + `"repository_selection":"selected","repositories":[{"id":5,"full_name":"acme/api"}]}`, fault.ProviderViolation, true},
		"null permissions":        {start + `"permissions":null,"repository_selection":"selected","repositories":[{"id":5,"full_name":"acme/api"}]}`, fault.ProviderViolation, true},
		"an unknown level":        {start + `"permissions":{"contents":"maintain"},"repository_selection":"selected","repositories":[{"id":5,"full_name":"acme/api"}]}`, fault.ProviderViolation, true},
		"permissions twice":       {start + `"permissions":{"contents":"write"},` + good + `}`, fault.ProviderViolation, true},
		"a permission twice":      {start + `"permissions":{"contents":"write","contents":"read"},"repository_selection":"selected","repositories":[{"id":5,"full_name":"acme/api"}]}`, fault.ProviderViolation, true},
		"a name twice":            {start + `"permissions":{"contents":"read"},"repository_selection":"selected","repositories":[{"id":5,"full_name":"evil/x","full_name":"acme/api"}]}`, fault.ProviderViolation, true},
		"another case of a name":  {start + `"Permissions":{"contents":"read"},"repository_selection":"selected","repositories":[{"id":5,"full_name":"acme/api"}]}`, fault.ProviderViolation, true},
		"no end":                  {`{"token":"ghs_12345678",` + good + `}`, fault.ProviderViolation, true},
		"broken off":              {start + `"permissions":{"con`, fault.ProviderViolation, true},
		"no token":                {`{"expires_at":"2099-01-01T00:00:00Z",` + good + `}`, fault.ProviderViolation, false},
		"not even JSON":           {`ok`, fault.ProviderViolation, false},
		"more permissions":        {start + `"permissions":{"contents":"write"},"repository_selection":"selected","repositories":[{"id":5,"full_name":"acme/api"}]}`, "", true},
		"other permissions":       {start + `"permissions":{"contents":"read","issues":"read"},"repository_selection":"selected","repositories":[{"id":5,"full_name":"acme/api"}]}`, "", true},
		"metadata, but to write":  {start + `"permissions":{"contents":"read","metadata":"write"},"repository_selection":"selected","repositories":[{"id":5,"full_name":"acme/api"}]}`, "", true},
		"more repositories":       {start + `"permissions":{"contents":"read"},"repository_selection":"selected","repositories":[{"id":5,"full_name":"acme/api"},{"id":6,"full_name":"acme/web"}]}`, "", true},
		"another's of that name":  {start + `"permissions":{"contents":"read"},"repository_selection":"selected","repositories":[{"id":5,"full_name":"evil/api"}]}`, "", true},
		"less, which is no more":  {start + `"permissions":{},"repository_selection":"selected","repositories":[{"id":5,"full_name":"acme/api"}]}`, "less", true},
		"a long token, as of now": {`{"token":"ghs_123456_` + strings.Repeat("eyJ0.", 100) + `","expires_at":"2099-01-01T00:00:00Z",` + good + `}`, "fits", true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.github.After(fake.Mint, fake.Answer(201, c.body))
			r := asking(t, "acme/api")
			child, err := w.Mint(t.Context(), r)
			require.Equal(t, c.token, child != nil, "%v", err)
			if child != nil {
				require.False(t, child.Handle.Empty())
				require.True(t, strings.HasPrefix(child.Token().Reveal(), "ghs_12345"))
			}
			switch c.code {
			case "":
				require.NoError(t, err)
				require.False(t, child.Granted.Within(r.Access))
			case "less", "fits":
				require.NoError(t, err)
				require.True(t, child.Granted.Within(r.Access))
				require.Equal(t, c.code == "fits", child.Granted.Equal(r.Access))
			default:
				require.Equal(t, c.code, fault.CodeOf(err), "%v", err)
				require.Equal(t, !c.token, errors.Is(err, provider.ErrAnswerLost))
			}
		})
	}
}

// An answer that breaks off behind the token has shown it.
func TestATokenInABrokenAnswerIsSeen(t *testing.T) {
	w := newWorld(t)
	w.github.After(fake.Mint, func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Length", "5000")
		rw.WriteHeader(http.StatusCreated)
		_, _ = rw.Write([]byte(`{"token":"ghs_12345678","expires_at":"20`))
	})
	child, err := w.Mint(t.Context(), asking(t, "acme/api"))
	require.Equal(t, fault.TemporarilyUnavailable, fault.CodeOf(err))
	require.NotNil(t, child)
	require.Equal(t, "ghs_12345678", child.Token().Reveal())
	require.NotErrorIs(t, err, provider.ErrAnswerLost)
}

// The App's own JWT is no child, whoever says so.
// Nor is one left that comes with another status than GitHub's.
func TestATokenWithAnotherStatusIsSeen(t *testing.T) {
	w := newWorld(t)
	w.github.Before(fake.Mint, fake.Answer(http.StatusOK, `{"token":"ghs_12345678","expires_at":"2099-01-01T00:00:00Z"}`))
	child, err := w.Mint(t.Context(), asking(t, "acme/api"))
	require.Equal(t, fault.ProviderViolation, fault.CodeOf(err), "%v", err)
	require.NotErrorIs(t, err, provider.ErrAnswerLost)
	require.Equal(t, "ghs_12345678", child.Token().Reveal())
}

func TestTheAppsJWTIsNoChild(t *testing.T) {
	w := newWorld(t)
	w.github.After(fake.Mint, func(rw http.ResponseWriter, r *http.Request) {
		fake.Answer(201, `{"token":"`+strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")+`","expires_at":"2099-01-01T00:00:00Z"}`)(rw, r)
	})
	w.refused(t, fault.ProviderViolation, asking(t, "acme/api"), "the App's own JWT")
}

func TestWhatARevocationMeans(t *testing.T) {
	w := newWorld(t)
	for name, c := range map[string]struct {
		answer fake.Fault
		dead   bool
	}{
		"it knows no such token": {fake.Say(401, "Bad credentials"), true},
		"another place":          {fake.Say(404, "Not Found"), false},
		"forbidden":              {fake.Say(403, "Forbidden"), false},
		"busy":                   {fake.Say(429, "x", "Retry-After", "30"), false},
		"failed":                 {fake.Say(500, "x"), false},
		"hung up":                {fake.HangUp, false},
		"moved":                  {fake.Say(302, "x"), false},
		"a success of another":   {fake.Answer(200, "<html>"), false},
	} {
		child := w.mint(t, asking(t, "acme/api"))
		w.github.Before(fake.Revoke, c.answer)
		err := w.Revoke(t.Context(), child.Handle)
		require.Equal(t, c.dead, err == nil, "%s: %v", name, err)
		if err != nil {
			require.Equal(t, fault.TemporarilyUnavailable, fault.CodeOf(err), name)
		}
	}
}

// Where the clocks differ the JWT is made by GitHub's.
func TestClocksThatDiffer(t *testing.T) {
	for _, ahead := range []time.Duration{-2 * time.Hour, -5 * time.Minute, -30 * time.Second, 30 * time.Second, 9 * time.Minute, 50 * time.Minute, 2 * time.Hour} {
		w := newWorld(t)
		w.github.SetAhead(ahead)
		if ahead.Abs() > time.Hour {
			w.refused(t, fault.TemporarilyUnavailable, asking(t, "acme/api"), "set the broker's clock")
			continue
		}
		child := w.mint(t, asking(t, "acme/api"))
		require.True(t, w.alive(child))
		before := len(w.github.Requests())
		w.mint(t, asking(t, "acme/api"))
		require.Len(t, w.github.Requests(), before+1, "it is known from now on: %s", ahead)
	}
}

// A refusal that has another reason than the clocks is not asked about twice.
func TestARefusalThatIsNotTheClocks(t *testing.T) {
	w := newWorld(t)
	w.github.Before(fake.LookUp, fake.Say(401, "A JSON web token could not be decoded"))
	w.refused(t, fault.ParentRefused, asking(t, "acme/api"), "one of the App's that client_id names")
	require.Equal(t, 1, w.github.Count(fake.LookUp))
}

// The token that reads the list is killed, or left to those who will, whatever becomes of
// the list.
func TestTheTokenThatReadsTheListIsNotLeft(t *testing.T) {
	for name, c := range map[string]struct {
		breaks func(*fake.GitHub)
		left   int
	}{
		"the list fails":         {func(g *fake.GitHub) { g.Before(fake.List, fake.Say(502, "x")) }, 0},
		"the list is nonsense":   {func(g *fake.GitHub) { g.Before(fake.List, fake.Answer(200, "{}")) }, 0},
		"it cannot be killed":    {func(g *fake.GitHub) { g.Before(fake.Revoke, fake.Say(502, "x")) }, 1},
		"its answer is nonsense": {func(g *fake.GitHub) { g.After(fake.MintReader, fake.Answer(201, `{"token":"ghs_12345678"`)) }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			c.breaks(w.github)
			_, err := w.Mint(t.Context(), asking(t, "acme/svc-*"))
			require.Equal(t, c.left == 0, err != nil)
			require.Eventually(t, func() bool { return w.github.Count(fake.Revoke) == 1 }, time.Minute, time.Millisecond)
			require.Len(t, w.store.Left(), c.left)
		})
	}
	w := newWorld(t)
	w.github.After(fake.MintReader, fake.HangUp)
	err := w.refused(t, fault.TemporarilyUnavailable, asking(t, "acme/svc-*"))
	require.ErrorIs(t, err, provider.ErrAnswerLost)
}

// A list that is on its way does not end with whoever has asked for it first.
func TestAListOutlivesItsFirstCaller(t *testing.T) {
	w := newWorld(t)
	begun, goOn := make(chan struct{}), make(chan struct{})
	w.github.Before(fake.List, func(rw http.ResponseWriter, r *http.Request) {
		close(begun)
		<-goOn
		fake.Answer(200, `{"total_count":1,"repositories":[{"id":5,"full_name":"acme/api"}]}`)(rw, r)
	})
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	failed := make(chan error, 1)
	go func() {
		_, err := w.Mint(ctx, asking(t, "acme/a*"))
		failed <- err
	}()
	<-begun
	leave()
	require.Equal(t, fault.TemporarilyUnavailable, fault.CodeOf(<-failed))
	close(goOn)
	require.Eventually(t, func() bool { return w.github.Count(fake.Revoke) == 1 }, time.Minute, time.Millisecond)
	require.Eventually(t, func() bool { _, known := w.lists.has(w.in.ID); return known }, time.Minute, time.Millisecond)
	require.Equal(t, 1, w.github.Count(fake.List))
}

func TestTheNextKey(t *testing.T) {
	w := newWorld(t)
	_, err := w.Rotate(t.Context())
	require.Equal(t, fault.InvalidRequest, fault.CodeOf(err))

	other := w.github.NewApp("another")
	w.setup.Secrets = map[string]string{"private_key": w.app.PrivateKey, "private_key_next": other.PrivateKey}
	w.open(t)
	_, err = w.Rotate(t.Context())
	require.Equal(t, fault.ParentRefused, fault.CodeOf(err))
	require.ErrorContains(t, err, "so private_key stays")

	next := w.github.NewKey(w.app)
	w.setup.Secrets = map[string]string{"private_key": w.app.PrivateKey, "private_key_next": next}
	w.open(t)
	w.mint(t, asking(t, "acme/api"))
	w.github.DeleteKey(w.app)
	w.mint(t, asking(t, "acme/api"))
	before := len(w.github.Requests())
	w.mint(t, asking(t, "acme/api"))
	require.Len(t, w.github.Requests(), before+1, "the key that works is tried first")
	checked, err := w.Check(t.Context())
	require.NoError(t, err)
	require.Contains(t, checked.Detail, "by private_key_next alone, and refuses private_key")
	health, err := w.Rotate(t.Context())
	require.NoError(t, err)
	require.Contains(t, health.Detail, "private_key_next, which is private_key now")
	require.Equal(t, map[string]secret.Text{"private_key": secret.New(next)}, w.store.Parent().Secrets)
	w.mint(t, asking(t, "acme/api"))
	_, err = w.Rotate(t.Context())
	require.ErrorContains(t, err, "there is nothing to rotate to")
}

func TestACheckNamesWhatThereIs(t *testing.T) {
	w := newWorld(t)
	health, err := w.Check(t.Context())
	require.NoError(t, err)
	require.Equal(t, `GitHub knows the App "the-broker" (`+w.app.ID+`), and its installation `+w.in.ID+` by organization=acme, which has 6 repositories of acme (selected ones)`, health.Detail)
	require.Contains(t, health.Grants, "permission:contents=write")
	require.Len(t, health.Children, 1)

	w.github.Change(func() { w.in.Suspended = true })
	_, err = w.Check(t.Context())
	require.Equal(t, fault.ParentRefused, fault.CodeOf(err))
	w.github.Before(fake.ReadApp, fake.Say(404, "Integration not found"))
	_, err = w.Check(t.Context())
	require.Equal(t, fault.ParentRefused, fault.CodeOf(err))
	require.ErrorContains(t, err, "/api/v3")

	open := newWorld(t, func(_ *world, f map[string]any) { delete(f, "organization") })
	health, err = open.Check(t.Context())
	require.NoError(t, err)
	require.Contains(t, health.Detail, "roles say which installation")
}
