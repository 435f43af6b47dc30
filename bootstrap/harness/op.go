package harness

import (
	"bufio"
	"context"
	"errors"
	"net/url"
	"os"
	"strings"

	"golang.org/x/oauth2"
)

// The clients and the user that the zitadel example knows.
var (
	// OPService may use client_credentials, and revoke and introspect its tokens.
	OPService = Credentials{ID: "sid1", Secret: "verysecret"}
	// OPWeb may use authorization_code, refresh_token and token-exchange.
	OPWeb = Credentials{ID: "web", Secret: "secret"}
	// OPAPI is a service that access tokens are for.
	OPAPI = Credentials{ID: "api", Secret: "secret"}
	// OPJWT is like OPWeb, and its access tokens are JWTs.
	OPJWT = Credentials{ID: "jwt", Secret: "secret"}

	opUser = url.Values{"username": {"test-user@localhost"}, "password": {"verysecure"}}
)

// OP is a running OpenID Provider of zitadel/oidc, with its data in memory. Its
// access tokens live for five minutes.
type OP struct {
	URL string // the issuer

	process *server
}

// StartOP starts an OP that ends with the test.
func StartOP(t TB) *OP {
	t.Helper()
	return StartOPTrusting(t, nil)
}

// StartOPTrusting starts an OP that also exchanges tokens of other issuers: trust
// is the URL of each one's JWKS by its name.
func StartOPTrusting(t TB, trust map[string]string) *OP {
	t.Helper()
	args := []string{"-verbose", "-redirect-uri", redirectURI}
	for issuer, jwksURL := range trust {
		args = append(args, "-trust", issuer+"="+jwksURL)
	}
	op := &OP{process: start(t, "op", t.TempDir(), executable(t, "", "op", "servers"), args...)}
	op.process.await(t, "it says where it listens", func(context.Context) error {
		log, err := os.Open(op.process.log)
		if err != nil {
			return err
		}
		defer log.Close()
		for lines := bufio.NewScanner(log); lines.Scan(); {
			if issuer, ready := strings.CutPrefix(lines.Text(), "ready "); ready {
				op.URL = issuer
				return nil
			}
		}
		return errors.New("no ready line in its log")
	})
	op.process.await(t, "it answers", answersOK(op.URL+"/.well-known/openid-configuration"))
	return op
}

// Token gets a client-credentials token without the broker.
func (o *OP) Token(t TB, client Credentials, scopes ...string) string {
	t.Helper()
	return clientCredentialsToken(t, o.URL+"/oauth/token", client, scopes, nil)
}

// UserTokens gets an access and a refresh token by an authorization code flow, in
// which the test user logs in.
func (o *OP) UserTokens(t TB, client Credentials, scopes ...string) *oauth2.Token {
	t.Helper()
	config := oauth2.Config{
		ClientID:     client.ID,
		ClientSecret: client.Secret,
		Scopes:       append([]string{"openid", "offline_access"}, scopes...),
		Endpoint:     oauth2.Endpoint{AuthURL: o.URL + "/auth", TokenURL: o.URL + "/oauth/token"},
	}
	return codeFlow(t, config, func(b *browser, login *url.URL) *url.URL {
		form := url.Values{"id": {login.Query().Get("authRequestID")}}
		for name, value := range opUser {
			form[name] = value
		}
		return b.open(t, b.open(t, login.String(), form).String(), nil)
	})
}

// Login gets what a user has after a login by UserTokens: an ID token, and an
// access token, which is a JWT for OPJWT.
func (o *OP) Login(t TB, client Credentials, scopes ...string) (idToken, accessToken string) {
	t.Helper()
	tokens := o.UserTokens(t, client, scopes...)
	idToken, _ = tokens.Extra("id_token").(string)
	if idToken == "" {
		t.Fatalf("the OP gave no id_token")
	}
	return idToken, tokens.AccessToken
}

// RefreshToken gets the refresh token of UserTokens.
func (o *OP) RefreshToken(t TB, client Credentials, scopes ...string) string {
	t.Helper()
	return o.UserTokens(t, client, scopes...).RefreshToken
}

// Introspect asks the OP about a token. It only answers a client that is in the
// token's audience, which here is the client that got the token.
func (o *OP) Introspect(t TB, as Credentials, token string) Introspection {
	t.Helper()
	return introspect(t, o.URL+"/oauth/introspect", as, token)
}

// MustBeActive fails the test unless the OP accepts the client's token.
func (o *OP) MustBeActive(t TB, client Credentials, token string) {
	t.Helper()
	mustBe(t, true, o.Introspect(t, client, token))
}

// MustBeInactive fails the test unless the OP refuses the client's token.
func (o *OP) MustBeInactive(t TB, client Credentials, token string) {
	t.Helper()
	mustBe(t, false, o.Introspect(t, client, token))
}

// Revoke kills a token without the broker.
func (o *OP) Revoke(t TB, client Credentials, token string) {
	t.Helper()
	postForm(t, o.URL+"/revoke", client, url.Values{"token": {token}})
}

// Stop ends the OP before the test does, to show what happens without it.
func (o *OP) Stop(TB) { o.process.stop() }
