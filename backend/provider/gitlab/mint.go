package gitlab

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/kit"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// names are those of tokens, and of the bots that GitLab makes for a project's or a group's.
var names = kit.MustNames("broker-", 60, kit.LowerDigits)

// Mint implements provider.Provider. A project or a group is looked up first: what GitLab
// answers with does not say for which one a token is, a path that was renamed leads to
// another one's, and the token is ended where it was made, whatever that is called then.
func (p *Provider) Mint(ctx context.Context, r provider.Request) (*provider.Child, error) {
	w, err := wishOf(r.Access, r.Parameters)
	if err != nil {
		return nil, err
	}
	parent := p.secret(fieldToken)
	ids, err := p.lookUp(ctx, parent, w)
	if err != nil {
		return nil, err
	}
	m := making{wish: w, ids: ids, name: names.Of(r.GrantID), ends: endDate(p.deps.Now(), r.TTL)}
	answer, err := p.object(ctx, parent, http.MethodPost, m.path(), m.body())
	if err != nil {
		return nil, refusal(err, w)
	}
	return m.read(answer, r.Access)
}

// endDate is the day after now and the life: at its beginning, in UTC, a token of that
// expires_at is dead.
func endDate(now time.Time, life time.Duration) time.Time {
	return now.Add(life).UTC().Truncate(24*time.Hour).AddDate(0, 0, 1)
}

// lookUp is the number of each project or group that is wanted; none for other kinds.
func (p *Provider) lookUp(ctx context.Context, parent secret.Text, w wish) ([]int64, error) {
	collection, member := "projects", "path_with_namespace"
	switch w.kindName {
	case kindGroup:
		collection, member = "groups", "full_path"
	case kindProject, kindFineGrained:
	default:
		return nil, nil
	}
	ids := make([]int64, len(w.resources))
	for i, resource := range w.resources {
		query := ""
		if collection == "groups" {
			query = "?with_projects=false"
		}
		found, err := p.object(ctx, parent, http.MethodGet, collection+"/"+url.PathEscape(resource)+query, nil)
		switch {
		case status(err)/100 == 3:
			return nil, fault.New(fault.InvalidTarget, "%q is called otherwise now: ask for it by its present path, and have an operator change the role", resource)
		case err != nil:
			return nil, refusal(whole(err), w)
		}
		path, _ := found[member].(string)
		id, ok := number(found["id"])
		if !ok || !strings.EqualFold(path, resource) {
			return nil, fault.New(fault.ProviderViolation, "GitLab was asked for %q and shows another: ask for its present path", resource)
		}
		ids[i] = id
	}
	return ids, nil
}

// making is one token as GitLab is asked for it.
type making struct {
	wish
	ids  []int64
	name string
	ends time.Time // the day
}

// path is where it is made. What has a number is called by it.
func (m *making) path() string {
	switch m.kindName {
	case kindPersonal:
		return "users/" + m.resources[0] + "/personal_access_tokens"
	case kindFineGrained:
		return "user/personal_access_tokens"
	}
	return m.at()
}

// at is the collection in which it is found and ended.
func (m *making) at() string {
	if m.kind.leveled {
		return m.kind.at(strconv.FormatInt(m.ids[0], 10))
	}
	return m.kind.at(m.resources[0])
}

func (m *making) body() map[string]any {
	body := map[string]any{"name": m.name, "expires_at": m.ends.Format(time.DateOnly)}
	switch {
	case m.kindName == kindFineGrained:
		body["granular_scopes"] = []map[string]any{{"access": "selected_memberships", "permissions": m.scopes, "project_ids": m.ids}}
	case m.kind.leveled:
		body["scopes"], body["access_level"] = m.scopes, m.level
	default:
		body["scopes"] = m.scopes
	}
	return body
}

// read makes the child of an answer, which is the proof of what was granted. From the
// token on there is a handle.
func (m *making) read(answer map[string]any, asked access.Access) (*provider.Child, error) {
	token, _ := answer["token"].(string)
	if token == "" {
		return nil, unread("there is no token in it")
	}
	id, _ := number(answer["id"]) // 0 if there is none: it is ended by itself
	child := &provider.Child{
		Secrets: provider.OneToken(secret.New(token)), TokenType: "Bearer", Class: provider.ClassToken,
		Extra:  map[string]any{fieldUsername: "oauth2"},
		Handle: handle{Version: handleVersion, Token: token, ID: id, Name: m.name, At: m.at(), Replaces: m.replaces()}.encode(),
	}
	expires, _ := answer["expires_at"].(string)
	ends, err := time.Parse(time.DateOnly, expires)
	switch {
	case err != nil:
		return child, violated("expires_at is no date, so the token may never end")
	case ends.After(m.ends):
		return child, violated("the token ends on %s, and %s was asked for", expires, m.ends.Format(time.DateOnly))
	}
	child.ExpiresAt = ends
	if active, ok := answer["active"].(bool); ok && !active {
		return child, violated("the token is not active")
	}
	return child, m.granted(answer, asked, child)
}

func violated(format string, args ...any) *fault.Error {
	return fault.New(fault.ProviderViolation, "GitLab's answer: "+format, args...)
}

// granted fills in what the answer says was granted.
func (m *making) granted(answer map[string]any, asked access.Access, child *provider.Child) error {
	child.Granted = access.Access{Scopes: asked.Scopes, Resources: asked.Resources, Permissions: asked.Permissions}
	child.Confirmed = access.Dimensions{}
	if m.kindName == kindFineGrained {
		return m.grantedFinely(answer, child)
	}
	scopes, ok := texts(answer["scopes"])
	if !ok {
		return violated("it does not say which scopes were granted")
	}
	child.Granted.Scopes, child.Confirmed[access.DimScopes] = access.Exactly(scopes...), true
	switch {
	case m.kind.leveled:
		n, _ := number(answer["access_level"])
		level, known := levelOf(n)
		permissions, err := access.NewPermissions(levels, map[string]string{permissionLevel: level})
		if !known || err != nil {
			return violated("its access_level is none that is known")
		}
		child.Granted.Permissions, child.Confirmed[access.DimPermissions] = permissions, true
	default:
		account := m.resources[0][strings.LastIndex(m.resources[0], "/")+1:]
		if n, _ := number(answer["user_id"]); strconv.FormatInt(n, 10) != account {
			return violated("the token is another user's")
		}
	}
	child.Confirmed[access.DimResources] = true // the number in the path, or the user's in the answer
	return nil
}

// grantedFinely reads granular_scopes, which answers have from GitLab 19.6 on: one entry
// for each project. Before that nothing is confirmed, but that GitLab took the request: it
// knows no other way to make such a token.
func (m *making) grantedFinely(answer map[string]any, child *provider.Child) error {
	entries, ok := answer["granular_scopes"].([]any)
	if !ok {
		if scopes, told := texts(answer["scopes"]); told && !slices.Equal(scopes, []string{"granular"}) && len(scopes) > 0 {
			return violated("it has other scopes than fine-grained ones")
		}
		return nil
	}
	permissions, projects := map[string]bool{}, map[string]bool{}
	for _, e := range entries {
		entry, _ := e.(map[string]any)
		named, ok := texts(entry["permissions"])
		id, isProject := number(entry["project_id"])
		i := slices.Index(m.ids, id)
		if !ok || !isProject || i < 0 || entry["access"] != "selected_memberships" || entry["group_id"] != nil {
			return violated("granular_scopes has an entry that nobody asked for")
		}
		projects[m.resources[i]] = true
		for _, name := range named {
			permissions[name] = true
		}
	}
	child.Granted.Scopes, child.Granted.Resources = access.Exactly(slices.Collect(maps.Keys(permissions))...), access.Exactly(slices.Collect(maps.Keys(projects))...)
	child.Confirmed = access.Dimensions{access.DimScopes: true, access.DimResources: true}
	return nil
}

// texts is a list of texts; false for anything else.
func texts(v any) ([]string, bool) {
	list, ok := v.([]any)
	out := make([]string, len(list))
	for i, each := range list {
		text, isText := each.(string)
		ok = ok && isText
		out[i] = text
	}
	return out, ok
}

// refusal is what becomes of a refusal to make a token, or to show what it is for.
func refusal(err error, w wish) error {
	var r refused
	if !errors.As(err, &r) {
		return err
	}
	say := strings.ToLower(r.text)
	switch r.status {
	case http.StatusNotFound:
		return because(fault.InvalidTarget, err, "GitLab knows no %s %q, or the parent token's user does not see it: ask for another one, or have that user added there", w.noun(), w.resources[0])
	case http.StatusForbidden:
		if strings.Contains(say, "insufficient_scope") {
			return because(fault.ParentRefused, err, "the parent token lacks a scope: an operator must write one that has the scope api")
		}
		return because(fault.InvalidTarget, err, "the parent token's user may not make tokens of the %s %q: give it the role of a Maintainer or an Owner there", w.noun(), w.resources[0])
	case http.StatusBadRequest, http.StatusUnprocessableEntity:
		switch {
		case strings.Contains(say, "permission to create"), strings.Contains(say, "access level"), strings.Contains(say, "higher than"):
			return because(fault.InvalidTarget, err, "the parent token's user may not make such a token of the %s %q: no token has a higher access_level than the user that makes it", w.noun(), w.resources[0])
		case strings.Contains(say, "expir"):
			return because(fault.InvalidRequest, err, "GitLab allows no token to live that long: ask for a shorter ttl, or set max_ttl to what the instance allows")
		}
		return because(fault.InvalidScope, err, "GitLab has no token with these %s (HTTP %d): see which there are for kind=%s", w.asked(), r.status, w.kindName)
	}
	return err
}

func because(code fault.Code, cause error, format string, args ...any) *fault.Error {
	return fault.New(code, format, args...).Because(cause)
}

func (w *wish) noun() string {
	switch w.kindName {
	case kindServiceAccount:
		return "service account"
	case kindPersonal:
		return "user"
	case kindGroup:
		return "group"
	}
	return "project"
}

func (w *wish) asked() string {
	switch {
	case w.kindName == kindFineGrained:
		return "permissions"
	case w.kind.leveled:
		return fmt.Sprintf("scopes or this %s", permissionLevel)
	}
	return "scopes"
}
