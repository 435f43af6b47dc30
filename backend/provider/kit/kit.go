// Package kit is what every type of provider needs and none should write anew: what an
// answer that is no success says (answer.go), texts that give a secret away (secrets.go),
// the keys and JWTs by which the broker authenticates (key.go, reuse.go), how one parent
// credential follows another (parent.go), texts that are filled from the Vault entity
// (template.go), and the names of children (name.go). It knows the seam of package
// provider and no type's wire protocol. Bounded JSON, and pointers into it (RFC 6901), are
// package form's.
package kit
