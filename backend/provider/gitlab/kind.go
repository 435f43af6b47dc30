package gitlab

import (
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
)

// The kinds of tokens, as a role names them.
const (
	kindProject        = "project"
	kindGroup          = "group"
	kindServiceAccount = "service_account"
	kindPersonal       = "personal"
	kindFineGrained    = "fine_grained"
)

// kind is what one kind of token needs to know.
type kind struct {
	// leveled tokens have an access_level of their own; the others have their user's.
	leveled bool
	// resource is the shape of a resource's name, wanted says it in words.
	resource *regexp.Regexp
	wanted   string
	// at is the collection in which the token of a resource is found and ended.
	at func(resource string) string
}

var kinds = map[string]kind{
	// https://docs.gitlab.com/api/project_access_tokens/
	kindProject: {leveled: true, resource: nested, wanted: "the project's path, such as group/project", at: in("projects")},
	// https://docs.gitlab.com/api/group_access_tokens/
	kindGroup: {leveled: true, resource: path, wanted: "the group's path, such as group/subgroup", at: in("groups")},
	// https://docs.gitlab.com/api/service_accounts/: of a top-level group.
	kindServiceAccount: {resource: regexp.MustCompile(`^` + segment + `/[1-9][0-9]{0,18}$`), wanted: "the top-level group's path and the account's number, such as group/57", at: ofServiceAccount},
	// https://docs.gitlab.com/api/user_tokens/#create-a-personal-access-token-for-a-user
	kindPersonal: {resource: regexp.MustCompile(`^[1-9][0-9]{0,18}$`), wanted: "the user's number, such as 57", at: ofUser},
	// https://docs.gitlab.com/auth/tokens/fine_grained_access_tokens/
	kindFineGrained: {resource: nested, wanted: "a project's path, such as group/project", at: ofUser},
}

func kindNames() []string {
	return []string{kindProject, kindGroup, kindServiceAccount, kindPersonal, kindFineGrained}
}

// segment is a part of a path of GitLab's namespaces, which are letters, digits, and what
// parts them.
const segment = `[A-Za-z0-9_][A-Za-z0-9_.-]*`

// patternShape is what can match a resource's name.
var patternShape = regexp.MustCompile(`^[A-Za-z0-9_.*-]+(/[A-Za-z0-9_.*-]+)*$`)

var (
	path   = regexp.MustCompile(`^` + segment + `(/` + segment + `)*$`)
	nested = regexp.MustCompile(`^` + segment + `(/` + segment + `)+$`)
)

func in(collection string) func(string) string {
	return func(resource string) string { return collection + "/" + url.PathEscape(resource) + "/access_tokens" }
}

func ofServiceAccount(resource string) string {
	group, account, _ := strings.Cut(resource, "/")
	return "groups/" + group + "/service_accounts/" + account + "/personal_access_tokens"
}

func ofUser(string) string { return "personal_access_tokens" }

// collection is the shape of what kind.at says, which a handle repeats: no other path is
// ever made of one.
var collection = regexp.MustCompile(`^(personal_access_tokens|(projects|groups)/` + segment + `(%2F` + segment + `)*/access_tokens|groups/` + segment + `/service_accounts/[1-9][0-9]*/personal_access_tokens)$`)

// levels are GitLab's roles (https://docs.gitlab.com/api/project_access_tokens/), the lowest
// one first, and numbers what they are there.
var (
	levels  = access.Levels{"guest", "planner", "reporter", "developer", "maintainer", "owner"}
	numbers = []int64{10, 15, 20, 30, 40, 50}
)

// permissionLevel is the only permission.
const permissionLevel = "access_level"

func levelOf(number int64) (string, bool) {
	if i := slices.Index(numbers, number); i >= 0 {
		return levels[i], true
	}
	return "", false
}

// wish is what one token is asked for.
type wish struct {
	kind      kind
	kindName  string
	scopes    []string
	resources []string
	level     int64 // 0 for none
}

// replaces reports whether who holds the token can have it replaced. Which of the
// fine-grained permissions allow it is GitLab's to change.
func (w *wish) replaces() bool {
	return w.kindName == kindFineGrained || slices.Contains(w.scopes, "api") || slices.Contains(w.scopes, "self_rotate")
}

// maxProjects bounds the projects of one fine-grained token, each of which is looked up.
const maxProjects = 20

func wishOf(a access.Access, parameters map[string]string) (wish, error) {
	w := wish{kindName: parameters[parameterKind]}
	var known bool
	if w.kind, known = kinds[w.kindName]; !known {
		return w, fault.New(fault.InvalidRequest, "the role's parameter kind is %q, and must be one of %s: an operator can write the role anew", w.kindName, strings.Join(kindNames(), ", "))
	}
	var listed bool
	if w.scopes, listed = a.Scopes.Values(); !listed || len(w.scopes) == 0 {
		return w, fault.New(fault.InvalidScope, "a token needs scopes: ask for some of the role's by name")
	}
	w.resources, listed = a.Resources.Values()
	switch most := w.most(); {
	case !listed || len(w.resources) == 0:
		return w, fault.New(fault.InvalidTarget, "ask for one resource by name: %s", w.kind.wanted)
	case len(w.resources) > most:
		return w, fault.New(fault.InvalidTarget, "%d resources, and a token of kind %s is for %d at most: ask for fewer by name", len(w.resources), w.kindName, most)
	}
	for _, resource := range w.resources {
		if !w.kind.resource.MatchString(resource) {
			return w, fault.New(fault.InvalidTarget, "the resource %q is none of a token of kind %s, which is %s", resource, w.kindName, w.kind.wanted)
		}
	}
	err := w.setLevel(a.Permissions)
	return w, err
}

func (w *wish) most() int {
	if w.kindName == kindFineGrained {
		return maxProjects
	}
	return 1
}

func (w *wish) setLevel(p access.Permissions) error {
	if !w.kind.leveled {
		return nil
	}
	level, others := p.Map(), 0
	for name := range level {
		if name != permissionLevel {
			others++
		}
	}
	i := slices.Index(levels, level[permissionLevel])
	if others > 0 || i < 0 {
		return fault.New(fault.InvalidScope, "a token of kind %s has one permission, access_level, of %s: ask for that", w.kindName, strings.Join(levels, ", "))
	}
	w.level = numbers[i]
	return nil
}

// number is an id in an answer.
func number(v any) (int64, bool) {
	text, ok := v.(interface{ String() string })
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseInt(text.String(), 10, 64)
	return n, err == nil && n > 0
}

// Levels are GitLab's roles, the lowest one first.
func Levels() access.Levels { return slices.Clone(levels) }
