package github

import (
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/kit"
)

// CheckParameters implements provider.ParameterChecker: either the provider or the role
// says which installation.
func (p *Provider) CheckParameters(_ provider.Mode, parameters map[string]string) error {
	_, err := p.placeFor(parameters)
	return err
}

// placeFor is which installation a role is for.
func (p *Provider) placeFor(parameters map[string]string) (place, error) {
	at, err := placeIn(parameters)
	switch {
	case err != nil:
		return at, kit.Invalid("parameters", "%s", err)
	case at.isNone() && p.at.isNone():
		return at, kit.Invalid("parameters", "the provider leaves open which installation: name an organization, user, enterprise or installation_id")
	case at.isNone():
		return p.at, nil
	case !p.at.isNone():
		return at, kit.Invalid("parameters", "the provider itself says which installation (%s): leave %s out, or write a provider without", p.at.kind, at.kind)
	}
	return at, nil
}

// CheckCeiling implements provider.CeilingChecker.
func (p *Provider) CheckCeiling(_ provider.Mode, parameters map[string]string, ceiling access.Access) error {
	at, err := p.placeFor(parameters)
	if err != nil {
		return err
	}
	for _, pattern := range ceiling.Resources.Excess(access.Set{}) {
		if err := at.checkPattern(pattern); err != nil {
			return err
		}
	}
	asked := ceiling.Permissions.Map()
	for _, name := range slices.Sorted(maps.Keys(asked)) {
		if err := checkPermission(name, asked[name]); err != nil {
			return kit.Invalid("permissions", "%s", err)
		}
		if enterprise := strings.HasPrefix(name, "enterprise_"); enterprise != (at.kind == fieldEnterprise) && at.kind != fieldInstallationID {
			return kit.Invalid("permissions", "%s is nothing that an installation of an App by %s has: permissions that begin with enterprise_ are an enterprise's, and all others are not", name, at.kind)
		}
	}
	return nil
}

// What stands in the names of accounts and repositories.
var (
	ownerShape      = regexp.MustCompile(`^[A-Za-z0-9_-]{1,100}$`)
	repositoryShape = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,100}$`)
	patternShape    = regexp.MustCompile(`^[A-Za-z0-9_.*-]+/[A-Za-z0-9_.*-]+$`)
)

// checkPattern refuses what no repository can be called.
func (at place) checkPattern(pattern string) error {
	owner, name, _ := strings.Cut(pattern, "/")
	glob := strings.Contains(pattern, "*")
	switch {
	case pattern == "**", glob && patternShape.MatchString(pattern):
	case !glob && isRepository(pattern):
	case glob && !strings.Contains(pattern, "/"):
		return kit.Invalid("resources", "%q matches no repository, which are written owner/name: * crosses no /, so write %s/*, say", pattern, owners(at))
	default:
		return kit.Invalid("resources", "%q is no repository, which are written owner/name, nor a pattern of some", short(pattern))
	}
	account := at.kind == fieldOrganization || at.kind == fieldUser
	if account && name != "" && !strings.Contains(owner, "*") && !strings.EqualFold(owner, at.name) {
		return kit.Invalid("resources", "%q is not of %s, whose installation it is", pattern, at.name)
	}
	return nil
}

// owners are an example.
func owners(at place) string {
	if at.kind == fieldOrganization || at.kind == fieldUser {
		return at.name
	}
	return "acme"
}

// isRepository reports whether the text can be the full name of a repository.
func isRepository(text string) bool {
	owner, name, _ := strings.Cut(text, "/")
	return ownerShape.MatchString(owner) && repositoryShape.MatchString(name) && name != "." && name != ".."
}

// short is as much of a text as a message repeats.
func short(text string) string { return text[:min(len(text), 100)] }
