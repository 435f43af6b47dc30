package backend

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault/faulttest"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/catalog"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

// The parent's secrets, which nothing may ever repeat.
const (
	parentClient = "broker"
	parentSecret = "PARENT-canary-1f0e9d8c7b6a"
	nextSecret   = "PARENT-canary-next-5a4b3c2d"
)

// The entities that Vault knows.
const (
	alice = "11111111-aaaa-4aaa-8aaa-111111111111"
	bob   = "22222222-bbbb-4bbb-8bbb-222222222222"
)

// promptly is the longest that anything may take here, a busy machine and the race
// detector included; a fault must not make a caller wait for longer.
const promptly = time.Minute

// mount is the engine of one mount as Vault runs it: requests go through the
// existence check and the router, bodies and leases make their way through JSON,
// and everything that comes out is searched for secrets.
//
// When a test ends, what the server issued and what the broker knows are held
// against each other (see balance), and everything is killed.
type mount struct {
	t       testing.TB
	b       *broker
	storage *flakyStorage
	clock   *clock
	vault   *vaultView
	server  *authserver.Server
	log     *lockedBuffer
	types   []provider.Type // beside the catalog's

	mu      sync.Mutex
	secrets []string
	// extra are members of a provider's answer that go to the caller, which no schema knows.
	extra []string
	// lost is how many live tokens the broker cannot know of: minted by an answer
	// of which nothing arrived.
	lost int
}

// setup is what a test wants to be different.
type setup struct {
	server authserver.Options
	client authserver.Client
	// provider are fields beside issuer, client_id, client_secret and timeout;
	// nil removes one.
	provider map[string]any
	// role are fields of the role "r" beside provider and scopes.
	role map[string]any
	// types are further types of provider, a test's own.
	types []provider.Type
}

// newMount is a mount with the provider oauth2/p on a server of its own and the
// role r.
func newMount(t testing.TB, s setup) *mount {
	t.Helper()
	m := newEmptyMount(t, s)
	m.must(m.write("providers/oauth2/p", m.providerFields(s.provider)))
	role := map[string]any{"provider": "oauth2/p", "scopes": "read,write"}
	maps.Copy(role, s.role)
	m.must(m.write("roles/r", role))
	return m
}

func newEmptyMount(t testing.TB, s setup) *mount {
	t.Helper()
	m := &mount{t: t, storage: &flakyStorage{}, clock: newClock(), log: &lockedBuffer{}, types: s.types, secrets: []string{parentSecret, nextSecret}}
	m.vault = newVaultView()
	s.server.Now = m.clock.Now
	if s.client.ID == "" {
		s.client = authserver.Client{ID: parentClient, Secrets: []string{parentSecret}, Scopes: []string{"read", "write", "admin"}, Audiences: []string{"https://api.test"}}
	}
	m.server = authserver.New(t, s.server, s.client)
	m.start()
	t.Cleanup(m.end)
	return m
}

// providerFields have the provider written without proof: most tests count what the server
// is asked from then on, or write to one that does not answer. proof_test.go is about that.
func (m *mount) providerFields(different map[string]any) map[string]any {
	fields := map[string]any{"issuer": m.server.URL, "client_id": parentClient, "client_secret": parentSecret, "timeout": 20, "verify_connection": false}
	if m.server.CAPEM != "" {
		fields["ca_pem"] = m.server.CAPEM
	}
	maps.Copy(fields, different)
	maps.DeleteFunc(fields, func(_ string, v any) bool { return v == nil })
	return fields
}

// start begins a new life on the same storage: as after a restart, or on the
// node that takes over.
func (m *mount) start() {
	m.t.Helper()
	m.b = newBroker(append(catalog.Types(), m.types...), m.storage, m.clock.Now)
	m.b.signals.byHand = true
	require.NoError(m.t, m.b.Setup(context.Background(), &logical.BackendConfig{
		StorageView: m.storage, System: m.vault,
		Logger: hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, Output: m.log}),
	}))
}

// pushOut has the ledger forget what it remembers of records as it wrote them: so many
// bytes are written after them. They are read from storage from now on.
func (m *mount) pushOut() {
	m.t.Helper()
	long := make([]*grant.Grant, 17)
	for i := range long {
		id, err := grant.NewID("")
		require.NoError(m.t, err)
		long[i] = &grant.Grant{ID: id, Holder: grant.NoHolder, Where: strings.Repeat("x", 1<<20)}
		require.NoError(m.t, m.b.ledger.Record(m.t.Context(), long[i]))
	}
	for _, g := range long {
		require.NoError(m.t, m.b.ledger.Remove(m.t.Context(), g))
	}
}

// call is one request.
type call struct {
	op     logical.Operation
	path   string
	data   map[string]any
	entity string
	addr   string
	ctx    context.Context
}

// do sends the request as Vault does and judges the form of what comes back.
func (m *mount) do(c call) (*logical.Response, error) {
	m.t.Helper()
	if c.ctx == nil {
		c.ctx = context.Background()
	}
	req := &logical.Request{
		ID: "request", Operation: c.op, Path: c.path, Data: throughJSON(m.t, c.data), Storage: m.storage,
		EntityID: c.entity, DisplayName: "test", MountPoint: "broker/", Connection: &logical.Connection{RemoteAddr: c.addr},
	}
	if c.op == logical.UpdateOperation {
		check, exists, err := m.b.HandleExistenceCheck(c.ctx, req)
		if err != nil {
			m.clean("the existence check's error", err.Error())
			return nil, err
		}
		if check && !exists {
			req.Operation = logical.CreateOperation
		}
	}
	resp, err := m.b.HandleRequest(c.ctx, req)
	if err = seenByCaller(m.t, req, resp, err); err != nil {
		m.clean("the error of "+c.path, err.Error())
		return nil, err
	}
	m.checkResponse(req, resp)
	return resp, nil
}

func (m *mount) write(path string, data map[string]any) (*logical.Response, error) {
	m.t.Helper()
	return m.do(call{op: logical.UpdateOperation, path: path, data: data})
}

func (m *mount) read(path string) (*logical.Response, error) {
	m.t.Helper()
	return m.do(call{op: logical.ReadOperation, path: path})
}

func (m *mount) delete(path string, data map[string]any) (*logical.Response, error) {
	m.t.Helper()
	return m.do(call{op: logical.DeleteOperation, path: path, data: data})
}

func (m *mount) list(path string, data map[string]any) (*logical.Response, error) {
	m.t.Helper()
	return m.do(call{op: logical.ListOperation, path: path, data: data})
}

func (m *mount) keys(path string, data map[string]any) []string {
	m.t.Helper()
	keys, _ := m.must(m.list(path, data)).Data["keys"].([]string)
	return keys
}

func (m *mount) must(resp *logical.Response, err error) *logical.Response {
	m.t.Helper()
	require.NoError(m.t, err)
	return resp
}

// checkResponse judges every answer against the path's schema: nothing null,
// nothing undocumented, and no secret but the child token where it belongs.
func (m *mount) checkResponse(req *logical.Request, resp *logical.Response) {
	m.t.Helper()
	if resp == nil {
		return
	}
	require.False(m.t, resp.IsError(), "errors are coded: %v", resp.Data)
	shown := maps.Clone(resp.Data)
	if strings.HasPrefix(req.Path, "creds/") {
		maps.DeleteFunc(shown, func(name string, _ any) bool { return m.b.secretFields()[name] != nil })
	}
	if raw, ok := shown[logical.HTTPRawBody].([]byte); ok {
		shown[logical.HTTPRawBody] = string(raw)
	}
	text, err := json.Marshal(shown)
	require.NoError(m.t, err)
	m.clean("the answer of "+req.Path, string(text)+strings.Join(resp.Warnings, "\n"))
	requireNoNull(m.t, req.Path, resp.Data)

	handler := m.b.Route(req.Path).Operations[req.Operation]
	for _, documented := range handler.Properties().Responses[http.StatusOK] {
		if documented.Fields != nil && len(resp.Data) > 0 {
			known := maps.Clone(resp.Data)
			maps.DeleteFunc(known, func(name string, _ any) bool { return slices.Contains(m.extra, name) })
			data := framework.FieldData{Raw: known, Schema: documented.Fields}
			require.NoError(m.t, data.ValidateStrict(), "%s %s", req.Operation, req.Path)
		}
	}
	if len(resp.Data) > 0 {
		require.NotEmpty(m.t, handler.Properties().Responses[http.StatusOK], "%s %s documents no answer", req.Operation, req.Path)
	}
}

func requireNoNull(t testing.TB, where string, value any) {
	t.Helper()
	switch v := value.(type) {
	case nil:
		require.Fail(t, "null in an answer", where)
	case map[string]any:
		for name, member := range v {
			requireNoNull(t, where+"."+name, member)
		}
	case []any:
		for i, element := range v {
			requireNoNull(t, fmt.Sprintf("%s[%d]", where, i), element)
		}
	}
}

// lease is what Vault keeps of a creds response.
type lease struct {
	token, grantID string
	secret         *logical.Secret
	data           map[string]any
}

// creds asks for a child token of the role r.
func (m *mount) creds(data map[string]any) (*lease, error) {
	m.t.Helper()
	return m.credsBy(call{data: data})
}

func (m *mount) credsBy(c call) (*lease, error) {
	m.t.Helper()
	c.op = logical.UpdateOperation
	if c.path == "" {
		c.path = "creds/r"
	}
	resp, err := m.do(c)
	if err != nil {
		return nil, err
	}
	return m.leaseOf(resp), nil
}

func (m *mount) mustCreds(data map[string]any) *lease {
	m.t.Helper()
	l, err := m.creds(data)
	require.NoError(m.t, err)
	return l
}

func (m *mount) leaseOf(resp *logical.Response) *lease {
	m.t.Helper()
	require.NotNil(m.t, resp.Secret)
	for name := range resp.Secret.InternalData {
		require.Contains(m.t, []string{"grant_id", "secret_type", "share"}, name, "the lease holds the grant's id, its share of it, and nothing else")
	}
	l := &lease{secret: resp.Secret, data: resp.Data}
	l.token, _ = resp.Data["access_token"].(string)
	l.grantID, _ = resp.Data["grant_id"].(string)
	require.NotEmpty(m.t, l.token)
	require.NotEmpty(m.t, l.grantID)
	return l
}

// stored is the lease's secret as Vault reads it back from its storage: numbers
// have become float64.
func (l *lease) stored(t testing.TB) *logical.Secret {
	t.Helper()
	raw, err := json.Marshal(l.secret.InternalData)
	require.NoError(t, err)
	s := *l.secret
	s.InternalData = nil
	require.NoError(t, json.Unmarshal(raw, &s.InternalData))
	return &s
}

func (m *mount) revoke(l *lease) error {
	m.t.Helper()
	return m.revokeWith(context.Background(), l)
}

func (m *mount) revokeWith(ctx context.Context, l *lease) error {
	m.t.Helper()
	resp, err := m.b.HandleRequest(ctx, &logical.Request{
		Operation: logical.RevokeOperation, Path: "creds/r", Secret: l.stored(m.t), Storage: m.storage,
	})
	m.cleanError(err)
	require.False(m.t, resp != nil && resp.IsError())
	return err
}

func (m *mount) renew(l *lease, increment time.Duration) (*logical.Secret, error) {
	m.t.Helper()
	s := l.stored(m.t)
	s.Increment = increment
	resp, err := m.b.HandleRequest(context.Background(), &logical.Request{
		Operation: logical.RenewOperation, Path: "creds/r", Secret: s, Storage: m.storage,
	})
	m.cleanError(err)
	if err != nil {
		return nil, err
	}
	require.NotNil(m.t, resp)
	require.False(m.t, resp.IsError())
	return resp.Secret, nil
}

func (m *mount) sweep() map[string]any {
	m.t.Helper()
	return m.must(m.write("sweep", nil)).Data
}

// periodic is Vault's own call of about once a minute.
func (m *mount) periodic() error {
	_, err := m.b.HandleRequest(context.Background(), &logical.Request{Operation: logical.RollbackOperation, Storage: m.storage})
	m.cleanError(err)
	return err
}

// heal lifts every fault, and lets the time pass that a busy server asked for.
func (m *mount) heal() {
	m.clock.advance(2 * time.Second)
	for _, e := range []authserver.Endpoint{
		authserver.EndpointToken, authserver.EndpointRevoke, authserver.EndpointIntrospect,
		authserver.EndpointJWKS, authserver.EndpointMetadata, authserver.EndpointOIDC,
	} {
		m.server.Break(e, nil)
	}
	m.storage.heal()
	m.vault.failWith(nil)
}

// balance is the invariant: after the faults are lifted and a sweep, every token
// that lives at the server has exactly one grant that can kill it, and every
// grant has a token that lives. The only exceptions are tokens that the broker
// cannot have seen (m.lost), and grants of class expiry, which hold no token. What
// the broker signs itself is at no server.
func (m *mount) balance() {
	m.t.Helper()
	m.waitForKills()
	m.heal()
	m.sweep()
	m.waitForKills()
	held := map[string]string{}
	unkillable := 0
	for _, id := range m.allGrants() {
		g, err := m.b.ledger.Get(context.Background(), id)
		require.NoError(m.t, err)
		if !strings.HasPrefix(g.Provider, "oauth2/") {
			continue // the server has not its token
		}
		if g.Handle.Empty() {
			unkillable++
			continue
		}
		tokens := tokensIn(m.t, g.Handle.Reveal())
		require.NotEmpty(m.t, tokens)
		alive := 0
		for _, token := range tokens {
			if other, ok := held[token]; ok {
				require.Equal(m.t, provider.ClassLever, g.Class, "two grants, %s and %s, hold one token", id, other)
			}
			held[token] = id
			if m.server.Active(token) {
				alive++
			}
		}
		if alive == 0 {
			for _, line := range strings.Split(m.log.String(), "\n") {
				if strings.Contains(line, id) {
					m.t.Log(line)
				}
			}
		}
		require.NotZero(m.t, alive, "the grant %s (doom %+v) has no token that lives", id, g.Doom)
	}
	unknown := 0
	for _, token := range m.server.Live() {
		if _, ok := held[token]; !ok {
			unknown++
		}
	}
	require.Equal(m.t, m.lost+unkillable, unknown, "live tokens that no grant can kill; %d were lost, %d are of class expiry", m.lost, unkillable)
}

// allGrants lists page by page, as a user would.
func (m *mount) allGrants() []string {
	m.t.Helper()
	var all []string
	for {
		query := map[string]any{}
		if len(all) > 0 {
			query["after"] = all[len(all)-1]
		}
		page := m.keys("grants", query)
		if len(page) == 0 {
			return all
		}
		all = append(all, page...)
	}
}

// tokensIn are the tokens of a handle, whatever its form.
func tokensIn(t testing.TB, handle string) []string {
	t.Helper()
	var decoded any
	require.NoError(t, json.Unmarshal([]byte(handle), &decoded))
	var tokens []string
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, e := range v {
				walk(e)
			}
		case map[string]any:
			if token, ok := v["token"].(string); ok {
				tokens = append(tokens, token)
			}
			for _, e := range v {
				walk(e)
			}
		}
	}
	walk(decoded)
	return tokens
}

// isFound holds what a grant's id tells against its record: no kill must pass it over.
func (m *mount) isFound(g *grant.Grant) {
	s := g.Summary()
	clues := []grant.Clue{grant.OfRole(s.Role), grant.OfProvider(s.Provider)}
	for _, p := range s.Parties() {
		clues = append(clues, grant.OfParty(p.ID))
	}
	for _, p := range []grant.Party{s.Subject, s.Actor} {
		if p.Issuer != "" {
			clues = append(clues, grant.OfIssuer(p.Issuer))
		}
	}
	for _, clue := range clues {
		found := false
		require.NoError(m.t, m.b.ledger.WalkWith(context.Background(), g.Holder, clue, "", func(s *grant.Summary) bool {
			found = s.ID == g.ID
			return !found
		}))
		require.True(m.t, found, "%s by %v", g.ID, clue)
	}
}

// end holds the books against each other and then kills all that can be killed.
func (m *mount) end() {
	if m.t.Failed() {
		return
	}
	m.balance()
	unkillable := 0
	kill := func(ids []string) {
		for i, id := range ids {
			g, err := m.b.ledger.Get(context.Background(), id)
			if errors.Is(err, grant.ErrGone) {
				continue // it hung on the lever of one before it
			}
			require.NoError(m.t, err)
			if i < 10 {
				m.isFound(g)
			}
			if g.Handle.Empty() && strings.HasPrefix(g.Provider, "oauth2/") {
				unkillable++
			}
			require.NoError(m.t, m.b.killer.Kill(context.Background(), id, "the test ended"), "every grant can be killed")
		}
	}
	own := m.own() // last, because others may die by them, or by those that are got for that
	kill(slices.DeleteFunc(m.allGrants(), func(id string) bool { return slices.Contains(own, id) }))
	m.settled()
	kill(m.own())
	require.Len(m.t, m.server.Live(), m.lost+unkillable)
	m.clean("the log", m.log.String())
	m.checkStorage()
}

// checkStorage looks for secrets in storage beside the places where they have to be: the
// entries of providers and signals, and the records of grants.
func (m *mount) checkStorage() {
	m.t.Helper()
	ctx := context.Background()
	var walk func(prefix string)
	walk = func(prefix string) {
		names, err := m.storage.List(ctx, prefix)
		require.NoError(m.t, err)
		for _, name := range names {
			key := prefix + name
			switch {
			case slices.Contains([]string{"provider/", signalPrefix, "grant/"}, key):
			case strings.HasSuffix(key, "/"):
				walk(key)
			default:
				entry, err := m.storage.Get(ctx, key)
				require.NoError(m.t, err)
				require.NotNil(m.t, entry, key)
				m.clean("storage at "+key, string(entry.Value))
			}
		}
	}
	walk("")
}

// hide adds a secret to those that nothing may repeat.
func (m *mount) hide(secret string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.secrets = append(m.secrets, secret)
	return secret
}

// tokenShape finds any token of the test's server, and any JWT.
var tokenShape = regexp.MustCompile(`\b(?:at|rt)-[0-9]+-[0-9a-f]{24}|eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}`)

// clean fails the test if text holds a secret in any of its forms.
func (m *mount) clean(where, text string) {
	m.t.Helper()
	m.mu.Lock()
	secrets := slices.Clone(m.secrets)
	m.mu.Unlock()
	for _, s := range secrets {
		require.NotContains(m.t, text, s, "%s holds a secret", where)
		require.NotContains(m.t, text, base64.StdEncoding.EncodeToString([]byte(parentClient+":"+s)), "%s holds a secret", where)
	}
	require.Empty(m.t, tokenShape.FindString(text), "%s holds a token", where)
}

func (m *mount) cleanError(err error) {
	m.t.Helper()
	if err != nil {
		m.clean("an error", err.Error())
	}
}

// requireCode checks that err is the broker's, with the code in front and its
// status, in the one form that survives Vault's plugin protocol.
func requireCode(t testing.TB, err error, code fault.Code, words ...string) {
	t.Helper()
	require.Error(t, err)
	coded, ok := err.(logical.HTTPCodedError) // a wrapped one loses its status on the way to Vault
	require.True(t, ok, "not a coded error: %v", err)
	require.Equal(t, code.Status(), coded.Code(), err.Error())
	require.True(t, strings.HasPrefix(err.Error(), string(code)+": "), "%q does not begin with %s", err.Error(), code)
	for _, w := range words {
		require.True(t, faulttest.Says(err.Error(), w), "%q does not say %q", err, w)
	}
}

// seenByCaller is what core makes of an error: status and text. A caller's own mistakes
// come as text without a frame.
func seenByCaller(t testing.TB, req *logical.Request, resp *logical.Response, err error) error {
	t.Helper()
	if err == nil {
		return nil // checkResponse judges it
	}
	if coded, ok := err.(logical.HTTPCodedError); ok {
		require.Nil(t, resp, "beside a response a status is lost")
		require.NotContains(t, []int{http.StatusBadRequest, http.StatusForbidden}, coded.Code(), "%v comes in a frame", err)
		return err
	}
	if !resp.IsError() {
		return err // the framework's own
	}
	// The plugin protocol carries these two, bare.
	require.True(t, err == logical.ErrInvalidRequest || err == logical.ErrPermissionDenied, "%v beside a response", err)
	status, text := logical.RespondErrorCommon(req, resp, err)
	return logical.CodedError(status, text.Error())
}

// within fails the test if f takes longer than promptly.
func within(t testing.TB, f func()) {
	t.Helper()
	started := time.Now()
	f()
	require.Less(t, time.Since(started), promptly, "a caller must not have to wait that long")
}

// throughJSON is what is left of a body after its way through HTTP.
func throughJSON(t testing.TB, data map[string]any) map[string]any {
	t.Helper()
	if data == nil {
		return nil
	}
	raw, err := json.Marshal(data)
	require.NoError(t, err)
	var out map[string]any
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	require.NoError(t, dec.Decode(&out))
	return out
}

// clock is moved by hand.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func newClock() *clock { return &clock{at: time.Now().UTC().Truncate(time.Second)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// vaultView is Vault's side of identity and mount.
type vaultView struct {
	logical.StaticSystemView

	mu       sync.Mutex
	entities map[string]*logical.Entity
	groups   map[string][]*logical.Group
	fail     error
	tainted  bool
	// onTainted is called once, when a kill asks whether the mount goes.
	onTainted func()
	asked     map[string]int // how often, by method
}

func newVaultView() *vaultView {
	return &vaultView{
		StaticSystemView: logical.StaticSystemView{
			DefaultLeaseTTLVal: time.Hour, MaxLeaseTTLVal: 24 * time.Hour,
			PluginEnvironment: &logical.PluginEnvironment{VaultVersion: "1.21.4"},
			// As the community edition answers; 0 would be a call that failed.
			ReplicationStateVal: consts.ReplicationPerformanceDisabled | consts.ReplicationDRDisabled,
		},
		entities: map[string]*logical.Entity{
			alice: {ID: alice, Name: "alice", Metadata: map[string]string{"team": "payments"}},
			bob:   {ID: bob, Name: "bob"},
		},
		groups: map[string][]*logical.Group{alice: {{ID: "g", Name: "ops"}}},
		asked:  map[string]int{},
	}
}

// EntityInfo implements logical.SystemView.
func (v *vaultView) EntityInfo(id string) (*logical.Entity, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.asked["EntityInfo"]++
	if v.fail != nil {
		return nil, v.fail
	}
	return v.entities[id], nil
}

// GroupsForEntity implements logical.SystemView.
func (v *vaultView) GroupsForEntity(id string) ([]*logical.Group, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.asked["GroupsForEntity"]++
	if v.fail != nil {
		return nil, v.fail
	}
	return v.groups[id], nil
}

// DefaultLeaseTTL implements logical.SystemView.
func (v *vaultView) DefaultLeaseTTL() time.Duration {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.asked["DefaultLeaseTTL"]++
	return v.DefaultLeaseTTLVal
}

// MaxLeaseTTL implements logical.SystemView.
func (v *vaultView) MaxLeaseTTL() time.Duration {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.asked["MaxLeaseTTL"]++
	return v.MaxLeaseTTLVal
}

// ReplicationState implements logical.SystemView.
func (v *vaultView) ReplicationState() consts.ReplicationState {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.asked["ReplicationState"]++
	return v.ReplicationStateVal
}

// LocalMount implements logical.SystemView.
func (v *vaultView) LocalMount() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.asked["LocalMount"]++
	return v.LocalMountVal
}

// Tainted implements logical.SystemView.
func (v *vaultView) Tainted() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.asked["Tainted"]++
	if f := v.onTainted; f != nil {
		v.onTainted = nil
		v.mu.Unlock()
		f()
		v.mu.Lock()
	}
	return v.tainted
}

func (v *vaultView) change(f func(v *vaultView)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	f(v)
}

// whileAsked is how often Vault was asked what while f ran.
func (v *vaultView) whileAsked(f func()) (asked map[string]int) {
	v.change(func(v *vaultView) { v.asked = map[string]int{} })
	f()
	v.change(func(v *vaultView) { asked = maps.Clone(v.asked) })
	return asked
}

func (v *vaultView) failWith(err error) { v.change(func(v *vaultView) { v.fail = err }) }

// errStorage is what a failing storage answers.
var errStorage = errors.New("storage is broken")

// flakyStorage fails when it is told to, and can call back before an operation.
type flakyStorage struct {
	logical.InmemStorage

	mu   sync.Mutex
	hook func(op, key string) error
	then func(op, key string) error
	// limit is the longest entry that it takes, as integrated storage has one; 0: any.
	limit int
}

// on calls f before every operation; an error of f is the operation's.
func (s *flakyStorage) on(f func(op, key string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hook = f
}

// after calls f when a write is done; an error of f is its answer all the same.
func (s *flakyStorage) after(f func(op, key string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.then = f
}

// fail makes every operation of the given kinds fail.
func (s *flakyStorage) fail(ops ...string) {
	s.on(func(op, _ string) error {
		if slices.Contains(ops, op) {
			return errStorage
		}
		return nil
	})
}

func (s *flakyStorage) heal() {
	s.on(nil)
	s.after(nil)
	s.FailGet(false).FailPut(false).FailDelete(false).FailList(false)
}

func (s *flakyStorage) before(op, key string) error {
	s.mu.Lock()
	hook := s.hook
	s.mu.Unlock()
	if hook == nil {
		return nil
	}
	return hook(op, key)
}

// Get implements logical.Storage.
func (s *flakyStorage) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	if err := s.before("get", key); err != nil {
		return nil, err
	}
	return s.InmemStorage.Get(ctx, key)
}

// Put implements logical.Storage.
func (s *flakyStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	if err := s.before("put", entry.Key); err != nil {
		return err
	}
	if s.limit > 0 && len(entry.Value) > s.limit {
		return fmt.Errorf("put failed due to value being too large: %s", entry.Key)
	}
	err := s.InmemStorage.Put(ctx, entry)
	s.mu.Lock()
	then := s.then
	s.mu.Unlock()
	if then != nil && err == nil {
		err = then("put", entry.Key)
	}
	return err
}

// Delete implements logical.Storage.
func (s *flakyStorage) Delete(ctx context.Context, key string) error {
	if err := s.before("delete", key); err != nil {
		return err
	}
	return s.InmemStorage.Delete(ctx, key)
}

// List implements logical.Storage.
func (s *flakyStorage) List(ctx context.Context, prefix string) ([]string, error) {
	if err := s.before("list", prefix); err != nil {
		return nil, err
	}
	return s.InmemStorage.List(ctx, prefix)
}

// lockedBuffer takes the log.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements io.Writer.
func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// decodesTo decodes a body as Vault does.
func decodesTo(body string, into *map[string]any) bool {
	dec := json.NewDecoder(strings.NewReader(body))
	dec.UseNumber()
	return dec.Decode(into) == nil
}

func readAll(t testing.TB, r io.Reader) string {
	t.Helper()
	raw, err := io.ReadAll(r)
	require.NoError(t, err)
	return string(raw)
}

// hangUpDuring sends the request, and its caller leaves when the server has
// minted the token and not yet answered.
func (m *mount) hangUpDuring(c call) (*logical.Response, error) {
	m.t.Helper()
	ctx, hangUp := context.WithCancel(context.Background())
	c.ctx = ctx
	worked, release := make(chan struct{}, 1), make(chan struct{})
	m.server.Break(authserver.EndpointToken, authserver.Hold(worked, release))
	done := make(chan struct{})
	var resp *logical.Response
	var err error
	go func() {
		defer close(done)
		resp, err = m.do(c)
	}()
	<-worked
	hangUp()
	close(release)
	m.server.Break(authserver.EndpointToken, nil)
	<-done
	return resp, err
}

// waitForKills waits for the kills that go on in the background.
func (m *mount) waitForKills() {
	m.t.Helper()
	require.Eventually(m.t, func() bool {
		orders, grants := m.b.killer.UnderWay()
		return orders+grants == 0
	}, promptly, time.Millisecond)
}
