package backend

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jws"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault/faulttest"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/catalog"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

// explainLab is an engine with two providers at one authorization server, on a
// clock that stands still, so that explain and creds see the same moment.
type explainLab struct {
	*broker
	t      *testing.T
	server *authserver.Server
	store  *countingStorage
	vault  *explainVault
	key    *ecdsa.PrivateKey
	serial int
}

// countingStorage counts what is written.
type countingStorage struct {
	logical.Storage
	writes int
}

func (s *countingStorage) Put(ctx context.Context, e *logical.StorageEntry) error {
	s.writes++
	return s.Storage.Put(ctx, e)
}

func (s *countingStorage) Delete(ctx context.Context, key string) error {
	s.writes++
	return s.Storage.Delete(ctx, key)
}

// explainVault is Vault's side: identities by id, and what goes wrong there.
type explainVault struct {
	logical.StaticSystemView
	entities map[string]*logical.Entity
	groups   map[string][]*logical.Group
	err      error
}

func (v *explainVault) EntityInfo(id string) (*logical.Entity, error) { return v.entities[id], v.err }

func (v *explainVault) GroupsForEntity(id string) ([]*logical.Group, error) {
	return v.groups[id], v.err
}

var (
	explainNoon    = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	explainScopes  = []string{"a", "b", "repo:x", "repo:y", "dir/f"}
	explainTargets = []string{"https://a.test/x", "https://a.test/y", "https://b.test/z"}
	explainGroups  = []string{"ops", "everybody"}
)

func newExplainLab(t *testing.T) *explainLab {
	t.Helper()
	now := func() time.Time { return explainNoon }
	l := &explainLab{t: t, store: &countingStorage{Storage: &logical.InmemStorage{}}}
	l.server = authserver.New(t, authserver.Options{Lifetime: 1000 * time.Hour, Now: now},
		authserver.Client{ID: "broker", Secrets: []string{"parent-secret"}, Scopes: explainScopes, Audiences: explainTargets})
	l.vault = &explainVault{
		StaticSystemView: logical.StaticSystemView{DefaultLeaseTTLVal: time.Hour, MaxLeaseTTLVal: 24 * time.Hour},
		entities:         map[string]*logical.Entity{}, groups: map[string][]*logical.Group{},
	}
	l.broker = newBroker(catalog.Types(), l.store, now)
	require.NoError(t, l.Setup(context.Background(), &logical.BackendConfig{
		Logger: hclog.NewNullLogger(), System: l.vault, StorageView: l.store,
	}))
	for name, fields := range map[string]map[string]any{
		"audience": {"audience_parameter": "audience"},
		"resource": {"audience_parameter": "resource", "max_ttl": "30m"},
		"disabled": {"audience_parameter": "audience", "disabled": true},
	} {
		data := map[string]any{"issuer": l.server.URL, "client_id": "broker", "client_secret": "parent-secret"}
		maps.Copy(data, fields)
		_, err := l.ask(logical.CreateOperation, "providers/oauth2/"+name, explainCaller{}, data)
		require.NoError(t, err)
	}
	var err error
	l.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	der, err := x509.MarshalPKIXPublicKey(l.key.Public())
	require.NoError(t, err)
	_, err = l.ask(logical.CreateOperation, "issuers/ci", explainCaller{}, map[string]any{
		"bound_issuer": "https://ci.test", "bound_audiences": "vault",
		"jwks_pem": string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})),
	})
	require.NoError(t, err)
	return l
}

// explainCaller is who sends a request, and from where.
type explainCaller struct{ entity, address string }

func (l *explainLab) ask(op logical.Operation, path string, c explainCaller, data map[string]any) (*logical.Response, error) {
	req := &logical.Request{Operation: op, Path: path, EntityID: c.entity, Storage: l.store, Data: maps.Clone(data)}
	if c.address != "" {
		req.Connection = &logical.Connection{RemoteAddr: c.address}
	}
	// As Vault would answer by now, in a lab whose clock stands still.
	l.known = recentIDs{age: knownFor}
	resp, err := l.HandleRequest(context.Background(), req)
	return resp, seenByCaller(l.t, req, resp, err)
}

// coin is true about once in n. It is made of bits, because rapid's numbers are
// mostly small ones.
func explainCoin(t *rapid.T, n int, label string) bool {
	drawn := 0
	for size := 1; size < 4*n; size *= 2 {
		drawn *= 2
		if rapid.Bool().Draw(t, label) {
			drawn++
		}
	}
	return drawn%n == n-1
}

func explainList(t *rapid.T, from []string, label string) []string {
	return rapid.SliceOfNDistinct(rapid.SampledFrom(from), 1, len(from), rapid.ID).Draw(t, label)
}

// drawRole draws what an operator might write.
func (l *explainLab) drawRole(t *rapid.T) map[string]any {
	data := map[string]any{
		"provider": "oauth2/" + rapid.SampledFrom([]string{"audience", "resource", "audience", "resource", "audience", "disabled"}).Draw(t, "provider"),
		"ttl":      rapid.SampledFrom([]string{"0", "5m", "2h"}).Draw(t, "ttl"), "max_ttl": rapid.SampledFrom([]string{"0", "3h", "48h"}).Draw(t, "max_ttl"),
		"on_excess": rapid.SampledFrom([]string{"strip", "refuse"}).Draw(t, "on_excess"),
	}
	maybe := func(n int, name string, draw func() any) {
		if explainCoin(t, n, name) {
			data[name] = draw()
		}
	}
	pick := func(values ...any) func() any {
		return func() any { return rapid.SampledFrom(values).Draw(t, "value") }
	}
	if !explainCoin(t, 6, "no scopes") {
		scopes := explainList(t, []string{"a", "b", "repo:x", "repo:*", "dir/*", "**"}, "scopes")
		data["scopes"] = scopes
		if plain := slices.DeleteFunc(slices.Clone(scopes), func(v string) bool { return strings.Contains(v, "*") }); len(plain) > 0 {
			maybe(3, "default_scopes", func() any { return explainList(t, plain, "default_scopes") })
		}
	}
	maybe(2, "audiences", func() any {
		return explainList(t, []string{"https://a.test/x", "https://a.test/*", "https://b.test/z"}, "audiences")
	})
	if data["provider"] == "oauth2/resource" || explainCoin(t, 12, "a provider without resources") {
		maybe(2, "resources", func() any { return explainList(t, []string{"https://a.test/y", "https://b.test/**"}, "resources") })
	}
	maybe(3, "authorization_details", func() any {
		return []any{map[string]any{"type": "pay", "actions": []any{"x", "y"}}, map[string]any{"type": "read"}}
	})
	maybe(6, "bound_entity_ids", pick("e1", "e2", "e1,e2"))
	maybe(5, "bound_group_names", pick("ops", "everybody", "nobody"))
	maybe(6, "bound_entity_metadata", pick(map[string]any{"team": "red"}, map[string]any{"team": "blue"}))
	maybe(5, "bound_cidrs", pick("10.0.0.0/8", "192.0.2.0/24,2001:db8::/32"))
	maybe(3, "condition", pick(
		`identity.metadata["team"] == "red"`, `!("ops" in identity.groups)`, `size(request.scopes) < 3`, `request.ttl <= duration("1h")`,
		`request.remote_addr == "10.0.0.7"`, `request.audiences.all(a, a.startsWith("https://a.test/"))`))
	if explainCoin(t, 4, "subject") {
		data["subject_issuers"] = "ci"
		maybe(3, "bound_subject_claims", pick(map[string]any{"team": "red"}, map[string]any{"team": []any{"r*", "blue"}}))
		maybe(4, "required_acr", pick("gold"))
		maybe(4, "max_auth_age", pick("5m"))
		maybe(3, "subject_single_use", pick(true))
	}
	return data
}

// drawIdentity draws what Vault knows, and who asks.
func (l *explainLab) drawIdentity(t *rapid.T) explainCaller {
	l.vault.err = nil
	clear(l.vault.entities)
	for _, id := range []string{"e1", "e2"} {
		if explainCoin(t, 10, "gone") {
			continue
		}
		l.vault.entities[id] = &logical.Entity{
			ID: id, Name: id, Disabled: explainCoin(t, 16, "disabled"), Metadata: map[string]string{"team": rapid.SampledFrom([]string{"red", "red", "blue"}).Draw(t, "team")},
		}
		l.vault.groups[id] = nil
		for _, g := range explainGroups {
			if explainCoin(t, 2, g) {
				l.vault.groups[id] = append(l.vault.groups[id], &logical.Group{ID: "id-" + g, Name: g})
			}
		}
	}
	if explainCoin(t, 30, "Vault fails") {
		l.vault.err = errors.New("identity store is sealed")
	}
	return explainCaller{
		entity:  rapid.SampledFrom([]string{"e1", "e1", "e1", "e2", "e2", ""}).Draw(t, "entity"),
		address: rapid.SampledFrom([]string{"10.0.0.7", "10.0.0.7", "::ffff:10.0.0.7", "192.0.2.9", "2001:db8::9"}).Draw(t, "address"),
	}
}

// drawRequest draws what a caller may send; now and then it is malformed.
func (l *explainLab) drawRequest(t *rapid.T, role map[string]any) map[string]any {
	data := map[string]any{}
	maybe := func(n int, name string, draw func() any) {
		if explainCoin(t, n, name) {
			data[name] = draw()
		}
	}
	// What the role bounds by pattern has to be named, what it does not bound at
	// all cannot be asked for.
	naming := func(name string) bool {
		patterns, bounded := role[name].([]string)
		switch {
		case !bounded && role[name] == nil:
			return explainCoin(t, 20, name)
		case slices.ContainsFunc(patterns, func(v string) bool { return strings.Contains(v, "*") }):
			return !explainCoin(t, 12, name)
		default:
			return explainCoin(t, 3, name)
		}
	}
	vocabulary := map[string][]string{"scopes": explainScopes, "audiences": explainTargets, "resources": explainTargets}
	for _, name := range []string{"scopes", "audiences", "resources"} {
		if naming(name) {
			data[name] = explainList(t, vocabulary[name], "asked "+name)
		}
	}
	if naming("authorization_details") {
		data["authorization_details"] = []any{map[string]any{"type": "pay", "actions": []any{rapid.SampledFrom([]string{"x", "y", "z"}).Draw(t, "action")}}}
	}
	maybe(3, "ttl", func() any { return rapid.SampledFrom([]string{"1m", "90m", "100h"}).Draw(t, "asked ttl") })
	maybe(40, "scopes", func() any { return "a b" })
	maybe(40, "authorization_details", func() any { return []any{map[string]any{"actions": []any{"x"}}} })
	maybe(40, "audiences", func() any { return []string{} })
	if (role["subject_issuers"] != nil) != explainCoin(t, 12, "wrong about the subject token") {
		data["subject_token"] = l.drawToken(t)
	}
	return data
}

func (l *explainLab) drawToken(t *rapid.T) string {
	if explainCoin(t, 20, "no token at all") {
		return "not-a-token"
	}
	l.serial++
	claims := map[string]any{
		"iss": "https://ci.test", "aud": "vault", "sub": "alice", "jti": fmt.Sprint(l.serial), "acr": "gold", "team": "red",
		"iat": explainNoon.Add(-time.Minute).Unix(), "auth_time": explainNoon.Add(-time.Minute).Unix(), "exp": explainNoon.Add(time.Hour).Unix(),
	}
	others := map[string]any{"team": "green", "acr": "lead", "scope": "a repo:x", "aud": "other", "exp": explainNoon.Add(7 * time.Minute).Unix()}
	for _, name := range slices.Sorted(maps.Keys(others)) {
		if explainCoin(t, 8, name) {
			claims[name] = others[name]
		}
	}
	for _, name := range []string{"jti", "auth_time"} {
		if explainCoin(t, 10, name) {
			delete(claims, name)
		}
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := jws.Sign(payload, jws.WithKey(jwa.ES256, l.key))
	if err != nil {
		t.Fatal(err)
	}
	return string(signed)
}

// TestExplainAndCredsAgree walks random roles, identities and requests: what
// explain says, creds does, and explain itself does nothing at all.
func TestExplainAndCredsAgree(t *testing.T) {
	l := newExplainLab(t)
	ends := map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		role := l.drawRole(t)
		l.vault.err = nil
		_, _ = l.ask(logical.DeleteOperation, "roles/r", explainCaller{}, nil)
		if _, err := l.ask(logical.CreateOperation, "roles/r", explainCaller{}, role); err != nil {
			if explainStatus(err) != http.StatusBadRequest {
				t.Fatalf("%v: %v", role, err)
			}
			ends["not written"]++
			return
		}
		// A server that adds its default scopes to a role that bounds none would
		// be refused after the decision.
		l.server.Break(authserver.EndpointToken, nil)
		if role["scopes"] == nil {
			l.server.Break(authserver.EndpointToken, authserver.Drop("scope"))
		}
		caller := l.drawIdentity(t)
		request := l.drawRequest(t, role)
		explained, explainErr := l.explainQuietly(t, caller, request)
		minted := l.server.Counts().Minted
		granted, credsErr := l.ask(logical.UpdateOperation, "creds/r", caller, request)
		minted = l.server.Counts().Minted - minted
		ends[l.compare(t, explained, explainErr, granted, credsErr, minted)]++
	})
	t.Logf("%v", ends)
	if testing.Short() {
		return // too few walks to come to every end
	}
	for _, end := range []string{"granted", "refused", "error"} {
		require.NotZero(t, ends[end], "the walk never came to %s: %v", end, ends)
	}
}

// explainQuietly asks explain, as the caller or for them, and proves that it did
// nothing.
func (l *explainLab) explainQuietly(t *rapid.T, caller explainCaller, request map[string]any) (*logical.Response, error) {
	asks, data := caller, maps.Clone(request)
	if explainCoin(t, 2, "asked by somebody else") {
		asks = explainCaller{entity: "auditor", address: "203.0.113.1"}
		data["entity_id"], data["remote_addr"] = caller.entity, caller.address
	}
	writes, requests := l.store.writes, len(l.server.Requests())
	resp, err := l.ask(logical.UpdateOperation, "roles/r/explain", asks, data)
	if l.store.writes != writes {
		t.Fatalf("explain wrote to storage")
	}
	if len(l.server.Requests()) != requests {
		t.Fatalf("explain called the provider")
	}
	if resp != nil && resp.Secret != nil {
		t.Fatalf("explain made a lease")
	}
	return resp, err
}

// sameReason reports whether explain says what creds does, and beyond it no more than the
// condition.
func sameReason(creds, explain string) bool {
	more, same := strings.CutPrefix(explain, creds)
	return same && (more == "" || strings.Contains(creds, "the role's condition"))
}

// compare says how both ended, and fails if they did not end the same way.
func (l *explainLab) compare(t *rapid.T, explained *logical.Response, explainErr error, granted *logical.Response, credsErr error, minted int) string {
	switch {
	case explainErr != nil:
		if credsErr == nil || credsErr.Error() != explainErr.Error() || minted != 0 {
			t.Fatalf("explain answers %v, creds %v, %d minted", explainErr, credsErr, minted)
		}
		return "error"
	case explained.Data["allowed"] != true:
		reasons, _ := explained.Data["reasons"].([]string)
		if len(reasons) == 0 || credsErr == nil || !sameReason(credsErr.Error(), reasons[0]) || minted != 0 {
			t.Fatalf("explain says %q, creds %v, %d minted", reasons, credsErr, minted)
		}
		for _, name := range []string{"scopes", "audiences", "resources", "granted", "stripped", "ttl", "authorization_details"} {
			if _, there := explained.Data[name]; there {
				t.Fatalf("explain shows %s of a grant that is not made", name)
			}
		}
		return "refused"
	}
	if credsErr != nil || minted != 1 {
		t.Fatalf("explain allows %v, creds answers %v, %d minted", explained.Data, credsErr, minted)
	}
	for _, name := range []string{"scopes", "audiences", "resources", "authorization_details", "granted", "stripped", "provider", "revocation"} {
		if !reflect.DeepEqual(explained.Data[name], granted.Data[name]) {
			t.Fatalf("%s: explain says %v, creds %v", name, explained.Data[name], granted.Data[name])
		}
	}
	if ttl := int64(granted.Secret.TTL / time.Second); explained.Data["ttl"] != ttl {
		t.Fatalf("ttl: explain says %v, creds %v", explained.Data["ttl"], ttl)
	}
	if most := int64(granted.Secret.MaxTTL / time.Second); explained.Data["max_ttl"] != most {
		t.Fatalf("max_ttl: explain says %v, creds %v", explained.Data["max_ttl"], most)
	}
	if capped := strings.Contains(strings.Join(granted.Warnings, "\n"), "capped"); capped && explained.Data["ttl_decided_by"] == "request" {
		t.Fatalf("creds warns of a cap, explain says that the request decided")
	}
	return "granted"
}

func explainStatus(err error) int {
	var coded logical.HTTPCodedError
	if errors.As(err, &coded) {
		return coded.Code()
	}
	return 0
}

// TestExplainShowsEveryReason: creds stops at the first, explain does not.
func TestExplainShowsEveryReason(t *testing.T) {
	l := newExplainLab(t)
	_, err := l.ask(logical.CreateOperation, "roles/r", explainCaller{}, map[string]any{
		"provider": "oauth2/disabled", "scopes": "a", "audiences": "https://a.test/x",
		"bound_entity_ids": "e2", "bound_cidrs": "192.0.2.0/24", "subject_issuers": "ci", "condition": `identity.name == "e2"`,
	})
	require.NoError(t, err)
	l.vault.entities["e1"] = &logical.Entity{ID: "e1", Name: "e1"}
	resp, err := l.ask(logical.UpdateOperation, "roles/r/explain", explainCaller{"e1", "10.0.0.7"}, map[string]any{
		"scopes": "b", "audiences": "https://b.test/z",
	})
	require.NoError(t, err)
	require.Equal(t, false, resp.Data["allowed"])
	reasons := resp.Data["reasons"].([]string)
	wanted := []string{
		"access_denied: the entity is not among the role's bound_entity_ids",
		"access_denied: the connection's address is not within the role's bound_cidrs",
		`access_denied: the provider "oauth2/disabled" is disabled`,
		"invalid_request: subject_token is missing",
		"invalid_scope: nothing is left of the scopes",
		"invalid_target: nothing is left of the audiences",
		"access_denied: the role's condition is false",
	}
	require.Len(t, reasons, len(wanted))
	for i, want := range wanted {
		require.True(t, strings.HasPrefix(reasons[i], want), "%q does not begin with %q", reasons[i], want)
	}
}

// TestExplainUsesUpNoSubjectToken: a single-use token can be explained as often as
// one likes, and then still be used, once.
func TestExplainUsesUpNoSubjectToken(t *testing.T) {
	l := newExplainLab(t)
	_, err := l.ask(logical.CreateOperation, "roles/r", explainCaller{}, map[string]any{
		"provider": "oauth2/audience", "scopes": "a", "subject_issuers": "ci", "subject_single_use": true,
	})
	require.NoError(t, err)
	payload, err := json.Marshal(map[string]any{"iss": "https://ci.test", "aud": "vault", "sub": "alice", "jti": "1", "exp": explainNoon.Add(time.Hour).Unix()})
	require.NoError(t, err)
	signed, err := jws.Sign(payload, jws.WithKey(jwa.ES256, l.key))
	require.NoError(t, err)
	data := map[string]any{"subject_token": string(signed)}
	for range 3 {
		resp, err := l.ask(logical.UpdateOperation, "roles/r/explain", explainCaller{}, data)
		require.NoError(t, err)
		require.Equal(t, true, resp.Data["allowed"])
	}
	_, err = l.ask(logical.UpdateOperation, "creds/r", explainCaller{}, data)
	require.NoError(t, err)
	_, err = l.ask(logical.UpdateOperation, "creds/r", explainCaller{}, data)
	require.ErrorContains(t, err, "invalid_grant: the subject token has been used already")
}

// TestOnlyExplainShowsTheCondition: a condition may name others, and whoever it denies
// is not shown whom; nor is a holder who renews, nor anybody after an upgrade that
// takes the role no more.
func TestOnlyExplainShowsTheCondition(t *testing.T) {
	const others = "carol@example.com"
	m := newMount(t, setup{})
	explain := func() string {
		resp, err := m.write("roles/r/explain", map[string]any{"entity_id": alice})
		if err != nil {
			return err.Error()
		}
		require.Equal(t, false, resp.Data["allowed"])
		return strings.Join(resp.Data["reasons"].([]string), "\n")
	}
	l, err := m.credsBy(call{entity: alice})
	require.NoError(t, err)
	for _, condition := range []string{
		`identity.name in ["` + others + `"]`,
		`identity.metadata["` + others + `"] == "x"`,
		`subject.claims[` + others, // which an earlier version took
	} {
		role, err := m.b.roles.Get(t.Context(), "r")
		require.NoError(t, err)
		role.Condition = condition
		entry, err := logical.StorageEntryJSON(rolePrefix+"r", role)
		require.NoError(t, err)
		require.NoError(t, m.storage.Put(t.Context(), entry))
		m.b.roles.ready.Clear()
		_, refused := m.credsBy(call{entity: alice})
		_, ended := m.renew(l, time.Minute)
		for _, err := range []error{refused, ended} {
			require.Error(t, err)
			require.True(t, faulttest.Says(err.Error(), "explain"), "%q does not say who can help", err)
			require.NotContains(t, err.Error(), others)
		}
		require.Contains(t, explain(), others)
	}
}
