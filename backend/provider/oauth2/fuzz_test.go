package oauth2

import (
	"encoding/json"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
)

// FuzzTokenResponse: no token of a well-formed object is missed, whatever else
// the answer holds, and nothing passes that must not be handed out.
func FuzzTokenResponse(f *testing.F) {
	for _, seed := range []string{
		`{"access_token":"abc","token_type":"Bearer","expires_in":3600,"scope":"a b"}`,
		`{"access_token":"abc","token_type":"Bearer","expires_in":"3600"}`,
		`{"access_token":"abc","token_type":"bearer","expires_in":0,"refresh_token":"r"}`,
		`{"access_token":"abc","token_type":"Bearer","expires_in":1e12}`,
		`{"access_token":"a","access_token":"b","token_type":"Bearer"}`,
		`{"access_token":"abc","token_type":"Bearer","scope":["a","b"],"authorization_details":[{"type":"x"}]}`,
		`{"error":"invalid_scope","error_description":"\"access_token\":\"x\""}`,
		`{"data":{"access_token":"abc"}}`,
		`{"access_token":"abc","tok`,
		`<html>"access_token":"abc"</html>`,
		"\xef\xbb\xbf{\"access_token\":\"abc\"}",
		`access_token=abc&token_type=bearer`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		resp := &httpclient.Response{Status: http.StatusOK, Header: http.Header{}, Body: body}
		tokens := seeTokens(resp)
		if len(tokens.access) > maxSeen || len(tokens.refresh) > maxSeen {
			t.Fatal("more tokens than the bound")
		}
		var members map[string]json.RawMessage
		var token string
		if json.Unmarshal(body, &members) == nil && json.Unmarshal(members[memberAccess], &token) == nil && token != "" &&
			len(tokens.access) < maxSeen && !slices.Contains(tokens.access, token) {
			t.Fatalf("the token %q was missed", token)
		}
		if code := errorCode(body); len(code) > 64 || !printable(code) {
			t.Fatalf("a server's text as error code: %q", code)
		}
		a, err := parseAnswer(body, seeTokensIn(body), bearerAlone)
		if err != nil {
			if len(err.Error()) > 200 {
				t.Fatalf("a server's text in %q", err)
			}
			return
		}
		switch {
		case !slices.Equal(tokens.access, []string{a.accessToken}):
			t.Fatalf("answered %q, saw %q", a.accessToken, tokens.access)
		case a.accessToken == "" || len(a.accessToken) > maxToken || !printable(a.accessToken):
			t.Fatalf("passed the token %q", a.accessToken)
		case a.tokenType != "Bearer" && a.tokenType != "DPoP":
			t.Fatalf("passed the type %q", a.tokenType)
		case a.lifetime.known && (a.lifetime.value < time.Second || a.lifetime.value > maxLifetime):
			t.Fatalf("passed the lifetime %s", a.lifetime.value)
		}
		checkScopes(t, a.scope)
	})
}

// FuzzExchangeAnswer: nothing passes that is not what was requested, by its own
// word; and no hint for the next login is anything but one printable line.
func FuzzExchangeAnswer(f *testing.F) {
	const idToken = "urn:ietf:params:oauth:token-type:id_token"
	for _, seed := range []string{
		`{"access_token":"abc","issued_token_type":"` + typeAccessToken + `","token_type":"Bearer","expires_in":60}`,
		`{"access_token":"abc","issued_token_type":"` + typeAccessToken + `","token_type":"N_A"}`,
		`{"access_token":"abc","issued_token_type":"` + idToken + `","token_type":"n_a"}`,
		`{"access_token":"abc","issued_token_type":"` + typeRefreshToken + `","token_type":"N_A"}`,
		`{"access_token":"abc","issued_token_type":null,"token_type":"Bearer"}`,
		`{"error":"interaction_required","claims":"{\"access_token\":{\"polids\":1}}"}`,
		`{"error":"insufficient_user_authentication","acr_values":"a b","max_age":"5"}`,
	} {
		f.Add([]byte(seed))
	}
	p := &Provider{}
	f.Fuzz(func(t *testing.T, body []byte) {
		if hints := p.loginHints(body, nil); len(hints) > 2*maxHint || !printable(hints) {
			t.Fatalf("a server's text as hint: %q", hints)
		}
		for _, wanted := range []string{typeAccessToken, idToken, typeRefreshToken, ""} {
			x := &exchanging{p: p, wanted: wanted}
			a, err := parseAnswer(body, seeTokensIn(body), x.judgeTypes)
			switch {
			case err != nil && len(err.Error()) > 200:
				t.Fatalf("a server's text in %q", err)
			case err != nil:
			case a.issuedType != wanted || wanted == typeRefreshToken:
				t.Fatalf("wanted %q, passed %q", wanted, a.issuedType)
			case a.tokenType == notAccess && (wanted == typeAccessToken || wanted == ""), a.tokenType != notAccess && a.tokenType != typeBearerToken && a.tokenType != typeDPoPToken:
				t.Fatalf("wanted %q, passed the type %q", wanted, a.tokenType)
			}
		}
	})
}

// FuzzSeenTokens: of a good answer that breaks off, the token is found as soon as
// its closing quote is there, whatever stands before it.
func FuzzSeenTokens(f *testing.F) {
	f.Add("", "abc", uint16(3))
	f.Add(`{"access_token":"x`, `a"b\c`, uint16(0))
	f.Fuzz(func(t *testing.T, before, token string, keep uint16) {
		if token == "" || len(before) > 1000 {
			return
		}
		whole, err := json.Marshal(map[string]any{"access_token": token, "zzz": "padding that breaks off"})
		if err != nil {
			return
		}
		var canonical struct {
			AccessToken string `json:"access_token"`
		}
		if json.Unmarshal(whole, &canonical) != nil {
			return
		}
		quoted, _ := json.Marshal(token)
		needed := len(`{"access_token":`) + len(quoted)
		cut := whole[:min(needed+int(keep), len(whole))]
		if got := seeTokensIn(cut); !slices.Contains(got.access, canonical.AccessToken) {
			t.Fatalf("%q was missed in %q", token, cut)
		}
		_ = seeTokensIn(append([]byte(before), cut...)) // must not panic
	})
}

// FuzzIntrospection: nothing counts as active that does not say so, and its facts
// are well-formed.
func FuzzIntrospection(f *testing.F) {
	for _, seed := range []string{
		`{"active":true,"scope":"a b","exp":1700000000,"aud":["x"],"client_id":"c"}`,
		`{"active":true,"exp":1e400}`, `{"active":true,"exp":-1}`, `{"active":"true"}`, `{"active":null}`,
		`{"active":false,"scope":7}`, `{"active":true,"aud":""}`, `[]`, `true`, ``,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := parseIntrospection(body)
		if err != nil && len(err.Error()) > 200 {
			t.Fatalf("a server's text in %q", err)
		}
		if err != nil || !got.active {
			return
		}
		var plain struct {
			Active *bool `json:"active"`
		}
		var members map[string]json.RawMessage
		if json.Unmarshal(body, &members) != nil || json.Unmarshal(members["active"], &plain.Active) != nil || plain.Active == nil || !*plain.Active {
			t.Fatalf("%q counts as active", body)
		}
		checkFacts(t, got.facts)
	})
}

// FuzzJWTClaims: whatever a server signs, what passes has an end, the right
// issuer and well-formed facts.
func FuzzJWTClaims(f *testing.F) {
	now := time.Unix(1_700_000_000, 0)
	for _, seed := range []string{
		`{"iss":"https://as.test","exp":1700003600,"aud":"x","scope":"a","scp":["b"]}`,
		`{"iss":"https://as.test","exp":1700003600,"nbf":1800000000}`,
		`{"iss":"https://other.test","exp":1700003600}`, `{"iss":"https://as.test"}`,
		`{"iss":"https://as.test","exp":1700003600,"at_hash":"x"}`, `{"iss":["https://as.test"],"exp":"x"}`, `null`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		got, err := parseClaims(payload, "https://as.test", now)
		if err != nil {
			if len(err.Error()) > 200 {
				t.Fatalf("a server's text in %q", err)
			}
			return
		}
		if got.expires.IsZero() {
			t.Fatal("passed without an end")
		}
		checkFacts(t, got)
	})
}

func checkFacts(t *testing.T, f facts) {
	t.Helper()
	if !f.expires.IsZero() && (f.expires.Unix() < 1 || f.expires.Year() > 9999) {
		t.Fatalf("passed the end %s", f.expires)
	}
	checkScopes(t, f.scope)
}

func checkScopes(t *testing.T, s scopeList) {
	t.Helper()
	for _, v := range s.values {
		if access.CheckScope(v) != nil {
			t.Fatalf("passed the scope %q", v)
		}
	}
	if !s.known && len(s.values) > 0 {
		t.Fatal("unknown scopes with values")
	}
}
