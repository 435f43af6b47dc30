package github

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
)

// levels are those of GitHub's permissions, of which most have two.
var levels = access.Levels{"read", "write", "admin"}

// plain are the permissions with the levels read and write; the others are in odd. Both are
// from GitHub's published description, of github.com, Enterprise Cloud and Enterprise
// Server (testdata/openapi; TestThePermissionsAreGitHubs).
var plain = strings.Fields(`
	actions administration artifact_metadata attestations checks code_quality codespaces contents
	custom_properties_for_organizations dependabot_secrets deployments discussions email_addresses
	enterprise_administration enterprise_custom_properties enterprise_organization_installation_repositories
	enterprise_organization_installations environments followers git_ssh_keys gpg_keys
	interaction_limits issues members merge_queues metadata organization_administration
	organization_announcement_banners organization_copilot_agent_settings
	organization_copilot_seat_management organization_custom_org_roles organization_custom_roles
	organization_hooks organization_packages organization_personal_access_token_requests
	organization_personal_access_tokens organization_secrets organization_self_hosted_runners
	organization_user_blocking packages pages pull_requests repository_custom_properties
	repository_hooks secret_scanning_alerts secrets security_events single_file starring statuses
	vulnerability_alerts
`)

var odd = map[string][]string{
	"repository_projects": {"read", "write", "admin"}, "organization_projects": {"read", "write", "admin"},
	"organization_custom_properties": {"read", "write", "admin"}, "enterprise_custom_properties_for_organizations": {"read", "write", "admin"},
	"workflows": {"write"}, "profile": {"write"},
	"organization_events": {"read"}, "organization_plan": {"read"},
}

// further are the permissions that the description lacks, and that GitHub's documentation
// has (in "Managing your personal access tokens", by the same names): of repositories and
// organizations alone, because an installation has none of a user's.
var further = map[string][]string{
	"actions_variables": {"read", "write"}, "codespaces_lifecycle_admin": {"read", "write"}, "codespaces_metadata": {"read"},
	"codespaces_secrets": {"write"}, "repository_advisories": {"read", "write"}, "team_discussions": {"read", "write"}, "issue_types": {"read", "write"},
	"organization_actions_variables": {"read", "write"}, "organization_api_insights": {"read"}, "organization_campaigns": {"read", "write"},
	"organization_code_scanning_dismissal_requests": {"read", "write"}, "organization_codespaces": {"read", "write"},
	"organization_codespaces_secrets": {"read", "write"}, "organization_codespaces_settings": {"read", "write"},
	"organization_dependabot_secrets": {"read", "write"}, "organization_knowledge_bases": {"read", "write"}, "organization_models": {"read"},
	"organization_network_configurations": {"read", "write"}, "organization_private_registries": {"read", "write"},
}

// permissions are the levels of each, lowest first.
var permissions = func() map[string][]string {
	all := maps.Clone(odd)
	maps.Copy(all, further)
	for _, name := range plain {
		all[name] = []string{"read", "write"}
	}
	return all
}()

// checkPermission says why there is no such permission, or nil.
func checkPermission(name, level string) error {
	has, known := permissions[name]
	switch {
	case !known:
		return fmt.Errorf("GitHub has no permission %q%s", name, meant(name))
	case !slices.Contains(has, level):
		return fmt.Errorf("the permission %s has no level %s: it has %s", name, level, strings.Join(has, ", "))
	}
	return nil
}

// meant are the names that are most like one that there is not.
func meant(name string) string {
	name = strings.NewReplacer("-", "_", " ", "_").Replace(strings.ToLower(name))
	least, near := 2+len(name)/4, []string(nil)
	for _, known := range slices.Sorted(maps.Keys(permissions)) {
		switch d := distance(name, known); {
		case d < least:
			least, near = d, []string{known}
		case d == least:
			near = append(near, known)
		}
	}
	if len(near) == 0 {
		return ": its names are such as contents, issues, pull_requests, with underscores"
	}
	return ": did you mean " + strings.Join(near[:min(len(near), 3)], " or ") + "?"
}

// distance is how many letters must be added, left out or replaced.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
