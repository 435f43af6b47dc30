// Package access is the algebra of what a token may do: sets of scopes,
// audiences and resources, ordered permissions and authorization details, with
// a meet that can only narrow. It is pure: no I/O, no clock, no Vault.
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

// Levels are a permission's levels from the lowest to the highest.
type Levels []string

// Access is a placeholder while the algebra is being written.
type Access struct{}
