package harness

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestOIDCProviderDPoP(t *testing.T) {
	slow(t)
	bound := Credentials{ID: "bound", Secret: "bound-secret"}
	op := StartOIDCProvider(t, OIDCProviderOptions{
		Clients:   []OIDCClient{{ID: bound.ID, Secret: bound.Secret, DPoPBound: true}},
		Resources: oidcResources,
		DPoPNonce: true,
	})
	key, public := newKey(t)
	request := func(resource, proof string) (int, http.Header, map[string]any) {
		header := http.Header{}
		if proof != "" {
			header.Set("DPoP", proof)
		}
		return post(t, op.client, op.URL+"/token", header,
			authenticated(bound, "grant_type", "client_credentials", "scope", "read", "resource", resource))
	}
	prove := func(nonce string) string { return dpopProof(t, key, public, op.URL+"/token", nonce) }

	status, header, answer := request(opaqueAPI, prove(""))
	require.Equal(t, http.StatusBadRequest, status)
	require.Equal(t, "use_dpop_nonce", answer["error"])
	challenge := header.Get("DPoP-Nonce")
	require.NotEmpty(t, challenge)
	status, header, answer = request(opaqueAPI, prove("made-up"))
	require.Equal(t, http.StatusBadRequest, status)
	require.Equal(t, "use_dpop_nonce", answer["error"])
	require.NotEmpty(t, header.Get("DPoP-Nonce"))

	thumbprint := keyThumbprint(t, public)
	proof := prove(challenge)
	status, _, answer = request(opaqueAPI, proof)
	require.Equal(t, http.StatusOK, status, answer)
	require.Equal(t, "DPoP", answer["token_type"])
	found := op.Introspect(t, answer["access_token"].(string))
	require.True(t, found.Active)
	require.Equal(t, map[string]any{"jkt": thumbprint}, found.All["cnf"])
	require.Equal(t, "DPoP", found.All["token_type"])

	status, _, answer = request(opaqueAPI, proof)
	require.Equal(t, http.StatusBadRequest, status, "a proof is good once")
	require.Equal(t, "invalid_grant", answer["error"])
	status, _, answer = request(opaqueAPI, "")
	require.Equal(t, http.StatusBadRequest, status)
	require.Equal(t, "invalid_grant", answer["error"], "RFC 9449 5.2 refuses it without naming a code")
	status, _, answer = request(opaqueAPI, dpopProof(t, key, public, op.URL+"/elsewhere", challenge))
	require.Equal(t, http.StatusBadRequest, status)
	require.Equal(t, "invalid_dpop_proof", answer["error"])

	status, _, answer = request(jwtAPI, prove(challenge))
	require.Equal(t, http.StatusOK, status, answer)
	require.Equal(t, map[string]any{"jkt": thumbprint}, verified(t, op, answer["access_token"].(string)).PrivateClaims()["cnf"])
}

func TestOIDCProviderMutualTLS(t *testing.T) {
	slow(t)
	own := SelfSignedCertificate(t, "self-signed")
	op := StartOIDCProvider(t, OIDCProviderOptions{
		TLS: true,
		Clients: []OIDCClient{
			{ID: "own", AuthMethod: "self_signed_tls_client_auth", JWKS: own.JWKS(t), CertBound: true},
			{ID: "by-dn", AuthMethod: "tls_client_auth", SubjectDN: "CN=by, name,O=harness"},
			{ID: "by-dn-escaped", AuthMethod: "tls_client_auth", SubjectDN: `CN=by\, name,O=harness`, CertBound: true},
			{ID: "by-uri", AuthMethod: "tls_client_auth", SubjectURI: "spiffe://example.org/broker"},
			{ID: "basic", Secret: "basic-secret", CertBound: true},
		},
		Resources: oidcResources,
	})
	another := SelfSignedCertificate(t, "self-signed")
	byName := op.Authority.ClientCertificate(t, "by, name", "spiffe://example.org/broker")
	stranger := op.Authority.ClientCertificate(t, "stranger", "spiffe://example.org/stranger")
	unknown := NewAuthority(t).ClientCertificate(t, "by, name", "spiffe://example.org/broker")

	for name, c := range map[string]struct {
		client      string
		certificate *Certificate
		granted     bool
		bound       bool
	}{
		"self-signed":                          {"own", &own, true, true},
		"self-signed, another of that name":    {"own", &another, false, false},
		"self-signed, none":                    {"own", nil, false, false},
		"by subject, as RFC 4514 writes it":    {"by-dn-escaped", &byName, true, true},
		"by subject, not as it writes it":      {"by-dn", &byName, false, false},
		"by subject, an unknown authority's":   {"by-dn-escaped", &unknown, false, false},
		"by subject, somebody else's":          {"by-dn-escaped", &stranger, false, false},
		"by URI, not bound":                    {"by-uri", &byName, true, false},
		"by URI, somebody else's":              {"by-uri", &stranger, false, false},
		"by URI, an unknown authority's":       {"by-uri", &unknown, false, false},
		"by URI, none":                         {"by-uri", nil, false, false},
		"a secret, bound to a certificate":     {"basic", &unknown, true, true},
		"a secret, but no certificate to bind": {"basic", nil, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			form := url.Values{"grant_type": {"client_credentials"}, "client_id": {c.client}, "scope": {"read"}, "resource": {opaqueAPI}}
			if c.client == "basic" {
				form.Set("client_secret", "basic-secret")
			}
			status, _, answer := post(t, op.HTTPClient(t, c.certificate), op.URL+"/token", nil, form)
			require.Equal(t, c.granted, status == http.StatusOK, "%d %v", status, answer)
			if !c.granted {
				if c.client == "basic" {
					require.Equal(t, "invalid_grant", answer["error"])
				} else {
					require.Equal(t, "invalid_client", answer["error"])
				}
				return
			}
			require.Equal(t, "Bearer", answer["token_type"])
			cnf := op.Introspect(t, answer["access_token"].(string)).All["cnf"]
			if !c.bound {
				require.Nil(t, cnf)
				return
			}
			sum := sha256.Sum256(c.certificate.X509.Raw)
			require.Equal(t, map[string]any{"x5t#S256": base64.RawURLEncoding.EncodeToString(sum[:])}, cnf)
		})
	}

	t.Run("a client revokes by its certificate", func(t *testing.T) {
		client := op.HTTPClient(t, &own)
		_, _, answer := post(t, client, op.URL+"/token", nil, url.Values{
			"grant_type": {"client_credentials"}, "client_id": {"own"}, "scope": {"read"}, "resource": {opaqueAPI},
		})
		token := answer["access_token"].(string)
		op.MustBeActive(t, token)
		status, _, answer := post(t, client, op.URL+"/token/revocation", nil, url.Values{"client_id": {"own"}, "token": {token}})
		require.Equal(t, http.StatusOK, status, answer)
		op.MustBeInactive(t, token)
	})

	t.Run("a JWT says which certificate", func(t *testing.T) {
		_, _, answer := post(t, op.HTTPClient(t, &own), op.URL+"/token", nil, url.Values{
			"grant_type": {"client_credentials"}, "client_id": {"own"}, "scope": {"read"}, "resource": {jwtAPI},
		})
		sum := sha256.Sum256(own.X509.Raw)
		require.Equal(t, map[string]any{"x5t#S256": base64.RawURLEncoding.EncodeToString(sum[:])},
			verified(t, op, answer["access_token"].(string)).PrivateClaims()["cnf"])
	})
}

func TestOIDCProviderTLSAliases(t *testing.T) {
	slow(t)
	own := SelfSignedCertificate(t, "self-signed")
	op := StartOIDCProvider(t, OIDCProviderOptions{
		TLSAliases: true,
		Clients:    []OIDCClient{{ID: "own", AuthMethod: "self_signed_tls_client_auth", JWKS: own.JWKS(t)}},
		Resources:  oidcResources,
	})
	request, err := http.NewRequestWithContext(context.Background(), http.MethodGet, op.URL+"/.well-known/openid-configuration", http.NoBody)
	require.NoError(t, err)
	var metadata struct {
		Token   string            `json:"token_endpoint"`
		Aliases map[string]string `json:"mtls_endpoint_aliases"`
	}
	require.NoError(t, json.Unmarshal(send(t, op.client, request), &metadata))
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {"own"}, "scope": {"read"}, "resource": {opaqueAPI}}

	status, _, answer := post(t, op.HTTPClient(t, &own), metadata.Token, nil, form)
	require.Equal(t, http.StatusUnauthorized, status, answer)
	status, _, answer = post(t, op.HTTPClient(t, &own), metadata.Aliases["token_endpoint"], nil, form)
	require.Equal(t, http.StatusOK, status, answer)
	token := answer["access_token"].(string)
	op.MustBeActive(t, token)
	status, _, answer = post(t, op.HTTPClient(t, &own), metadata.Aliases["revocation_endpoint"], nil, url.Values{"client_id": {"own"}, "token": {token}})
	require.Equal(t, http.StatusOK, status, answer)
	op.MustBeInactive(t, token)
}
