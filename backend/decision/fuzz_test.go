package decision_test

import (
	"encoding/json"
	"net/netip"
	"testing"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/decision"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/role"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/subject"
)

// fuzzed is what a fuzzer writes beside the role: a request, and a provider's
// answer in the same form.
type fuzzed struct {
	Scopes      []string          `json:"scopes"`
	Audiences   []string          `json:"audiences"`
	Resources   []string          `json:"resources"`
	Permissions map[string]string `json:"permissions"`
	Details     json.RawMessage   `json:"authorization_details"`
	TTL         int64             `json:"ttl"`
}

func (f fuzzed) request() (decision.Request, bool) {
	q := decision.Request{Scopes: f.Scopes, Audiences: f.Audiences, Resources: f.Resources, Permissions: f.Permissions, TTL: time.Duration(f.TTL)}
	if f.Details == nil {
		return q, true
	}
	d, err := access.ParseDetails(f.Details)
	q.Details = &d
	return q, err == nil
}

// FuzzDecide: whatever is written into a role, a request, the claims and an
// answer, nothing panics, a role that is refused is refused with invalid_request,
// and what is granted is within all of them.
func FuzzDecide(f *testing.F) {
	f.Add([]byte(`{"scopes":["repo:*","a"],"default_scopes":["a"],"permissions":{"contents":"write"},"bound_cidrs":["10.0.0.0/8"]}`),
		[]byte(`{"scopes":["repo:x","b"],"permissions":{"contents":"admin"},"ttl":60000000000}`), []byte(`{}`), []byte(`{"scopes":["repo:x"]}`), uint16(0))
	f.Add([]byte(`{"scopes":["**"],"audiences":["https://**"],"subject_issuers":["ci"],"bound_subject_claims":{"/a/0":["x*"]},"required_acr":["gold"],"subject_single_use":true,"condition":"subject.claims.a[0] != identity.name"}`),
		[]byte(`{"scopes":["*"],"audiences":["https://a"]}`), []byte(`{"scope":"* a","a":["xy"],"acr":"gold"}`), []byte(`{"audiences":["https://b"]}`), uint16(0x1ff))
	f.Add([]byte(`{"authorization_details":[{"type":"pay","actions":["x","y"]}],"on_excess":"refuse","bound_entity_metadata":{"team":"red"}}`),
		[]byte(`{"authorization_details":[{"type":"pay","actions":["x"]}]}`), []byte(`null`), []byte(`{"authorization_details":[]}`), uint16(0x2a))
	f.Fuzz(func(t *testing.T, roleJSON, requestJSON, claimsJSON, answerJSON []byte, knobs uint16) {
		r := &role.Role{Provider: "test/it", Mode: provider.ModeMint, OnExcess: role.Strip}
		var q, answer fuzzed
		var claims map[string]any
		if json.Unmarshal(roleJSON, r) != nil || json.Unmarshal(requestJSON, &q) != nil || json.Unmarshal(claimsJSON, &claims) != nil || json.Unmarshal(answerJSON, &answer) != nil {
			return
		}
		traits := fuzzedTraits(knobs)
		p, err := r.Compile(kind{}, traits, time.Duration(knobs)*time.Second)
		if err != nil {
			if fault.CodeOf(err) != fault.InvalidRequest {
				t.Fatalf("%s: %v", roleJSON, err)
			}
			return
		}
		w := world{Policy: p, role: r, traits: traits}
		request, ok := q.request()
		if !ok {
			return // refused before the decision
		}
		s := fuzzedSituation(knobs, claims)
		d := w.Decide(s, request)
		checkDecision(t, w, s, request, d)
		if d.Allowed() {
			checkAnswer(t, w, d, answer)
		}
		p.CheckRenewal(s, decision.Recorded{Access: d.Access, RemoteAddr: string(claimsJSON), Claims: claims})
		p.CheckStanding(s)
	})
}

func fuzzedTraits(knobs uint16) provider.Traits {
	traits := able()
	for i, dim := range access.AllDimensions() {
		traits.Askable[dim] = knobs&(1<<i) == 0
	}
	if knobs&(1<<5) != 0 {
		traits.Ceiling.Scopes = access.Exactly("a", "repo:x", "*")
	}
	return traits
}

func fuzzedSituation(knobs uint16, claims map[string]any) decision.Situation {
	s := decision.Situation{Now: noon, MountTTL: time.Hour, MountMaxTTL: time.Duration(knobs>>10) * time.Minute}
	if knobs&(1<<6) == 0 {
		s.Caller = decision.Caller{EntityID: "e1", Name: "e1", Metadata: map[string]string{"team": "red"}, Groups: groups, RemoteAddr: netip.MustParseAddr("::ffff:10.0.0.7")}
	}
	if claims == nil {
		return s
	}
	tok := &subject.Token{Issuer: "https://ci.test", Subject: "alice", ID: "j1", ExpiresAt: noon.Add(time.Minute), Claims: claims}
	tok.ACR, _ = claims["acr"].(string)
	if scope, ok := claims["scope"].(string); ok {
		tok.HasScopes, tok.Scopes = true, []string{scope, "a", "*"}
	}
	s.Subject = subject.Verified(tok)
	return s
}

// checkAnswer: an answer that was accepted is within what was asked for.
func checkAnswer(t *testing.T, w world, d *decision.Decision, answer fuzzed) {
	given, ok := answer.request()
	if !ok {
		return
	}
	permissions, err := access.NewPermissions(nil, given.Permissions)
	if err != nil {
		return
	}
	a := decision.Answer{
		Granted:   access.Access{Scopes: access.Exactly(given.Scopes...), Audiences: access.Exactly(given.Audiences...), Resources: access.Exactly(given.Resources...), Permissions: permissions},
		Confirmed: access.Dimensions{},
	}
	if given.Details != nil {
		a.Granted.Details = *given.Details
	}
	for _, dim := range access.AllDimensions() {
		a.Confirmed[dim] = !a.Granted.IsNothing(dim)
	}
	if _, violation := w.Accept(d.Access, a); violation != nil {
		return
	}
	for _, dim := range access.AllDimensions() {
		free := !w.Bounded[dim] && (dim == access.DimAudiences || dim == access.DimResources)
		if a.Confirmed[dim] && !free && !a.Granted.Only(dim).Within(d.Access) {
			t.Fatalf("%v was accepted for %v", a.Granted.Flat(), d.Access.Flat())
		}
	}
}
