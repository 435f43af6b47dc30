package httpapi

import (
	"embed"
	"encoding/json"
	"strings"
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
