package httpapi

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/providertest"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// parentOf is rigDefinition with another parent.
func parentOf(parent string) string {
	return strings.Replace(rigDefinition, `{"headers": {"Authorization": "Bearer {{token}}"}}`, parent, 1)
}

const loginParent = `{"login": {"method": "POST", "path": "login", "json": {"user": "{{username}}", "password": "{{password}}"}, "take": {"session": "/token", "lasts": "/seconds"}, "expires": {"from": "lasts", "as": "seconds"}},
	"headers": {"Authorization": "Bearer {{login.session}}"}}`

// loginWorld is a rig that knows sessions.
type loginWorld struct {
	*world
	logins int
	valid  string
}

const loginPassword = "correct-horse-battery"

func newLoginWorld(t *testing.T) *loginWorld {
	t.Helper()
	l := &loginWorld{world: &world{rig: newRig(t), now: time.Date(2026, 11, 28, 10, 30, 0, 0, time.UTC)}}
	l.instead["POST login"] = func(w http.ResponseWriter, _ *http.Request, body string) {
		l.mu.Lock()
		defer l.mu.Unlock()
		if !strings.Contains(body, loginPassword) {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		l.logins++
		l.valid = fmt.Sprintf("session-%d-0123456789abcdef", l.logins)
		_ = json.NewEncoder(w).Encode(map[string]any{"token": l.valid, "seconds": 600})
	}
	l.guard = func(r *http.Request) bool {
		return r.URL.Path == "/login" || l.valid != "" && r.Header.Get("Authorization") == "Bearer "+l.valid
	}
	setup := l.setup(parentOf(loginParent), map[string]any{"username": "broker"}, map[string]string{"password": loginPassword})
	setup.Now = func() time.Time { return l.now }
	l.Provider, l.store = setup.Open(t)
	return l
}

func TestALoginServesUntilItEnds(t *testing.T) {
	l := newLoginWorld(t)
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			_, err := l.Mint(t.Context(), rigRequest())
			require.NoError(t, err)
		})
	}
	all.Wait()
	require.Equal(t, 1, l.logins, "one login for all who come together")
	l.now = l.now.Add(8 * time.Minute)
	_, err := l.Mint(t.Context(), rigRequest())
	require.NoError(t, err)
	require.Equal(t, 1, l.logins)
	l.now = l.now.Add(2 * time.Minute)
	_, err = l.Mint(t.Context(), rigRequest())
	require.NoError(t, err)
	require.Equal(t, 2, l.logins, "another one before it ends")
}

// Who began a login for all and hangs up takes it from nobody.
func TestWhoHangsUpEndsNobodysLogin(t *testing.T) {
	l := newLoginWorld(t)
	began, goOn := make(chan struct{}), make(chan struct{})
	answer := l.instead["POST login"]
	l.instead["POST login"] = func(w http.ResponseWriter, r *http.Request, body string) {
		close(began)
		<-goOn
		answer(w, r, body)
	}
	ctx, hangUp := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := l.Provider.(provider.Checker).Check(ctx)
		ended <- err
	}()
	<-began
	hangUp()
	require.Equal(t, fault.TemporarilyUnavailable, fault.CodeOf(<-ended))
	go func() {
		_, err := l.Mint(t.Context(), rigRequest())
		ended <- err
	}()
	close(goOn)
	require.NoError(t, <-ended)
	require.Equal(t, 1, l.logins, "closing began twice would panic as well")
}

func TestASessionThatIsRefusedIsReplacedOnce(t *testing.T) {
	l := newLoginWorld(t)
	_, err := l.Mint(t.Context(), rigRequest())
	require.NoError(t, err)
	l.with(func() { l.valid = "" }) // it was ended at the system
	child, err := l.Mint(t.Context(), rigRequest())
	require.NoError(t, err)
	require.Equal(t, 2, l.logins)
	require.Equal(t, 2, l.minted())
	l.with(func() { l.valid = "" })
	require.NoError(t, l.Provider.(provider.Revoker).Revoke(t.Context(), child.Handle))
	require.Equal(t, 3, l.logins)

	// A system that takes no session at all is asked twice, and no more.
	l.with(func() { l.guard = func(r *http.Request) bool { return r.URL.Path == "/login" } })
	before := len(l.requests())
	_, err = l.Mint(t.Context(), rigRequest())
	require.Equal(t, fault.ParentRefused, fault.CodeOf(err))
	require.Len(t, l.requests()[before:], 3)
}

func TestALoginThatFailsMintsNothing(t *testing.T) {
	for name, c := range map[string]struct {
		answer func(w http.ResponseWriter, r *http.Request, body string)
		code   fault.Code
	}{
		"refused": {func(w http.ResponseWriter, _ *http.Request, _ string) { w.WriteHeader(http.StatusUnauthorized) }, fault.ParentRefused},
		"failed":  {func(w http.ResponseWriter, _ *http.Request, _ string) { w.WriteHeader(http.StatusInternalServerError) }, fault.TemporarilyUnavailable},
		"lost":    {func(http.ResponseWriter, *http.Request, string) { panic(http.ErrAbortHandler) }, fault.TemporarilyUnavailable},
		"nothing": {func(w http.ResponseWriter, _ *http.Request, _ string) { _, _ = w.Write([]byte("{}")) }, fault.TemporarilyUnavailable},
		"echo":    {func(w http.ResponseWriter, _ *http.Request, body string) { http.Error(w, body, http.StatusBadRequest) }, fault.TemporarilyUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLoginWorld(t)
			l.with(func() { l.instead["POST login"] = c.answer })
			child, err := l.Mint(t.Context(), rigRequest())
			require.Nil(t, child)
			require.Equal(t, c.code, fault.CodeOf(err), "%v", err)
			require.NotErrorIs(t, err, provider.ErrAnswerLost, "what is lost is a session")
			require.NotContains(t, err.Error(), loginPassword)
		})
	}
}

func TestTheSuiteWithALogin(t *testing.T) {
	providertest.Run(t, func(t *testing.T) providertest.Subject {
		l := newLoginWorld(t)
		return l.subject()
	})
}

const jwtParent = `{"jwt": {"audience": "https://{{settings.tenant}}.example", "subject": "broker", "life": "2m"}, "headers": {"Authorization": "Bearer {{jwt}}"}}`

// signer is the broker as an issuer, whose JWTs are one that the rig takes.
func signer() *providertest.Signer {
	return &providertest.Signer{URL: "https://broker.test", Token: rigToken}
}

func TestWithoutAParentTheBrokerSigns(t *testing.T) {
	w := &world{rig: newRig(t), now: time.Now()}
	issuer := signer()
	setup := w.setup(parentOf(jwtParent), nil, nil)
	setup.Now, setup.Signer = func() time.Time { return w.now }, issuer
	w.Provider, w.store = setup.Open(t)
	_, err := w.Mint(t.Context(), rigRequest())
	require.NoError(t, err)
	signed := issuer.Signed()
	require.Len(t, signed, 2, "one for each request")
	require.Equal(t, provider.PurposeAssertion, signed[0].Purpose)
	require.Equal(t, "https://acme.example", signed[0].Claims["aud"])
	require.Equal(t, "broker", signed[0].Claims["sub"])
	require.Equal(t, w.now.Add(2*time.Minute).Unix(), signed[0].Claims["exp"])
	require.NotEqual(t, signed[0].Claims["jti"], signed[1].Claims["jti"])

	raw, err := json.Marshal(setup.Fields)
	require.NoError(t, err)
	reserved := Type{}.ReservedAudiences(provider.Config{Fields: raw})
	require.Equal(t, provider.Reserved{Endpoints: []string{w.URL}, Names: []string{"https://acme.example"}}, reserved, "nobody else gets such a JWT")
}

// lending lends one token after the other.
type lending struct {
	given   int
	refused []secret.Text
}

func (l *lending) lend(_ context.Context, refused secret.Text) (secret.Text, error) {
	if !refused.Empty() {
		l.refused = append(l.refused, refused)
		l.given++
	}
	return secret.New(fmt.Sprintf("borrowed-%d-0123456789abcdef", l.given)), nil
}

func TestABorrowedTokenThatIsRefusedIsReplacedOnce(t *testing.T) {
	w := &world{rig: newRig(t), now: time.Now()}
	w.guard = func(r *http.Request) bool {
		return r.Header.Get("Authorization") == "Bearer borrowed-1-0123456789abcdef"
	}
	l := &lending{}
	setup := w.setup(parentOf(`{"headers": {"Authorization": "Bearer {{borrowed}}"}}`), map[string]any{"token_provider": "oauth2/idp"}, nil)
	setup.Borrowed = l.lend
	w.Provider, w.store = setup.Open(t)
	child, err := w.Mint(t.Context(), rigRequest())
	require.NoError(t, err)
	require.Len(t, l.refused, 1)
	require.Equal(t, "borrowed-0-0123456789abcdef", l.refused[0].Reveal())
	require.True(t, w.alive(child.Token().Reveal()))
	w.with(func() { w.guard = func(*http.Request) bool { return false } })
	_, err = w.Mint(t.Context(), rigRequest())
	require.Equal(t, fault.ParentRefused, fault.CodeOf(err))
	require.Len(t, l.refused, 2, "one more, and no other")
}

func TestWhatADefinitionNeedsIsWritten(t *testing.T) {
	r := newRig(t)
	for name, c := range map[string]struct {
		parent  string
		fields  map[string]any
		secrets map[string]string
		says    string
	}{
		"no token":                {`{"headers": {"Authorization": "Bearer {{token}}"}}`, nil, nil, "token: the definition needs it"},
		"a token for nothing":     {jwtParent, nil, map[string]string{"token": rigToken}, "token: the definition has no use for it"},
		"no password":             {`{"headers": {"Authorization": "Basic {{basic}}"}}`, map[string]any{"username": "a"}, nil, "password: the definition needs it"},
		"no username":             {`{"headers": {"Authorization": "Basic {{basic}}"}}`, nil, map[string]string{"password": "a"}, "username: the definition needs it"},
		"a colon in the name":     {`{"headers": {"Authorization": "Basic {{basic}}"}}`, map[string]any{"username": "a:b"}, map[string]string{"password": "a"}, "without a colon"},
		"one of two secrets":      {`{"headers": {"A-Key": "{{secrets.a}}", "B-Key": "{{secrets.b}}"}}`, nil, map[string]string{"secrets": `{"a":"x"}`}, "the definition needs b"},
		"a secret more":           {`{"headers": {"A-Key": "{{secrets.a}}"}}`, nil, map[string]string{"secrets": `{"a":"x","b":"y"}`}, `no use for "b"`},
		"nobody to borrow of":     {`{"headers": {"Authorization": "Bearer {{borrowed}}"}}`, nil, nil, "token_provider: the definition needs it"},
		"borrowed for nothing":    {jwtParent, map[string]any{"token_provider": "oauth2/idp"}, nil, "token_provider: the definition has no use"},
		"an unknown setting":      {jwtParent, map[string]any{"settings": map[string]string{"tenat": "x"}}, nil, "it knows tenant"},
		"a secret with a newline": {`{"headers": {"Authorization": "Bearer {{token}}"}}`, nil, map[string]string{"token": "a\nb"}, "token: must be printable"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := r.setup(parentOf(c.parent), c.fields, c.secrets).Configure(t.Context())
			require.Equal(t, fault.InvalidRequest, fault.CodeOf(err))
			require.ErrorContains(t, err, c.says)
		})
	}
}

// Whatever a system puts into its answer, no credential of the broker's is handed out: not
// the stored one, nor a session, a JWT or a borrowed token.
func TestNoCredentialComesBack(t *testing.T) {
	l := newLoginWorld(t)
	_, err := l.Mint(t.Context(), rigRequest())
	require.NoError(t, err)
	for name, echo := range map[string]func() string{
		"the session":               func() string { return l.valid },
		"the session in Base64":     func() string { return base64.StdEncoding.EncodeToString([]byte("x:" + l.valid)) },
		"the password":              func() string { return "x" + loginPassword },
		"the password, URL-encoded": func() string { return strings.ReplaceAll("x"+loginPassword, "-", "%2D") },
	} {
		t.Run(name, func(t *testing.T) {
			l.with(func() {
				l.instead["POST keys"] = func(w http.ResponseWriter, _ *http.Request, _ string) {
					_ = json.NewEncoder(w).Encode(map[string]any{"key": echo(), "scopes": []string{"read"}, "seconds": 600})
				}
			})
			child, err := l.Mint(t.Context(), rigRequest())
			require.Equal(t, fault.ProviderViolation, fault.CodeOf(err), "%v", err)
			require.NotNil(t, child)
			require.NoError(t, l.Provider.(provider.Revoker).Revoke(t.Context(), child.Handle))
			require.NotContains(t, err.Error(), echo())
		})
	}
	// Nor is it what an undo names.
	l.with(func() {
		l.instead["POST accounts"] = func(w http.ResponseWriter, _ *http.Request, _ string) {
			w.WriteHeader(http.StatusCreated)
			_ = json.NewEncoder(w).Encode(map[string]any{"id": l.valid})
		}
		delete(l.instead, "POST keys")
	})
	child, err := l.Mint(t.Context(), rigRequest())
	require.Equal(t, fault.ProviderViolation, fault.CodeOf(err))
	require.True(t, child == nil || child.Handle.Empty())
}

func TestALenderThatFailsIsNotTheSystem(t *testing.T) {
	r := newRig(t)
	setup := r.setup(parentOf(`{"headers": {"Authorization": "Bearer {{borrowed}}"}}`), map[string]any{"token_provider": "oauth2/idp"}, nil)
	setup.Borrowed = func(context.Context, secret.Text) (secret.Text, error) {
		return secret.Text{}, fault.New(fault.TemporarilyUnavailable, "there is none").Because(errors.New("down"))
	}
	p, _ := setup.Open(t)
	_, err := p.Mint(t.Context(), rigRequest())
	require.ErrorContains(t, err, "there is none")
	require.Empty(t, r.requests())
}
