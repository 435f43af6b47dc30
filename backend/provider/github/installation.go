package github

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/kit"
)

// place says which installation of the App: a field, and its value. The zero place says
// none.
type place struct{ kind, name string }

func (at place) isNone() bool { return at.kind == "" }

func (at place) String() string { return at.kind + "=" + at.name }

// placeIn is the one place among fields or parameters. Its errors are *fault.Error.
func placeIn(values map[string]string) (at place, err error) {
	for _, kind := range slices.Sorted(maps.Keys(placeWords)) {
		name := values[kind]
		switch {
		case name == "":
			continue
		case !at.isNone():
			return at, kit.Invalid(kind, "write one of installation_id, organization, user and enterprise: %s says already which installation", at.kind)
		case kind == fieldInstallationID && !appIDShape.MatchString(name):
			return at, kit.Invalid(kind, "is a number, the last part of the URL of the installation's settings at GitHub")
		case kind != fieldInstallationID && !ownerShape.MatchString(name):
			return at, kit.Invalid(kind, "is a name as in GitHub's URLs: letters, digits, hyphens and underscores")
		}
		at = place{kind, name}
	}
	return at, nil
}

// path is where GitHub says which installation that is.
func (at place) path() string {
	switch at.kind {
	case fieldOrganization:
		return "orgs/" + at.name + "/installation"
	case fieldUser:
		return "users/" + at.name + "/installation"
	case fieldEnterprise:
		return "enterprises/" + at.name + "/installation"
	}
	return "app/installations/" + at.name
}

// installation is one of the App's.
type installation struct {
	at    place
	id    string
	owner string // "" for an enterprise's
	asked time.Time
	// selection is all or selected, of the owner's repositories; permissions are flat.
	selection   string
	permissions []string
}

// lookupBudget bounds a lookup, beside the client's own timeout.
const lookupBudget = 30 * time.Second

// find is the installation at a place, and whether that was looked up just now. The id is
// kept until GitHub knows it no more: a reinstallation changes it.
func (p *Provider) find(ctx context.Context, at place) (found *installation, fresh bool, err error) {
	if found, ok := p.installations.has(at.String()); ok {
		return found, false, nil
	}
	found, err = p.installations.look(ctx, at.String(), lookupBudget, func(ctx context.Context) (*installation, error) {
		return p.lookUp(ctx, at)
	})
	return found, true, err
}

// findFor is find for those repositories. If they are not the owner's, he may have another
// name by now.
func (p *Provider) findFor(ctx context.Context, at place, a access.Access) (*installation, bool, error) {
	in, fresh, err := p.find(ctx, at)
	names, exact := a.Resources.Values()
	if err != nil || fresh || !exact || p.deps.Now().Sub(in.asked) < renamedAfter || at.kind == fieldEnterprise {
		return in, fresh, err
	}
	if slices.ContainsFunc(names, func(name string) bool { return !in.owns(name) }) {
		p.installations.forget(at.String(), in)
		return p.find(ctx, at)
	}
	return in, false, nil
}

// renamedAfter is how long the name of an installation's owner is believed.
const renamedAfter = time.Minute

// lookUp asks GitHub. One that is suspended is not kept.
func (p *Provider) lookUp(ctx context.Context, at place) (*installation, error) {
	resp, err := p.asApp(ctx, http.MethodGet, at.path(), nil)
	if err != nil {
		return nil, unread(err)
	}
	switch resp.Status {
	case http.StatusOK:
	case http.StatusNotFound:
		return nil, p.barred(at, "GitHub knows no installation of the App by %s: install it there, or see %s and base_url%s", at, at.kind, at.reinstalled())
	default:
		return nil, p.refusal(resp, at)
	}
	object, err := form.Object(resp.Body, maxDepth)
	if err != nil {
		return nil, odd200("an installation", err.Error())
	}
	id, _ := object["id"].(json.Number)
	if !appIDShape.MatchString(id.String()) {
		return nil, odd200("an installation", "its id is no number")
	}
	account, _ := object["account"].(map[string]any)
	owner, _ := account["login"].(string)
	if at.kind != fieldEnterprise && !ownerShape.MatchString(owner) {
		return nil, odd200("an installation", "it does not say whose it is")
	}
	if object["suspended_at"] != nil {
		return nil, p.suspended(at)
	}
	found := &installation{at: at, id: id.String(), owner: owner, asked: p.deps.Now()}
	found.selection, _ = object["repository_selection"].(string)
	has, _ := object["permissions"].(map[string]any)
	for _, name := range slices.Sorted(maps.Keys(has)) {
		if level, ok := has[name].(string); ok && kit.IsASCII(name+level) && len(name+level) < 200 {
			found.permissions = append(found.permissions, "permission:"+name+"="+level)
		}
	}
	return found, nil
}

// reinstalled is advice for who has written an id.
func (at place) reinstalled() string {
	if at.kind != fieldInstallationID {
		return ""
	}
	return "; was it reinstalled? that changes its id, and organization= or user= would find it again"
}

// owns reports whether a repository is the installation's owner's.
func (i *installation) owns(repository string) bool {
	owner, _, _ := strings.Cut(repository, "/")
	return strings.EqualFold(owner, i.owner)
}

// barred is that GitHub lets the App do nothing in an installation, or at all. Where that is the
// provider's only one, the parent credential is good for nothing, and is called refused:
// nobody need ask again and again. Else it is about those who ask for this one.
func (p *Provider) barred(at place, format string, args ...any) *fault.Error {
	if p.at == at || at.isNone() {
		return kit.ParentRefused(format, args...)
	}
	return fault.New(fault.AccessDenied, format, args...)
}

func (p *Provider) suspended(at place) *fault.Error {
	return p.barred(at, "the App's installation by %s is suspended: have whoever owns the account, or the App, unsuspend it at GitHub", at)
}
