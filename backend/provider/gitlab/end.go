package gitlab

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

const handleVersion = 1

// handle is what kills a child: the token itself, by which it ends whatever has become of
// the parent; and for what has no such, or has been put in its place, where it is listed
// and under which name.
type handle struct {
	Version int    `json:"v"`
	Token   string `json:"token,omitempty"`
	ID      int64  `json:"id,omitempty"`
	Name    string `json:"name"`
	At      string `json:"at"`
	// Replaces is true if who holds the token can have had it replaced.
	Replaces bool `json:"replaces,omitempty"`
}

func (h handle) encode() secret.Text {
	raw, err := json.Marshal(h)
	if err != nil { // texts and numbers cannot fail
		return secret.Text{}
	}
	return secret.New(string(raw))
}

func decodeHandle(text secret.Text) (handle, error) {
	var h handle
	if json.Unmarshal([]byte(text.Reveal()), &h) != nil || h.Version != handleVersion || h.Name == "" || !collection.MatchString(h.At) || (h.Token == "" && h.ID <= 0) {
		return h, fault.New(fault.InvalidRequest, "the child's handle is not one that this version of the broker knows")
	}
	return h, nil
}

// Revoke implements provider.Revoker. The token ends itself, which needs no parent and no
// place (https://docs.gitlab.com/api/personal_access_tokens/#self-revoke); GitLab answers a
// dead one with 401. What may have replaced it has its name.
func (p *Provider) Revoke(ctx context.Context, text secret.Text) error {
	h, err := decodeHandle(text)
	if err != nil {
		return err
	}
	byItself := false
	if h.Token != "" {
		if byItself, err = p.endItself(ctx, secret.New(h.Token)); err != nil {
			return err
		}
	}
	if !byItself && h.ID > 0 {
		if err := p.endByID(ctx, h, h.ID); err != nil {
			return err
		}
	}
	if h.Replaces || !byItself && h.ID == 0 {
		return p.endAllCalled(ctx, h)
	}
	return nil
}

// endItself reports whether the token is dead; an error is that this could not be told. A
// fine-grained one may lack the permission to end itself, and a user's may live and be
// refused here, because the user has DPoP required.
func (p *Provider) endItself(ctx context.Context, token secret.Text) (bool, error) {
	_, err := p.ask(ctx, token, http.MethodDelete, "personal_access_tokens/self", nil)
	switch {
	case err == nil:
		return true, nil
	case status(err) == http.StatusUnauthorized:
		return saysDead(err), nil
	case status(err) == http.StatusForbidden:
		return false, nil
	}
	return false, err
}

// saysDead reports whether a 401 is GitLab's and about the token itself. What else it is
// about stands in error (RFC 6750 3): dpop_error, say, of a token that lives.
func saysDead(err error) bool {
	var r refused
	errors.As(err, &r)
	said, unreadable := form.Object([]byte(r.text), maxDepth)
	return unreadable == nil && (said["error"] == nil || said["error"] == "invalid_token")
}

// endByID ends a token as the parent. GitLab says 404 of one that is gone, but 401 to who
// is no administrator, and 404 of a place that the parent does not see any more: so the
// parent and the place are asked for themselves.
func (p *Provider) endByID(ctx context.Context, h handle, id int64) error {
	parent := p.secret(fieldToken)
	_, err := p.ask(ctx, parent, http.MethodDelete, h.At+"/"+strconv.FormatInt(id, 10), nil)
	switch status(err) {
	case http.StatusUnauthorized, http.StatusNotFound:
	default:
		return err
	}
	if _, err := p.self(ctx, parent); err != nil {
		return err
	}
	active, err := p.active(ctx, parent, h.At, h.Name)
	switch {
	case err != nil:
		return err
	case active[id]:
		return fault.New(fault.TemporarilyUnavailable, "GitLab shows the token as active and does not let the parent end it: give its user the rights that it had when it made the token")
	}
	return nil
}

func (p *Provider) endAllCalled(ctx context.Context, h handle) error {
	active, err := p.active(ctx, p.secret(fieldToken), h.At, h.Name)
	if err != nil {
		return err
	}
	for id := range active {
		err = errors.Join(err, p.endByID(ctx, h, id))
	}
	return err
}

// Where implements provider.Locating: where the token is listed, by the path that was
// asked for.
func (p *Provider) Where(r provider.Request) (string, error) {
	w, err := wishOf(r.Access, r.Parameters)
	if err != nil {
		return "", err
	}
	return w.kind.at(w.resources[0]), nil
}

// Find implements provider.Finder.
func (p *Provider) Find(ctx context.Context, t provider.Trace) ([]provider.Found, error) {
	if !collection.MatchString(t.Where) {
		return nil, fault.New(fault.InvalidRequest, "it is not on record where the token was to be made")
	}
	name := names.Of(t.GrantID)
	active, err := p.active(ctx, p.secret(fieldToken), t.Where, name)
	if err != nil {
		return nil, err
	}
	var found []provider.Found
	for id := range active {
		found = append(found, provider.Found{Handle: handle{Version: handleVersion, ID: id, Name: name, At: t.Where}.encode()})
	}
	return found, nil
}

// A name is one grant's, so that a page holds all of it where GitLab searches. Up to 17.7 at
// least it does not do so in projects and groups, and lists whatever there is.
const (
	perPage  = 100
	maxPages = 100
)

// active are the active tokens of that name in a collection. GitLab searches for parts of
// names.
func (p *Provider) active(ctx context.Context, parent secret.Text, at, name string) (map[int64]bool, error) {
	query := url.Values{"state": {"active"}, "per_page": {strconv.Itoa(perPage)}, "search": {name}}
	ids := map[int64]bool{}
	for page := 1; page <= maxPages; page++ {
		if page > 1 {
			query.Set("page", strconv.Itoa(page))
		}
		answer, err := p.ask(ctx, parent, http.MethodGet, at+"?"+query.Encode(), nil)
		if err != nil {
			return nil, whole(err)
		}
		list, ok := answer.([]any)
		if !ok {
			return nil, whole(unread("it is no list"))
		}
		if err := called(name, list, ids); err != nil {
			return nil, err
		}
		if len(list) < perPage {
			return ids, nil
		}
	}
	return nil, fault.New(fault.TemporarilyUnavailable, "GitLab lists more than %d tokens where one is looked for by its name: end those that nobody needs, or have a GitLab that searches", maxPages*perPage)
}

// called adds those of that name. Whatever GitLab may list beside what was asked for is
// left alone.
func called(name string, list []any, ids map[int64]bool) error {
	for _, e := range list {
		token, _ := e.(map[string]any)
		id, ok := number(token["id"])
		if !ok {
			return whole(unread("an entry of the list has no id"))
		}
		dead := token["revoked"] == true || token["active"] == false
		if its, _ := token["name"].(string); !dead && its == name {
			ids[id] = true
		}
	}
	return nil
}
