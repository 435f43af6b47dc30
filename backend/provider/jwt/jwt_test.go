package jwt

import (
	"net/http"
	"net/http/httptest"

	"context"
	"encoding/json"
	"errors"
	"fmt"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/kit"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/providertest"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

func TestConformance(t *testing.T) {
	providertest.Run(t, func(t *testing.T) providertest.Subject {
		f := mustOpen(t, map[string]any{"claims": map[string]string{"groups": "{{identity.entity.groups.names}}"}})
		f.announce(t, nil)
		r := request()
		return providertest.Subject{
			Provider: f.Provider,
			Type:     Type{},
			Request:  r,
			Store:    providertest.NewParentStore(provider.Parent{}),
			Alive: func(c *provider.Child) bool {
				_, err := f.signer.Verify(context.Background(), c.Token())
				return err == nil
			},
			Minted: func() int {
				f.signer.mu.Lock()
				defer f.signer.mu.Unlock()
				return f.signer.signed
			},
			Echo: func() {
				f.signer.mu.Lock()
				defer f.signer.mu.Unlock()
				f.signer.refusal = fault.New(fault.TemporarilyUnavailable, "config issuer is not set")
			},
			Stall: func() {
				f.signer.mu.Lock()
				defer f.signer.mu.Unlock()
				f.signer.stalls = true
			},
		}
	})
}

func TestFields(t *testing.T) {
	claims := func(name, template string) map[string]any {
		return map[string]any{"claims": map[string]string{name: template}}
	}
	exchange := func(name, template string) map[string]any {
		return map[string]any{"exchange_claims": map[string]string{name: template}}
	}
	many := map[string]string{}
	for i := range maxClaims + 1 {
		many[fmt.Sprint("claim", i)] = "x"
	}
	for name, c := range map[string]struct {
		fields map[string]any
		refuse string // "" if it is accepted
	}{
		"nothing":                 {nil, ""},
		"constants":               {map[string]any{"subject": "batch", "client_id": "broker"}, ""},
		"spaces":                  {map[string]any{"subject": "{{ identity.entity.name }}"}, ""},
		"roles":                   {claims("roles", "{{identity.entity.groups.names}}"), ""},
		"a key with dots":         {claims("a", "{{identity.entity.metadata.corp.test/team}}"), ""},
		"an unknown expression":   {claims("a", "{{identity.entity.nickname}}"), "takes {{identity.entity.id}}"},
		"no expression at all":    {claims("a", "{{}}"), "nothing that a template"},
		"of Vault's and unknown":  {claims("a", "{{identity.entity.aliases.acc.custom_metadata.x}}"), "nothing that a template"},
		"an alias without more":   {claims("a", "{{identity.entity.aliases.acc}}"), "nothing that a template"},
		"metadata without a key":  {claims("a", "{{identity.entity.metadata.}}"), "nothing that a template"},
		"all metadata":            {claims("a", "{{identity.entity.metadata}}"), "nothing that a template"},
		"group ids":               {claims("a", "{{identity.entity.groups.ids}}"), "nothing that a template"},
		"the time":                {claims("a", "{{time.now}}"), "nothing that a template"},
		"a list in text":          {claims("a", "x{{identity.entity.groups.names}}"), "must be the whole template"},
		"a list twice":            {claims("a", "{{identity.entity.groups.names}}{{identity.entity.groups.names}}"), "must be the whole template"},
		"sub is a list":           {map[string]any{"subject": "{{identity.entity.groups.names}}"}, "subject: "},
		"client_id is a list":     {map[string]any{"client_id": "{{identity.entity.groups.names}}"}, "client_id: "},
		"open braces":             {claims("a", "{{identity.entity.id"), "do not match"},
		"closing braces":          {claims("a", "identity.entity.id}}"), "do not match"},
		"nested braces":           {claims("a", "{{identity.{{entity.id}}}}"), "do not match"},
		"an empty template":       {claims("a", ""), "between 1 and"},
		"an endless template":     {claims("a", strings.Repeat("x", kit.MaxTemplate+1)), "between 1 and"},
		"a newline":               {claims("a", "x\ny"), "printable"},
		"a claim without a name":  {claims("", "x"), "a claim's name"},
		"an endless name":         {claims(strings.Repeat("x", maxClaimName+1), "x"), "a claim's name"},
		"an unprintable name":     {claims("a\x00b", "x"), "unprintable"},
		"too many":                {map[string]any{"claims": many}, "more than 32"},
		"another class":           {map[string]any{"revocation": "lever"}, "revocation: want expiry or token"},
		"in another case":         {claims("SUB", "x"), "the broker sets itself"},
		"a subject's claim":       {exchange("groups", "{{subject.claims.groups}}"), ""},
		"a claim with any name":   {exchange("x", "{{ subject.claims.https://corp.test/a b }}"), ""},
		"a constant":              {exchange("tier", "gold"), ""},
		"an actor's claim":        {exchange("act.groups", "{{identity.entity.groups.names}}"), ""},
		"an actor's constant":     {exchange("act.kind", "agent"), ""},
		"the caller's, as if":     {exchange("team", "{{identity.entity.metadata.team}}"), "exchange_claims.team: {{identity.entity.metadata.team}} is about the caller"},
		"the caller's groups":     {exchange("groups", "{{identity.entity.groups.names}}"), "such as act.team"},
		"the caller's in text":    {exchange("team", "x-{{identity.entity.id}}"), "is about the caller"},
		"the subject's in text":   {exchange("team", "x-{{subject.claims.team}}"), "must be the whole template"},
		"the subject's twice":     {exchange("team", "{{subject.claims.team}}{{subject.claims.team}}"), "must be the whole template"},
		"no claim":                {exchange("team", "{{subject.claims.}}"), "nothing that can be copied"},
		"all claims":              {exchange("team", "{{subject.claims}}"), "nothing that can be copied"},
		"the subject's in act":    {exchange("act.team", "{{subject.claims.team}}"), "exchange_claims.act.team: {{subject.claims.team}} is about the subject"},
		"the subject's in a mint": {claims("team", "{{subject.claims.team}}"), "write it into exchange_claims"},
		"the subject's as sub":    {map[string]any{"subject": "{{subject.claims.sub}}"}, "is about the subject"},
		"act itself":              {exchange("act", "x"), "exchange_claims: act is a claim that the broker sets itself"},
		"act's own sub":           {exchange("act.sub", "x"), "exchange_claims: sub is a claim that the broker sets itself"},
		"act's own act":           {exchange("act.act", "x"), "the broker sets itself"},
		"act without a name":      {exchange("act.", "x"), "a claim's name"},
		"too many in an exchange": {map[string]any{"exchange_claims": many}, "exchange_claims: more than 32"},
		"in Unicode's other case": {claims("\u017fub", "x"), "the broker sets itself"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := open(t, c.fields)
			if c.refuse == "" {
				require.NoError(t, err)
				return
			}
			requireFault(t, err, fault.InvalidRequest, c.refuse)
		})
	}
	for _, name := range reserved {
		_, err := open(t, claims(name, "x"))
		requireFault(t, err, fault.InvalidRequest, name+" is a claim that the broker sets itself")
		for _, prefix := range []string{"", "act."} {
			_, err := open(t, exchange(prefix+name, "x"))
			requireFault(t, err, fault.InvalidRequest, name+" is a claim that the broker sets itself")
		}
	}
}

func TestWhatTheIdentityLacksIsRefusedByTemplate(t *testing.T) {
	nobody := func(r *provider.Request) { r.Identity = provider.Identity{} }
	for name, c := range map[string]struct {
		fields map[string]any
		change func(*provider.Request)
		parts  []string
	}{
		"no entity":         {nil, nobody, []string{"client_id is filled from the Vault entity", "log in with an auth method"}},
		"no entity, sub":    {map[string]any{"client_id": "broker"}, nobody, []string{"subject is filled from the Vault entity"}},
		"no entity, groups": {map[string]any{"client_id": "broker", "subject": "s", "claims": map[string]string{"g": "{{identity.entity.groups.names}}"}}, nobody, []string{"claims.g is filled from the Vault entity"}},
		"no such key":       {map[string]any{"claims": map[string]string{"c": "{{identity.entity.metadata.cost_center}}"}}, nil, []string{"claims.c", "lacks what {{identity.entity.metadata.cost_center}} names"}},
		"no such alias":     {map[string]any{"subject": "{{identity.entity.aliases.auth_other.name}}"}, nil, []string{"subject", "auth_other"}},
		"no name":           {map[string]any{"subject": "{{identity.entity.name}}"}, func(r *provider.Request) { r.Identity.Name = "" }, []string{"subject"}},
		"an empty sub":      {map[string]any{"subject": "{{identity.entity.metadata.empty}}"}, nil, []string{"subject", "names nobody"}},
		"a sub of two lines": {map[string]any{"subject": "{{identity.entity.metadata.team}}"}, func(r *provider.Request) {
			r.Identity.Metadata = map[string]string{"team": "a\nb"}
		}, []string{"names nobody"}},
		"a sub that is no text": {map[string]any{"subject": "{{identity.entity.metadata.team}}"}, func(r *provider.Request) {
			r.Identity.Metadata = map[string]string{"team": "a\xff"}
		}, []string{"is no text"}},
		"a group's name that is no text": {map[string]any{"claims": map[string]string{"g": "{{identity.entity.groups.names}}"}}, func(r *provider.Request) {
			r.Identity.Groups = []string{"ops", "\xff"}
		}, []string{"is no list of names"}},
		"a claim that is no text": {map[string]any{"claims": map[string]string{"t": "{{identity.entity.metadata.team}}"}}, func(r *provider.Request) {
			r.Identity.Metadata = map[string]string{"team": "a\xff"}
		}, []string{"is no text"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := mustOpen(t, c.fields)
			r := request()
			if c.change != nil {
				c.change(&r)
			}
			child, err := f.Mint(t.Context(), r)
			require.Nil(t, child)
			requireFault(t, err, fault.AccessDenied, c.parts...)
			require.NotContains(t, err.Error(), "payments")
			require.Empty(t, f.signer.purposes, "nothing was signed")
		})
	}
	// Constants need nobody.
	f := mustOpen(t, map[string]any{"subject": "batch", "client_id": "broker"})
	r := request()
	nobody(&r)
	child, err := f.Mint(t.Context(), r)
	require.NoError(t, err)
	claims, _ := f.payload(t, child)
	require.Equal(t, "batch", claims["sub"])
}

// What the operator wants in an exchange is the subject's, or stands in act, and there
// only about the Vault entity.
func TestClaimsOfAnExchange(t *testing.T) {
	fields := map[string]any{
		"claims": map[string]string{"groups": "{{identity.entity.groups.names}}", "cost": "{{identity.entity.metadata.cost_center}}"},
		"exchange_claims": map[string]string{
			"roles": "{{subject.claims.roles}}", "act.team": "{{identity.entity.metadata.team}}", "act.groups": "{{identity.entity.groups.names}}",
		},
	}
	f := mustOpen(t, fields)
	require.True(t, f.Traits().NeedsGroups)
	subject := func(claims map[string]any) *provider.Party {
		return &provider.Party{Issuer: "https://idp.test", ID: "ann", Claims: claims, ExpiresAt: began.Add(time.Hour)}
	}
	for name, c := range map[string]struct {
		actor *provider.Party
		act   any
	}{
		"the entity acts":   {&provider.Party{Issuer: ownIssuer, ID: entity}, map[string]any{"sub": entity, "iss": ownIssuer, "team": "payments", "groups": []any{"deployers", "ops"}}},
		"another acts":      {&provider.Party{Issuer: "https://idp.test", ID: "ci", Token: secret.New("actor token")}, map[string]any{"sub": "ci", "iss": "https://idp.test"}},
		"nobody is said to": {nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			r := request()
			r.Subject, r.Actor = subject(map[string]any{"roles": []any{"reader"}, "groups": []any{"staff"}}), c.actor
			child, err := f.Exchange(t.Context(), r)
			require.NoError(t, err, "the caller lacks a cost center, of which nothing is said here")
			claims, _ := f.payload(t, child)
			require.Equal(t, []any{"reader"}, claims["roles"])
			require.NotContains(t, claims, "groups")
			require.NotContains(t, claims, "team")
			require.Equal(t, c.act, claims["act"])
		})
	}
	for _, claims := range []map[string]any{{}, {"roles": nil}, {"Roles": []any{"reader"}}} {
		r := request()
		r.Subject = subject(claims)
		_, err := f.Exchange(t.Context(), r)
		requireFault(t, err, fault.AccessDenied, "exchange_claims.roles", `has no claim "roles"`)
	}
	r := request()
	r.Subject, r.Actor = subject(map[string]any{"roles": "x"}), &provider.Party{Issuer: ownIssuer, ID: entity}
	r.Identity.Metadata = nil
	_, err := f.Exchange(t.Context(), r)
	requireFault(t, err, fault.AccessDenied, "exchange_claims.act.team", "lacks what")
}

func TestNoGroupsAreAnEmptyList(t *testing.T) {
	f := mustOpen(t, map[string]any{"claims": map[string]string{"groups": "{{identity.entity.groups.names}}"}})
	require.True(t, f.Traits().NeedsGroups)
	r := request()
	r.Identity.Groups = nil
	child, err := f.Mint(t.Context(), r)
	require.NoError(t, err)
	claims, _ := f.payload(t, child)
	require.Equal(t, []any{}, claims["groups"])
}

func TestTheEnd(t *testing.T) {
	subject := func(left time.Duration) *provider.Party {
		return &provider.Party{Issuer: "https://idp.test", ID: "ann", Claims: map[string]any{}, ExpiresAt: began.Add(left)}
	}
	for name, c := range map[string]struct {
		ttl, longest time.Duration
		subject      *provider.Party
		want         time.Duration // 0 is a refusal
	}{
		"what was asked for":      {10 * time.Minute, time.Hour, nil, 10 * time.Minute},
		"the issuer's longest":    {10 * time.Hour, time.Hour, nil, time.Hour},
		"the subject's":           {time.Hour, time.Hour, subject(5 * time.Minute), 5 * time.Minute},
		"not the subject's":       {time.Minute, time.Hour, subject(5 * time.Minute), time.Minute},
		"less than a second":      {50 * time.Millisecond, time.Hour, nil, 0},
		"the subject's last one":  {time.Hour, time.Hour, subject(50 * time.Millisecond), 0},
		"the subject is past":     {time.Hour, time.Hour, subject(-time.Second), 0},
		"a second and a fraction": {time.Second + 200*time.Millisecond, time.Hour, nil, time.Second + 200*time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			f := mustOpen(t, nil)
			f.signer.longest = c.longest
			r := request()
			r.TTL, r.Subject = c.ttl, c.subject
			call := f.Mint
			if c.subject != nil {
				call = f.Exchange
			}
			child, err := call(t.Context(), r)
			if c.want == 0 {
				requireFault(t, err, fault.InvalidRequest, "less than a second")
				return
			}
			require.NoError(t, err)
			end := began.Add(c.want)
			require.False(t, child.ExpiresAt.After(end), "later than allowed")
			require.Less(t, end.Sub(child.ExpiresAt), time.Second, "needlessly short")
			claims, _ := f.payload(t, child)
			require.EqualValues(t, child.ExpiresAt.Unix(), claims["exp"])
			require.Zero(t, child.ExpiresAt.Nanosecond(), "the lease ends when the token does")
		})
	}
}

func TestNoAudienceNoToken(t *testing.T) {
	for name, a := range map[string]access.Access{
		"none":             {Scopes: access.Exactly("read")},
		"resources alone":  {Resources: access.Exactly("https://api.test")},
		"not to be listed": access.Everything(),
	} {
		t.Run(name, func(t *testing.T) {
			f := mustOpen(t, nil)
			r := request()
			r.Access = a
			_, err := f.Mint(t.Context(), r)
			requireFault(t, err, fault.InvalidTarget, "audience")
			require.Empty(t, f.signer.purposes)
		})
	}
	require.True(t, mustOpen(t, nil).Traits().Required[access.DimAudiences])
}

func TestThumbprints(t *testing.T) {
	for name, c := range map[string]struct {
		jkt string
		ok  bool
	}{
		"RFC 9449's":      {thumbprint, true},
		"padded":          {thumbprint + "=", false},
		"short":           {thumbprint[:42], false},
		"long":            {thumbprint + "A", false},
		"other alphabet":  {strings.Replace(thumbprint, "-", "+", 1), false},
		"trailing bits":   {thumbprint[:42] + "J", false},
		"with a newline":  {thumbprint[:42] + "\n", false},
		"newline inside":  {thumbprint[:20] + "\n" + thumbprint[20:], false},
		"in hexadecimals": {strings.Repeat("ab", 32), false},
	} {
		t.Run(name, func(t *testing.T) {
			f := mustOpen(t, nil)
			r := request()
			r.Proofs = map[provider.ProofKind]secret.Text{provider.ProofThumbprint: secret.New(c.jkt)}
			child, err := f.Mint(t.Context(), r)
			if !c.ok {
				requireFault(t, err, fault.InvalidRequest, "dpop_jkt")
				return
			}
			require.NoError(t, err)
			require.Equal(t, "DPoP", child.TokenType)
			claims, _ := f.payload(t, child)
			require.Equal(t, map[string]any{"jkt": c.jkt}, claims["cnf"])
		})
	}
}

func TestABoundSubjectTokenIsNotExchangedForAnUnboundOne(t *testing.T) {
	f := mustOpen(t, nil)
	r := request()
	r.Subject = &provider.Party{Issuer: ownIssuer, ID: "ann", ExpiresAt: began.Add(time.Hour), Claims: map[string]any{"cnf": map[string]any{"jkt": thumbprint}}}
	_, err := f.Exchange(t.Context(), r)
	requireFault(t, err, fault.InvalidGrant, "bound to a key")
	r.Subject = nil
	_, err = f.Exchange(t.Context(), r)
	requireFault(t, err, fault.InvalidRequest, "subject_token is missing")
}

func TestATokenThatIsTooLong(t *testing.T) {
	f := mustOpen(t, map[string]any{"claims": map[string]string{"a": "{{identity.entity.metadata.essay}}"}})
	r := request()
	r.Identity.Metadata = map[string]string{"essay": strings.Repeat("x", maxToken)}
	child, err := f.Mint(t.Context(), r)
	requireFault(t, err, fault.InvalidRequest, "longer than 8192 bytes")
	require.Nil(t, child, "nobody gets it")
}

func TestClassToken(t *testing.T) {
	f := mustOpen(t, map[string]any{"revocation": "token"})
	require.Equal(t, provider.ClassToken, f.Traits().Class)
	child, err := f.Mint(t.Context(), request())
	require.NoError(t, err)
	require.False(t, child.Handle.Empty())
	require.True(t, child.SelfContained, "some may verify offline all the same")
	expiry := mustOpen(t, nil)
	for range 2 {
		require.NoError(t, expiry.Revoke(t.Context(), child.Handle), "whatever the class is now")
	}
	for _, text := range []string{"", "{}", "null", "[]", `{"v":2}`, `{"v":"1"}`} {
		requireFault(t, expiry.Revoke(t.Context(), secret.New(text)), fault.InvalidRequest, "handle")
	}
}

// announce has the issuer's URL answer with what it should, or with what spoil makes of it.
func (f *fixture) announce(t *testing.T, spoil func(path string, document map[string]any) (status int, body any)) {
	t.Helper()
	var server *httptest.Server
	server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		document := map[string]any{"issuer": server.URL, "jwks_uri": server.URL + "/keys"}
		if r.URL.Path == "/keys" {
			public, err := jwk.FromRaw(f.signer.key.Public())
			if err != nil {
				t.Error(err)
			}
			document = map[string]any{"keys": []any{public}}
		}
		status, body := 200, any(document)
		if spoil != nil {
			status, body = spoil(r.URL.Path, document)
		}
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(body)
	}))
	t.Cleanup(server.Close)
	f.signer.issuer = server.URL
}

func TestCheckLooksWhereServicesLook(t *testing.T) {
	const discovery, keys = "/.well-known/openid-configuration", "/keys"
	at := func(path string, status int, change func(document map[string]any)) func(string, map[string]any) (int, any) {
		return func(asked string, document map[string]any) (int, any) {
			if asked != path {
				return 200, document
			}
			change(document)
			return status, document
		}
	}
	as := func(map[string]any) {}
	for name, c := range map[string]struct {
		spoil func(string, map[string]any) (int, any)
		code  fault.Code
		words string
	}{
		"nothing is there":            {at(discovery, 404, as), fault.InvalidRequest, "HTTP 404"},
		"somebody must log in there":  {at(discovery, 403, as), fault.InvalidRequest, "vault secrets move"},
		"it fails":                    {at(discovery, 503, as), fault.TemporarilyUnavailable, "HTTP 503"},
		"another issuer is there":     {at(discovery, 200, func(d map[string]any) { d["issuer"] = "https://other.test" }), fault.InvalidRequest, "not the discovery document of"},
		"its keys are on no machine":  {at(discovery, 200, func(d map[string]any) { d["jwks_uri"] = "http://other.test/keys" }), fault.InvalidRequest, "jwks_uri"},
		"its keys are metadata":       {at(discovery, 200, func(d map[string]any) { d["jwks_uri"] = "https://169.254.169.254/keys" }), fault.InvalidRequest, "jwks_uri"},
		"there are no keys":           {at(keys, 200, func(d map[string]any) { d["keys"] = []any{} }), fault.InvalidRequest, "no set of keys"},
		"there are another's keys":    {at(keys, 200, func(d map[string]any) { d["keys"] = []any{newJWK(t)} }), fault.InvalidRequest, "another mount's"},
		"the keys cannot be had":      {at(keys, 404, as), fault.InvalidRequest, "HTTP 404"},
		"the document is only a word": {func(string, map[string]any) (int, any) { return 200, "hello" }, fault.InvalidRequest, "not the discovery document of"},
	} {
		t.Run(name, func(t *testing.T) {
			f := mustOpen(t, nil)
			f.announce(t, c.spoil)
			_, err := f.Check(t.Context())
			requireFault(t, err, c.code, c.words)
			require.Zero(t, f.signer.signed, "what a check signs dies at once")
		})
	}
	f := mustOpen(t, nil)
	f.signer.issuer = "http://127.0.0.1:1/v1/broker"
	_, err := f.Check(t.Context())
	requireFault(t, err, fault.TemporarilyUnavailable, "could not be reached")
}

func newJWK(t *testing.T) jwk.Key {
	t.Helper()
	key, err := jwk.FromRaw(newSigner(t).key.Public())
	require.NoError(t, err)
	return key
}

func TestCheck(t *testing.T) {
	f := mustOpen(t, nil)
	f.announce(t, nil)
	health, err := f.Check(t.Context())
	require.NoError(t, err)
	require.Contains(t, health.Detail, f.signer.issuer)
	require.Empty(t, health.Children)
	require.Zero(t, f.signer.signed, "what a check signs dies at once")

	f.signer.broken = true
	_, err = f.Check(t.Context())
	requireFault(t, err, fault.TemporarilyUnavailable, "does not verify")

	f.signer.refusal = fault.New(fault.TemporarilyUnavailable, "config issuer is not set")
	_, err = f.Check(t.Context())
	requireFault(t, err, fault.TemporarilyUnavailable, "config issuer")
	_, err = f.Mint(t.Context(), request())
	requireFault(t, err, fault.TemporarilyUnavailable, "config issuer")
}

func TestAProviderIsOpenedOfWhatWasStored(t *testing.T) {
	_, err := Type{}.Open(provider.Config{Fields: json.RawMessage(`{"claims":{"iss":"x"}}`)}, provider.Parent{}, provider.Deps{})
	var refusal *fault.Error
	require.True(t, errors.As(err, &refusal), "judged again: the list of reserved names may have grown")
}
