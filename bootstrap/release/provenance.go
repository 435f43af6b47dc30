package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
)

const (
	repositoryURL = "https://github.com/tokenbroker/vault-plugin-secrets-broker"
	buildType     = repositoryURL + "/blob/main/docs/release.md#how-it-is-made"
	builderID     = repositoryURL + "/blob/main/Makefile#release"
)

// object is JSON whose members are written in the order of their names.
type object = map[string]any

// provenance says, as an in-toto statement with SLSA's predicate, what the binaries and
// images were made of and how. Who runs make is the builder: it is level 1, no more.
func (r *release) provenance() error {
	var subjects []object
	for _, a := range r.artifacts {
		subjects = append(subjects, object{"name": a.file, "digest": object{"sha256": a.sha256}})
	}
	for _, i := range r.images {
		subjects = append(subjects, object{"name": i.folder, "digest": object{"sha256": i.digest}})
	}
	platforms := make([]string, len(r.platforms))
	for i, p := range r.platforms {
		platforms[i] = p.String()
	}
	dependencies := []object{
		{"uri": "git+" + repositoryURL, "digest": object{"gitCommit": r.commit}},
		{"uri": "pkg:golang/std@" + strings.TrimPrefix(r.toolchain, "go"), "name": "Go toolchain"},
	}
	for _, sum := range append([]string{"go.sum"}, r.sumsOfCommands()...) {
		content, err := os.ReadFile(filepath.Join(r.root, sum))
		if err != nil {
			return err
		}
		dependencies = append(dependencies, object{"name": sum, "digest": object{"sha256": sumOf(content)}})
	}
	parameters := object{"target": "release", "version": r.version, "platforms": platforms}
	if r.image != "" {
		parameters["image"] = r.image
	}
	return r.writeJSON("provenance.intoto.json", object{
		"_type":         "https://in-toto.io/Statement/v1",
		"subject":       subjects,
		"predicateType": "https://slsa.dev/provenance/v1",
		"predicate": object{
			"buildDefinition": object{
				"buildType":            buildType,
				"externalParameters":   parameters,
				"resolvedDependencies": dependencies,
			},
			"runDetails": object{"builder": object{"id": builderID}},
		},
	})
}

// sumsOfCommands are the go.sum of commands that are modules of their own.
func (r *release) sumsOfCommands() (found []string) {
	for _, command := range r.commands {
		sum := filepath.Join("cmd", command, "go.sum")
		if _, err := os.Stat(filepath.Join(r.root, sum)); err == nil {
			found = append(found, filepath.ToSlash(sum))
		}
	}
	return found
}

func (r *release) writeJSON(name string, value any) error {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(value); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(r.dist, name), text.Bytes(), 0o644)
}
