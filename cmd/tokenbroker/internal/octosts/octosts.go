// Package octosts turns trust policies of octo-sts into issuers and roles of the engine. It
// is pure. What it cannot say as the policy does it says more strictly, and tells; it never
// says it more loosely.
package octosts

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"path"
	"regexp"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/tokenbroker/vault-plugin-secrets-broker/cmd/tokenbroker/internal/fail"
)

// policy is a trust policy as it is written.
type policy struct {
	Issuer          string            `yaml:"issuer"`
	IssuerPattern   string            `yaml:"issuer_pattern"`
	Subject         string            `yaml:"subject"`
	SubjectPattern  string            `yaml:"subject_pattern"`
	Audience        string            `yaml:"audience"`
	AudiencePattern string            `yaml:"audience_pattern"`
	ClaimPattern    map[string]string `yaml:"claim_pattern"`
	Permissions     map[string]string `yaml:"permissions"`
	Repositories    []string          `yaml:"repositories"`
	App             string            `yaml:"app"`
	AppPattern      string            `yaml:"app_pattern"`
}

// Options say what a policy does not.
type Options struct {
	Role       string // its name; "": that of the file
	IssuerName string // "": made of the issuer's host
	Provider   string // such as github/acme
	Owner      string // whose repositories, as organization or user
	Repository string // where the policy was found: it counts for this one; "": an organization's
	Audience   string // what tokens are for where the policy says nothing: octo-sts' own domain
}

// Result is what a policy becomes.
type Result struct {
	IssuerName string         `json:"issuer_name"`
	Issuer     map[string]any `json:"issuer"`
	RoleName   string         `json:"role_name"`
	Role       map[string]any `json:"role"`
	// Stricter is what the role asks for beyond the policy, in words.
	Stricter []string `json:"stricter"`
}

// Convert turns one file's content into an issuer and a role.
func Convert(file string, content []byte, o Options) (*Result, error) {
	p, err := read(content)
	if err != nil {
		return nil, fail.New(fail.Usage, "%s: %s", file, err)
	}
	c := &conversion{policy: p, options: o, result: &Result{Issuer: map[string]any{}, Role: map[string]any{"provider": o.Provider, "mode": "mint"}}}
	for _, step := range []func() error{c.names, c.issuer, c.audience, c.claims, c.access, c.rest} {
		if err := step(); err != nil {
			return nil, fail.New(fail.Unservable, "%s: %s", file, err)
		}
	}
	return c.result, nil
}

func read(content []byte) (*policy, error) {
	var p policy
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	decoder.KnownFields(true)
	if err := decoder.Decode(&p); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, errors.New("it is empty")
		}
		return nil, errors.New(strings.Join(strings.Fields(err.Error()), " "))
	}
	if err := decoder.Decode(&struct{}{}); !errors.Is(err, io.EOF) {
		return nil, errors.New("it has more than one document")
	}
	for name, pair := range map[string][2]string{
		"issuer": {p.Issuer, p.IssuerPattern}, "subject": {p.Subject, p.SubjectPattern},
	} {
		if (pair[0] == "") == (pair[1] == "") {
			return nil, fmt.Errorf("it must have one of %s and %s_pattern", name, name)
		}
	}
	if p.Audience != "" && p.AudiencePattern != "" {
		return nil, errors.New("it must have no more than one of audience and audience_pattern")
	}
	return &p, nil
}

type conversion struct {
	policy  *policy
	options Options
	result  *Result
}

func (c *conversion) stricter(format string, args ...any) {
	c.result.Stricter = append(c.result.Stricter, fmt.Sprintf(format, args...))
}

var unnamed = regexp.MustCompile(`[^\w.-]+`)

// NameOf is the role's name for a file such as .github/chainguard/deploy.sts.yaml.
func NameOf(file string) string {
	name := path.Base(strings.ReplaceAll(file, `\`, "/"))
	for _, end := range []string{".yaml", ".yml", ".sts"} {
		name = strings.TrimSuffix(name, end)
	}
	return strings.Trim(unnamed.ReplaceAllString(name, "-"), "-.")
}

func (c *conversion) names() error {
	c.result.RoleName = c.options.Role
	c.result.IssuerName = c.options.IssuerName
	if c.result.IssuerName == "" {
		_, host, _ := strings.Cut(c.policy.Issuer, "://")
		c.result.IssuerName = strings.Trim(unnamed.ReplaceAllString(host, "-"), "-.")
	}
	return nil
}

func (c *conversion) issuer() error {
	if c.policy.IssuerPattern != "" {
		exact, ok := alternatives(c.policy.IssuerPattern)
		if !ok || len(exact) != 1 {
			return fmt.Errorf("issuer_pattern %s: an issuer is trusted here by its exact URL: write a policy for each", c.policy.IssuerPattern)
		}
		c.policy.Issuer = exact[0]
		if c.options.IssuerName == "" {
			_ = c.names()
		}
	}
	if at, err := url.Parse(c.policy.Issuer); err != nil || at.Scheme != "https" && !(at.Scheme == "http" && at.Hostname() == "127.0.0.1") {
		return fmt.Errorf("issuer %s is no https URL", c.policy.Issuer)
	}
	c.result.Issuer["oidc_discovery_url"] = c.policy.Issuer
	c.result.Role["subject_issuers"] = []string{c.result.IssuerName}
	c.stricter("a token of %s lives for 24 hours at most (max_subject_lifetime of the issuer), and is signed by ES256, ES384, RS256, PS256 or EdDSA", c.policy.Issuer)
	return nil
}

func (c *conversion) audience() error {
	audience := c.policy.Audience
	if c.policy.AudiencePattern != "" {
		exact, ok := alternatives(c.policy.AudiencePattern)
		if !ok {
			return fmt.Errorf("audience_pattern %s: an issuer's tokens are taken for named audiences: write audience", c.policy.AudiencePattern)
		}
		c.result.Issuer["bound_audiences"] = exact
		c.stricter("the audiences belong to the issuer %s: every role that trusts it takes tokens for them", c.result.IssuerName)
		return nil
	}
	if audience == "" {
		audience = c.options.Audience
	}
	if audience == "" {
		return errors.New("it names no audience, which means octo-sts' own domain: say by --audience what the tokens are for now, such as vault")
	}
	if c.policy.Audience == "" {
		c.stricter("the audience was octo-sts' domain; jobs must now ask for tokens for %s", audience)
	}
	c.result.Issuer["bound_audiences"] = []string{audience}
	return nil
}

// claims binds sub and what the policy asks of other claims: named values as the role's own
// terms, and what is left as a condition, which takes the policy's expressions as they are.
func (c *conversion) claims() error {
	bound := map[string]any{}
	var conditions []string
	bind := func(claim, pattern string) error {
		if texts, ok := alternatives(pattern); ok && !slices.ContainsFunc(texts, isPattern) {
			if len(texts) == 1 {
				bound[claim] = texts[0]
			} else {
				bound[claim] = texts
			}
			return nil
		}
		if _, err := regexp.Compile(pattern); err != nil {
			return fmt.Errorf("%s: %s is no regular expression", claim, pattern)
		}
		value := "subject.claims[" + quoted(claim) + "]"
		conditions = append(conditions, fmt.Sprintf("%s in subject.claims && type(%s) == string && %s.matches(%s)",
			quoted(claim), value, value, quoted("^(?:"+pattern+")$")))
		if alternates(pattern) {
			c.stricter("%s: all of %s is held against the whole claim; older versions of octo-sts held its first alternative against the claim's beginning, and its last against the end", claim, pattern)
		}
		return nil
	}
	subject := c.policy.SubjectPattern
	if c.policy.Subject != "" {
		subject = regexp.QuoteMeta(c.policy.Subject)
	}
	if err := bind("sub", subject); err != nil {
		return err
	}
	for _, claim := range slices.Sorted(maps.Keys(c.policy.ClaimPattern)) {
		pattern := c.policy.ClaimPattern[claim]
		if text, ok := alternatives(pattern); ok && len(text) == 1 && (text[0] == "true" || text[0] == "false") {
			conditions = append(conditions, fmt.Sprintf("%s in subject.claims && (subject.claims[%s] == %s || subject.claims[%s] == %s)",
				quoted(claim), quoted(claim), text[0], quoted(claim), quoted(text[0])))
			continue
		}
		if err := bind(claim, pattern); err != nil {
			return err
		}
	}
	if len(bound) > 0 {
		c.result.Role["bound_subject_claims"] = bound
	}
	if len(conditions) > 0 {
		c.result.Role["condition"] = strings.Join(conditions, "\n  && ")
	}
	return nil
}

// quoted is a text as CEL has it, which escapes as Go does.
func quoted(text string) string { return strconv.QuoteToASCII(text) }

// isPattern reports whether a role would take a text for more than itself.
func isPattern(text string) bool { return strings.ContainsAny(text, `*\`) }

func (c *conversion) access() error {
	if len(c.policy.Permissions) == 0 {
		return errors.New("it has no permissions: octo-sts then gives all that its App has, and a role must name them")
	}
	c.result.Role["permissions"] = c.policy.Permissions
	owner := c.options.Owner
	switch {
	case c.options.Repository != "":
		if len(c.policy.Repositories) > 0 {
			return errors.New("it has repositories, so it is an organization's: leave --repository out")
		}
		c.result.Role["resources"] = []string{owner + "/" + c.options.Repository}
	case len(c.policy.Repositories) > 0:
		resources := make([]string, 0, len(c.policy.Repositories))
		for _, name := range c.policy.Repositories {
			resources = append(resources, owner+"/"+name)
		}
		c.result.Role["resources"] = resources
	default:
		c.result.Role["resources"] = []string{owner + "/*"}
	}
	return nil
}

func (c *conversion) rest() error {
	c.result.Role["require_revocable"], c.result.Role["require_entity"] = true, true
	c.result.Role["ttl"], c.result.Role["max_ttl"] = "1h", "1h"
	if c.policy.App != "" || c.policy.AppPattern != "" {
		c.stricter("app is left out: the role's provider is the App")
	}
	c.stricter("a caller needs a login to Vault with an entity beside the token (require_entity), and a policy that lets it update creds/%s", c.result.RoleName)
	c.stricter("a token is killed when its lease ends, and when its login does; octo-sts' live for an hour")
	c.stricter("a request beyond the role's permissions is cut down or refused (on_excess), and an answer beyond them is killed")
	return nil
}

// Commands are the lines that write a result, for a shell.
func (r *Result) Commands(mount string) (string, error) {
	var out strings.Builder
	for _, warning := range r.Stricter {
		fmt.Fprintf(&out, "# stricter: %s\n", warning)
	}
	for _, part := range []struct {
		path   string
		fields map[string]any
	}{{mount + "/issuers/" + r.IssuerName, r.Issuer}, {mount + "/roles/" + r.RoleName, r.Role}} {
		text, err := json.MarshalIndent(part.fields, "", "  ")
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&out, "vault write %s - <<'END'\n%s\nEND\n", part.path, text)
	}
	return out.String(), nil
}

// alternatives are the texts that an expression matches as a whole, if it does no more
// than name them.
func alternatives(pattern string) ([]string, bool) {
	tree, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return nil, false
	}
	// A quote without an end, say, is none any more between anchors.
	if _, err := syntax.Parse("^(?:"+pattern+")$", syntax.Perl); err != nil {
		return nil, false
	}
	// Anchors are there anyway.
	if tree.Op == syntax.OpConcat && len(tree.Sub) > 0 && tree.Sub[0].Op == syntax.OpBeginText {
		tree.Sub = tree.Sub[1:]
	}
	if last := len(tree.Sub) - 1; tree.Op == syntax.OpConcat && last >= 0 && tree.Sub[last].Op == syntax.OpEndText {
		tree.Sub = tree.Sub[:last]
	}
	found, ok := texts(tree)
	return found, ok && len(found) <= mostTexts
}

// mostTexts is how many values a claim is bound to before an expression is the shorter form.
const mostTexts = 32

// texts are those that a part of an expression matches.
func texts(tree *syntax.Regexp) ([]string, bool) {
	switch tree.Op {
	case syntax.OpEmptyMatch:
		return []string{""}, true
	case syntax.OpLiteral:
		return []string{string(tree.Rune)}, tree.Flags&syntax.FoldCase == 0
	case syntax.OpCharClass:
		var all []string
		for i := 0; i < len(tree.Rune); i += 2 {
			for r := tree.Rune[i]; r <= tree.Rune[i+1]; r++ {
				if len(all) == mostTexts || !utf8.ValidRune(r) {
					return nil, false
				}
				all = append(all, string(r))
			}
		}
		return all, true
	case syntax.OpCapture:
		return texts(tree.Sub[0])
	case syntax.OpAlternate:
		var all []string
		for _, sub := range tree.Sub {
			some, ok := texts(sub)
			if !ok {
				return nil, false
			}
			all = append(all, some...)
		}
		return all, true
	case syntax.OpConcat:
		all := []string{""}
		for _, sub := range tree.Sub {
			some, ok := texts(sub)
			if !ok || len(all)*len(some) > mostTexts {
				return nil, false
			}
			var next []string
			for _, before := range all {
				for _, after := range some {
					next = append(next, before+after)
				}
			}
			all = next
		}
		return all, true
	}
	return nil, false
}

// alternates reports whether an expression is several without brackets around, so that
// anchors before and after it would belong to the outer ones alone.
func alternates(pattern string) bool {
	bare, err := syntax.Parse("^"+pattern+"$", syntax.Perl)
	whole, failed := syntax.Parse("^(?:"+pattern+")$", syntax.Perl)
	return err == nil && failed == nil && bare.String() != whole.String()
}
