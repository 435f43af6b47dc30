package condition

import (
	"time"

	"github.com/google/cel-go/cel"
)

// Input is what a condition is evaluated over. What is not known stays zero: a
// caller without an entity has an empty entity_id, a request without a subject
// token has no claims.
type Input struct {
	Identity Identity
	Request  Request
	Subject  Subject
	Now      time.Time
}

// Identity is the Vault entity that asks.
type Identity struct {
	EntityID string
	Name     string
	Metadata map[string]string
	// Groups are the names of all groups, inherited ones included.
	Groups  []string
	Aliases []Alias
}

// Alias ties an entity to a login at an auth mount.
type Alias struct {
	Name          string
	MountAccessor string
	MountType     string
	Metadata      map[string]string
}

// Request is what would be granted, and from where it was asked for.
type Request struct {
	Scopes      []string
	Audiences   []string
	Resources   []string
	Permissions map[string]string
	TTL         time.Duration
	RemoteAddr  string
}

// Subject is the verified subject token. Claims are as encoding/json decodes
// them; numbers compare by value, whether written 2 or 2.0.
type Subject struct {
	Claims map[string]any
}

// The variables of a condition.
const (
	varIdentity = "identity"
	varRequest  = "request"
	varSubject  = "subject"
	varNow      = "now"
)

// activation gives CEL the variables without copying them.
type activation Input

var _ cel.Activation = (*activation)(nil)

// ResolveName implements cel.Activation.
func (a *activation) ResolveName(name string) (any, bool) {
	switch name {
	case varIdentity:
		return &a.Identity, true
	case varRequest:
		return &a.Request, true
	case varSubject:
		return &a.Subject, true
	case varNow:
		return a.Now.UTC(), true
	default:
		return nil, false
	}
}

// Parent implements cel.Activation.
func (a *activation) Parent() cel.Activation { return nil }
