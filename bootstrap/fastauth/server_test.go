package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func ask(t *testing.T, handler http.Handler, path, secret string, form url.Values) (int, map[string]any) {
	t.Helper()
	request := httptest.NewRequestWithContext(t.Context(), http.MethodPost, path, strings.NewReader(form.Encode()))
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.SetBasicAuth(clientID, secret)
	recorder := httptest.NewRecorder()
	handler.ServeHTTP(recorder, request)
	body := map[string]any{}
	if recorder.Body.Len() > 0 {
		require.NoError(t, json.Unmarshal(recorder.Body.Bytes(), &body))
	}
	return recorder.Code, body
}

// What the type github asks for is answered as GitHub does.
func TestGitHub(t *testing.T) {
	handler := newServer()
	send := func(method, path, bearer, body string) *httptest.ResponseRecorder {
		request := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body))
		request.Header.Set("Authorization", bearer)
		recorder := httptest.NewRecorder()
		handler.ServeHTTP(recorder, request)
		return recorder
	}
	require.Equal(t, 401, send("GET", "/github/app", "", "").Code)
	require.Equal(t, 200, send("GET", "/github/app", "Bearer x", "").Code)
	require.Equal(t, 200, send("GET", "/github/app/installations/1", "Bearer x", "").Code)
	made := send("POST", "/github/app/installations/1/access_tokens", "Bearer x", `{"permissions":{"contents":"read"}}`)
	require.Equal(t, 201, made.Code)
	require.Contains(t, made.Body.String(), `"full_name":"bench/api"`)
	require.Equal(t, 400, send("POST", "/github/app/installations/1/access_tokens", "Bearer x", "").Code)
	require.Equal(t, 204, send("DELETE", "/github/installation/token", "Bearer x", "").Code)
}

func TestServer(t *testing.T) {
	exchange := url.Values{"grant_type": {grantTokenExchange}, "subject_token": {"x"}, "subject_token_type": {"urn:ietf:params:oauth:token-type:jwt"}}
	rows := map[string]struct {
		path, secret string
		form         url.Values
		status       int
		want         map[string]any // members of the answer
		counted      string
	}{
		"client credentials":      {"/token", clientSecret, url.Values{"grant_type": {grantClientCredentials}, "scope": {"read write"}}, 200, map[string]any{"token_type": "Bearer", "scope": "read write", "expires_in": 86400.0}, "token"},
		"exchange":                {"/token", clientSecret, exchange, 200, map[string]any{"issued_token_type": typeAccessToken}, "exchange"},
		"exchange of nothing":     {"/token", clientSecret, url.Values{"grant_type": {grantTokenExchange}}, 400, map[string]any{"error": "invalid_request"}, ""},
		"another grant":           {"/token", clientSecret, url.Values{"grant_type": {"password"}}, 400, map[string]any{"error": "unsupported_grant_type"}, ""},
		"wrong secret":            {"/token", "guess", url.Values{"grant_type": {grantClientCredentials}}, 401, map[string]any{"error": "invalid_client"}, ""},
		"revocation":              {"/revoke", clientSecret, url.Values{"token": {"x"}}, 200, nil, "revoke"},
		"revocation of nothing":   {"/revoke", clientSecret, nil, 400, map[string]any{"error": "invalid_request"}, ""},
		"revocation by a guesser": {"/revoke", "guess", url.Values{"token": {"x"}}, 401, map[string]any{"error": "invalid_client"}, ""},
	}
	for name, row := range rows {
		t.Run(name, func(t *testing.T) {
			handler := newServer()
			status, body := ask(t, handler, row.path, row.secret, row.form)
			require.Equal(t, row.status, status)
			for member, want := range row.want {
				require.Equal(t, want, body[member], member)
			}
			recorder := httptest.NewRecorder()
			handler.ServeHTTP(recorder, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/counts", nil))
			counts := map[string]int{}
			require.NoError(t, json.Unmarshal(recorder.Body.Bytes(), &counts))
			for kind, n := range counts {
				require.Equal(t, kind == row.counted, n == 1, kind)
			}
		})
	}
}

func TestTokensDiffer(t *testing.T) {
	handler := newServer()
	form := url.Values{"grant_type": {grantClientCredentials}}
	_, one := ask(t, handler, "/token", clientSecret, form)
	_, other := ask(t, handler, "/token", clientSecret, form)
	require.NotEqual(t, one["access_token"], other["access_token"])
}
