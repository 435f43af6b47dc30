package ending

// Standing is what Vault and the roles say of a holder now.
type Standing struct {
	// Known is that Vault knows of somebody by that id, Gone that it is nobody's own:
	// its entity was deleted, or merged into another.
	Known, Gone, Disabled bool
	// Deleted are the roles that are gone, Unfit those that would not have the holder
	// any more.
	Deleted, Unfit map[string]bool
}

// cause is why the holder should not have grants of a role any more; "" if it may.
func (s Standing) cause(role string) string {
	switch {
	case s.Gone:
		return CauseHolderGone
	case s.Disabled:
		return CauseHolderDisabled
	case s.Deleted[role]:
		return causeRoleDeleted
	case s.Unfit[role]:
		return causeHolderUnfit
	}
	return ""
}
