package ending

// The causes of a kill, as labels and in the log.
const (
	CauseLeaseEnded     = "lease_ended"
	causeOverstayed     = "overstayed"
	causeExpired        = "expired"
	CauseHolderGone     = "holder_gone"
	CauseHolderDisabled = "holder_disabled"
	causeHolderUnfit    = "holder_unfit"
	causeRoleDeleted    = "role_deleted"
	CauseNotHandedOut   = "not_handed_out"
	CauseParentCheck    = "parent_check"
	CauseProviderGone   = "provider_deleted"
	// CauseReturned is of a grant of the broker's own that it needs no more.
	CauseReturned = "returned"
	// Vault tells nobody whether it disables a mount or moves it.
	causeMountLeaves = "mount_disabled_or_moved"
	// causeMountDisabled is what earlier builds have stored for that.
	causeMountDisabled = "mount_disabled"
	// CauseKeysWithdrawn and CauseIssuerChanged are of tokens that the broker has signed
	// and takes for its own no more.
	CauseKeysWithdrawn = "keys_withdrawn"
	CauseIssuerChanged = "issuer_changed"
	CauseToken         = "oauth/revoke"
	causeGrant         = "revoke/grant"
	// CauseSignal begins the causes of kills on the word of a transmitter of security
	// events, as in signal/session-revoked.
	CauseSignal     = "signal/"
	causeLostAnswer = "answer_lost"
	// causeLever is of those that have died with a lever that was pulled for another.
	causeLever = "lever_pulled"
)
