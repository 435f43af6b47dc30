package octosts

import (
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
)

var options = Options{Role: "deploy", Provider: "github/acme", Owner: "acme", Audience: "vault"}

const actions = "issuer: https://token.actions.githubusercontent.com\n"

func TestAPolicyBecomesAnIssuerAndARole(t *testing.T) {
	for name, c := range map[string]struct {
		policy  string
		change  func(*Options)
		issuer  map[string]any
		bound   any
		where   any
		what    any
		because string // among what is stricter
	}{
		"exact": {
			policy: actions + "subject: repo:acme/api:ref:refs/heads/main\npermissions:\n  contents: read\n",
			change: func(o *Options) { o.Repository = "api" },
			issuer: map[string]any{"oidc_discovery_url": "https://token.actions.githubusercontent.com", "bound_audiences": []string{"vault"}},
			bound:  map[string]any{"sub": "repo:acme/api:ref:refs/heads/main"}, what: []string{"acme/api"}, because: "jobs must now ask for tokens for vault",
		},
		"an organization's": {
			policy: actions + "subject_pattern: repo:acme/(api|web):ref:refs/heads/main\naudience: octo.example\nclaim_pattern:\n  email_verified: 'true'\n  workflow: 'release.*'\npermissions: {contents: write}\nrepositories: [api, web]\n",
			issuer: map[string]any{"oidc_discovery_url": "https://token.actions.githubusercontent.com", "bound_audiences": []string{"octo.example"}},
			bound:  map[string]any{"sub": []string{"repo:acme/api:ref:refs/heads/main", "repo:acme/web:ref:refs/heads/main"}},
			where: `"email_verified" in subject.claims && (subject.claims["email_verified"] == true || subject.claims["email_verified"] == "true")` +
				"\n  && " + `"workflow" in subject.claims && type(subject.claims["workflow"]) == string && subject.claims["workflow"].matches("^(?:release.*)$")`,
			what: []string{"acme/api", "acme/web"}, because: "needs a login to Vault",
		},
		"patterns": {
			policy: "issuer_pattern: https://accounts\\.acme\\.example\nsubject_pattern: '[0-9]+'\naudience_pattern: (a|b)\npermissions: {contents: read}\n",
			issuer: map[string]any{"oidc_discovery_url": "https://accounts.acme.example", "bound_audiences": []string{"a", "b"}},
			where:  `"sub" in subject.claims && type(subject.claims["sub"]) == string && subject.claims["sub"].matches("^(?:[0-9]+)$")`,
			what:   []string{"acme/*"}, because: "the audiences belong to the issuer accounts.acme.example",
		},
		"an escaping alternative": {
			policy: actions + "subject_pattern: repo:acme/.*|repo:other/.*\npermissions: {contents: read}\n",
			issuer: map[string]any{"oidc_discovery_url": "https://token.actions.githubusercontent.com", "bound_audiences": []string{"vault"}},
			where:  `"sub" in subject.claims && type(subject.claims["sub"]) == string && subject.claims["sub"].matches("^(?:repo:acme/.*|repo:other/.*)$")`,
			what:   []string{"acme/*"}, because: "held against the whole claim",
		},
		"what a role would take for a pattern": {
			policy: actions + "subject: a*b\napp: one\npermissions: {contents: read}\n",
			issuer: map[string]any{"oidc_discovery_url": "https://token.actions.githubusercontent.com", "bound_audiences": []string{"vault"}},
			where:  `"sub" in subject.claims && type(subject.claims["sub"]) == string && subject.claims["sub"].matches("^(?:a\\*b)$")`,
			what:   []string{"acme/*"}, because: "app is left out",
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := options
			if c.change != nil {
				c.change(&o)
			}
			r, err := Convert("deploy.sts.yaml", []byte(c.policy), o)
			require.NoError(t, err)
			require.Equal(t, c.issuer, r.Issuer)
			require.Equal(t, c.bound, r.Role["bound_subject_claims"])
			require.Equal(t, c.where, r.Role["condition"])
			require.Equal(t, c.what, r.Role["resources"])
			require.Equal(t, []string{r.IssuerName}, r.Role["subject_issuers"])
			require.Contains(t, join(r.Stricter), c.because)
			text, err := r.Commands("broker")
			require.NoError(t, err)
			require.Contains(t, text, "vault write broker/roles/deploy - <<'END'\n{")
		})
	}
}

func join(all []string) (text string) {
	for _, one := range all {
		text += one + "\n"
	}
	return text
}

func TestWhatARoleCannotSayIsRefused(t *testing.T) {
	for name, c := range map[string]struct{ policy, says string }{
		"many issuers":     {"issuer_pattern: https://.*\nsubject: x\npermissions: {contents: read}\n", "by its exact URL"},
		"no subject":       {actions + "permissions: {contents: read}\n", "one of subject and subject_pattern"},
		"both":             {actions + "subject: a\nsubject_pattern: b\npermissions: {contents: read}\n", "one of subject"},
		"any audience":     {actions + "subject: a\naudience_pattern: .*\npermissions: {contents: read}\n", "write audience"},
		"all permissions":  {actions + "subject: a\n", "has no permissions"},
		"plain http":       {"issuer: http://ci.example\nsubject: a\npermissions: {contents: read}\n", "no https URL"},
		"a misspelled one": {actions + "subjects: a\npermissions: {contents: read}\n", "field subjects not found"},
		"an expression":    {actions + "subject_pattern: '(a'\npermissions: {contents: read}\n", "no regular expression"},
		"empty":            {"", "empty"},
		"two documents":    {actions + "subject: a\n---\nx: y\n", "more than one document"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Convert("x.sts.yaml", []byte(c.policy), options)
			require.ErrorContains(t, err, c.says)
		})
	}
	o := options
	o.Audience = ""
	_, err := Convert("x.sts.yaml", []byte(actions+"subject: a\npermissions: {contents: read}\n"), o)
	require.ErrorContains(t, err, "--audience")
}

// What an expression is turned into matches what the expression does, anchored.
func FuzzAlternatives(f *testing.F) {
	for _, pattern := range []string{"a", "a|b", "x(a|b)?y", "^a$", "a.b", `a\.b`, "(?i)a", "[ab]c", `\Qa`, `\Qa|b\E`, ""} {
		f.Add(pattern, "ab")
	}
	f.Fuzz(func(t *testing.T, pattern, text string) {
		found, ok := alternatives(pattern)
		if !ok {
			return
		}
		whole, err := regexp.Compile("^(?:" + pattern + ")$")
		require.NoError(t, err)
		for _, one := range found {
			require.True(t, whole.MatchString(one), "%q: %q", pattern, one)
		}
		if whole.MatchString(text) {
			require.Contains(t, found, text)
		}
	})
}

func TestARoleHasTheFilesName(t *testing.T) {
	require.Equal(t, "deploy", NameOf(".github/chainguard/deploy.sts.yaml"))
	require.Equal(t, "my-policy", NameOf("my policy.yml"))
}
