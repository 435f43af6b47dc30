// Package httpapi is the provider type http: any system with a token API, as a definition
// says it, which is JSON that an operator writes (docs/http.md).
//
// A definition is judged whole when it is written (parse.go, judge.go). It is readable, and
// it cannot give the parent away: no secret stands in it, expressions of the parent's stand
// where they lead to the system and nowhere else, and whoever changes it brings the
// secrets again. What fills a template stays in its place (places.go).
package httpapi

// The fields by name.
const fieldDefinition = "definition"
