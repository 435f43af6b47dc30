package github

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/github/fake"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/providertest"
)

// world is the type, opened on a GitHub of its own where an App is installed in acme.
type world struct {
	*Provider
	github *fake.GitHub
	app    *fake.App
	in     *fake.Installation
	store  *providertest.ParentStore
	setup  providertest.Setup
	now    time.Time
}

// granted is what the App has in acme.
var granted = map[string]string{"contents": "write", "issues": "write", "metadata": "read", "workflows": "write", "organization_projects": "admin"}

func newWorld(t *testing.T, change ...func(w *world, fields map[string]any)) *world {
	t.Helper()
	w := &world{now: time.Now().Truncate(time.Second)}
	w.github = fake.New(t, fake.Options{Now: func() time.Time { return w.now }})
	w.app = w.github.NewApp("the-broker")
	w.in = w.github.Install(w.app, "organization", "acme", granted, "api", "web", "svc-a", "svc-b", ".github", "Docs.v2")
	fields := map[string]any{"base_url": w.github.URL, "client_id": w.app.ClientID, "organization": "acme"}
	for _, c := range change {
		c(w, fields)
	}
	w.setup = providertest.Setup{
		Type: Type{}, Now: func() time.Time { return w.now }, Fields: fields, Secrets: map[string]string{"private_key": w.app.PrivateKey},
	}
	w.open(t)
	return w
}

func (w *world) open(t *testing.T) {
	t.Helper()
	opened, store := w.setup.Open(t)
	w.Provider, w.store = opened.(*Provider), store
}

func perms(t testing.TB, of map[string]string) access.Permissions {
	t.Helper()
	p, err := access.NewPermissions(levels, of)
	require.NoError(t, err)
	return p
}

// asking is a request for contents:read in these repositories, patterns included.
func asking(t testing.TB, repositories ...string) provider.Request {
	t.Helper()
	set, err := access.Ceiling(repositories...)
	require.NoError(t, err)
	return provider.Request{
		Access: access.Access{Resources: set, Permissions: perms(t, map[string]string{"contents": "read"})}, TTL: time.Hour, GrantID: "none.1",
	}
}

func (w *world) alive(c *provider.Child) bool { return w.github.Alive(c.Token().Reveal()) }

func (w *world) mint(t testing.TB, r provider.Request) *provider.Child {
	t.Helper()
	child, err := w.Mint(t.Context(), r)
	require.NoError(t, err)
	return child
}

func (w *world) refused(t testing.TB, code fault.Code, r provider.Request, words ...string) error {
	t.Helper()
	child, err := w.Mint(t.Context(), r)
	require.Nil(t, child)
	require.Equal(t, code, fault.CodeOf(err), "%v", err)
	for _, word := range words {
		require.ErrorContains(t, err, word)
	}
	return err
}

// The suite is what every type passes, where the installation is named in each way.
func TestConformance(t *testing.T) {
	for name, fields := range map[string]func(*world, map[string]any){
		"by organization": func(*world, map[string]any) {},
		"by app_id":       func(w *world, f map[string]any) { delete(f, "client_id"); f["app_id"] = w.app.ID },
		"by a role":       func(_ *world, f map[string]any) { delete(f, "organization") },
	} {
		t.Run(name, func(t *testing.T) {
			providertest.Run(t, func(t *testing.T) providertest.Subject {
				w := newWorld(t, fields)
				r, patterns := asking(t, "acme/api", "acme/web"), asking(t, "acme/svc-*", "acme/gone")
				if name == "by a role" {
					r.Parameters = map[string]string{"organization": "acme"}
					patterns.Parameters = r.Parameters
				}
				return providertest.Subject{
					Provider: w.Provider, Type: Type{}, Request: r, Patterns: patterns, Store: w.store,
					Alive: w.alive, Minted: w.github.Minted, Echo: w.github.Echo,
					Stall: func() { w.github.After(fake.Mint, fake.Stall) },
				}
			})
		})
	}
}

func TestATokenHasWhatWasAskedForAndNothingElse(t *testing.T) {
	w := newWorld(t)
	r := asking(t, "acme/api", "acme/.github", "acme/Docs.v2")
	child := w.mint(t, r)
	token := child.Token().Reveal()
	require.True(t, w.github.Can(token, "acme/api", "contents", "read"))
	require.True(t, w.github.Can(token, "acme/.github", "contents", "read"))
	require.False(t, w.github.Can(token, "acme/web", "contents", "read"))
	require.False(t, w.github.Can(token, "acme/api", "contents", "write"))
	require.False(t, w.github.Can(token, "acme/api", "issues", "read"))
	require.True(t, child.Granted.Equal(r.Access), "metadata:read came unasked, and is none of it: %v", child.Granted.Flat())
	require.Equal(t, map[string]any{"username": "x-access-token"}, child.Extra)
	require.WithinDuration(t, w.now.Add(time.Hour), child.ExpiresAt, time.Second)
	require.Equal(t, access.Dimensions{access.DimResources: true, access.DimPermissions: true}, child.Confirmed)
}

// A mint is one request and no signature, once the installation is known.
func TestAWarmMintIsOneRequestAndNoSignature(t *testing.T) {
	w := newWorld(t)
	w.mint(t, asking(t, "acme/api"))
	before := len(w.github.Requests())
	for range 5 {
		w.mint(t, asking(t, "acme/api"))
	}
	require.Len(t, w.github.Requests(), before+5)
	require.Equal(t, 1, w.github.JWTs(w.app))
	w.now = w.now.Add(8 * time.Minute)
	w.mint(t, asking(t, "acme/api"))
	require.Equal(t, 2, w.github.JWTs(w.app), "made anew before it ends")
}

// Case says nothing to GitHub, and so does not to the answer; to a role it does.
func TestCaseSaysNothingToGitHub(t *testing.T) {
	w := newWorld(t)
	r := asking(t, "Acme/API", "ACME/docs.V2")
	child := w.mint(t, r)
	require.True(t, child.Granted.Equal(r.Access), "%v", child.Granted.Flat())
	require.True(t, w.github.Can(child.Token().Reveal(), "acme/Docs.v2", "contents", "read"))
	w.refused(t, fault.InvalidTarget, asking(t, "Acme/*"), "in which case counts")
}

func TestPatternsStandForWhatTheInstallationHas(t *testing.T) {
	w := newWorld(t)
	child := w.mint(t, asking(t, "acme/svc-*", "acme/api"))
	require.Equal(t, []string{"acme/api", "acme/svc-a", "acme/svc-b"}, child.Granted.Resources.Literals())
	require.False(t, w.github.Can(child.Token().Reveal(), "acme/web", "contents", "read"))
	require.Equal(t, 1, w.github.Living(), "the token that read the list is dead")
	w.refused(t, fault.InvalidTarget, asking(t, "acme/nothing-*"), "none of the installation's 6 repositories matches")
	w.refused(t, fault.InvalidTarget, asking(t, "acme/*-*/x"), "none")
	require.Equal(t, 1, w.github.Count(fake.MintReader))
}

// A thousand repositories are listed once in five minutes, whoever comes and how many.
func TestAThousandRepositoriesAreListedOnceInFiveMinutes(t *testing.T) {
	w := newWorld(t)
	w.github.Change(func() {
		for i := range 1000 {
			w.in.Repositories[fmt.Sprintf("many-%04d", i)] = int64(100_000 + i)
		}
	})
	minted := make(chan error, 8)
	for range cap(minted) {
		go func() {
			_, err := w.Mint(t.Context(), asking(t, "acme/many-000*"))
			minted <- err
		}()
	}
	for range cap(minted) {
		require.NoError(t, <-minted)
	}
	pages := 11 // of 1,006
	require.Equal(t, pages, w.github.Count(fake.List))
	require.Equal(t, 1, w.github.Count(fake.MintReader))
	for range 3 {
		w.now = w.now.Add(time.Minute)
		require.Len(t, w.mint(t, asking(t, "acme/many-000*")).Granted.Resources.Literals(), 10)
	}
	require.Equal(t, pages, w.github.Count(fake.List))
	w.refused(t, fault.InvalidTarget, asking(t, "acme/many-*"), "1000 repositories match", "at most 500: name those that you need")
	require.Len(t, w.mint(t, asking(t, "acme/many-00*", "acme/many-01*", "acme/many-02*", "acme/many-03*", "acme/many-04*")).Granted.Resources.Literals(), 500,
		"which takes an answer of more than a megabyte")

	w.now = w.now.Add(90 * time.Second)
	w.mint(t, asking(t, "acme/many-000*"))
	require.Eventually(t, func() bool { return w.github.Count(fake.Revoke) == 2 }, time.Minute, time.Millisecond, "the next list is made before it is needed")
	require.Equal(t, 2*pages, w.github.Count(fake.List))
	w.now = w.now.Add(6 * time.Minute)
	w.mint(t, asking(t, "acme/many-000*"))
	require.Equal(t, 3*pages, w.github.Count(fake.List), "an old list is not used")
}

// A mint that names its repositories waits for no list, and needs none.
func TestNamesNeedNoList(t *testing.T) {
	w := newWorld(t)
	w.github.Before(fake.List, fake.Stall)
	w.mint(t, asking(t, "acme/api"))
	require.Zero(t, w.github.Count(fake.MintReader))
	many := make([]string, 501)
	for i := range many {
		many[i] = fmt.Sprintf("acme/r%d", i)
	}
	w.refused(t, fault.InvalidTarget, asking(t, many...), "name fewer")
	w.refused(t, fault.InvalidTarget, asking(t, "evil/api"), "not of acme")
	w.refused(t, fault.InvalidTarget, provider.Request{Access: access.Access{Resources: access.Exactly("acme/a*"), Permissions: perms(t, map[string]string{"contents": "read"})}}, "has no patterns")
}

// An installation that has more than can be listed needs names.
func TestMoreThanCanBeListed(t *testing.T) {
	w := newWorld(t)
	w.github.Before(fake.List, fake.Answer(200, `{"total_count":100001,"repositories":[{"id":5,"full_name":"acme/api"}]}`))
	w.refused(t, fault.InvalidTarget, asking(t, "acme/*"), "more than 100000 repositories", "name the repositories that you need")
	require.Equal(t, 1, w.github.Count(fake.List))
	w.mint(t, asking(t, "acme/api"))
}

// Nothing that is empty is ever sent: GitHub takes it for all that there is.
func TestNothingIsNeverSentAsAll(t *testing.T) {
	w := newWorld(t)
	r := asking(t, "acme/api")
	r.Access.Resources = access.Set{}
	w.refused(t, fault.InvalidTarget, r, "would be for all")
	r = asking(t, "acme/api")
	r.Access.Permissions = access.Permissions{}
	w.refused(t, fault.InvalidScope, r, "would have all")
	require.Zero(t, w.github.Minted())
}

// What was listed and is gone since costs one more list, and no wrong token.
func TestAListThatIsOldIsMadeAnew(t *testing.T) {
	w := newWorld(t)
	w.mint(t, asking(t, "acme/svc-*"))
	w.github.Change(func() { delete(w.in.Repositories, "svc-b") })
	child := w.mint(t, asking(t, "acme/svc-*"))
	require.Equal(t, []string{"acme/svc-a"}, child.Granted.Resources.Literals())
	require.Equal(t, 2, w.github.Count(fake.MintReader))

	w.github.Change(func() {
		w.in.Repositories["other"] = w.in.Repositories["svc-a"]
		delete(w.in.Repositories, "svc-a")
		w.in.Repositories["svc-c"] = 7
	})
	child, err := w.Mint(t.Context(), asking(t, "acme/svc-*"))
	require.NoError(t, err, "whether it may be handed out is for the decision to say")
	require.False(t, child.Granted.Resources.Within(asking(t, "acme/svc-*").Access.Resources))
	child = w.mint(t, asking(t, "acme/svc-*"))
	require.Equal(t, []string{"acme/svc-c"}, child.Granted.Resources.Literals())
}

// GitHub may refuse what it has just listed, and may know a repository by a name of before: a
// list for each mint would help neither, and cost those who have the installation's tokens.
func TestARefusalThatStaysCostsNoListEach(t *testing.T) {
	w := newWorld(t)
	w.mint(t, asking(t, "acme/svc-*"))
	w.github.Before(fake.Mint, fake.Say(http.StatusUnprocessableEntity, "There is at least one repository that does not exist or is not accessible to the parent installation."))
	for range 5 {
		w.refused(t, fault.InvalidTarget, asking(t, "acme/svc-*"))
	}
	require.Equal(t, 2, w.github.Count(fake.MintReader), "one more, to make sure")
	w.now = w.now.Add(listFor)
	w.github.Before(fake.Mint, nil)
	w.mint(t, asking(t, "acme/svc-*"))
	require.Equal(t, 3, w.github.Count(fake.MintReader))

	w.github.After(fake.Mint, fake.Answer(http.StatusCreated, `{"token":"ghs_12345678","expires_at":"2099-01-01T00:00:00Z","permissions":{"contents":"read"},"repository_selection":"selected","repositories":[{"id":5,"full_name":"acme/renamed"}]}`))
	_, err := w.Mint(t.Context(), asking(t, "acme/api"))
	require.NoError(t, err, "whether it may be handed out is for the decision to say")
	w.github.After(fake.Mint, nil)
	w.mint(t, asking(t, "acme/svc-*"))
	require.Equal(t, 3, w.github.Count(fake.MintReader))
}

func TestAReinstallationIsFound(t *testing.T) {
	w := newWorld(t)
	w.mint(t, asking(t, "acme/api"))
	w.github.Reinstall(w.in)
	w.mint(t, asking(t, "acme/api"))
	require.Equal(t, 2, w.github.Count(fake.LookUp))

	w.github.Before(fake.Mint, fake.Say(http.StatusNotFound, "Not Found"))
	w.refused(t, fault.TemporarilyUnavailable, asking(t, "acme/api"), "try again")
	require.Equal(t, 3, w.github.Count(fake.LookUp), "once for each mint, and not again and again")
	w.github.Before(fake.Mint, nil)
	w.mint(t, asking(t, "acme/api"))
	require.Equal(t, 3, w.github.Count(fake.LookUp))

	fixed := newWorld(t, func(w *world, f map[string]any) { delete(f, "organization"); f["installation_id"] = w.in.ID })
	fixed.mint(t, asking(t, "acme/api"))
	fixed.github.Reinstall(fixed.in)
	fixed.refused(t, fault.ParentRefused, asking(t, "acme/api"), "was it reinstalled?", "organization=")
}

// Patterns lead to no installation that is there no more, though its list is old as well.
func TestAReinstallationIsFoundByPatterns(t *testing.T) {
	w := newWorld(t)
	w.mint(t, asking(t, "acme/svc-*"))
	w.github.Reinstall(w.in)
	w.now = w.now.Add(listFor)
	w.mint(t, asking(t, "acme/svc-*"))
	require.Equal(t, 2, w.github.Count(fake.LookUp))

	w.now = w.now.Add(listFor)
	w.github.Before(fake.MintReader, fake.Say(http.StatusNotFound, "Not Found"))
	w.refused(t, fault.TemporarilyUnavailable, asking(t, "acme/svc-*"), "try again")
	require.Equal(t, 3, w.github.Count(fake.LookUp), "once for each mint, and not again and again")
}

// A list has as many repositories in a page as were asked for, so that as many pages as
// there may be hold no more than maxListed.
func TestAPageIsNoLongerThanWasAskedFor(t *testing.T) {
	w := newWorld(t)
	var all []string
	for i := range perPage + 1 {
		all = append(all, fmt.Sprintf(`{"id":%d,"full_name":"acme/svc-%d"}`, i+1, i))
	}
	w.github.After(fake.List, fake.Answer(http.StatusOK, `{"total_count":3,"repositories":[`+strings.Join(all, ",")+`]}`))
	w.refused(t, fault.ProviderViolation, asking(t, "acme/svc-*"), "than were asked for")
}

// An account that was renamed is known by its new name after a minute.
func TestAnOwnerWhoWasRenamed(t *testing.T) {
	w := newWorld(t, func(w *world, f map[string]any) { delete(f, "organization"); f["installation_id"] = w.in.ID })
	w.mint(t, asking(t, "acme/api"))
	w.github.Change(func() { w.in.Owner = "acme2" })
	w.refused(t, fault.InvalidTarget, asking(t, "acme2/api"), "not of acme,")
	w.now = w.now.Add(time.Minute)
	w.mint(t, asking(t, "acme2/api"))
}

func TestEnterprisesHaveNoRepositories(t *testing.T) {
	w := newWorld(t, func(_ *world, f map[string]any) { delete(f, "organization"); f["enterprise"] = "big" })
	w.github.Install(w.app, "enterprise", "big", map[string]string{"enterprise_administration": "write"})
	r := provider.Request{Access: access.Access{Permissions: perms(t, map[string]string{"enterprise_administration": "read"})}}
	child := w.mint(t, r)
	require.True(t, child.Granted.Equal(r.Access))
	require.False(t, w.Traits().Required[access.DimResources])
	health, err := w.Check(t.Context())
	require.NoError(t, err)
	require.Contains(t, health.Detail, "enterprise=big")
}

func TestRolesSayWhichInstallation(t *testing.T) {
	w := newWorld(t, func(_ *world, f map[string]any) { delete(f, "organization") })
	w.github.Install(w.app, "user", "jane", granted, "dotfiles")
	r := asking(t, "jane/dotfiles")
	r.Parameters = map[string]string{"user": "jane"}
	w.mint(t, r)
	r.Parameters = map[string]string{"organization": "nobody"}
	w.refused(t, fault.AccessDenied, r, "organization=nobody: install it there")
	for _, c := range []struct {
		parameters map[string]string
		word       string
	}{
		{nil, "leaves open which installation"},
		{map[string]string{"user": "jane", "organization": "acme"}, "write one of"},
		{map[string]string{"user": "ja/ne"}, "is a name as in GitHub's URLs"},
		{map[string]string{"installation_id": "x"}, "is a number"},
	} {
		require.ErrorContains(t, w.CheckParameters(provider.ModeMint, c.parameters), c.word)
	}
	require.ErrorContains(t, newWorld(t).CheckParameters(provider.ModeMint, map[string]string{"user": "jane"}), "the provider itself says")
}

func TestCeilingsAreJudged(t *testing.T) {
	w := newWorld(t)
	for word, c := range map[string]struct {
		resources   []string
		permissions map[string]string
	}{
		`no permission "pull-requests": did you mean pull_requests?`: {nil, map[string]string{"pull-requests": "read"}},
		`no permission "content": did you mean contents?`:            {nil, map[string]string{"content": "read"}},
		`contents has no level admin: it has read, write`:            {nil, map[string]string{"contents": "admin"}},
		`workflows has no level read: it has write`:                  {nil, map[string]string{"workflows": "read"}},
		`is nothing that an installation`:                            {nil, map[string]string{"enterprise_administration": "read"}},
		`"*" matches no repository`:                                  {[]string{"*"}, nil},
		`"api" is no repository`:                                     {[]string{"api"}, nil},
		`"acme/a/b" is no repository`:                                {[]string{"acme/a/b"}, nil},
		`"acme/.." is no repository`:                                 {[]string{"acme/.."}, nil},
		`"https://github.com/acme/api" is no repository`:             {[]string{"https://github.com/acme/api"}, nil},
		`"evil/*" is not of acme`:                                    {[]string{"evil/*"}, nil},
	} {
		set, err := access.Ceiling(c.resources...)
		require.NoError(t, err)
		err = w.CheckCeiling(provider.ModeMint, nil, access.Access{Resources: set, Permissions: perms(t, c.permissions)})
		require.ErrorContains(t, err, word)
		require.Equal(t, fault.InvalidRequest, fault.CodeOf(err))
	}
	set, err := access.Ceiling("Acme/*", "acme/.github", "*/api", "**", "acme/a.b_c-d")
	require.NoError(t, err)
	require.NoError(t, w.CheckCeiling(provider.ModeMint, nil, access.Access{Resources: set, Permissions: perms(t, granted)}))
}

func TestConfigureSaysWhatIsWrong(t *testing.T) {
	w := newWorld(t)
	base := w.setup
	for word, change := range map[string]map[string]any{
		"leave base_url out":           {"base_url": "https://github.com"},
		"api.SUBDOMAIN.ghe.com":        {"base_url": "https://octo.ghe.com"},
		"base_url: must be https":      {"base_url": "http://github.example"},
		"either app_id or client_id":   {"app_id": "1"},
		"app_id: is a number":          {"app_id": "Iv23", "client_id": ""},
		"client_id: is a word":         {"client_id": "a b"},
		"write one of installation_id": {"user": "jane"},
	} {
		fields := map[string]any{"base_url": w.github.URL, "client_id": w.app.ClientID, "organization": "acme"}
		for name, value := range change {
			fields[name] = value
		}
		base.Fields = fields
		_, err := base.Configure(t.Context())
		require.ErrorContains(t, err, word)
		require.Equal(t, fault.InvalidRequest, fault.CodeOf(err))
	}
	for word, key := range map[string]string{"private_key: must be one private key": "none", "private_key: is no RSA key": ecKey} {
		base.Fields, base.Secrets = w.setup.Fields, map[string]string{"private_key": key}
		_, err := base.Configure(t.Context())
		require.ErrorContains(t, err, word)
	}
}

const ecKey = `-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgevZzL1gdAFr88hb2
OF/2NxApJCzGCEDdfSp6VQO30hyhRANCAAQRWz+jn65BtOMvdyHKcvjBeBSDZH2r
1RTwjmYSi9R/zpBnuQ4EiMnCqfMPWiZqB4QdbAd0E7oH50VpuZ1P087G
-----END PRIVATE KEY-----`
