package condition

import (
	"fmt"
	"strings"
)

// Name is something that a condition can use.
type Name struct {
	// Name is as it is written, such as identity.name.
	Name string
	// Type is CEL's.
	Type string
	// About says what it holds.
	About string
	// Example is a whole condition.
	Example string
}

// Names are all that a condition can use beside CEL's own, in the order in which an
// operator is told of them.
func Names() []Name {
	names := make([]Name, 0, len(abouts))
	for _, n := range abouts {
		n.Type = typeOf(n.Name)
		names = append(names, n)
	}
	return names
}

var abouts = []Name{
	{Name: "identity.entity_id", About: "Id of the Vault entity that asks; empty without one.", Example: `identity.entity_id != ""`},
	{Name: "identity.name", About: "The entity's name.", Example: `identity.name.startsWith("ci-")`},
	{Name: "identity.metadata", About: "The entity's metadata. A key that is not there denies: ask for it first where it may lack.", Example: `"team" in identity.metadata && identity.metadata["team"] == "payments"`},
	{Name: "identity.groups", About: "Names of the entity's groups, inherited ones included.", Example: `identity.groups.exists(g, g == "deployers" || g.startsWith("release-"))`},
	{Name: "identity.aliases", About: "The logins that the entity is known by, each with the four fields that follow.", Example: `identity.aliases.exists(a, a.mount_type == "kubernetes")`},
	{Name: "alias.name", About: "The login's name at its auth mount.", Example: `identity.aliases.exists(a, a.name == "alice@example.com")`},
	{Name: "alias.mount_accessor", About: "Accessor of the auth mount, which no other mount gets.", Example: `identity.aliases.exists(a, a.mount_accessor == "auth_oidc_6cb9b4a2")`},
	{Name: "alias.mount_type", About: "Type of the auth mount.", Example: `identity.aliases.exists_one(a, a.mount_type == "oidc")`},
	{Name: "alias.metadata", About: "The login's metadata, as its auth method wrote it.", Example: `identity.aliases.exists(a, "service_account_namespace" in a.metadata && a.metadata["service_account_namespace"] == "prod")`},
	{Name: "request.scopes", About: "The scopes that would be granted.", Example: `request.scopes.all(s, s != "repo:admin")`},
	{Name: "request.audiences", About: "The audiences that would be granted.", Example: `request.audiences.size() == 1`},
	{Name: "request.resources", About: "The resources that would be granted.", Example: `sets.contains(["acme/api", "acme/web"], request.resources)`},
	{Name: "request.permissions", About: "The permissions that would be granted, by name with their levels.", Example: `!("administration" in request.permissions)`},
	{Name: "request.ttl", About: "Life of the lease that would be granted.", Example: `request.ttl <= duration("15m")`},
	{Name: "request.remote_addr", About: "Address that the request came from, as Vault saw it.", Example: `!request.remote_addr.startsWith("10.")`},
	{Name: "subject.claims", About: "Claims of the verified subject token; empty without one.", Example: `"ref" in subject.claims && subject.claims["ref"] == "refs/heads/main"`},
	{Name: "now", About: "The time, in UTC.", Example: `now.getHours() >= 6 && now.getHours() < 20 && now.getDayOfWeek() in [1, 2, 3, 4, 5]`},
}

// objects are the types of what stands before the dot.
var objects = map[string]string{varIdentity: typeIdentity, "alias": typeAlias, varRequest: typeRequest, varSubject: typeSubject}

// typeOf is the type of a name, in CEL's words. It is about the names above alone.
func typeOf(name string) string {
	object, member, ok := strings.Cut(name, ".")
	if !ok {
		return "timestamp"
	}
	f := fields[objects[object]][member]
	if f == nil {
		panic(fmt.Sprintf("a condition cannot use %s", name)) // by whoever wrote the table; a test asks for all
	}
	return strings.NewReplacer(typeAlias, "alias", "google.protobuf.Duration", "duration").Replace(f.Type.String())
}
