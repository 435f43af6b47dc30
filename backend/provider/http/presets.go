package httpapi

import (
	"embed"
	"encoding/json"
	"slices"
	"strings"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
)

// presetFiles are definitions that the plugin has, one file each.
//
//go:embed presets/*.json
var presetFiles embed.FS

const presetFolder = "presets"

// presetNames are all of them, sorted.
func presetNames() []string {
	entries, err := presetFiles.ReadDir(presetFolder)
	if err != nil {
		return nil
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = strings.TrimSuffix(e.Name(), ".json")
	}
	return names
}

// presetText is the definition of that name.
func presetText(name string) (json.RawMessage, bool) {
	if strings.ContainsAny(name, `/\.`) {
		return nil, false
	}
	raw, err := presetFiles.ReadFile(presetFolder + "/" + name + ".json")
	return raw, err == nil
}

// Presets implements provider.Presetting.
func (Type) Presets() []provider.Preset {
	var all []provider.Preset
	for _, name := range presetNames() {
		text, _ := presetText(name)
		d, err := Parse(text)
		if err != nil { // a test holds each of them
			continue
		}
		all = append(all, provider.Preset{
			Name: name, About: d.About, Source: d.Source, Tried: d.Tried, Class: d.Class,
			Needs: d.fields(), Settings: told(d.Settings), Parameters: told(d.Parameters),
		})
	}
	return all
}

// fields are those that a provider of the definition must have, sorted.
func (d *Definition) fields() []string {
	var all []string
	if d.BaseURL == "" {
		all = append(all, fieldBaseURL)
	}
	for _, need := range d.needs {
		root, key, _ := strings.Cut(need, ".")
		switch {
		case root == rootSecrets:
			all = append(all, fieldSecrets+"."+key)
		case root == rootBorrowed && key == "":
			all = append(all, provider.FieldTokenProvider)
		case key == "" && slices.Contains([]string{rootUsername, rootPassword, rootToken}, root):
			all = append(all, root)
		}
	}
	for _, v := range d.Settings {
		if v.Default == "" && !v.Optional {
			all = append(all, fieldSettings)
			break
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// told is what each variable is.
func told(all map[string]Variable) map[string]string {
	about := map[string]string{}
	for name, v := range all {
		about[name] = v.About
		switch {
		case v.Default != "":
			about[name] += " (" + v.Default + " by default)"
		case v.Optional:
			about[name] += " (optional)"
		}
	}
	return about
}
