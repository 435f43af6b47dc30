package oauth2

import (
	"bytes"
	"encoding/json"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/kit"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
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
		`{"access_token":"abc","token_type":"Bearer","x":[{"access\u005ftoken":"def","refresh_token":"r"}]}{"access_token":"ghi"}`,
		`{"access_token":"abc","tok`,
		`<html>"access_token":"abc"</html>`,
		"\xef\xbb\xbf{\"access_token\":\"abc\"}",
		")]}',\n{\"access_token\":\"abc\",\"token_type\":\"Bearer\",\"expires_in\":3599.48}",
		`{"access_token":"abc","token_type":"Bearer","expires_in":"3.6e3","scope":"a,b"}`,
		`{"access_token":"abc","token_type":"bot","expires_in":36000E-1,"instance_url":"https://x","id":{"t":"abc"}}`,
		`{"access_token":"abc","scope":["a b",",c"],"instance_url":"abc","id":"r","refresh_token":"r"}`,
		`access_token=abc&token_type=bearer`,
		"{\"access_token\":\"abc\",\"token_type\":\"Bearer\"}\n<!-- \"access_token\":\"def\" -->\x00",
		`"{\"access_token\":\"abc\\n\",\"token_type\":\"Bearer\",\"expires_in\":\"\"}"`,
		`{"accessToken":"abc","access_token":"def","token_type":"Bearer","refresh_token":12345678}`,
	} {
		f.Add([]byte(seed))
	}
	lenient := &Provider{settings: settings{AssumedTokenType: "bot", ExtraMembers: []string{"instance_url", "id"}}, deps: provider.Deps{Logger: hclog.NewNullLogger()}}
	f.Fuzz(func(t *testing.T, body []byte) {
		resp := &httpclient.Response{Status: http.StatusOK, Header: http.Header{}, Body: body}
		before := seeTokens(resp)
		checkForm(t, body)
		var whole, piecemeal, inner, inside seen
		whole.readMembers(body, &inner)
		piecemeal.readAsFarAsItGoes(body, &inside)
		if !reflect.DeepEqual(whole, piecemeal) || len(inner.access) != len(inside.access) || len(inner.refresh) != len(inside.refresh) {
			t.Fatalf("%q is read as %+v and %+v, or as %+v and %+v", body, whole, inner, piecemeal, inside)
		}
		resp.Body = document(resp)
		tokens := seeTokens(resp)
		for _, token := range before.access {
			if len(tokens.access) < maxSeen && !slices.Contains(tokens.access, token) && !slices.Contains(tokens.beside, token) {
				t.Fatalf("saw %q, and then %q", before.access, tokens.access)
			}
		}
		body = resp.Body
		if !bytes.Equal(body, document(resp)) {
			t.Fatalf("%q is another document than %q", document(resp), body)
		}
		if len(tokens.access) > maxSeen || len(tokens.refresh) > maxSeen {
			t.Fatal("more tokens than the bound")
		}
		var members map[string]json.RawMessage
		var token string
		if json.Unmarshal(body, &members) == nil && json.Unmarshal(members[memberAccess], &token) == nil && tokenText(token) != "" &&
			len(tokens.access) < maxSeen && !slices.Contains(tokens.access, tokenText(token)) {
			t.Fatalf("the token %q was missed", token)
		}
		if code := errorCode(body); len(code) > 64 || !kit.IsASCII(code) {
			t.Fatalf("a server's text as error code: %q", code)
		}
		a, err := parseAnswer(body, seeTokensIn(body), (&Provider{}).usualType)
		if err != nil {
			if len(err.Error()) > 200 {
				t.Fatalf("a server's text in %q", err)
			}
			return
		}
		switch {
		case !slices.Equal(tokens.access, []string{a.accessToken}):
			t.Fatalf("answered %q, saw %q", a.accessToken, tokens.access)
		case a.accessToken == "" || len(a.accessToken) > maxToken || !kit.IsASCII(a.accessToken):
			t.Fatalf("passed the token %q", a.accessToken)
		case a.tokenType != "Bearer" && a.tokenType != "DPoP":
			t.Fatalf("passed the type %q", a.tokenType)
		case a.lifetime.known && (a.lifetime.value < time.Second || a.lifetime.value > maxLifetime):
			t.Fatalf("passed the lifetime %s", a.lifetime.value)
		}
		checkScopes(t, a.scope)
		checkLenient(t, lenient, body)
	})
}

// checkForm holds what is made of a form against the form.
func checkForm(t *testing.T, body []byte) {
	t.Helper()
	if bytes.HasPrefix(httpclient.Document(body), []byte(`"`)) {
		return // no form, and maybe a document in a text
	}
	resp := &httpclient.Response{Status: http.StatusOK, Header: http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}, Body: body}
	tokens := seeTokens(resp)
	resp.Body = document(resp)
	a, err := parseAnswer(resp.Body, seeTokens(resp), (&Provider{}).usualType)
	if err == nil && !slices.Contains(tokens.access, a.accessToken) {
		t.Fatalf("the token %q was made of the form %q", a.accessToken, body)
	}
}

// checkLenient holds what passes with every leniency against what passes without: it
// is another type, or there are members beside the token, and none of them is one.
func checkLenient(t *testing.T, p *Provider, body []byte) {
	t.Helper()
	tokens := seeTokensIn(body)
	a, err := parseAnswer(body, tokens, p.usualType)
	if err != nil {
		t.Fatalf("refused with more that is allowed: %s", err)
	}
	if a.tokenType != typeBearerToken && a.tokenType != typeDPoPToken && a.tokenType != "bot" {
		t.Fatalf("passed the type %q", a.tokenType)
	}
	shown := marshal(p.extra(a, reply{tokens: tokens}))
	var back any
	if err := json.Unmarshal([]byte(shown), &back); err != nil {
		t.Fatalf("the extra members are no JSON: %s", err)
	}
	for _, token := range append(slices.Clone(tokens.access), tokens.refresh...) {
		if len(token) > 4 && confidential(back, []secret.Text{secret.New(token)}) {
			t.Fatalf("the token %q is in %s", token, shown)
		}
	}
}

// FuzzScopesAreNotWidened: however a server spells what it granted, nothing is taken for
// granted that it did not say and nobody asked for, and what passes as within the
// request is within it word for word.
func FuzzScopesAreNotWidened(f *testing.F) {
	f.Add(`"read,write"`, `null`, "read write")
	f.Add(`"read,admin"`, `"read"`, "read write")
	f.Add(`["a,b","a b"]`, `"a,b,,"`, "a,b a b")
	f.Add(`",,,"`, `"a\tb\n"`, "a b ,")
	f.Add(`"a, b"`, `["a,"]`, "a b a,")
	f.Fuzz(func(t *testing.T, answered, checked, asked string) {
		request := scopes(strings.Fields(asked)...)
		var lists []scopeList
		for _, text := range []string{answered, checked} {
			list, err := parseScope(json.RawMessage(text))
			if err != nil || (present(json.RawMessage(text)) != nil && !json.Valid([]byte(text))) {
				return
			}
			lists = append(lists, list)
		}
		child := &provider.Child{Granted: request, Confirmed: access.Dimensions{}}
		noteScopes(child, lists[0], lists[1], request)
		if !child.Granted.Scopes.Within(request.Scopes) {
			return // the core refuses it
		}
		for _, list := range lists {
			for _, value := range list.values {
				if !request.Scopes.Contains(value) && !everyPartAsked(value, request.Scopes) {
					t.Fatalf("asked for %q, was granted %q, which passed", asked, value)
				}
			}
		}
		granted, _ := child.Granted.Scopes.Values()
		said := strings.Join(append(slices.Clone(lists[0].values), lists[1].values...), ",")
		for _, value := range granted {
			if (lists[0].known || lists[1].known) && !strings.Contains(","+said+",", ","+value+",") {
				t.Fatalf("granted %q, which nobody said: %q", value, said)
			}
		}
	})
}

// everyPartAsked is an oracle of its own: what is between the commas, one by one.
func everyPartAsked(value string, asked access.Set) bool {
	some := false
	for _, part := range strings.Split(value, ",") {
		if part != "" && !asked.Contains(part) {
			return false
		}
		some = some || part != ""
	}
	return some
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
		if hints := p.loginHints(body, nil); len(hints) > 2*maxHint || !kit.IsASCII(hints) {
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
		if json.Unmarshal(whole, &canonical) != nil || tokenText(canonical.AccessToken) == "" {
			return
		}
		quoted, _ := json.Marshal(token)
		needed := len(`{"access_token":`) + len(quoted)
		cut := whole[:min(needed+int(keep), len(whole))]
		if got := seeTokensIn(cut); !slices.Contains(got.access, tokenText(canonical.AccessToken)) {
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
		`{"active":true,"exp":"1767323105","iat":"soon","scope":["a b"]}`, `{"active":true,"exp":1.767323105e9}`, `{"active":true,"exp":1767323105.9}`,
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
		`{"iss":"https://as.test","exp":"1700003600.5","iat":1.7e9,"nbf":"1700000000","scope":"a,b"}`,
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
