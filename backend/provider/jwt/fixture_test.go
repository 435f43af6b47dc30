package jwt

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jws"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault/faulttest"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

const (
	ownIssuer = "https://vault.test/v1/broker"
	entity    = "11111111-aaaa-4aaa-8aaa-111111111111"
	grantID   = entity + ".00112233445566778899aabbccddeeff"
)

// began is a moment between two seconds.
var began = time.Date(2026, 3, 4, 5, 6, 7, 890_000_000, time.UTC)

// fakeSigner is the broker's issuer: one key, and switches for its faults.
type fakeSigner struct {
	key     *ecdsa.PrivateKey
	longest time.Duration

	mu       sync.Mutex
	refusal  error
	stalls   bool
	broken   bool // signs with another key
	issuer   string
	purposes []provider.Purpose
	signed   int // tokens that live longer than a check's
}

func newSigner(t testing.TB) *fakeSigner {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	return &fakeSigner{key: key, longest: 24 * time.Hour, issuer: ownIssuer}
}

func (f *fakeSigner) Issuer(context.Context) (string, time.Duration, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.issuer, f.longest, f.refusal
}

func (f *fakeSigner) Sign(ctx context.Context, purpose provider.Purpose, claims map[string]any) (secret.Text, error) {
	f.mu.Lock()
	f.purposes = append(f.purposes, purpose)
	stalls, broken := f.stalls, f.broken
	if exp, _ := claims["exp"].(int64); exp-began.Unix() > 1 {
		f.signed++
	}
	f.mu.Unlock()
	if stalls {
		<-ctx.Done()
		return secret.Text{}, fault.New(fault.TemporarilyUnavailable, "the signer did not answer").Because(provider.ErrAnswerLost)
	}
	all := maps.Clone(claims)
	all["iss"] = ownIssuer
	payload, err := json.Marshal(all)
	if err != nil {
		return secret.Text{}, err
	}
	headers := jws.NewHeaders()
	_ = headers.Set("typ", "at+jwt")
	key := f.key
	if broken {
		key, _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	token, err := jws.Sign(payload, jws.WithKey(jwa.ES256, key, jws.WithProtectedHeaders(headers)))
	return secret.New(string(token)), err
}

func (f *fakeSigner) Verify(_ context.Context, token secret.Text) (map[string]any, error) {
	payload, err := jws.Verify([]byte(token.Reveal()), jws.WithKey(jwa.ES256, f.key.Public()))
	if err != nil {
		return nil, fault.New(fault.InvalidGrant, "not a token of the broker's").Because(err)
	}
	claims := map[string]any{}
	return claims, json.Unmarshal(payload, &claims)
}

type fixture struct {
	*Provider
	signer *fakeSigner
	now    time.Time
}

// open configures and opens a provider as the broker does.
func open(t testing.TB, fields map[string]any) (*fixture, error) {
	t.Helper()
	f := &fixture{signer: newSigner(t), now: began}
	raw, err := json.Marshal(fields)
	require.NoError(t, err)
	pinned, err := Type{}.Configure(context.Background(), provider.Change{Config: provider.Config{Name: "p", Fields: raw}})
	if err != nil {
		return nil, err
	}
	client, err := httpclient.New(httpclient.Options{Timeout: 5 * time.Second})
	require.NoError(t, err)
	opened, err := Type{}.Open(provider.Config{Name: "p", Fields: raw, Pinned: *pinned}, provider.Parent{}, provider.Deps{
		Logger: hclog.NewNullLogger(), Now: func() time.Time { return f.now }, Signer: f.signer, Client: client,
	})
	require.NoError(t, err)
	f.Provider = opened.(*Provider)
	return f, nil
}

func mustOpen(t testing.TB, fields map[string]any) *fixture {
	t.Helper()
	f, err := open(t, fields)
	require.NoError(t, err)
	return f
}

// request is one of alice's that every provider here grants.
func request() provider.Request {
	return provider.Request{
		Access: access.Access{
			Audiences: access.Exactly("https://api.test"), Scopes: access.Exactly("read", "write"), Resources: access.Exactly("https://api.test/v2"),
		},
		TTL: time.Hour, GrantID: grantID, Identity: alice(),
	}
}

func alice() provider.Identity {
	return provider.Identity{
		EntityID: entity, Name: "alice", Metadata: map[string]string{"team": "payments", "empty": ""},
		Groups:  []string{"ops", "deployers"},
		Aliases: []provider.Alias{{Name: "alice@corp.test", MountAccessor: "auth_oidc_1", Metadata: map[string]string{"dept": "42"}}},
	}
}

// payload are the claims of a token as a verifier reads them, and as they stand in it.
func (f *fixture) payload(t testing.TB, child *provider.Child) (map[string]any, []byte) {
	t.Helper()
	raw, err := jws.Verify([]byte(child.Token().Reveal()), jws.WithKey(jwa.ES256, f.signer.key.Public()))
	require.NoError(t, err)
	claims := map[string]any{}
	require.NoError(t, json.Unmarshal(raw, &claims))
	return claims, raw
}

// requireFault checks the code, and that the message says all of parts.
func requireFault(t testing.TB, err error, code fault.Code, parts ...string) {
	t.Helper()
	var refusal *fault.Error
	require.ErrorAs(t, err, &refusal)
	require.Equal(t, code, refusal.Code, "%v", err)
	for _, part := range parts {
		require.True(t, faulttest.Says(err.Error(), part), "%q does not say %q", err, part)
	}
}
