// Package access is the algebra of what a token may do: sets of scopes,
// audiences and resources (RFC 6749 3.3, RFC 8693 2.1, RFC 8707), permissions
// with ordered levels, and authorization details (RFC 9396), with a meet that
// can only narrow.
//
// It is pure: no I/O, no clock, no Vault. Every value is immutable and safe for
// concurrent use. Every zero value denies: it is "nothing", which is not the
// same as "unbounded", the neutral element of the meet. What an absent list
// means (no bound, or the whole ceiling) is for the caller to decide; here an
// empty list is nothing.
package access

// Dimension names one way in which access is bounded.
type Dimension string

// The dimensions, by the name of their creds parameter.
const (
	DimScopes      Dimension = "scopes"
	DimAudiences   Dimension = "audiences"
	DimResources   Dimension = "resources"
	DimPermissions Dimension = "permissions"
	DimDetails     Dimension = "authorization_details"
)

// Dimensions is a set of dimensions.
type Dimensions map[Dimension]bool

// AllDimensions returns every dimension in the order in which they are listed
// to people.
func AllDimensions() []Dimension {
	return []Dimension{DimScopes, DimAudiences, DimResources, DimPermissions, DimDetails}
}

// flatPrefix is how a dimension's members begin in a flat list.
func (d Dimension) flatPrefix() string {
	switch d {
	case DimScopes:
		return "scope:"
	case DimAudiences:
		return "audience:"
	case DimResources:
		return "resource:"
	case DimPermissions:
		return "permission:"
	default:
		return string(d) + ":"
	}
}
