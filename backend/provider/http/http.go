// Package httpapi is the provider type http: any system with a token API, as a definition
// says it, which is JSON that an operator writes (docs/http.md).
//
// A definition is judged whole when it is written (parse.go, judge.go). It is readable, and
// it cannot give the parent away: no secret stands in it, expressions of the parent's stand
// where they lead to the system and nowhere else (parent.go), and whoever changes it
// brings the secrets again. What fills a template (fill.go) stays in its place (wire.go,
// places.go). mint.go makes children, unmakes them and finds them again.
package httpapi

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"

	"github.com/hashicorp/vault/sdk/framework"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/kit"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// TypeName is the path segment of this provider type.
const TypeName = "http"

// Type is the provider type.
type Type struct{}

var (
	_ provider.Type       = Type{}
	_ provider.Reserving  = Type{}
	_ provider.Compound   = Type{}
	_ provider.Borrower   = Type{}
	_ provider.Presetting = Type{}
	_ provider.Shows      = Type{}
)

// Guide implements provider.Guided.
func (Type) Guide() provider.Guide {
	return provider.Guide{
		About: `
Any system with a token API, as a definition says it, or a preset by its name
(vault list broker/presets).

  vault write broker/providers/http/gitea preset=gitea base_url=https://git.acme.example/api/v1 \
      username=bot password=@bot.txt`,
		Rotation: `
Refuses: a write brings the next credential, which is proven before it takes the place of
the current one.`,
	}
}

// Name implements provider.Type.
func (Type) Name() string { return TypeName }

// Fields implements provider.Type.
func (Type) Fields() map[string]*framework.FieldSchema {
	fields := provider.LoanFields()
	maps.Copy(fields, map[string]*framework.FieldSchema{
		fieldBaseURL:    {Type: framework.TypeString, Description: "Where the system's API is, such as https://git.acme.example/api/v1. Every request goes below it. A definition may have one of its own for where this is not written."},
		fieldDefinition: {Type: framework.TypeMap, Description: "How the system's tokens are made and ended, as a JSON object; docs/http.md tells its members. It is readable, and holds no secret. A write of it must bring every secret again."},
		fieldPreset:     {Type: framework.TypeString, Description: "The name of a definition that the plugin has, instead of definition; presets lists them, and what each needs."},
		fieldSettings:   {Type: framework.TypeKVPairs, Description: "What the definition wants to know beside secrets, by name, such as the account to make tokens in. Its settings say which there are."},
		fieldUsername:   {Type: framework.TypeString, Description: "Who the broker is at the system, where the definition has {{username}} or {{basic}}."},
		fieldPassword:   {Type: framework.TypeString, Description: "The password, where the definition has {{password}} or {{basic}}.", DisplayAttrs: hidden},
		fieldToken:      {Type: framework.TypeString, Description: "The token or key, where the definition has {{token}}.", DisplayAttrs: hidden},
		fieldSecrets:    {Type: framework.TypeKVPairs, Description: "Further secrets by name, where the definition has {{secrets.<name>}}: all of them in each write.", DisplayAttrs: hidden},
	})
	return fields
}

// Loan implements provider.Borrower.
func (Type) Loan(cfg provider.Config) *provider.Loan { return provider.LoanOf(cfg.Fields) }

// Parameters implements provider.Type: they are the definition's (Traits.Parameters).
func (Type) Parameters() map[string]string { return nil }

// Answer implements provider.Type: what most definitions have; each says its own.
func (Type) Answer() map[string]*framework.FieldSchema { return provider.TokenField() }

// PublicFields implements provider.Shows.
func (Type) PublicFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		fieldDefinition: {Type: framework.TypeMap, Description: "The definition, also that of a preset."},
	}
}

// Parts implements provider.Compound.
func (Type) Parts(secrets map[string]secret.Text) []secret.Text {
	named, err := namedSecrets(provider.Parent{Secrets: secrets})
	if err != nil {
		return nil
	}
	return slices.Collect(maps.Values(named))
}

// Configure implements provider.Type. Nothing is asked: there is nothing to discover.
func (Type) Configure(_ context.Context, change provider.Change) (*provider.Pinned, error) {
	s, err := parseSettings(change.Config.Fields)
	if err != nil {
		return nil, err
	}
	source, err := s.source()
	if err != nil {
		return nil, err
	}
	d, err := Parse(source)
	if err != nil {
		return nil, err
	}
	if err := s.check(d, change.Parent, change.AllowHTTP); err != nil {
		return nil, err
	}
	return s.pinned(d, source), nil
}

// ReservedAudiences implements provider.Reserving: where the broker shows who it is by a
// JWT, the system takes its audience, and itself, as a credential of the broker's.
func (Type) ReservedAudiences(cfg provider.Config) provider.Reserved {
	s, err := parseSettings(cfg.Fields)
	if err != nil {
		return provider.Reserved{}
	}
	d, _, err := s.stored()
	if err != nil || d.Parent.JWT == nil {
		return provider.Reserved{}
	}
	r := provider.Reserved{Endpoints: []string{s.base(d)}}
	if audience, err := (&filling{settings: s.filled(d)}).must(d.Parent.JWT.Audience); err == nil {
		r.Names = []string{audience}
	}
	return r
}

// Open implements provider.Type. What a definition of an earlier version has made is ended
// also where this version does not take it any more.
func (Type) Open(cfg provider.Config, parent provider.Parent, deps provider.Deps) (provider.Provider, error) {
	s, err := parseSettings(cfg.Fields)
	if err != nil {
		return nil, err
	}
	d, mistaken, err := s.stored()
	if err != nil {
		return nil, err
	}
	named, err := namedSecrets(parent)
	if err != nil {
		return nil, err
	}
	p := &Provider{
		definition: d, settings: s.filled(d), base: s.base(d), username: s.Username, secrets: parent.Secrets, named: named, deps: deps,
		parts: slices.Collect(maps.Values(named)), names: kit.MustNames(d.Names.Prefix, d.Names.Most, kit.LowerDigits), preset: s.Preset,
	}
	for _, field := range []string{fieldPassword, fieldToken} {
		if t := parent.Secrets[field]; !t.Empty() {
			p.parts = append(p.parts, t)
		}
	}
	if mistaken != nil {
		d.Class = cmp.Or(d.Class, provider.ClassToken)
		return outdatedOf(p, mistaken, d.finds()), nil
	}
	if d.finds() {
		return &finding{revoking{p}}, nil
	}
	return &revoking{p}, nil // also what an earlier definition has made, if this one has no undo
}

// finds reports whether children can be found by their names.
func (d *Definition) finds() bool {
	return slices.ContainsFunc(d.Mint, func(s Step) bool { return s.Find != nil })
}

// Provider is one account of one system, by one definition.
type Provider struct {
	definition *Definition
	preset     string
	settings   map[string]string
	base       string
	username   string
	secrets    map[string]secret.Text
	named      map[string]secret.Text
	parts      []secret.Text // all that is secret of the parent
	names      kit.Names
	deps       provider.Deps
	login      login
}

// revoking is a Provider that ends children by their handles, finding one whose children can
// be found.
type (
	revoking struct{ *Provider }
	finding  struct{ revoking }
)

var (
	_ provider.Provider         = (*Provider)(nil)
	_ provider.Checker          = (*Provider)(nil)
	_ provider.Trusted          = (*Provider)(nil)
	_ provider.ParameterChecker = (*Provider)(nil)
	_ provider.CeilingChecker   = (*Provider)(nil)
	_ provider.Publisher        = (*Provider)(nil)
	_ provider.Revoker          = (*revoking)(nil)
	_ provider.Finder           = (*finding)(nil)
	_ provider.Locating         = (*finding)(nil)
)

// Traits implements provider.Provider.
func (p *Provider) Traits() provider.Traits {
	d := p.definition
	t := provider.Traits{
		Class: d.Class, Life: d.Life, Answer: d.answer(), Parameters: map[string]string{}, Ceiling: access.Everything(),
		Askable: access.Dimensions{}, Checkable: access.Dimensions{}, Required: access.Dimensions{}, Hints: map[access.Dimension]string{},
		Endless: d.Child.Ends.Never || d.Child.Ends.At != nil && d.Child.Ends.At.Never != nil,
	}
	if t.Life == (provider.Life{}) && d.Child.Ends.Assumed > 0 { // whatever is asked for
		t.Life = provider.Life{Least: d.Child.Ends.Assumed, Most: d.Child.Ends.Assumed}
	}
	for name, v := range d.Parameters {
		t.Parameters[name] = v.About
	}
	for _, dim := range access.AllDimensions() {
		one, known := d.Access[dim]
		if !known {
			t.Hints[dim] = "the definition of this provider (providers/http/<name>, its access) knows nothing of them"
			continue
		}
		t.Askable[dim], t.Checkable[dim], t.Required[dim] = one.Ask, one.Check, one.Required
		t.Ceiling = t.Ceiling.With(dim, one.ceiling(dim, t.Ceiling))
	}
	maps.DeleteFunc(t.Askable, func(_ access.Dimension, on bool) bool { return !on })
	maps.DeleteFunc(t.Checkable, func(_ access.Dimension, on bool) bool { return !on })
	maps.DeleteFunc(t.Required, func(_ access.Dimension, on bool) bool { return !on })
	t.Levels = d.Access[access.DimPermissions].Levels
	return t
}

// ceiling is all that there is in a dimension.
func (one Dimension) ceiling(dim access.Dimension, all access.Access) access.Access {
	if one.Values == nil {
		return all
	}
	if dim == access.DimPermissions {
		levels := one.Levels
		if len(levels) == 0 {
			levels = access.DefaultLevels()
		}
		top := map[string]string{}
		for _, name := range one.Values {
			top[name] = levels[len(levels)-1]
		}
		if permissions, err := access.NewPermissions(levels, top); err == nil {
			return access.Access{Permissions: permissions}
		}
		return all
	}
	set, err := access.Ceiling(one.Values...)
	if err != nil {
		return all
	}
	return access.Access{Scopes: set, Audiences: set, Resources: set}
}

// answer are the fields of a child.
func (d *Definition) answer() map[string]*framework.FieldSchema {
	fields := map[string]*framework.FieldSchema{}
	for name := range d.Child.Secrets {
		fields[name] = &framework.FieldSchema{Type: framework.TypeString, Description: "A secret of the child, as the provider's definition says.", DisplayAttrs: hidden}
	}
	for name := range d.Child.Shown {
		fields[name] = &framework.FieldSchema{Type: framework.TypeString, Description: "What goes with the child, as the provider's definition says."}
	}
	return fields
}

// CheckParameters implements provider.ParameterChecker.
func (p *Provider) CheckParameters(_ provider.Mode, parameters map[string]string) error {
	return checkVariables("parameters", parameters, p.definition.Parameters)
}

// CheckCeiling implements provider.CeilingChecker: what a pattern of the definition refuses
// is never granted. Of a role's own patterns nothing is known.
func (p *Provider) CheckCeiling(_ provider.Mode, _ map[string]string, ceiling access.Access) error {
	for _, dim := range access.AllDimensions() {
		d, known := p.definition.Access[dim]
		if !known {
			continue // which has a hint
		}
		names := slices.Sorted(maps.Keys(ceiling.Permissions.Map()))
		if set, isSet := ceiling.Set(dim); isSet {
			names = set.Literals()
		} else if dim != access.DimPermissions {
			continue
		}
		for _, name := range names {
			if why := d.refuses(name); why != "" {
				return kit.Invalid(string(dim), "%q %s", name, why)
			}
		}
	}
	return nil
}

func (p *Provider) parametersOf(given map[string]string) map[string]string {
	return withDefaults(given, p.definition.Parameters)
}

// Public implements provider.Publisher.
func (p *Provider) Public() map[string]any {
	if p.preset == "" {
		return nil // it is among the fields
	}
	text, _ := presetText(p.preset)
	var v map[string]any
	if json.Unmarshal(text, &v) != nil {
		return nil
	}
	return map[string]any{fieldDefinition: v}
}

// Unprovable implements provider.Trusted.
func (p *Provider) Unprovable() string {
	if p.definition.Check == nil {
		return "the provider's definition has no check: see by a role of it whether a token can be got"
	}
	return ""
}

// Check implements provider.Checker.
func (p *Provider) Check(ctx context.Context) (provider.Health, error) {
	c := p.definition.Check
	if c == nil {
		return provider.Health{Detail: p.Unprovable(), Untold: true}, nil
	}
	f := &filling{settings: p.settings, username: p.username}
	w, err := f.build(*c, p.definition.Headers)
	if err != nil {
		return provider.Health{}, err
	}
	a, err := p.exchange(ctx, w, &mentioned{})
	if err != nil {
		return provider.Health{}, first(err)
	}
	return provider.Health{Detail: fmt.Sprintf("the system takes the credential: %s %s was answered with HTTP %d (%s)", w.Method, w.Path, a.status, http.StatusText(a.status))}, nil
}

// maxWhere bounds what is on record of where to look, in bytes.
const maxWhere = 16 << 10

// Where implements provider.Locating: what of a request tells where its children are.
func (p *finding) Where(r provider.Request) (string, error) {
	f := p.fillingOf(r)
	all := map[string]any{rootName: f.name} // which another definition would make otherwise
	var failed error
	see := func(t template) {
		for _, e := range t.expressions() {
			if e.root != rootParams && !slices.Contains(dimensionRoots(), e.root) {
				continue
			}
			v, err := f.source(e)
			if err != nil && failed == nil {
				failed = err
			}
			if v != nil {
				all[e.String()] = v
			}
		}
	}
	for _, s := range p.definition.Mint {
		if s.Find != nil {
			s.Find.Step.each(see)
			s.Undo.each(see)
		}
	}
	if failed != nil {
		return "", failed
	}
	raw, err := json.Marshal(all)
	if err != nil || len(raw) > maxWhere {
		return "", fault.New(fault.InvalidRequest, "more is asked for than can be put on record before the mint (%d bytes): ask for less", maxWhere)
	}
	return string(raw), nil
}
