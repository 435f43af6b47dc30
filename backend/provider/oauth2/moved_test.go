package oauth2

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

// paths are where requests have come to at the server so far.
func (f *fixture) paths() map[string]int {
	counts := map[string]int{}
	for _, r := range f.server.Requests() {
		counts[r.Path]++
	}
	return counts
}

// The server takes what is below /mtls for what it is without it.
const movedRevocation = "/mtls/revoke"

// A handle says where its child dies; the parent goes there only while that is pinned.
// Where the issuer has moved its endpoint, the child dies at the new one.
func TestAKillFollowsTheIssuerAndNobodyElse(t *testing.T) {
	elsewhere := authserver.New(t, authserver.Options{}, registered())
	f := newFixture(t, authserver.Options{}, with{})
	handleAt := func(child *provider.Child, url string) secret.Text {
		var h handle
		require.NoError(t, json.Unmarshal([]byte(child.Handle.Reveal()), &h))
		h.URL, h.Introspection = url, ""
		return h.encode()
	}
	moved, old, foreign := f.mustMint(scopes("read")), f.mustMint(scopes("read")), f.mustMint(scopes("read"))
	bothMetadata(f.server, authserver.Set("revocation_endpoint", f.server.URL+movedRevocation))
	now := newFixtureOn(t, f.server, with{})
	require.NoError(t, now.Revoke(context.Background(), moved.Handle))
	require.False(t, f.server.Active(moved.Token().Reveal()))
	require.Equal(t, 1, f.paths()[movedRevocation])
	require.Zero(t, f.paths()["/revoke"], "the secret of today does not go to where nothing is pinned any more")

	// As of a build that kept its URLs otherwise, or of nobody that we know of.
	require.NoError(t, now.Revoke(context.Background(), handleAt(old, "https://gone.example.com/revoke?key=s3cret-key")))
	require.False(t, f.server.Active(old.Token().Reveal()))

	written := newFixtureOn(t, f.server, with{"revocation_url": f.server.URL + "/revoke"})
	urls := newFixtureOn(t, f.server, with{"issuer": "", "token_url": f.server.URL + "/token", "revocation_url": f.server.URL + "/revoke"})
	for _, p := range []*fixture{written, urls} {
		before := f.paths()
		err := p.Revoke(context.Background(), handleAt(foreign, elsewhere.URL+"/revoke?key=s3cret-key"))
		requireCode(t, err, fault.TemporarilyUnavailable, elsewhere.URL)
		require.NotContains(t, err.Error(), "s3cret-key", "what is in a query may be a key")
		require.Equal(t, before, f.paths())
	}
	require.Empty(t, elsewhere.Requests())
	require.True(t, f.server.Active(foreign.Token().Reveal()))
}

// While grants live the account must not change; that of an issuer who says himself that
// he has moved does not.
func TestTheAccountStaysTheIssuersWhereverItRevokes(t *testing.T) {
	server := authserver.New(t, authserver.Options{}, registered())
	configure := func(before *provider.Pinned, f with) *provider.Pinned {
		s := setupFor(server, f)
		if before != nil {
			s.Before = *before
		}
		pinned, err := s.Configure(context.Background())
		require.NoError(t, err)
		return pinned
	}
	first := configure(nil, with{})
	moveTo := func(f authserver.Fault) { bothMetadata(server, f) }
	moveTo(authserver.Set("revocation_endpoint", server.URL+movedRevocation))
	second := configure(first, with{})
	require.Equal(t, first.Account, second.Account)
	require.NotEqual(t, first.Destinations, second.Destinations, "every secret has to be brought again")
	require.Equal(t, first.Account, configure(second, with{}).Account, "also the next time")

	for name, other := range map[string]with{
		"written":        {"revocation_url": server.URL + "/other"},
		"another client": {"client_id": "other"},
		"by its URLs":    {"issuer": "", "token_url": server.URL + "/token", "revocation_url": server.URL + "/revoke"},
	} {
		require.NotEqual(t, first.Account, configure(first, other).Account, name)
	}
	moveTo(authserver.Drop("revocation_endpoint"))
	require.NotEqual(t, first.Account, configure(first, with{}).Account, "nothing could be killed any more")
}
