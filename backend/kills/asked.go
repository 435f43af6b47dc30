package kills

import (
	"encoding/hex"
	"time"

	"github.com/hashicorp/go-uuid"
)

// Asked is on whose word something is killed.
type Asked struct {
	// ID names the record of the kill, as NewID makes it. Kills that answer to the same
	// thing, such as those of a person's several identities, have the same, and so one
	// record. Empty: a record of its own.
	ID string `json:"id,omitempty"`
	// By is who or what asked, in a line: an operator's name and entity, or a signal's name
	// and the jti of its event. Empty: the broker of itself.
	By string `json:"by,omitempty"`
	// Event is when that happened to which the kill is the answer; zero: when it is ordered.
	Event time.Time `json:"event,omitzero"`
	// Cause is the kill's cause in the log, in metrics and on the grants, of which there are
	// only so many; empty: revoke/<kind>.
	Cause string `json:"cause,omitempty"`
	// Note is what else an auditor should read, in a line.
	Note string `json:"note,omitempty"`
	// Froze says that the same word also stopped new grants.
	Froze bool `json:"froze,omitempty"`
	// Always keeps the record even if nothing was there to be killed, because a person
	// wants to be able to show that. Without it such a kill leaves none.
	Always bool `json:"always,omitempty"`
}

// idTime is the time in an id, by which ids sort.
const idTime = "20060102T150405.000Z"

// NewID names the record of a kill that is ordered now. Names sort by that time.
func NewID(now time.Time) (string, error) {
	random, err := uuid.GenerateRandomBytes(6)
	if err != nil {
		return "", err
	}
	return now.UTC().Format(idTime) + "-" + hex.EncodeToString(random), nil
}
