package gitlab_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/gitlab"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/gitlab/fake"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/providertest"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// world is the type, opened on an instance of its own.
type world struct {
	*gitlab.Provider
	server        *fake.Server
	store         *providertest.ParentStore
	now           time.Time
	parent, spare string
}

func newWorld(t *testing.T, user int64) *world {
	t.Helper()
	w := &world{now: time.Date(2026, 11, 28, 10, 40, 0, 0, time.UTC)}
	w.server = fake.New(t, func() time.Time { return w.now })
	w.parent, w.spare = w.server.Personal(user, 90, "api"), w.server.Personal(user, 60, "api")
	opened, store := providertest.Setup{
		Type: gitlab.Type{}, Now: func() time.Time { return w.now },
		Fields:  map[string]any{"base_url": w.server.URL + "/api/v4/"},
		Secrets: map[string]string{"token": w.parent, "token_next": w.spare},
	}.Open(t)
	w.Provider, w.store = opened.(*gitlab.Provider), store
	return w
}

func permissions(t *testing.T, level string) access.Permissions {
	t.Helper()
	p, err := access.NewPermissions(gitlab.Levels(), map[string]string{"access_level": level})
	require.NoError(t, err)
	return p
}

// requests are one of each kind that is granted, and who grants it.
func requests(t *testing.T) map[string]func(*provider.Request) (user int64) {
	t.Helper()
	kind := func(user int64, name, resource string, scopes ...string) func(*provider.Request) int64 {
		return func(r *provider.Request) int64 {
			r.Parameters = map[string]string{"kind": name}
			r.Access = access.Access{Scopes: access.Exactly(scopes...), Resources: access.Exactly(resource)}
			if name == "project" || name == "group" {
				r.Access.Permissions = permissions(t, "reporter")
			}
			return user
		}
	}
	return map[string]func(*provider.Request) int64{
		"project":                     kind(fake.Maintainer, "project", fake.Project, "read_api", "read_repository"),
		"group":                       kind(fake.Maintainer, "group", fake.Group, "read_api"),
		"service_account":             kind(fake.Maintainer, "service_account", fake.Top+"/57", "read_api"),
		"personal":                    kind(fake.Admin, "personal", "57", "read_user"),
		"fine_grained":                kind(fake.Maintainer, "fine_grained", fake.Project, "read_job", "read_pipeline"),
		"one that can replace itself": kind(fake.Maintainer, "project", fake.Project, "api"),
	}
}

// of is a world with the request of a kind.
func of(t *testing.T, kind string) (*world, provider.Request) {
	t.Helper()
	r := provider.Request{TTL: time.Hour, GrantID: "grant-of-somebody"}
	user := requests(t)[kind](&r)
	return newWorld(t, user), r
}

// The suite is what every type passes.
func TestConformance(t *testing.T) {
	for name := range requests(t) {
		t.Run(name, func(t *testing.T) {
			providertest.Run(t, func(t *testing.T) providertest.Subject {
				w, r := of(t, name)
				return providertest.Subject{
					Provider: w.Provider, Type: gitlab.Type{}, Request: r, Store: w.store,
					Alive: providertest.Token(w.server.Alive), Minted: w.server.Minted, Echo: w.server.Echo,
					Stall: func() { w.server.After("POST", "access_tokens", fake.Stall) },
				}
			})
		})
	}
}

// A token of GitLab's ends with a day, and is asked for with the one after its lease's end.
func TestATokenEndsTheDayAfterItsLease(t *testing.T) {
	for name, c := range map[string]struct {
		now  time.Time
		ttl  time.Duration
		want string
	}{
		"an hour at noon":              {time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC), time.Hour, "2026-11-29"},
		"over midnight":                {time.Date(2026, 11, 28, 23, 30, 0, 0, time.UTC), time.Hour, "2026-11-30"},
		"to midnight":                  {time.Date(2026, 11, 28, 23, 0, 0, 0, time.UTC), time.Hour, "2026-11-30"},
		"where it is tomorrow already": {time.Date(2026, 11, 29, 1, 0, 0, 0, time.FixedZone("", 2*3600)), 30 * time.Minute, "2026-11-29"},
		"the longest that there is":    {time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC), 364 * 24 * time.Hour, "2027-11-28"},
		"over the end of a year":       {time.Date(2026, 12, 31, 23, 30, 0, 0, time.UTC), time.Hour, "2027-01-02"},
	} {
		t.Run(name, func(t *testing.T) {
			w, r := of(t, "project")
			w.now, r.TTL = c.now, c.ttl
			child, err := w.Mint(t.Context(), r)
			require.NoError(t, err)
			require.Equal(t, c.want, child.ExpiresAt.Format(time.DateOnly))
			require.Equal(t, child.ExpiresAt, w.server.Get(child.Token().Reveal()).Ends)
			require.False(t, child.ExpiresAt.Before(c.now.Add(c.ttl)), "the lease is not cut")
		})
	}
}

// What only reads travels on the connection that is there: a mint has no other one.
func TestALookNeedsNoConnectionOfItsOwn(t *testing.T) {
	w, r := of(t, "project")
	opened := 0
	ctx := httptrace.WithClientTrace(httpclient.Once(t.Context()), &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) {
		if !i.Reused {
			opened++
		}
	}})
	for range 3 {
		_, err := w.Mint(ctx, r)
		require.NoError(t, err)
	}
	require.Equal(t, 1, opened)
}

// The access_level is always sent, because GitLab's own default is a Maintainer's.
func TestTheLevelIsAlwaysSent(t *testing.T) {
	w, r := of(t, "project")
	for i, level := range gitlab.Levels()[:5] {
		r.Access.Permissions = permissions(t, level)
		child, err := w.Mint(t.Context(), r)
		require.NoError(t, err)
		require.Equal(t, []int64{10, 15, 20, 30, 40}[i], w.server.Get(child.Token().Reveal()).Level)
		require.Equal(t, map[string]string{"access_level": level}, child.Granted.Permissions.Map())
	}
	r.Access.Permissions = permissions(t, "owner")
	_, err := w.Mint(t.Context(), r)
	require.Equal(t, fault.InvalidTarget, fault.CodeOf(err), "%v", err)
	r.Access.Permissions = access.Permissions{}
	_, err = w.Mint(t.Context(), r)
	require.Equal(t, fault.InvalidScope, fault.CodeOf(err), "%v", err)
}

// Who holds a token with the scope api has it replaced by another, which no lease is on. It
// dies with the lease all the same.
func TestWhatReplacesATokenDiesWithIt(t *testing.T) {
	for _, kind := range []string{"one that can replace itself", "service_account", "personal", "fine_grained"} {
		t.Run(kind, func(t *testing.T) {
			w, r := of(t, kind)
			if kind != "fine_grained" {
				r.Access.Scopes = access.Exactly("api")
			}
			child, err := w.Mint(t.Context(), r)
			require.NoError(t, err)
			r.GrantID = "another's"
			other, err := w.Mint(t.Context(), r)
			require.NoError(t, err)
			next := w.server.Replace(w.server.Replace(child.Token().Reveal()))
			require.True(t, w.server.Alive(next))
			require.NoError(t, w.Revoke(t.Context(), child.Handle))
			require.False(t, w.server.Alive(next))
			require.True(t, w.server.Alive(other.Token().Reveal()))
			require.True(t, w.server.Alive(w.parent))
		})
	}
}

// A child dies by itself: whatever has become of the parent, its user, or the project's
// path.
func TestAChildDiesWhateverHasBecomeOfTheRest(t *testing.T) {
	for name, change := range map[string]func(*world){
		"the parent is dead":             func(w *world) { w.server.Kill(w.parent) },
		"the user is dismissed":          func(w *world) { w.server.Dismiss(fake.Maintainer) },
		"the project has another path":   func(w *world) { w.server.Rename(fake.Project, "top/else") },
		"it is dead already":             func(*world) {},
		"an answer to its end gets lost": func(w *world) { w.server.After("DELETE", "self", fake.HangUp) },
	} {
		t.Run(name, func(t *testing.T) {
			w, r := of(t, "project")
			child, err := w.Mint(t.Context(), r)
			require.NoError(t, err)
			change(w)
			if name == "it is dead already" {
				w.server.Kill(child.Token().Reveal())
			}
			err = w.Revoke(t.Context(), child.Handle)
			if err != nil {
				require.Equal(t, "an answer to its end gets lost", name, "%v", err)
				w.server.After("DELETE", "self", nil)
				require.NoError(t, w.Revoke(t.Context(), child.Handle))
			}
			require.False(t, w.server.Alive(child.Token().Reveal()))
		})
	}
}

// What a lost answer has left is found by its name, and ended by its number. A 401 or 404
// then is no success before the parent and the place have been asked for.
func TestAnOrphanIsFoundAndEnded(t *testing.T) {
	for kind := range requests(t) {
		t.Run(kind, func(t *testing.T) {
			w, r := of(t, kind)
			w.server.After("POST", "access_tokens", fake.HangUp)
			_, err := w.Mint(t.Context(), r)
			require.ErrorIs(t, err, provider.ErrAnswerLost)
			require.Equal(t, 1, w.server.Active())
			where, err := w.Where(r)
			require.NoError(t, err)
			found, err := w.Find(t.Context(), provider.Trace{GrantID: r.GrantID, Where: where})
			require.NoError(t, err)
			require.Len(t, found, 1)
			for range 2 {
				require.NoError(t, w.Revoke(t.Context(), found[0].Handle))
				require.Zero(t, w.server.Active())
			}
			found, err = w.Find(t.Context(), provider.Trace{GrantID: r.GrantID, Where: where})
			require.NoError(t, err)
			require.Empty(t, found)
		})
	}
}

// An instance that does not search shows the orphan among all others, pages later.
func TestAnOrphanIsFoundWhereGitLabDoesNotSearch(t *testing.T) {
	w, r := of(t, "project")
	for i := range 250 {
		r.GrantID = fmt.Sprint("of somebody else ", i)
		_, err := w.Mint(t.Context(), r)
		require.NoError(t, err)
	}
	r.GrantID = "the lost one"
	w.server.After("POST", "access_tokens", fake.HangUp)
	_, err := w.Mint(t.Context(), r)
	require.ErrorIs(t, err, provider.ErrAnswerLost)
	where, err := w.Where(r)
	require.NoError(t, err)
	w.server.NoSearch()
	found, err := w.Find(t.Context(), provider.Trace{GrantID: r.GrantID, Where: where})
	require.NoError(t, err)
	require.Len(t, found, 1)
	require.NoError(t, w.Revoke(t.Context(), found[0].Handle))
	require.Equal(t, 250, w.server.Active())
}

// A 401 that is not about the token leaves it alive: it is ended by the parent then.
func TestNotEvery401IsAnEnd(t *testing.T) {
	for name, said := range map[string]string{
		"DPoP is required of the user": `{"error":"dpop_error","error_description":"DPoP validation error: DPoP header is missing"}`,
		"a proxy says it":              `<html>log in first</html>`,
	} {
		t.Run(name, func(t *testing.T) {
			w, r := of(t, "personal")
			child, err := w.Mint(t.Context(), r)
			require.NoError(t, err)
			w.server.Before("DELETE", "personal_access_tokens/self", func(rw http.ResponseWriter, _ *http.Request) {
				rw.WriteHeader(http.StatusUnauthorized)
				_, _ = rw.Write([]byte(said))
			})
			w.server.Kill(w.parent)
			require.Error(t, w.Revoke(t.Context(), child.Handle))
			require.True(t, w.server.Alive(child.Token().Reveal()))
			opened, _ := providertest.Setup{Type: gitlab.Type{}, Fields: map[string]any{"base_url": w.server.URL}, Secrets: map[string]string{"token": w.spare}}.Open(t)
			require.NoError(t, opened.(*gitlab.Provider).Revoke(t.Context(), child.Handle))
			require.False(t, w.server.Alive(child.Token().Reveal()))
		})
	}
}

func TestARefusedEndIsNoEnd(t *testing.T) {
	w, r := of(t, "project")
	w.server.After("POST", "access_tokens", fake.HangUp)
	_, err := w.Mint(t.Context(), r)
	require.Error(t, err)
	where, err := w.Where(r)
	require.NoError(t, err)
	found, err := w.Find(t.Context(), provider.Trace{GrantID: r.GrantID, Where: where})
	require.NoError(t, err)
	orphan := found[0].Handle

	for status, want := range map[int]fault.Code{401: fault.TemporarilyUnavailable, 404: fault.TemporarilyUnavailable, 403: fault.TemporarilyUnavailable, 500: fault.TemporarilyUnavailable} {
		w.server.Before("DELETE", "access_tokens", fake.Status(status, "no"))
		err = w.Revoke(t.Context(), orphan)
		require.Equal(t, want, fault.CodeOf(err), "%d: %v", status, err)
		require.Equal(t, 1, w.server.Active())
	}
	w.server.Before("DELETE", "access_tokens", nil)
	w.server.Dismiss(fake.Maintainer)
	require.Error(t, w.Revoke(t.Context(), orphan), "the parent sees nothing any more, and that is no end")
	w.server.Kill(w.parent)
	require.Equal(t, fault.ParentRefused, fault.CodeOf(w.Revoke(t.Context(), orphan)))
	require.Equal(t, 1, w.server.Active())
}

// A path that was given to another project says nothing for it: the token is made by
// number, of a project that has the path that was asked for.
func TestAPathLeadsToNoOtherProject(t *testing.T) {
	w, r := of(t, "project")
	w.server.Rename(fake.Project, "top/else")
	_, err := w.Mint(t.Context(), r)
	require.Equal(t, fault.InvalidTarget, fault.CodeOf(err), "%v", err)
	r.Access.Resources = access.Exactly("top/else")
	child, err := w.Mint(t.Context(), r)
	require.NoError(t, err)
	require.Equal(t, "projects/7", w.server.Get(child.Token().Reveal()).Place)
	require.Contains(t, w.server.Calls(), "POST /projects/7/access_tokens")
	require.Equal(t, fault.InvalidTarget, fault.CodeOf(mint(t, w, r, "top/missing")))
	require.Equal(t, fault.InvalidTarget, fault.CodeOf(mint(t, w, r, "top/other")), "a Developer makes no tokens")
}

func mint(t *testing.T, w *world, r provider.Request, resource string) error {
	t.Helper()
	r.Access.Resources = access.Exactly(resource)
	_, err := w.Mint(t.Context(), r)
	return err
}

func TestRequestsThatLeadNowhere(t *testing.T) {
	for kind, resources := range map[string][]string{
		"project":         {"app", "../app", "top/../app", "top//app", "top/app/", "/top/app", "top/a?b", "top/a#b", "top/a%2fb", "top/.", "top\\app", "top/ä", "*/app"},
		"service_account": {"top", "top/sub/57", "top/0", "top/x", "57", "top/57/8"},
		"personal":        {"0", "self", "1/2", "-1", "57x"},
	} {
		w, r := of(t, kind)
		w.server.Calls()
		for _, resource := range resources {
			require.Equal(t, fault.InvalidTarget, fault.CodeOf(mint(t, w, r, resource)), "%s %s", kind, resource)
		}
		require.Empty(t, w.server.Calls())
	}
	w, r := of(t, "project")
	r.Parameters = map[string]string{"kind": "deploy"}
	require.Equal(t, fault.InvalidRequest, fault.CodeOf(w.CheckParameters(provider.ModeMint, r.Parameters)))
	require.Equal(t, fault.InvalidRequest, fault.CodeOf(mint(t, w, r, fake.Project)))
}

// What was granted is what the answer says, and what does not fit what was asked for is
// handed back to be killed.
func TestTheAnswerIsTheProof(t *testing.T) {
	w, r := of(t, "project")
	w.server.Wider()
	child, err := w.Mint(t.Context(), r)
	require.NoError(t, err)
	require.Contains(t, child.Granted.Excess(r.Access), "scope:api")
	for _, line := range []string{
		`{"id":9,"token":"t"}`, `{"id":9,"token":"t","expires_at":null}`, `{"id":9,"token":"t","expires_at":"2030-01-01","scopes":["read_api"],"access_level":20}`,
		`{"id":9,"token":"t","expires_at":"2026-11-29","scopes":"read_api","access_level":20}`, `{"id":9,"token":"t","expires_at":"2026-11-29","scopes":["read_api"]}`,
		`{"id":9,"token":"t","expires_at":"2026-11-29","scopes":["read_api"],"access_level":45}`, `{"token":"t"}`,
		`{"id":9,"token":"t","expires_at":"2026-11-29","scopes":["read_api"],"access_level":20,"active":false}`,
	} {
		w.server.After("POST", "access_tokens", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusCreated)
			_, _ = w.Write([]byte(line))
		})
		child, err := w.Mint(t.Context(), r)
		require.Equal(t, fault.ProviderViolation, fault.CodeOf(err), line)
		require.NotNil(t, child, line)
		require.False(t, child.Handle.Empty(), line)
	}
	for _, line := range []string{`{}`, `[]`, `nonsense`, `{"token":""}`, `{"token":5}`, ``} {
		w.server.After("POST", "access_tokens", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusCreated)
			_, _ = w.Write([]byte(line))
		})
		child, err := w.Mint(t.Context(), r)
		require.Nil(t, child, line)
		require.ErrorIs(t, err, provider.ErrAnswerLost, line)
	}
}

func TestAnotherUsersTokenIsNone(t *testing.T) {
	w, r := of(t, "personal")
	w.server.After("POST", "access_tokens", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusCreated)
		_, _ = w.Write([]byte(`{"id":9,"token":"t","expires_at":"2026-11-29","scopes":["read_user"],"user_id":58,"active":true}`))
	})
	child, err := w.Mint(t.Context(), r)
	require.Equal(t, fault.ProviderViolation, fault.CodeOf(err))
	require.NotNil(t, child)
}

// Before GitLab 19.6 nothing says what a fine-grained token may do.
func TestAFineGrainedTokenIsConfirmedByItsAnswer(t *testing.T) {
	w, r := of(t, "fine_grained")
	child, err := w.Mint(t.Context(), r)
	require.NoError(t, err)
	require.Equal(t, access.Dimensions{access.DimScopes: true, access.DimResources: true}, child.Confirmed)
	w.server.Fine = false
	r.GrantID = "another's"
	child, err = w.Mint(t.Context(), r)
	require.NoError(t, err)
	require.Empty(t, child.Confirmed)
	for _, entry := range []string{
		`{"access":"selected_memberships","permissions":["read_job"],"project_id":8}`, `{"access":"all_memberships","permissions":["read_job"],"project_id":7}`,
		`{"access":"selected_memberships","permissions":["read_job"],"project_id":7,"group_id":3}`, `{"access":"selected_memberships","permissions":["read_job"],"project_id":null}`, `5`,
	} {
		w.server.After("POST", "access_tokens", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusCreated)
			_, _ = w.Write([]byte(`{"id":9,"token":"t","expires_at":"2026-11-29","scopes":["granular"],"granular_scopes":[` + entry + `]}`))
		})
		_, err := w.Mint(t.Context(), r)
		require.Equal(t, fault.ProviderViolation, fault.CodeOf(err), entry)
	}
}

func TestRefusalsSayWhatToChange(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		text   string
		code   fault.Code
		says   string
	}{
		"a dead parent":           {401, "401 Unauthorized", fault.ParentRefused, "parent"},
		"a parent without api":    {403, "insufficient_scope", fault.ParentRefused, "scope api"},
		"a project of others":     {404, "404 Project Not Found", fault.InvalidTarget, "knows no project"},
		"a Developer":             {400, "User does not have permission to create project access token", fault.InvalidTarget, "access_level"},
		"a limit of the instance": {400, "Expiration date of personal access token must be before", fault.InvalidRequest, "max_ttl"},
		"an unknown scope":        {400, "scopes does not have a valid value", fault.InvalidScope, "kind=project"},
		"too many requests":       {429, "Retry later", fault.TemporarilyUnavailable, "overloaded"},
		"maintenance":             {503, "", fault.TemporarilyUnavailable, "failed"},
	} {
		t.Run(name, func(t *testing.T) {
			w, r := of(t, "project")
			w.server.Before("POST", "access_tokens", fake.Status(c.status, c.text))
			_, err := w.Mint(t.Context(), r)
			require.Equal(t, c.code, fault.CodeOf(err), "%v", err)
			require.ErrorContains(t, err, c.says)
			require.Equal(t, c.status == 503, errors.Is(err, provider.ErrAnswerLost))
		})
	}
}

func TestCheckSaysWhenTheParentEnds(t *testing.T) {
	w, _ := of(t, "project")
	health, err := w.Check(t.Context())
	require.NoError(t, err)
	require.Equal(t, "2027-01-27", health.Ends.Format(time.DateOnly), "the one that ends first")
	require.Contains(t, health.Detail, "2027-02-26")
	w.server.Kill(w.spare)
	_, err = w.Check(t.Context())
	require.Equal(t, fault.InvalidRequest, fault.CodeOf(err), "which is no word of the parent")
	require.ErrorContains(t, err, "token_next")
	w.server.Kill(w.parent)
	_, err = w.Check(t.Context())
	require.Equal(t, fault.ParentRefused, fault.CodeOf(err))
}

// A rotation replaces token_next while token works. Wherever it stops, one of the two
// works and is stored, and children live on.
func TestARotationLocksNobodyOut(t *testing.T) {
	for name, c := range map[string]struct {
		stop func(*world)
		mend func(*world)
		ok   bool // at once
		dies bool // token_next is lost
	}{
		"nothing happens":                    {func(*world) {}, func(*world) {}, true, false},
		"GitLab's answer is lost":            {func(w *world) { w.server.After("POST", "rotate", fake.HangUp) }, func(w *world) { w.server.After("POST", "rotate", nil) }, false, true},
		"GitLab does not get it":             {func(w *world) { w.server.Before("POST", "rotate", fake.Status(429, "later")) }, func(w *world) { w.server.Before("POST", "rotate", nil) }, false, false},
		"storage fails":                      {func(w *world) { w.store.FailSaves(errors.New("disk")) }, func(w *world) { w.store.FailSaves(nil) }, false, false},
		"GitLab refuses to replace":          {func(w *world) { w.server.Before("POST", "rotate", fake.Status(403, "no")) }, func(w *world) { w.server.Before("POST", "rotate", nil) }, false, false},
		"what came cannot be proven to work": {func(w *world) { w.server.After("POST", "rotate", brokenRotation) }, func(w *world) { w.server.After("POST", "rotate", nil) }, false, true},
		"an operator writes another meanwhile": {func(w *world) {
			w.server.Before("POST", "rotate", func(rw http.ResponseWriter, r *http.Request) {
				w.store.Write(map[string]string{"token": w.parent, "token_next": w.spare})
				fake.Status(429, "later")(rw, r)
			})
		}, func(w *world) { w.server.Before("POST", "rotate", nil) }, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			w, r := of(t, "project")
			child, err := w.Mint(t.Context(), r)
			require.NoError(t, err)
			c.stop(w)
			_, err = w.Rotate(t.Context())
			require.Equal(t, c.ok, err == nil, "%v", err)
			stored := w.store.Parent().Secrets
			require.True(t, w.server.Alive(stored["token"].Reveal()), "the parent works")
			require.True(t, w.server.Alive(child.Token().Reveal()), "children live on")
			c.mend(w)
			_, err = w.Rotate(t.Context())
			if c.dies {
				require.Equal(t, fault.ParentRefused, fault.CodeOf(err))
				require.ErrorContains(t, err, "token_next")
				require.Equal(t, w.parent, w.store.Parent().Secrets["token"].Reveal())
				return
			}
			require.NoError(t, err)
			stored = w.store.Parent().Secrets
			require.True(t, w.server.Alive(stored["token"].Reveal()))
			require.True(t, w.server.Alive(stored["token_next"].Reveal()))
			r.GrantID = "after"
			_, err = w.Mint(t.Context(), r)
			require.NoError(t, err, "and it mints with what is stored")
		})
	}
}

func brokenRotation(w http.ResponseWriter, _ *http.Request) {
	_, _ = w.Write([]byte(`{"id":1}`))
}

// Each rotation replaces the older of the two, and asks for a life as long as before.
func TestTheTwoTokensTakeTurns(t *testing.T) {
	w, _ := of(t, "project")
	before := []string{w.parent, w.spare}
	for range 4 {
		_, err := w.Rotate(t.Context())
		require.NoError(t, err)
		stored := w.store.Parent().Secrets
		require.Equal(t, before[0], stored["token_next"].Reveal(), "the former token is next")
		require.NotContains(t, before, stored["token"].Reveal())
		before = []string{stored["token"].Reveal(), stored["token_next"].Reveal()}
		w.now = w.now.Add(24 * time.Hour)
	}
	require.Greater(t, w.server.Get(before[0]).Ends.Sub(w.now), 50*24*time.Hour)
	require.False(t, w.server.Alive(w.spare))
}

// However early in the day it comes, a rotation takes no day off the next token's life.
func TestALifeDoesNotShrink(t *testing.T) {
	w, _ := of(t, "project")
	ends := map[bool]time.Duration{}
	for i := range 8 {
		_, err := w.Rotate(t.Context())
		require.NoError(t, err)
		made := w.server.Get(w.store.Parent().Secrets["token"].Reveal())
		life := made.Ends.Sub(made.Made.Truncate(24 * time.Hour))
		if i < 2 {
			ends[i%2 == 0] = life
		}
		require.Equal(t, ends[i%2 == 0], life)
		w.now = w.now.Add(23 * time.Hour)
	}
}

func TestOneTokenAloneIsNotRotated(t *testing.T) {
	server := fake.New(t, time.Now)
	parent := server.Personal(fake.Maintainer, 90, "api")
	opened, _ := providertest.Setup{Type: gitlab.Type{}, Fields: map[string]any{"base_url": server.URL}, Secrets: map[string]string{"token": parent}}.Open(t)
	p := opened.(*gitlab.Provider)
	require.False(t, p.Traits().RotatesAlone)
	_, err := p.Rotate(t.Context())
	require.Equal(t, fault.InvalidRequest, fault.CodeOf(err))
	require.ErrorContains(t, err, "token_next")
	require.True(t, server.Alive(parent))
	for name, spare := range map[string]string{"another user's": server.Personal(fake.Admin, 9, "api"), "lacks scopes": server.Personal(fake.Maintainer, 9, "self_rotate")} {
		opened, _ := providertest.Setup{Type: gitlab.Type{}, Fields: map[string]any{"base_url": server.URL}, Secrets: map[string]string{"token": parent, "token_next": spare}}.Open(t)
		_, err := opened.(*gitlab.Provider).Rotate(t.Context())
		require.Equal(t, fault.InvalidRequest, fault.CodeOf(err), name)
		require.ErrorContains(t, err, name)
		require.True(t, server.Alive(spare))
	}
}

func TestConfigureSaysWhatIsWrong(t *testing.T) {
	for word, c := range map[string]struct {
		fields  map[string]any
		secrets map[string]string
	}{
		"base_url":   {map[string]any{"base_url": "http://gitlab.example"}, map[string]string{"token": "t"}},
		"token":      {nil, nil},
		"token_next": {nil, map[string]string{"token": "t", "token_next": "t"}},
	} {
		_, err := providertest.Setup{Type: gitlab.Type{}, Fields: c.fields, Secrets: c.secrets}.Configure(t.Context())
		require.Equal(t, fault.InvalidRequest, fault.CodeOf(err))
		require.ErrorContains(t, err, word+": ")
	}
	pinned, err := providertest.Setup{Type: gitlab.Type{}, Secrets: map[string]string{"token": "t"}}.Configure(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"below nested https://gitlab.com/api/v4"}, pinned.Destinations)
}

// A handle of the broker's makes requests of one shape, whatever somebody puts into it.
func TestHandlesThatLeadNowhere(t *testing.T) {
	w, _ := of(t, "project")
	w.server.Calls()
	for _, at := range []string{"", "users", "projects/7", "projects/../access_tokens", "projects/7/access_tokens/..", "projects/a%2F..%2Fb/access_tokens", "personal_access_tokens/self/rotate", "projects/7/access_tokens?x"} {
		text := `{"v":1,"id":5,"name":"broker-x","at":"` + at + `"}`
		if strings.Contains(at, "%2F..%2F") { // which the client keeps from being sent
			require.Error(t, w.Revoke(t.Context(), secret.New(text)))
			continue
		}
		require.Equal(t, fault.InvalidRequest, fault.CodeOf(w.Revoke(t.Context(), secret.New(text))), at)
	}
	require.Empty(t, slices.DeleteFunc(w.server.Calls(), func(c string) bool { return strings.Contains(c, "self") }))
}
