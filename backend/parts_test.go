package backend

import (
	"encoding/base64"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

// A credential of several parts is handed out, leased, shown, renewed and killed as a
// token is, and is nowhere called one.
func TestAChildOfSeveralParts(t *testing.T) {
	m, s := newSessionMount(t, nil)
	l := m.mustSession(call{entity: alice})
	require.Equal(t, "KEY1", l.data["access_key_id"])
	require.Equal(t, "secret-access-key-00000001", l.data["secret_access_key"])
	require.Equal(t, "session-token-00000001", l.data["session_token"])
	require.Equal(t, "token", l.data["revocation"])
	require.NotContains(t, l.data, "access_token")
	require.NotContains(t, l.data, "token_type", "the word means nothing here")
	require.Equal(t, map[string]any{"grant_id": l.grantID, "secret_type": childTokenType}, l.secret.InternalData)

	shown := m.must(m.read("grants/" + l.grantID)).Data // mount searches it for every secret
	require.Equal(t, "session/s", shown["provider"])
	_, err := m.renew(l, 10*time.Minute)
	require.NoError(t, err)
	require.Equal(t, []string{"session-1"}, s.alive())
	require.NoError(t, m.revoke(l))
	require.Empty(t, s.alive())
	require.Empty(t, m.allGrants())
}

// Who joins a shared child gets all of its parts.
func TestAllPartsAreShared(t *testing.T) {
	m, s := newSessionMount(t, map[string]any{"sharing": "entity"})
	one, two := m.mustSession(call{entity: alice}), m.mustSession(call{entity: alice})
	require.Equal(t, one.grantID, two.grantID)
	for _, part := range []string{"access_key_id", "secret_access_key", "session_token"} {
		require.NotEmpty(t, two.data[part])
		require.Equal(t, one.data[part], two.data[part])
	}
	require.NoError(t, m.revoke(one))
	require.Len(t, s.alive(), 1)
	require.NoError(t, m.revoke(two))
	require.Empty(t, s.alive())
}

// Every part is looked through: what must not be handed out is refused, and killed unless
// there is nothing to kill but the parent.
func TestNoPartOfAChildIsOverlooked(t *testing.T) {
	set := func(name string, value any) func(int, map[string]any) {
		return func(_ int, answer map[string]any) { answer[name] = value }
	}
	for name, test := range map[string]struct {
		change func(int, map[string]any)
		says   string
		kept   bool // at the system, because nobody may be told to kill it
	}{
		"the first part is the parent":     {change: set("secret_access_key", rootKey), says: "the parent credential"},
		"the second part is the parent":    {change: set("session_token", rootKey), says: "the parent credential"},
		"the parent inside":                {change: set("session_token", "a"+rootKey+"b"), says: "holds the parent"},
		"the parent inside, in Base64":     {change: set("session_token", base64.StdEncoding.EncodeToString([]byte("user:"+rootKey))), says: "holds the parent"},
		"nothing but the parent":           {change: func(_ int, a map[string]any) { a["secret_access_key"], a["session_token"] = rootKey, rootKey }, says: "the parent credential itself", kept: true},
		"the parent in what would kill it": {change: set("handle", "sessions/"+rootKey), says: "the parent", kept: true},
		"a part is missing":                {change: func(_ int, a map[string]any) { delete(a, "secret_access_key") }, says: "without secret_access_key"},
		"a part is empty":                  {change: set("session_token", ""), says: "without session_token"},
		"a part that is not declared":      {change: set("second_token", "another-token-of-somebody"), says: "it declares secret_access_key, session_token"},
		"a field that is not declared":     {change: set("region", "eu-west-1"), says: "what it declares and calls no secret is access_key_id"},
		"a secret where none belongs":      {change: func(_ int, a map[string]any) { a["access_key_id"] = a["session_token"] }, says: "access_key_id"},
		"a secret deep inside":             {change: func(_ int, a map[string]any) { a["access_key_id"] = []any{map[string]any{"x": rootKey}} }, says: "access_key_id"},
		"a secret among what was granted":  {change: func(_ int, a map[string]any) { a["scope"] = "read " + a["secret_access_key"].(string) }, says: "among what it granted"},
		"a secret for a lever":             {change: func(_ int, a map[string]any) { a["class"], a["lever"] = "lever", a["session_token"] }, says: "in the name of its lever"},
		"a class that nothing is known of": {change: set("class", "perhaps"), says: "neither token nor lever nor expiry"},
		"no class":                         {change: set("class", ""), says: "class"},
		"a class without what kills":       {change: set("handle", ""), says: "class", kept: true},
		"expiry, and it can be killed":     {change: set("class", "expiry"), says: "class"},
		"a lever of a token":               {change: set("lever", "login-1"), says: "lever"},
	} {
		t.Run(name, func(t *testing.T) {
			m, s := newSessionMount(t, nil)
			s.changing(test.change)
			_, err := m.session(call{})
			requireCode(t, err, fault.ProviderViolation, test.says)
			if test.kept {
				require.Empty(t, s.killed)
				return
			}
			require.Empty(t, s.alive(), "it is not handed out, and must not live")
			require.Empty(t, m.allGrants())
		})
	}
}

// Each of a child's members that a response, a record or a list shows in clear is looked
// through for every secret, in every usual encoding, and for what is equal to one however
// short that is.
func TestNothingOfAChildThatIsShownIsASecret(t *testing.T) {
	const short = "short-token-12"
	encodings := map[string]func(string) string{
		"as it is": func(v string) string { return v },
		"Base64":   func(v string) string { return base64.StdEncoding.EncodeToString([]byte("x " + v)) },
		"a form": func(v string) string {
			return strings.ToLower(url.QueryEscape("?t=")) + strings.NewReplacer("/", "%2f", "+", "%2b", "=", "%3d", "-", "%2d").Replace(v)
		},
	}
	secrets := map[string]func(a map[string]any) string{
		"the parent": func(map[string]any) string { return rootKey },
		"the child":  func(a map[string]any) string { return a["session_token"].(string) },
	}
	for _, member := range []string{"token_type", "issued_token_type", "unverified", "issuer", "lever", "scope", "access_key_id", "nested", "named"} {
		t.Run(member, func(t *testing.T) {
			m, s := newSessionMount(t, nil)
			put := func(a map[string]any, value string) {
				switch member {
				case "lever":
					a["class"], a["lever"] = "lever", value
				case "nested":
					a["access_key_id"] = []any{map[string]any{"x": []string{value}}}
				case "named":
					a["access_key_id"] = map[string]any{value: 1}
				case "scope":
					a["scope"] = "read " + strings.ReplaceAll(value, " ", "+")
				default:
					a[member] = value
				}
			}
			refused := func(name string, change func(a map[string]any)) {
				s.changing(func(_ int, a map[string]any) { change(a) })
				_, err := m.session(call{}) // mount looks for secrets in every error, answer, log and record
				requireCode(t, err, fault.ProviderViolation, "repeats the parent credential, or a token")
				require.Empty(t, s.alive(), name)
			}
			for of, value := range secrets {
				for how, encode := range encodings {
					refused(of+" "+how, func(a map[string]any) { put(a, encode(value(a))) })
				}
			}
			refused("a short one", func(a map[string]any) { a["session_token"] = short; put(a, short) })
		})
	}
}

// A part that holds the parent is refused in whatever way that is spelled.
func TestNoPartHoldsTheParentInAnySpelling(t *testing.T) {
	m, s := newSessionMount(t, nil)
	for name, text := range map[string]string{
		"lower-case percent":      strings.NewReplacer("/", "%2f", "+", "%2b", "=", "%3d").Replace(rootKey),
		"PHP":                     strings.ReplaceAll(rootKey, "/", `\/`),
		".NET":                    strings.ReplaceAll(rootKey, "+", `\u002B`),
		"a header of RFC 6749":    base64.StdEncoding.EncodeToString([]byte("id:" + url.QueryEscape(rootKey))),
		"a claim with the header": "e30." + base64.RawURLEncoding.EncodeToString([]byte(`{"a":"`+base64.StdEncoding.EncodeToString([]byte("id:"+rootKey))+`"}`)) + ".c2ln",
	} {
		s.changing(func(_ int, a map[string]any) { a["session_token"] = "x." + text + ".y" })
		_, err := m.session(call{})
		requireCode(t, err, fault.ProviderViolation, "holds the parent")
		require.Empty(t, s.alive(), name)
	}
}

// What is refused for its shape is not quoted: names, classes and what was granted may be
// a secret as anything else.
func TestARefusalQuotesNothingThatCame(t *testing.T) {
	for name, change := range map[string]func(a map[string]any){
		"the parent as a field":   func(a map[string]any) { a[rootKey] = "x" },
		"the parent as a secret":  func(a map[string]any) { a["se"+rootKey] = "x" },
		"the parent as the class": func(a map[string]any) { a["class"] = rootKey },
		"the child as a field":    func(a map[string]any) { a[a["session_token"].(string)] = "x" },
		"the child as a secret":   func(a map[string]any) { a["se-"+a["session_token"].(string)] = "x" },
		"the child as the class":  func(a map[string]any) { a["class"] = a["session_token"] },
		"the parent as what it gives": func(a map[string]any) {
			a["scope"] = "read " + strings.NewReplacer("/", "%2f", "+", "%2b", "=", "%3d").Replace(rootKey)
		},
	} {
		t.Run(name, func(t *testing.T) {
			m, s := newSessionMount(t, nil)
			s.changing(func(_ int, a map[string]any) { change(a) })
			_, err := m.session(call{}) // mount looks for secrets in every error and log
			requireCode(t, err, fault.ProviderViolation)
			require.NotContains(t, err.Error(), "canary-key")
			require.NotContains(t, m.log.String(), "canary-key")
		})
	}
}

// A check shows nothing of what it had to mint.
func TestACheckShowsNoTokenOfItsOwn(t *testing.T) {
	m, s := newSessionMount(t, nil)
	s.checks = m.hide("token-of-the-check-0001")
	checked := m.must(m.write("providers/session/s/check", nil)).Data
	require.Equal(t, []string{"scope:read"}, checked["grants"])
	require.Empty(t, checked["detail"])
	require.Equal(t, []string{"sessions/checked"}, s.killed)
}

// What an exchange was asked with is no part of what it gives, and is never revoked.
func TestNoPartIsTheCallersOwnToken(t *testing.T) {
	m, s := newSessionMount(t, nil)
	m.must(m.write("issuers/i", map[string]any{
		"jwks_url": m.server.Endpoint(authserver.EndpointJWKS), "bound_issuer": m.server.URL, "bound_audiences": "broker",
	}))
	m.must(m.write("roles/r", map[string]any{"mode": "exchange", "subject_issuers": "i"}))
	token := m.subjectToken("one", nil)
	for name, change := range map[string]func(int, map[string]any){
		"a part":        func(_ int, a map[string]any) { a["session_token"] = token },
		"inside a part": func(_ int, a map[string]any) { a["secret_access_key"] = "x" + token },
		"in Base64": func(_ int, a map[string]any) {
			a["session_token"] = base64.StdEncoding.EncodeToString([]byte("x " + token))
		},
		"a claim of a JWT": func(_ int, a map[string]any) {
			a["session_token"] = "e30." + base64.RawURLEncoding.EncodeToString([]byte(`{"subject_token":"`+token+`"}`)) + ".c2ln"
		},
		"another signature": func(_ int, a map[string]any) {
			a["session_token"] = token[:strings.LastIndexByte(token, '.')] + ".AAAA"
		},
	} {
		s.changing(change)
		_, err := m.session(call{data: map[string]any{"subject_token": token}})
		requireCode(t, err, fault.ProviderViolation, "was to be exchanged")
		require.Empty(t, s.alive(), name)
	}
	s.changing(func(_ int, a map[string]any) {
		a["access_key_id"] = base64.StdEncoding.EncodeToString([]byte("x " + token))
	})
	_, err := m.session(call{data: map[string]any{"subject_token": token}})
	requireCode(t, err, fault.ProviderViolation, "in the field access_key_id")
	s.killed = nil
	s.changing(func(_ int, a map[string]any) { a["handle"] = token })
	_, err = m.session(call{data: map[string]any{"subject_token": token}})
	requireCode(t, err, fault.ProviderViolation, "was to be exchanged")
	require.Empty(t, s.killed)
}

// Whatever a type makes of what its system says, no secret comes through it.
func TestATypesWordsGiveNoSecretAway(t *testing.T) {
	m, s := newSessionMount(t, nil)
	l := m.mustSession(call{})
	s.refuses = true
	_, err := m.session(call{}) // mount looks for secrets in every error, answer and record
	requireCode(t, err, fault.ProviderViolation, "cannot be shown")
	metrics, _ := m.must(m.read("metrics")).Data["http_raw_body"].([]byte)
	require.Contains(t, string(metrics), `lost_answers_total{provider="session/s"} 1`, "and it still steers")
	_, err = m.write("providers/session/s/check", nil)
	requireCode(t, err, fault.TemporarilyUnavailable, "cannot be shown")
	require.ErrorContains(t, m.revoke(l), "cannot be shown")
	require.Contains(t, m.must(m.read("grants/" + l.grantID)).Data["last_error"], "cannot be shown")
	s.refuses = false
	checked := m.must(m.write("providers/session/s/check", nil)).Data
	require.Equal(t, []string{"scope:read"}, checked["grants"])
	m.clock.advance(time.Hour)
	m.sweep()
}
