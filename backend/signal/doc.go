// Package signal receives what transmitters of security events say: Security Event Tokens
// (SETs, RFC 8417) of the Shared Signals Framework 1.0, with the events of CAEP and RISC,
// fetched by polling (RFC 8936).
//
// What an event says is not the broker's to doubt, as long as it is the transmitter's word
// (set.go): signed by its keys, for this receiver, of the explicit type, and about one
// event. Whom it is about is read in identifier.go, strictly, because a grant that is
// killed by mistake is somebody's outage, and one that lives by mistake somebody's breach.
//
// What a transmitter cannot do to us: hold up anything but its own stream, be asked more
// than its pace allows, have more of an answer read than a bound, be sent the token of the
// stream anywhere but to what was pinned when the signal was written, or have an event
// forgotten: it is acknowledged only after what it means is durable (receiver.go), so that
// whatever goes wrong in between, it is delivered again.
//
// The package knows nothing of Vault, grants or storage: what an event does is a function
// that it is given, as is the memory of what was handled.
package signal
