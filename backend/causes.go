package backend

// The causes of a kill, as labels and in the log.
const (
	causeLeaseEnded     = "lease_ended"
	causeOverstayed     = "overstayed"
	causeExpired        = "expired"
	causeHolderGone     = "holder_gone"
	causeHolderDisabled = "holder_disabled"
	causeHolderUnfit    = "holder_unfit"
	causeRoleDeleted    = "role_deleted"
	causeNotHandedOut   = "not_handed_out"
	causeParentCheck    = "parent_check"
	causeProviderGone   = "provider_deleted"
	causeMountDisabled  = "mount_disabled"
	causeToken          = "oauth/revoke"
)
