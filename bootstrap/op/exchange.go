package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/pkg/client/rp"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// What the example leaves out of RFC 8693. The protocol, the checks of its own
// tokens and who may impersonate stay theirs.

// trusted are issuers whose tokens count as subject and actor tokens, with where
// their keys are. The example takes none but its own; whom to trust is for the
// server to say (RFC 8693 2.1), so it is said on its command line.
type trusted map[string]foreignKeys

// foreignKeys are an issuer's keys, and where they are.
type foreignKeys struct {
	oidc.KeySet
	url string
}

// String implements flag.Value.
func (t trusted) String() string { return fmt.Sprint(len(t), " issuers") }

// Set implements flag.Value: issuer=jwks-url.
func (t trusted) Set(value string) error {
	issuer, jwksURL, found := strings.Cut(value, "=")
	if !found || issuer == "" || jwksURL == "" {
		return errors.New("it must be issuer=jwks-url")
	}
	t[issuer] = foreignKeys{rp.NewRemoteKeySet(&http.Client{Timeout: 10 * time.Second}, jwksURL), jwksURL}
	return nil
}

// verify judges a foreign token by zitadel's own verifier: issuer, audience (this
// server), signature and times.
func (t trusted) verify(ctx context.Context, token string) (*oidc.TokenClaims, error) {
	var unverified oidc.TokenClaims
	if _, err := oidc.ParseToken(token, &unverified); err != nil {
		return nil, err
	}
	keys, ok := t[unverified.Issuer]
	if !ok {
		return nil, fmt.Errorf("the issuer %q is not trusted", unverified.Issuer)
	}
	verifier := rp.NewIDTokenVerifier(unverified.Issuer, op.IssuerFromContext(ctx), keys,
		rp.WithSupportedSigningAlgorithms("ES256", "RS256", "EdDSA"),
		rp.WithAZPVerifier(func(string) error { return nil })) // a rule for ID tokens (OpenID Connect Core 3.1.3.7)
	return rp.VerifyIDToken[*oidc.TokenClaims](ctx, token, verifier)
}

// VerifyExchangeSubjectToken implements op.TokenExchangeTokensVerifierStorage.
func (s *store) VerifyExchangeSubjectToken(ctx context.Context, token string, kind oidc.TokenType) (id, subject string, claims map[string]any, err error) {
	return s.verifyForeign(ctx, token, kind)
}

// VerifyExchangeActorToken implements op.TokenExchangeTokensVerifierStorage.
func (s *store) VerifyExchangeActorToken(ctx context.Context, token string, kind oidc.TokenType) (id, actor string, claims map[string]any, err error) {
	return s.verifyForeign(ctx, token, kind)
}

func (s *store) verifyForeign(ctx context.Context, token string, kind oidc.TokenType) (id, subject string, claims map[string]any, err error) {
	if kind != oidc.JWTTokenType {
		return "", "", nil, fmt.Errorf("a token of type %s is not taken from elsewhere", kind)
	}
	verified, err := s.trusted.verify(ctx, token)
	if err != nil {
		return "", "", nil, err
	}
	return token, verified.Subject, map[string]any{"iss": verified.Issuer}, nil
}

// GetKeyByIDAndClientID implements op.Storage for the JWT profile (RFC 7523 2.1): a
// trusted issuer may also speak for itself, as a service user. The example knows one
// service user, whose key is in its sources.
func (s *store) GetKeyByIDAndClientID(ctx context.Context, keyID, clientID string) (*jose.JSONWebKey, error) {
	keys, ok := s.trusted[clientID]
	if !ok {
		return s.Storage.GetKeyByIDAndClientID(ctx, keyID, clientID)
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, keys.url, nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	var set jose.JSONWebKeySet
	if err := json.NewDecoder(io.LimitReader(response.Body, 1<<20)).Decode(&set); err != nil {
		return nil, err
	}
	found := set.Key(keyID)
	if len(found) != 1 {
		return nil, fmt.Errorf("%d keys are called %q", len(found), keyID)
	}
	return &found[0], nil
}

// ValidateTokenExchangeRequest refuses a subject that this server does not know:
// the example dereferences it.
func (s *store) ValidateTokenExchangeRequest(ctx context.Context, request op.TokenExchangeRequest) error {
	if s.users.GetUserByID(request.GetExchangeSubject()) == nil {
		return oidc.ErrInvalidRequest().WithDescription("the subject is unknown here")
	}
	return s.Storage.ValidateTokenExchangeRequest(ctx, request)
}

// GetPrivateClaimsFromTokenExchangeRequest adds who acts (RFC 8693 4.1), which the
// example has commented out, with the chain of those who acted before.
func (s *store) GetPrivateClaimsFromTokenExchangeRequest(ctx context.Context, request op.TokenExchangeRequest) (map[string]any, error) {
	claims, err := s.Storage.GetPrivateClaimsFromTokenExchangeRequest(ctx, request)
	if err != nil || request.GetExchangeActor() == "" {
		return claims, err
	}
	act := map[string]any{"sub": request.GetExchangeActor()}
	if issuer, ok := request.GetExchangeActorTokenClaims()["iss"]; ok {
		act["iss"] = issuer
	}
	if before, ok := request.GetExchangeSubjectTokenClaims()["act"]; ok {
		act["act"] = before
	}
	if claims == nil {
		claims = map[string]any{}
	}
	claims["act"] = act
	return claims, nil
}

// jwtClient is a client whose access tokens are JWTs; none of the example's is.
type jwtClient struct{ op.Client }

// AccessTokenType implements op.Client.
func (jwtClient) AccessTokenType() op.AccessTokenType { return op.AccessTokenTypeJWT }

// GetClientByClientID implements op.Storage.
func (s *store) GetClientByClientID(ctx context.Context, id string) (op.Client, error) {
	client, err := s.Storage.GetClientByClientID(ctx, id)
	if err == nil && id == jwtID {
		client = jwtClient{client}
	}
	return client, err
}
