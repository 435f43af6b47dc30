package httpapi

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/kit"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// The fields by name.
const (
	fieldBaseURL    = "base_url"
	fieldDefinition = "definition"
	fieldPreset     = "preset"
	fieldSettings   = "settings"
	fieldUsername   = "username"
	fieldPassword   = "password"
	fieldToken      = "token"
	fieldSecrets    = "secrets"
)

// hidden marks what is a secret.
var hidden = &framework.DisplayAttributes{Sensitive: true}

// settings are the fields that are no secret.
type settings struct {
	BaseURL    string            `json:"base_url"`
	Definition json.RawMessage   `json:"definition"`
	Preset     string            `json:"preset"`
	Settings   map[string]string `json:"settings"`
	Username   string            `json:"username"`
	Lender     string            `json:"token_provider"`
}

func parseSettings(raw json.RawMessage) (s settings, err error) {
	if json.Unmarshal(raw, &s) != nil {
		return s, fault.New(fault.InvalidRequest, "the fields cannot be read: write the provider anew")
	}
	return s, nil
}

// source is the definition's text.
func (s settings) source() (json.RawMessage, error) {
	switch {
	case s.Preset != "" && len(s.Definition) > 0:
		return nil, kit.Invalid(fieldDefinition, "there is a preset as well: unset one of them, by an empty value")
	case len(s.Definition) > 0:
		return s.Definition, nil
	case s.Preset == "":
		return nil, kit.Invalid(fieldDefinition, "write one, or preset, the name of one that the plugin has: %s", strings.Join(presetNames(), ", "))
	}
	text, known := presetText(s.Preset)
	if !known {
		return nil, kit.Invalid(fieldPreset, "there is no %q: there are %s", short(s.Preset), strings.Join(presetNames(), ", "))
	}
	return text, nil
}

// stored reads the definition of what was configured before, as parse has it.
func (s settings) stored() (d *Definition, mistaken, err error) {
	text, err := s.source()
	if err != nil {
		return nil, nil, err
	}
	return parse(text)
}

// base is where the system is, without a slash at its end.
func (s settings) base(d *Definition) string {
	return strings.TrimRight(cmp.Or(s.BaseURL, d.BaseURL), "/")
}

// filled are the settings with the definition's defaults.
func (s settings) filled(d *Definition) map[string]string {
	return withDefaults(s.Settings, d.Settings)
}

func withDefaults(given map[string]string, declared map[string]Variable) map[string]string {
	all := map[string]string{}
	for name, v := range declared {
		if value := cmp.Or(given[name], v.Default); value != "" {
			all[name] = value
		}
	}
	return all
}

// checkVariables holds what was given against what is declared.
func checkVariables(field string, given map[string]string, declared map[string]Variable) error {
	for _, name := range slices.Sorted(maps.Keys(given)) {
		v, known := declared[name]
		switch {
		case !known && len(declared) == 0:
			return kit.Invalid(field, "the definition knows none, and so not %q", short(name))
		case !known:
			return kit.Invalid(field, "the definition knows no %q: it knows %s", short(name), strings.Join(slices.Sorted(maps.Keys(declared)), ", "))
		case given[name] != "" && (len(given[name]) > maxText || !kit.IsPrintable(given[name])):
			return kit.Invalid(field, "%s must be printable text of at most %d bytes", name, maxText)
		case given[name] != "" && v.Pattern != nil && !v.Pattern.MatchString(given[name]):
			return kit.Invalid(field, "%s must be as %s: %s", name, written(v.Pattern), v.About)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(declared)) {
		if v := declared[name]; given[name] == "" && v.Default == "" && !v.Optional {
			return kit.Invalid(field, "the definition needs %s: %s", name, v.About)
		}
	}
	return nil
}

// check judges the settings and the parent against the definition.
func (s settings) check(d *Definition, parent provider.Parent, allowHTTP bool) error {
	base := s.base(d)
	if base == "" {
		return kit.Invalid(fieldBaseURL, "write where the system's API is")
	}
	if err := httpclient.CheckURL(base, allowHTTP); err != nil {
		return kit.Invalid(fieldBaseURL, "%s", err)
	}
	if err := checkVariables(fieldSettings, s.Settings, d.Settings); err != nil {
		return err
	}
	named, err := namedSecrets(parent)
	if err != nil {
		return err
	}
	if err := d.wants(rootUsername, s.Username != "", fieldUsername); err != nil {
		return err
	}
	if err := d.wants(rootBorrowed, s.Lender != "", provider.FieldTokenProvider); err != nil {
		return err
	}
	if s.Username != "" && (strings.Contains(s.Username, ":") || !kit.IsPrintable(s.Username)) {
		return kit.Invalid(fieldUsername, "must be printable text without a colon")
	}
	for _, field := range []string{fieldPassword, fieldToken} {
		value := parent.Secrets[field]
		if err := d.wants(field, !value.Empty(), field); err != nil {
			return err
		}
		if text := value.Reveal(); text != strings.TrimSpace(text) || !kit.IsPrintable(text) {
			return kit.Invalid(field, "must be printable text, with no space around it")
		}
	}
	return d.wantsNamed(named)
}

// wants says that a field is missing which the definition names, or is there for nothing.
func (d *Definition) wants(root string, there bool, field string) error {
	needed := slices.Contains(d.needs, root)
	switch {
	case needed && !there:
		return kit.Invalid(field, "the definition needs it: its parent has {{%s}}", root)
	case !needed && there:
		return kit.Invalid(field, "the definition has no use for it: unset it, by an empty value")
	}
	return nil
}

func (d *Definition) wantsNamed(named map[string]secret.Text) error {
	for _, need := range d.needs {
		name, ok := strings.CutPrefix(need, rootSecrets+".")
		if ok && named[name].Empty() {
			return kit.Invalid(fieldSecrets, "the definition needs %s: its parent has {{%s}}", name, need)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(named)) {
		if !slices.Contains(d.needs, rootSecrets+"."+name) {
			return kit.Invalid(fieldSecrets, "the definition has no use for %q: leave it out", short(name))
		}
		if text := named[name].Reveal(); text != strings.TrimSpace(text) || !kit.IsPrintable(text) {
			return kit.Invalid(fieldSecrets, "%s must be printable text, with no space around it", short(name))
		}
	}
	return nil
}

// namedSecrets are those of the field secrets, by name.
func namedSecrets(parent provider.Parent) (map[string]secret.Text, error) {
	text := parent.Secrets[fieldSecrets].Reveal()
	if text == "" {
		return nil, nil
	}
	object, err := form.Object([]byte(text), 1)
	if err != nil {
		return nil, kit.Invalid(fieldSecrets, "must be a map of names to secrets")
	}
	all := map[string]secret.Text{}
	for name, v := range object {
		value, ok := v.(string)
		if !ok || value == "" {
			return nil, kit.Invalid(fieldSecrets, "%s must be a text", short(name))
		}
		all[name] = secret.New(value)
	}
	return all, nil
}

// pinned is what a configuration fixes. Whoever changes what is done with the secrets, or
// where, brings them again: the definition is one of the places to which they go.
func (s settings) pinned(d *Definition, source json.RawMessage) *provider.Pinned {
	base := s.base(d)
	use := "the preset " + s.Preset
	if s.Preset == "" {
		use = "the definition " + fingerprint(source)
	}
	filled := s.filled(d)
	to := []string{httpclient.Below(base), "as in " + use}
	if len(filled) > 0 {
		to = append(to, "with the settings "+asText(filled))
	}
	slices.Sort(to)
	whose := map[string]string{}
	for name, value := range filled {
		if d.places(rootSettings, name) {
			whose[name] = value
		}
	}
	account := base
	if d.places(rootUsername, "") {
		account = s.Username + " at " + base
	}
	if len(whose) > 0 {
		account += ", " + asText(whose)
	}
	return &provider.Pinned{Destinations: to, Account: account}
}

// places reports whether an expression tells where children are made and ended.
func (d *Definition) places(root, key string) bool {
	found := false
	see := func(t template) {
		for _, e := range t.expressions() {
			found = found || e.root == root && e.key == key
		}
	}
	for _, s := range d.Mint {
		s.each(see)
		if s.Undo != nil {
			s.Undo.each(see)
		}
		if s.Find != nil {
			s.Find.Step.each(see)
		}
	}
	for _, t := range d.Headers {
		see(t)
	}
	return found
}

// asText writes a map in one way.
func asText(all map[string]string) string {
	raw, err := json.Marshal(all) // sorted
	if err != nil {
		return fmt.Sprint(all)
	}
	return string(raw)
}

// fingerprint is of a definition's meaning: blanks and the order of members make none.
func fingerprint(source json.RawMessage) string {
	canonical := []byte(source)
	if v, err := form.Value(source, maxNesting); err == nil {
		if raw, err := json.Marshal(v); err == nil {
			canonical = raw
		}
	}
	sum := sha256.Sum256(canonical)
	return hex.EncodeToString(sum[:])
}
