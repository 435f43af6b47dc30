package subject

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jws"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// noon is when every test takes place.
var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const audience = "https://vault.example.com"

// algorithms are all that can be allowed; a fake issuer's kid is the algorithm.
var algorithms = []jwa.SignatureAlgorithm{
	jwa.ES256, jwa.ES384, jwa.ES512, jwa.RS256, jwa.RS384, jwa.RS512, jwa.PS256, jwa.PS384, jwa.PS512, jwa.EdDSA,
}

func algorithmNames() []string {
	var names []string
	for _, a := range algorithms {
		names = append(names, a.String())
	}
	return names
}

// newKeys makes one key for each algorithm; the RSA ones share one, for speed.
func newKeys() map[jwa.SignatureAlgorithm]crypto.Signer {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	must(err)
	keys := map[jwa.SignatureAlgorithm]crypto.Signer{}
	for _, a := range algorithms[3:9] {
		keys[a] = rsaKey
	}
	for a, curve := range map[jwa.SignatureAlgorithm]elliptic.Curve{
		jwa.ES256: elliptic.P256(), jwa.ES384: elliptic.P384(), jwa.ES512: elliptic.P521(),
	} {
		keys[a], err = ecdsa.GenerateKey(curve, rand.Reader)
		must(err)
	}
	_, keys[jwa.EdDSA], err = generateEd25519()
	must(err)
	return keys
}

func generateEd25519() (ed25519.PublicKey, crypto.Signer, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	return public, private, err
}

// The keys of the issuer that tests trust, and those of one they do not.
var (
	goodKeys = sync.OnceValue(newKeys)
	evilKeys = sync.OnceValue(newKeys)
)

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// fakeIssuer is a token issuer: discovery, keys, and a signer.
type fakeIssuer struct {
	*httptest.Server
	keys map[jwa.SignatureAlgorithm]crypto.Signer
	// discovery changes the discovery document before it is served.
	discovery func(map[string]any)
	// status, if not 0, is what the key set is answered with.
	status  atomic.Int32
	fetches atomic.Int32
}

func newFakeIssuer(t testing.TB, keys map[jwa.SignatureAlgorithm]crypto.Signer) *fakeIssuer {
	f := &fakeIssuer{keys: keys}
	mux := http.NewServeMux()
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		document := map[string]any{"issuer": f.URL, "jwks_uri": f.URL + "/keys"}
		if f.discovery != nil {
			f.discovery(document)
		}
		_ = json.NewEncoder(w).Encode(document)
	})
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) {
		f.fetches.Add(1)
		if s := f.status.Load(); s != 0 {
			w.WriteHeader(int(s))
			return
		}
		_, _ = w.Write(keySetJSON(f.keys))
	})
	f.Server = httptest.NewServer(mux)
	t.Cleanup(f.Close)
	return f
}

func keySetJSON(keys map[jwa.SignatureAlgorithm]crypto.Signer) []byte {
	set := jwk.NewSet()
	for alg, k := range keys {
		key, err := jwk.FromRaw(k.Public())
		must(err)
		must(key.Set(jwk.KeyIDKey, alg.String()))
		must(key.Set(jwk.AlgorithmKey, alg))
		must(key.Set(jwk.KeyUsageKey, jwk.ForSignature))
		must(set.AddKey(key))
	}
	raw, err := json.Marshal(set)
	must(err)
	return raw
}

// config trusts the issuer by discovery, with every algorithm.
func (f *fakeIssuer) config() IssuerConfig {
	return IssuerConfig{
		Name: "fake", OIDCDiscoveryURL: f.URL, BoundAudiences: []string{"other", audience},
		AllowedAlgorithms: algorithmNames(), ClockSkew: DefaultClockSkew,
	}
}

// open opens the configuration as an operator's write and a later read would.
func open(t testing.TB, cfg IssuerConfig) *Issuer {
	t.Helper()
	client, err := cfg.Client()
	require.NoError(t, err)
	url, err := cfg.Discover(t.Context(), client)
	require.NoError(t, err)
	issuer, err := Open(cfg, url, client, func() time.Time { return noon })
	require.NoError(t, err)
	return issuer
}

// claims are those of a good token; changes are laid over them, and nil removes.
func (f *fakeIssuer) claims(changes map[string]any) map[string]any {
	return overlay(map[string]any{
		"iss": f.URL, "sub": "alice", "aud": audience, "jti": "id-1",
		"iat": noon.Unix() - 60, "nbf": noon.Unix() - 60, "exp": noon.Unix() + 600,
	}, changes)
}

func overlay(base, changes map[string]any) map[string]any {
	base = maps.Clone(base)
	for k, v := range changes {
		if v == nil {
			delete(base, k)
			continue
		}
		base[k] = v
	}
	return base
}

// sign makes a token with the key for alg; header as for claims.
func (f *fakeIssuer) sign(alg jwa.SignatureAlgorithm, header, claims map[string]any) secret.Text {
	h, err := json.Marshal(overlay(map[string]any{"alg": alg, "kid": alg, "typ": "JWT"}, header))
	must(err)
	c, err := json.Marshal(claims)
	must(err)
	return signRaw(alg, f.keys[alg], h, c)
}

// signRaw signs any two texts, so that tests can say what no encoder would.
func signRaw(alg jwa.SignatureAlgorithm, key any, header, payload []byte) secret.Text {
	signer, err := jws.NewSigner(alg)
	must(err)
	input := encode(header) + "." + encode(payload)
	signature, err := signer.Sign([]byte(input), key)
	must(err)
	return secret.New(input + "." + encode(signature))
}

func encode(raw []byte) string { return base64.RawURLEncoding.EncodeToString(raw) }
