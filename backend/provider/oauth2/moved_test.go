package oauth2

import (
	"context"
	"encoding/json"
	"maps"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/providertest"
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

// stored is a provider as one write after the other leaves it.
type stored struct {
	providertest.Setup
	pinned *provider.Pinned
}

// writtenOver is f, written where was is stored; nil for none.
func writtenOver(t *testing.T, server *authserver.Server, was *stored, f with) *stored {
	t.Helper()
	now := &stored{Setup: setupFor(server, f)}
	if was != nil {
		now.Before, now.Former, now.CAPEM = *was.pinned, was.Fields, was.CAPEM
	}
	var err error
	now.pinned, err = now.Configure(context.Background())
	require.NoError(t, err)
	return now
}

// asBefore is a provider of a build whose accounts held the first revocation URL, and
// not whose word it was.
func (s *stored) asBefore(issuedBy, revocation string) *stored {
	older, pinned := *s, *s.pinned
	pinned.Account = marshal([]string{issuedBy, testClient, revocation})
	older.pinned = &pinned
	return &older
}

// While grants live the account must not change; that of an issuer who says himself that
// he has moved does not.
func TestTheAccountStaysTheIssuersWhereverItRevokes(t *testing.T) {
	server := authserver.New(t, authserver.Options{}, registered())
	first := writtenOver(t, server, nil, with{})
	for name, before := range map[string]*stored{"new": first, "of a build before": first.asBefore(server.URL, server.URL+"/revoke")} {
		t.Run(name, func(t *testing.T) {
			server.Break(authserver.EndpointMetadata, nil)
			server.Break(authserver.EndpointOIDC, nil)
			for _, other := range []with{{"confirm_revocation": true}, {"token_url": server.URL + "/other/token"}} {
				require.Equal(t, before.pinned.Account, writtenOver(t, server, before, other).pinned.Account, "children die where they did")
			}
			bothMetadata(server, authserver.Set("revocation_endpoint", server.URL+movedRevocation))
			second := writtenOver(t, server, before, with{})
			require.Equal(t, before.pinned.Account, second.pinned.Account)
			require.NotEqual(t, before.pinned.Destinations, second.pinned.Destinations, "every secret has to be brought again")
			require.Equal(t, before.pinned.Account, writtenOver(t, server, second, with{}).pinned.Account, "also the next time")

			for name, other := range map[string]with{
				"written":              {"revocation_url": server.URL + "/other"},
				"written as it was":    {"revocation_url": server.URL + "/revoke"},
				"written as it is":     {"revocation_url": server.URL + movedRevocation},
				"another client":       {"client_id": "other"},
				"by its URLs":          {"issuer": "", "token_url": server.URL + "/token", "revocation_url": server.URL + "/revoke"},
				"by its URLs of today": {"issuer": "", "token_url": server.URL + "/token", "revocation_url": server.URL + movedRevocation},
			} {
				require.NotEqual(t, before.pinned.Account, writtenOver(t, server, before, other).pinned.Account, name)
				require.NotEqual(t, before.pinned.Account, writtenOver(t, server, second, other).pinned.Account, name)
			}
			bothMetadata(server, authserver.Drop("revocation_endpoint"))
			require.NotEqual(t, before.pinned.Account, writtenOver(t, server, second, with{}).pinned.Account, "nothing could be killed any more")
		})
	}
}

// Where the operator says where children die, it is nobody else's word, and another place
// is another account, whatever build wrote it.
func TestTheAccountOfAPlaceThatTheOperatorNamed(t *testing.T) {
	server := authserver.New(t, authserver.Options{}, registered())
	place := server.URL + "/own/revoke"
	for name, f := range map[string]with{
		"beside the issuer": {"revocation_url": place},
		"all of it":         {"token_url": server.URL + "/token", "revocation_url": place},
		"by URLs":           {"issuer": "", "token_url": server.URL + "/token", "revocation_url": place},
	} {
		first := writtenOver(t, server, nil, f)
		issuedBy, _ := first.Fields["issuer"].(string)
		if issuedBy == "" {
			issuedBy = server.URL + "/token"
		}
		for _, before := range []*stored{first, first.asBefore(issuedBy, place)} {
			change := func(other with) string {
				all := maps.Clone(f)
				maps.Copy(all, other)
				return writtenOver(t, server, before, all).pinned.Account
			}
			require.Equal(t, before.pinned.Account, change(with{}), name)
			require.Equal(t, before.pinned.Account, change(with{"introspection_url": server.URL + "/other"}), name)
			require.NotEqual(t, before.pinned.Account, change(with{"revocation_url": server.URL + "/other"}), name)
			require.Equal(t, f["issuer"] == nil, before.pinned.Account == change(with{"token_url": server.URL + "/other"}), name)
			require.NotEqual(t, before.pinned.Account, change(with{"issuer": server.URL, "revocation_url": ""}), name)
		}
	}
}

// A server answers 200 for a token that it does not know, so that a place which is dropped
// must not be taken for the issuer's that has moved.
func TestAPlaceThatIsDroppedIsNotTheIssuers(t *testing.T) {
	server, elsewhere := authserver.New(t, authserver.Options{}, registered()), authserver.New(t, authserver.Options{}, registered())
	own := with{"token_url": elsewhere.URL + "/token", "revocation_url": elsewhere.URL + "/revoke"}
	first := writtenOver(t, server, nil, own)
	p, _ := first.Open(t)
	child, err := p.Mint(context.Background(), provider.Request{Access: scopes("read")})
	require.NoError(t, err)
	dropped := writtenOver(t, server, first, with{"token_url": own["token_url"]})
	other, _ := dropped.Open(t)
	require.NoError(t, other.(*Provider).Revoke(context.Background(), child.Handle))
	require.True(t, elsewhere.Active(child.Token().Reveal()), "or nothing is shown here")
	require.NotEqual(t, first.pinned.Account, dropped.pinned.Account)
}
