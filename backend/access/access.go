package access

// Access is what a token may do, in every dimension. The zero Access is nothing
// at all.
type Access struct {
	Scopes      Set
	Audiences   Set
	Resources   Set
	Permissions Permissions
	Details     Details
}

// Everything is unbounded in every dimension: the neutral element of Meet.
func Everything() Access {
	return Access{
		Scopes:      Unbounded(),
		Audiences:   Unbounded(),
		Resources:   Unbounded(),
		Permissions: UnboundedPermissions(),
		Details:     UnboundedDetails(),
	}
}

// Meet is what both allow.
func (a Access) Meet(b Access) Access {
	return Access{
		Scopes:      a.Scopes.Meet(b.Scopes),
		Audiences:   a.Audiences.Meet(b.Audiences),
		Resources:   a.Resources.Meet(b.Resources),
		Permissions: a.Permissions.Meet(b.Permissions),
		Details:     a.Details.Meet(b.Details),
	}
}

// Within reports whether surely b allows everything that a does.
func (a Access) Within(b Access) bool {
	return a.Scopes.Within(b.Scopes) &&
		a.Audiences.Within(b.Audiences) &&
		a.Resources.Within(b.Resources) &&
		a.Permissions.Within(b.Permissions) &&
		a.Details.Within(b.Details)
}

// Equal reports whether a and b are equal in every dimension.
func (a Access) Equal(b Access) bool {
	return a.Scopes.Equal(b.Scopes) &&
		a.Audiences.Equal(b.Audiences) &&
		a.Resources.Equal(b.Resources) &&
		a.Permissions.Equal(b.Permissions) &&
		a.Details.Equal(b.Details)
}

// Set returns the dimensions that are sets; false for the others.
func (a Access) Set(d Dimension) (Set, bool) {
	switch d {
	case DimScopes:
		return a.Scopes, true
	case DimAudiences:
		return a.Audiences, true
	case DimResources:
		return a.Resources, true
	default:
		return Set{}, false
	}
}

// IsNothing reports whether a surely allows nothing in d; true for an unknown d.
func (a Access) IsNothing(d Dimension) bool {
	switch d {
	case DimPermissions:
		return a.Permissions.IsNothing()
	case DimDetails:
		return a.Details.IsNothing()
	default:
		s, _ := a.Set(d)
		return s.IsNothing()
	}
}

// IsUnbounded reports whether a has no bound in d; false for an unknown d.
func (a Access) IsUnbounded(d Dimension) bool {
	switch d {
	case DimPermissions:
		return a.Permissions.IsUnbounded()
	case DimDetails:
		return a.Details.IsUnbounded()
	default:
		s, _ := a.Set(d)
		return s.IsUnbounded()
	}
}

// Enumerable reports whether what a allows in d can be listed: it is neither
// unbounded nor written with globs. Nothing can be listed.
func (a Access) Enumerable(d Dimension) bool {
	s, _ := a.Set(d)
	return !a.IsUnbounded(d) && s.enumerable()
}

// With returns a with dimension d replaced by from's. An unknown d changes
// nothing.
func (a Access) With(d Dimension, from Access) Access {
	switch d {
	case DimScopes:
		a.Scopes = from.Scopes
	case DimAudiences:
		a.Audiences = from.Audiences
	case DimResources:
		a.Resources = from.Resources
	case DimPermissions:
		a.Permissions = from.Permissions
	case DimDetails:
		a.Details = from.Details
	}
	return a
}

// Only returns a in the given dimensions and nothing in the others.
func (a Access) Only(dimensions ...Dimension) Access {
	var only Access
	for _, d := range dimensions {
		only = only.With(d, a)
	}
	return only
}

// ExcessIn names what of a is not in b in dimension d, without the dimension's
// prefix. It is empty if and only if a is Within b there.
func (a Access) ExcessIn(d Dimension, b Access) []string {
	switch d {
	case DimPermissions:
		return a.Permissions.Excess(b.Permissions)
	case DimDetails:
		return a.Details.excessTypes(b.Details)
	default:
		s, _ := a.Set(d)
		t, _ := b.Set(d)
		return s.Excess(t)
	}
}

// Excess names what of a is not in b, flat and in the order of AllDimensions:
// scope:a, audience:x, resource:y, permission:contents=write,
// authorization_details:payment. It is empty if and only if a is Within b.
func (a Access) Excess(b Access) []string {
	return flatten(func(d Dimension) []string { return a.ExcessIn(d, b) })
}

// Flat names what a allows, as Excess would; what has no name (globs, the
// unbounded) is left out.
func (a Access) Flat() []string {
	return flatten(func(d Dimension) []string {
		switch d {
		case DimPermissions:
			return a.Permissions.List()
		case DimDetails:
			return a.Details.Types()
		default:
			s, _ := a.Set(d)
			return s.Literals()
		}
	})
}

func flatten(names func(Dimension) []string) []string {
	var flat []string
	for _, d := range AllDimensions() {
		for _, n := range names(d) {
			flat = append(flat, d.flatPrefix()+n)
		}
	}
	return flat
}
