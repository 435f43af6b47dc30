// Command trim makes testdata/openapi/github.json of what GitHub publishes: the calls that the
// broker makes, and what these refer to, without the words for people.
//
//	npm pack @octokit/openapi@23.0.2 && tar xzf octokit-openapi-23.0.2.tgz
//	go run ./trim package/generated/{api.github.com,ghec,ghes-3.19}.json > ../../testdata/openapi/github.json
//
// The first description is the one that counts; of the others it takes the calls and the
// permissions that the first one lacks.
package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
)

// calls are the operations that the broker uses.
var calls = map[string]string{
	"/app": "get", "/app/installations/{installation_id}": "get", "/app/installations/{installation_id}/access_tokens": "post",
	"/orgs/{org}/installation": "get", "/users/{username}/installation": "get", "/enterprises/{enterprise}/installation": "get",
	"/installation/repositories": "get", "/installation/token": "delete",
}

type object = map[string]any

func main() {
	var all []object
	for _, file := range os.Args[1:] {
		raw, err := os.ReadFile(file)
		var d object
		if err == nil {
			err = json.Unmarshal(raw, &d)
		}
		if err != nil {
			fail(err)
		}
		all = append(all, d)
	}
	if len(all) == 0 {
		fail(fmt.Errorf("which descriptions?"))
	}
	trimmed := trim(all)
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetIndent("", " ")
	if err := encoder.Encode(trimmed); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "trim:", err)
	os.Exit(1)
}

func trim(all []object) object {
	paths, kept := object{}, object{}
	for _, d := range all {
		for path, method := range calls {
			if _, known := paths[path]; known {
				continue
			}
			if item, ok := at(d, "paths", path).(object); ok {
				operation := asObject(bare(item[method], ""))
				paths[path] = object{method: operation}
				keep(d, operation, kept)
			}
		}
		more, _ := at(d, "components", "schemas", "app-permissions", "properties").(object)
		known := asObject(at(object{"components": kept}, "components", "schemas", "app-permissions", "properties"))
		for name, schema := range more {
			if _, ok := known[name]; !ok {
				known[name] = bare(schema, "")
			}
		}
	}
	info := asObject(at(all[0], "info"))
	return object{
		"openapi": all[0]["openapi"], "paths": paths, "components": kept,
		"info": object{"title": info["title"], "version": info["version"], "license": info["license"]},
	}
}

// describe gives a response the description that each must have.
func describe(response object) {
	if response["$ref"] == nil {
		response["description"] = ""
	}
}

func at(o any, names ...string) any {
	for _, name := range names {
		inner, _ := o.(object)
		o = inner[name]
	}
	return o
}

// keep adds what o refers to, and what that refers to.
func keep(d, o object, kept object) {
	for _, ref := range refs(o) {
		parts := strings.Split(strings.TrimPrefix(ref, "#/components/"), "/")
		kind, _ := kept[parts[0]].(object)
		if kind == nil {
			kind = object{}
			kept[parts[0]] = kind
		}
		if _, known := kind[parts[1]]; known {
			continue
		}
		component := asObject(bare(at(d, "components", parts[0], parts[1]), ""))
		if parts[0] == "responses" {
			describe(component)
		}
		kind[parts[1]] = component
		keep(d, component, kept)
	}
}

func refs(v any) (found []string) {
	switch v := v.(type) {
	case object:
		for _, name := range slices.Sorted(maps.Keys(v)) {
			if ref, ok := v[name].(string); ok && name == "$ref" {
				found = append(found, ref)
				continue
			}
			found = append(found, refs(v[name])...)
		}
	case []any:
		for _, e := range v {
			found = append(found, refs(e)...)
		}
	}
	return found
}

// bare is v without what is for people. within is the member that it is the value of: what
// stands in properties are names.
func bare(v any, within string) any {
	switch v := v.(type) {
	case object:
		o := object{}
		for name, value := range v {
			word := within != "properties" && (slices.Contains([]string{"description", "summary", "example", "examples", "externalDocs", "tags", "title", "deprecated"}, name) || strings.HasPrefix(name, "x-"))
			if word {
				continue
			}
			o[name] = bare(value, name)
			if within == "responses" {
				describe(asObject(o[name]))
			}
		}
		return o
	case []any:
		list := make([]any, len(v))
		for i, e := range v {
			list[i] = bare(e, "")
		}
		return list
	}
	return v
}

// asObject is v, which the descriptions have for an object.
func asObject(v any) object {
	o, ok := v.(object)
	if !ok {
		fail(fmt.Errorf("%v is no object", v))
	}
	return o
}
