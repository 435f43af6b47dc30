package github

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/kit"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// gitUser is the username of every installation token.
const gitUser = "x-access-token"

// Mint implements provider.Provider. It is one request, where the installation is known, and
// the list of its repositories if patterns want that. What was known may be so no more: GitHub
// has then refused the request, has made nothing, and is asked once more with what it says
// now.
func (p *Provider) Mint(ctx context.Context, r provider.Request) (*provider.Child, error) {
	if ctx.Err() != nil {
		return nil, fault.New(fault.TemporarilyUnavailable, "the caller has hung up")
	}
	at, err := p.placeFor(r.Parameters)
	if err != nil {
		return nil, err
	}
	if err := askable(at, r.Access); err != nil {
		return nil, err
	}
	for again := false; ; again = true {
		in, foundNow, err := p.findFor(ctx, at, r.Access)
		if err != nil {
			return nil, err
		}
		body, l, listedNow, err := p.wanted(ctx, in, r.Access)
		switch {
		case errors.Is(err, errNotKnown) && !foundNow && !again:
			p.installations.forget(at.String(), in)
			continue
		case err != nil:
			return nil, err
		}
		resp, err := p.asApp(p.expecting(ctx, r.Access), http.MethodPost, mintPath(in), body)
		if err != nil {
			return lostMint(err)
		}
		switch {
		case resp.Status == http.StatusCreated:
			return p.read(resp.Body, in, r.Access)
		case resp.Status == http.StatusNotFound && (foundNow || again):
			return nil, errNotKnown
		case resp.Status == http.StatusNotFound:
			p.installations.forget(at.String(), in)
		case resp.Status == http.StatusUnprocessableEntity && l != nil && strings.Contains(wordsOf(resp), wordsRepositories):
			if listedNow {
				l.refused.Store(true)
			}
			if again || l.refused.Load() {
				return nil, p.refusedMint(resp, at)
			}
			p.lists.forget(in.id, l)
		default:
			return p.unmade(resp, at)
		}
	}
}

// errNotKnown is for an installation of which GitHub knows nothing where a token was to be
// made for it: it was another one's id, or is not everywhere yet.
var errNotKnown = fault.New(fault.TemporarilyUnavailable, "GitHub does not know the installation that it has just named (HTTP 404), as for a moment after it was installed: try again")

// unmade is an answer that does not say that a token was made. Where there is one in it all
// the same, it is killed.
func (p *Provider) unmade(resp *httpclient.Response, at place) (*provider.Child, error) {
	if resp.Status >= 300 {
		return nil, p.refusedMint(resp, at)
	}
	child := seen(resp.Body)
	return child, lostUnless(child, fault.New(fault.ProviderViolation, "GitHub answered HTTP %d where it makes a token with 201: see base_url", resp.Status))
}

func mintPath(in *installation) string { return "app/installations/" + in.id + "/access_tokens" }

// askable refuses what GitHub would take for something else.
func askable(at place, a access.Access) error {
	asked := a.Permissions.Map()
	if len(asked) == 0 {
		return fault.New(fault.InvalidScope, "a token without permissions of its own would have all that the App has: name some")
	}
	for _, name := range slices.Sorted(maps.Keys(asked)) {
		if err := checkPermission(name, asked[name]); err != nil {
			return fault.New(fault.InvalidScope, "%s", err)
		}
	}
	if at.kind != fieldEnterprise && a.Resources.IsNothing() {
		return fault.New(fault.InvalidTarget, "a token without repositories of its own would be for all of the installation: name some")
	}
	return nil
}

// order is what a token is asked for with.
type order struct {
	Repositories []string          `json:"repositories,omitempty"`
	IDs          []json.Number     `json:"repository_ids,omitempty"`
	Permissions  map[string]string `json:"permissions"`
}

// wanted is the body of a mint. Names are sent as such; patterns become the ids of what the
// list l has of them.
func (p *Provider) wanted(ctx context.Context, in *installation, a access.Access) (body []byte, l *listing, listedNow bool, err error) {
	o := order{Permissions: a.Permissions.Map()}
	names, exact := a.Resources.Values()
	switch {
	case in.at.kind == fieldEnterprise:
	case exact:
		o.Repositories, err = in.named(names)
	default:
		if l, listedNow, err = p.list(ctx, in); err == nil {
			var none *fault.Error
			if o.IDs, none = l.matching(a.Resources); none != nil {
				err = none
			}
		}
	}
	if err != nil {
		return nil, l, listedNow, err
	}
	body, err = json.Marshal(o)
	return body, l, listedNow, err
}

// named are repositories without their owner, who must be the installation's: GitHub
// knows them by that alone.
func (i *installation) named(all []string) ([]string, error) {
	var names []string
	known := map[string]bool{}
	for _, full := range all {
		_, name, _ := strings.Cut(full, "/")
		switch {
		case !isRepository(full):
			return nil, fault.New(fault.InvalidTarget, "%q is no repository, which are written owner/name: a request names them, and has no patterns", short(full))
		case !i.owns(full):
			return nil, fault.New(fault.InvalidTarget, "%q is not of %s, whose installation this is", short(full), i.owner)
		case !known[strings.ToLower(name)]:
			known[strings.ToLower(name)] = true
			names = append(names, name)
		}
	}
	if len(names) > maxPerToken {
		return nil, fault.New(fault.InvalidTarget, "%d repositories are more than the %d that GitHub gives a token: name fewer", len(names), maxPerToken)
	}
	return names, nil
}

// expecting allows for an answer that describes each of the repositories.
func (p *Provider) expecting(ctx context.Context, a access.Access) context.Context {
	count := maxPerToken
	if names, exact := a.Resources.Values(); exact {
		count = min(len(names), maxPerToken)
	}
	return httpclient.UpTo(ctx, httpclient.MaxBody+count*repositoryBytes)
}

// read makes the child of GitHub's answer, which is the proof of what was granted. One that
// names another repository than was asked for, because it was renamed since it was
// listed, is not handed out; the next mint lists anew.
func (p *Provider) read(body []byte, in *installation, asked access.Access) (*provider.Child, error) {
	child, answer, err := p.readToken(body)
	if err != nil {
		return child, err
	}
	child.Granted.Permissions, err = readPermissions(answer.permissions, asked.Permissions)
	if err != nil {
		return child, odd200("the token", err.Error())
	}
	child.Confirmed = access.Dimensions{access.DimPermissions: true}
	if in.at.kind == fieldEnterprise {
		if listed, _ := answer.repositories.Elements(); !answer.repositories.Absent() && len(listed) > 0 {
			return child, odd200("the token", "an enterprise's has repositories")
		}
		return child, nil
	}
	child.Granted.Resources, err = readResources(answer, asked.Resources)
	if err != nil {
		return child, odd200("the token", err.Error())
	}
	child.Confirmed[access.DimResources] = true
	if _, named := asked.Resources.Values(); !named && !child.Granted.Resources.Within(asked.Resources) {
		if l, ok := p.lists.has(in.id); ok {
			p.lists.forget(in.id, l)
		}
	}
	return child, nil
}

// tokenAnswer is what an answer with a token says of it.
type tokenAnswer struct{ permissions, selection, repositories form.Part }

// readToken reads what every token has, and the rest of the answer as it came.
func (p *Provider) readToken(body []byte) (*provider.Child, tokenAnswer, error) {
	var none tokenAnswer
	var members []form.Part
	whole, err := form.ParsePart(body)
	if err == nil {
		members, err = whole.Members("token", "expires_at", "permissions", "repository_selection", "repositories")
	}
	if err != nil {
		child := seen(body)
		return child, none, lostUnless(child, odd200("the token", err.Error()))
	}
	token, _ := members[0].Text()
	switch {
	case !isToken(token):
		return nil, none, lostUnless(nil, odd200("the token", "there is none in it"))
	case p.isOurs(token):
		return nil, none, odd200("the token", "it is the App's own JWT")
	}
	child := childOf(token)
	ends, _ := members[1].Text()
	if child.ExpiresAt, err = time.Parse(time.RFC3339, ends); err != nil || child.ExpiresAt.IsZero() {
		return child, none, odd200("the token", "it does not say when the token ends")
	}
	return child, tokenAnswer{members[2], members[3], members[4]}, nil
}

// GitHub's tokens are opaque, and become longer as years go by.
var (
	tokenShape = regexp.MustCompile(`^[\x21\x23-\x5b\x5d-\x7e]+$`)
	// tokenAnywhere finds the token in an answer that cannot be read.
	tokenAnywhere = regexp.MustCompile(`"token"\s*:\s*"([\x21\x23-\x5b\x5d-\x7e]+)"`)
)

const leastToken, mostToken = 8, 8 << 10

func isToken(text string) bool {
	return len(text) >= leastToken && len(text) <= mostToken && tokenShape.MatchString(text)
}

// seen is the token in an answer that cannot be read; nil if there is none. It is killed.
func seen(body []byte) *provider.Child {
	if found := tokenAnywhere.FindSubmatch(body); len(found) > 1 && isToken(string(found[1])) {
		return childOf(string(found[1]))
	}
	return nil
}

// lostUnless is err, with provider.ErrAnswerLost if no token was seen.
func lostUnless(seen *provider.Child, err *fault.Error) error {
	if seen == nil {
		return err.Because(provider.ErrAnswerLost)
	}
	return err
}

// lostMint is a mint that has brought no whole answer.
func lostMint(err error) (*provider.Child, error) {
	var failed *httpclient.Error
	var child *provider.Child
	if errors.As(err, &failed) {
		child = seen(failed.Partial)
	}
	return child, kit.Lost(err, child != nil)
}

func childOf(token string) *provider.Child {
	return &provider.Child{
		Secrets: provider.OneToken(secret.New(token)), TokenType: "Bearer", Extra: map[string]any{fieldUsername: gitUser},
		Class: provider.ClassToken, Handle: handle{Version: handleVersion, Token: token}.encode(),
	}
}

// readPermissions are those that GitHub says it has granted. metadata:read comes with
// every other one, unasked: it says no more than that there is such a repository.
func readPermissions(said form.Part, asked access.Permissions) (access.Permissions, error) {
	var none access.Permissions
	members, err := form.UniqueMembers(said.Raw())
	if err != nil {
		return none, errors.New("it does not show the permissions")
	}
	granted := make(map[string]string, len(members))
	for name, value := range members {
		var level string
		if json.Unmarshal(value, &level) != nil {
			return none, errors.New("the level of a permission is no text")
		}
		granted[name] = level
	}
	if _, wanted := asked.Map()["metadata"]; !wanted && granted["metadata"] == "read" {
		delete(granted, "metadata")
	}
	read, err := access.NewPermissions(levels, granted)
	if err != nil {
		return none, errors.New("it has a permission whose level is none that is known")
	}
	return read, nil
}

// readResources are the repositories that GitHub says it has granted, in the spelling in
// which they were asked for: to GitHub case says nothing.
func readResources(answer tokenAnswer, asked access.Set) (access.Set, error) {
	if selection, _ := answer.selection.Text(); selection != "selected" {
		return access.Set{}, errors.New("it does not say that the token is for selected repositories")
	}
	listed, err := readRepositories(answer.repositories)
	switch {
	case err != nil:
		return access.Set{}, err
	case len(listed) == 0:
		return access.Set{}, errors.New("the token is for no repository")
	}
	names, _ := asked.Values()
	spelled := make(map[string][]string, len(names))
	for _, name := range names {
		folded := strings.ToLower(name)
		spelled[folded] = append(spelled[folded], name)
	}
	var granted []string
	for name := range listed {
		if as := spelled[strings.ToLower(name)]; as != nil {
			granted = append(granted, as...)
		} else {
			granted = append(granted, name)
		}
	}
	return access.Exactly(granted...), nil
}

const handleVersion = 1

// handle is what kills a child: itself. It names no URL: Pinned.Account has that in it, so
// as long as a child lives it is the same one.
type handle struct {
	Version int    `json:"v"`
	Token   string `json:"token"`
}

func (h handle) encode() secret.Text {
	raw, err := json.Marshal(h)
	if err != nil { // an int and a string cannot fail
		return secret.Text{}
	}
	return secret.New(string(raw))
}

// Revoke implements provider.Revoker. A token that GitHub does not know any more is dead.
// One of a suspended installation is not: it would work again afterwards.
func (p *Provider) Revoke(ctx context.Context, text secret.Text) error {
	var h handle
	if json.Unmarshal([]byte(text.Reveal()), &h) != nil || h.Version != handleVersion || !isToken(h.Token) {
		return fault.New(fault.InvalidRequest, "the child's handle is not one that this version of the broker knows")
	}
	resp, err := p.send(ctx, http.MethodDelete, "installation/token", secret.New(h.Token), nil)
	if err != nil {
		return unread(err)
	}
	switch {
	case resp.Status == http.StatusNoContent, resp.Status == http.StatusUnauthorized:
		return nil
	case resp.Status == http.StatusForbidden && strings.Contains(wordsOf(resp), "suspended"):
		return fault.New(fault.TemporarilyUnavailable, "the App's installation is suspended at GitHub, so its token cannot be revoked now: it does not work either, as long as that lasts")
	}
	if wait := p.limited(resp); wait != nil {
		return fault.New(fault.TemporarilyUnavailable, "GitHub's rate limit is reached (HTTP %d): the revocation is tried again", resp.Status).Because(wait)
	}
	return fault.New(fault.TemporarilyUnavailable, "GitHub has not revoked the token (HTTP %d): see the provider's base_url", resp.Status).Because(kit.RetryAfter(resp, p.deps.Now()))
}
