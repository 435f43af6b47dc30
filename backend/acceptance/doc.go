// Package acceptance tries the built plugin the way its users will: in a real
// Vault, over HTTP and by the vault command, against authorization servers that
// nobody on this project wrote. It has no code of its own, only tests.
//
// A test is a story: an operator writes a provider and a role, an agent asks for
// a token, something happens, and the authorization server itself is asked what
// became of the token. Stories share one Vault, one Hydra and one OpenID
// Provider, each with a mount of its own; a story that kills, seals or restarts
// something brings its own server.
//
// Whatever a story declares secret (parents, children, subject tokens) is looked
// for in the end, in the shared Vault's audit log and in its server log with the
// plugin's lines, and must not be there: see TestMain.
//
// It needs `make build vault servers`, and skips under `go test -short`.
package acceptance
