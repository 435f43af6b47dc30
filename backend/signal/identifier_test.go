package signal

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
)

func TestSubjectsAreReadStrictly(t *testing.T) {
	for text, want := range map[string]*Subject{
		`{"format":"iss_sub","iss":"https://i","sub":"s"}`:       {Names: []Identifier{{Format: FormatIssSub, Issuer: "https://i", Subject: "s"}}},
		`{"subject_type":"iss-sub","iss":"https://i","sub":"s"}`: {Names: []Identifier{{Format: FormatIssSub, Issuer: "https://i", Subject: "s"}}},
		`{"format":"email","email":"a@b.example"}`:               {Names: []Identifier{{Format: FormatEmail, Value: "a@b.example"}}},
		`{"format":"account","uri":"acct:a%40b@c.example"}`:      {Names: []Identifier{{Format: FormatAccount, Value: "a@b@c.example"}}},
		`{"format":"opaque","id":"x"}`:                           {Names: []Identifier{{Format: FormatOpaque, Value: "x"}}},
		`{"format":"aliases","identifiers":[{"format":"phone_number","phone_number":"+1"},{"format":"email","email":"a@b"}]}`: {Names: []Identifier{{Format: FormatEmail, Value: "a@b"}}},
		`{"format":"complex","user":{"format":"opaque","id":"x"},"session":{"format":"opaque","id":"y"}}`:                     {Names: []Identifier{{Format: FormatOpaque, Value: "x"}}, Narrowing: []string{"session"}},
		`{"user":{"format":"opaque","id":"x"},"device":{"format":"opaque","id":"y"}}`:                                         {Names: []Identifier{{Format: FormatOpaque, Value: "x"}}, Narrowing: []string{"device"}},
	} {
		got, err := read(t, text)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	for _, nobody := range []string{
		`{"format":"jwt_id","iss":"i","jti":"j"}`, `{"format":"phone_number","phone_number":"+1"}`, `{"format":"ip-addresses","ip-addresses":["::1"]}`,
		`{"format":"new-one","x":1}`, `{"format":"complex","device":{"format":"opaque","id":"y"}}`, `{"format":"aliases","identifiers":[{"format":"did","url":"did:x"}]}`,
	} {
		got, err := read(t, nobody)
		require.NoError(t, err, nobody)
		require.Empty(t, got.Names, nobody)
		require.NotEmpty(t, got.Other, nobody)
	}
	for _, wrong := range []string{
		`"x"`, `{}`, `{"format":1}`, `{"format":"iss_sub","iss":"i"}`, `{"format":"iss_sub","iss":"i","sub":7}`, `{"format":"iss_sub","iss":"i","sub":""}`,
		`{"format":"iss_sub","iss":"i","sub":"a\u0000b"}`, `{"format":"email","email":"nobody"}`, `{"format":"account","uri":"mailto:a@b"}`,
		`{"format":"opaque","id":"x","sub":"y"}`, `{"format":"aliases","identifiers":[]}`, `{"format":"aliases","identifiers":[{"format":"aliases","identifiers":[]}]}`,
		`{"format":"complex","user":"x"}`, `{"format":"complex","user":{"format":"complex","user":{"format":"opaque","id":"x"}}}`, `{"format":"complex","session":7}`,
		`{"format":"email","user":{"format":"opaque","id":"x"}}`,
	} {
		_, err := read(t, wrong)
		require.Error(t, err, wrong)
	}
}

func read(t *testing.T, text string) (*Subject, error) {
	t.Helper()
	v, err := form.Value([]byte(text), maxDepth)
	require.NoError(t, err)
	return parseSubject(v)
}

// An event that says that things have become better harms nobody, whatever the operator
// wants of its kind.
func TestWhatGetsBetterHarmsNobody(t *testing.T) {
	all := map[string]string{"device-compliance-change": "kill", "assurance-level-change": "freeze"}
	for _, test := range []struct {
		kind    string
		members map[string]any
		want    Action
	}{
		{"device-compliance-change", map[string]any{"current_status": "not-compliant"}, Kill},
		{"device-compliance-change", map[string]any{"current_status": "compliant"}, Note},
		{"device-compliance-change", nil, Kill},
		{"assurance-level-change", map[string]any{"change_direction": "increase"}, Note},
		{"assurance-level-change", map[string]any{"change_direction": "decrease"}, Freeze},
		{"session-revoked", nil, Note},
		{"", nil, Note},
	} {
		require.Equal(t, test.want, ActionOn(all, &Event{Kind: test.kind, Members: test.members}), "%s %v", test.kind, test.members)
	}
	require.Equal(t, Kill, ActionOn(nil, &Event{Kind: "session-revoked"}))
}

func TestActionsAreReadStrictly(t *testing.T) {
	got, err := ParseActions(map[string]string{caep + "session-revoked": "kill", "account-disabled": "freeze"})
	require.NoError(t, err)
	require.Equal(t, map[string]string{"session-revoked": "kill", "account-disabled": "freeze"}, got)
	for name, action := range map[string]string{"session-removed": "kill", "session-revoked": "maim", risc + "session-revoked": "kill", "verification": "note"} {
		_, err := ParseActions(map[string]string{name: action})
		require.Error(t, err)
	}
}

// Whatever a SET holds, what is made of it names somebody or says why not, and never panics.
func FuzzEvent(f *testing.F) {
	f.Add(`{"jti":"j","iat":1,"events":{"` + caep + `session-revoked":{}},"sub_id":{"format":"opaque","id":"x"}}`)
	f.Add(`{"jti":"j","iat":1,"toe":1e400,"events":{"x":{"event_timestamp":-1}},"sub_id":{"format":"complex","user":{"subject_type":"id-token-claims","iss":"i","sub":"s"}}}`)
	f.Fuzz(func(t *testing.T, text string) {
		claims, err := form.Object([]byte(text), maxDepth)
		if err != nil {
			return
		}
		e, err := readEvent(claims, "j", "i", time.Unix(1000, 0))
		if err != nil || e.Unreadable != nil {
			return
		}
		require.True(t, (len(e.Subject.Names) > 0) != (e.Subject.Other != ""))
		require.False(t, e.Happened.After(e.IssuedAt))
		for _, id := range e.Subject.Names {
			require.True(t, isIdentifier(id.Value+id.Subject))
		}
	})
}
