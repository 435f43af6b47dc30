package backend

import (
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/downstream"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

// What cannot be lent is refused when it is written, with what to do instead.
func TestALoanThatCannotBe(t *testing.T) {
	m, s := newTenantMount(t)
	m.must(m.write("providers/oauth2/q", m.providerFields(map[string]any{"audience_parameter": "audience"})))
	m.must(m.write("config", map[string]any{"issuer": "https://vault.example:8200/v1/broker"}))
	m.must(m.write("providers/jwt/about", nil))
	m.must(m.write("providers/jwt/team", map[string]any{"claims": map[string]string{"team": "{{identity.entity.metadata.team}}"}}))
	for name, c := range map[string]struct {
		fields map[string]any
		words  []string
	}{
		"of nobody":           {map[string]any{"token_provider": "oauth2/gone"}, []string{"token_provider: there is no providers/oauth2/gone", "write it first"}},
		"of no provider":      {map[string]any{"token_provider": "gone"}, []string{"token_provider: there is no providers/gone", "<type>/<name>"}},
		"of itself":           {map[string]any{"token_provider": "tenant/y"}, []string{"cannot be its own credential"}},
		"of a borrower":       {map[string]any{"token_provider": "tenant/x"}, []string{"tenant/x has a token of another provider", "lends to nobody"}},
		"about an entity":     {map[string]any{"token_provider": "jwt/about", "token_request": map[string]any{"audiences": []string{"https://api.test"}}}, []string{"token_request", "entity"}},
		"about metadata":      {map[string]any{"token_provider": "jwt/team"}, []string{"jwt/team say who holds them"}},
		"of a pattern":        {map[string]any{"token_request": map[string]any{"scopes": []string{"repo:*"}}}, []string{"token_request: repo:*", "pattern"}},
		"of an unknown field": {map[string]any{"token_request": map[string]any{"scope": "read"}}, []string{`there is no "scope" in it`, "scopes, audiences"}},
		"of another type":     {map[string]any{"token_request": map[string]any{"scopes": "read"}}, []string{"token_request", "lists of strings"}},
		"of a parameter":      {map[string]any{"token_request": map[string]any{"parameters": map[string]string{"team": "a"}}}, []string{"token_request: parameters", "team"}},
		"of its endpoint":     {map[string]any{"token_provider": "oauth2/q", "token_request": map[string]any{"audiences": []string{m.server.Endpoint(authserver.EndpointToken)}}}, []string{"token_request", "must not cover"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := m.write("providers/tenant/y", s.fields(c.fields))
			requireCode(t, err, fault.InvalidRequest, c.words...)
			require.Empty(t, m.own())
		})
	}
}

// Who lends does not borrow: neither a circle nor a chain comes about, from whichever side.
func TestWhoLendsDoesNotBorrow(t *testing.T) {
	m, s := newTenantMount(t)
	m.must(m.write("providers/tenant/a", s.fields(map[string]any{"token_provider": "", "token": m.hide("token-of-tenant-a")})))
	m.must(m.write("providers/tenant/b", s.fields(map[string]any{"token_provider": "tenant/a", "token_request": nil})))
	_, err := m.write("providers/tenant/a", map[string]any{"token_provider": "tenant/b"})
	requireCode(t, err, fault.InvalidRequest, "providers/tenant/b has its tokens for a credential already")
	_, err = m.write("providers/tenant/a", map[string]any{"token_provider": "oauth2/p"})
	requireCode(t, err, fault.InvalidRequest, "who lends cannot borrow")
	_, err = m.write("providers/tenant/c", s.fields(map[string]any{"token_provider": "tenant/b"}))
	requireCode(t, err, fault.InvalidRequest, "lends to nobody")
}

// meet has two operations of storage wait for each other before either is done, if both are
// to come: else each goes on after a while.
func (m *mount) meet(one, other string) {
	both, missing := make(chan struct{}), atomic.Int32{}
	missing.Store(2)
	m.storage.on(func(op, key string) error {
		if at := op + " " + key; at != one && at != other {
			return nil
		}
		if missing.Add(-1) == 0 {
			close(both)
		}
		select {
		case <-both:
		case <-time.After(100 * time.Millisecond):
		}
		return nil
	})
}

// Two writes at once make no circle that neither of them makes alone.
func TestTwoWritesMakeNoCircle(t *testing.T) {
	m, s := newTenantMount(t)
	for _, name := range []string{"a", "b"} {
		m.must(m.write("providers/tenant/"+name, s.fields(map[string]any{"token_provider": "", "token_request": nil, "token": m.hide("token-of-tenant-" + name)})))
	}
	m.meet("put provider/tenant/a", "put provider/tenant/b")
	var all sync.WaitGroup
	errs := make([]error, 2)
	for i, names := range [][2]string{{"a", "b"}, {"b", "a"}} {
		all.Go(func() {
			_, errs[i] = m.do(call{op: "update", path: "providers/tenant/" + names[0], data: map[string]any{"token_provider": "tenant/" + names[1]}})
		})
	}
	all.Wait()
	failed := 0
	for _, err := range errs {
		if err != nil {
			failed++
		}
	}
	require.Equal(t, 1, failed, "%v", errs)
}

// Whatever is stored, as by another node or a restored snapshot, nobody waits for himself.
func TestAStoredCircleLendsNothing(t *testing.T) {
	m, s := newTenantMount(t)
	m.must(m.write("providers/tenant/a", s.fields(nil)))
	for _, names := range [][2]string{{"x", "a"}, {"a", "x"}} {
		entry, err := m.b.providers.Read(t.Context(), "tenant/"+names[0])
		require.NoError(t, err)
		entry.Fields = []byte(strings.ReplaceAll(string(entry.Fields), "oauth2/p", "tenant/"+names[1]))
		m.putProvider("tenant/"+names[0], entry)
		m.b.invalidate(t.Context(), downstream.StoragePrefix+"tenant/"+names[0])
	}
	_, err := m.creds(nil)
	requireCode(t, err, fault.TemporarilyUnavailable, "lends to nobody")
	// It can be disabled, and mended.
	m.must(m.write("providers/tenant/a", map[string]any{"disabled": true}))
	m.must(m.write("providers/tenant/a", map[string]any{"token_provider": "", "token": m.hide("token-of-tenant-a")}))
	m.must(m.write("providers/tenant/x", map[string]any{"token_provider": "oauth2/p"}))
	m.mustCreds(nil)
}

// Nobody takes a provider away from those that borrow of it without knowing it.
func TestALenderIsNotDeletedWhileSomebodyBorrows(t *testing.T) {
	m, s := newTenantMount(t)
	m.must(m.write("providers/tenant/y", s.fields(map[string]any{"disabled": true})))
	_, err := m.delete("providers/oauth2/p", nil)
	requireCode(t, err, fault.InvalidRequest, "providers/tenant/x, providers/tenant/y", "token_provider", "force=true")
	l := m.mustCreds(nil)
	_, err = m.delete("providers/oauth2/p", nil)
	requireCode(t, err, fault.InvalidRequest, "providers/tenant/x")
	resp := m.must(m.delete("providers/oauth2/p", map[string]any{"force": true}))
	require.EqualValues(t, 1, resp.Data["revoked"])
	require.Contains(t, strings.Join(resp.Warnings, "\n"), "providers/tenant/x, providers/tenant/y")
	_, err = m.creds(nil)
	requireCode(t, err, fault.TemporarilyUnavailable, "oauth2/p", "does not exist")
	require.Error(t, m.revoke(l))
	m.must(m.write("providers/tenant/x", map[string]any{"disabled": true}))
	m.must(m.write("providers/oauth2/p", m.providerFields(nil)))
	require.NoError(t, m.revoke(l))
	require.Zero(t, s.alive())
	m.must(m.delete("providers/tenant/x", nil))
	m.must(m.delete("providers/tenant/y", nil))
	m.waitForKills()
	m.must(m.delete("providers/oauth2/p", nil))
}

// A borrower that is written while its lender is deleted: one of the two is refused.
func TestALenderIsNotDeletedUnderAWrite(t *testing.T) {
	m, s := newTenantMount(t)
	m.must(m.delete("providers/tenant/x", nil))
	m.meet("delete provider/oauth2/p", "put provider/tenant/x")
	var all sync.WaitGroup
	var deleted, written error
	all.Go(func() { _, deleted = m.do(call{op: "delete", path: "providers/oauth2/p"}) })
	all.Go(func() { _, written = m.do(call{op: "update", path: "providers/tenant/x", data: s.fields(nil)}) })
	all.Wait()
	require.True(t, (deleted == nil) != (written == nil), "deleted: %v, written: %v", deleted, written)
}

// A borrowed token goes to no other place without whoever writes it knowing it.
func TestABorrowedTokenIsSentElsewhereOnlyByWhoBringsIt(t *testing.T) {
	m, _ := newTenantMount(t)
	require.NoError(t, m.revoke(m.mustCreds(nil)))
	elsewhere := newTenantSystem(t)
	elsewhere.m = m
	_, err := m.write("providers/tenant/x", map[string]any{"url": elsewhere.URL})
	requireCode(t, err, fault.InvalidRequest, "changes where the credential is sent", "write token_provider again")
	require.Empty(t, elsewhere.last())
	m.must(m.write("providers/tenant/x", map[string]any{"url": elsewhere.URL, "token_provider": "oauth2/p"}))
	require.NoError(t, m.revoke(m.mustCreds(nil)))
	require.NotEmpty(t, elsewhere.last())
}

// A write proves what it borrows, and leaves nothing alive of what it then does not write.
func TestABorrowedCredentialIsProven(t *testing.T) {
	m, s := newTenantMount(t)
	m.must(m.write("providers/tenant/y", s.fields(map[string]any{"verify_connection": true})))
	require.Equal(t, "ok", m.must(m.read("providers/tenant/y")).Data["health"])
	require.Len(t, m.own(), 1)

	s.change(func() { s.deaf = true })
	_, err := m.write("providers/tenant/z", s.fields(map[string]any{"verify_connection": true}))
	require.ErrorContains(t, err, "nothing was written")
	_, err = m.write("providers/tenant/y", map[string]any{"verify_connection": true, "token_request": map[string]any{"scopes": []string{"write"}}})
	require.ErrorContains(t, err, "nothing was written")
	m.waitForKills()
	require.Len(t, m.own(), 1)
	require.Len(t, m.server.Live(), 1)
	require.Equal(t, "ok", m.must(m.read("providers/tenant/y")).Data["health"])
	require.Equal(t, map[string]any{"scopes": []any{"read"}}, m.must(m.read("providers/tenant/y")).Data["token_request"])
}

// A loan is the same however its request is spelled, so nothing is got anew for that.
func TestALoanIsTheSameHoweverItIsSpelled(t *testing.T) {
	m, s := newTenantMount(t)
	m.mustCreds(nil)
	lent := s.last()
	m.must(m.write("providers/tenant/x", map[string]any{"token_provider": "oauth2/p", "token_request": `{ "scopes" : [ "read" ] }`}))
	m.waitForKills()
	m.mustCreds(nil)
	require.Equal(t, lent, s.last())
}
