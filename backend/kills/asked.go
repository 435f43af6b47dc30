package kills

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

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

// Bounds on the texts of a record.
const (
	maxLine  = 512
	maxError = 256
)

// bounded is a with no text longer than a line.
func (a Asked) bounded() Asked {
	a.By, a.Cause, a.Note = line(a.By, maxLine), line(a.Cause, 64), line(a.Note, maxLine)
	return a
}

// line is a text in one line of so many bytes at the most.
func line(text string, most int) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) { // what would play tricks on a terminal
			return '?'
		}
		return r
	}, strings.Join(strings.Fields(strings.ToValidUTF8(text, "?")), " "))
	if len(text) <= most {
		return text
	}
	end := most - len("…")
	for end > 0 && !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + "…"
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

// IDOf names the record of a kill that an earlier build has ordered, which knew none, by
// its order: always the same.
func IDOf(ordered time.Time, order string) string {
	sum := sha256.Sum256([]byte(order))
	return ordered.UTC().Format(idTime) + "-" + hex.EncodeToString(sum[:6])
}

// IsID reports whether it has the form of a record's name.
func IsID(id string) bool {
	_, ok := timeOf(id)
	return ok
}

// timeOf is when the kill of an id was ordered; false if it is no id.
func timeOf(id string) (time.Time, bool) {
	at, _, ok := strings.Cut(id, "-")
	if !ok || strings.Contains(id, "/") || strings.Contains(id, "..") {
		return time.Time{}, false
	}
	ordered, err := time.Parse(idTime, at)
	return ordered, err == nil
}
