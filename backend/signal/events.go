package signal

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
)

// Where the names of events begin: CAEP 1.0 3, RISC 1.0 2 and SSF 1.0 8.1.
const (
	caep = "https://schemas.openid.net/secevent/caep/event-type/"
	risc = "https://schemas.openid.net/secevent/risc/event-type/"
	ssf  = "https://schemas.openid.net/secevent/ssf/event-type/"

	eventVerification  = ssf + "verification"
	eventStreamUpdated = ssf + "stream-updated"
)

// Action is what an operator wants of an event.
type Action string

// The actions.
const (
	// Kill ends every grant that the event's subject is found in.
	Kill Action = "kill"
	// Freeze also keeps the subject from getting new ones, until somebody thaws it.
	Freeze Action = "freeze"
	// Note counts and logs the event, and does nothing else.
	Note Action = "note"
)

// An event that can be acted upon.
type eventKind struct {
	uri string
	// usually is the action where the operator says nothing.
	usually Action
	// harmless reports whether the event says that things have become better.
	harmless func(members map[string]any) bool
}

func word(member, value string) func(map[string]any) bool {
	return func(members map[string]any) bool {
		text, _ := members[member].(string)
		return strings.EqualFold(text, value)
	}
}

// kinds are the events by the name that operators use: the last part of the URI, which no
// two of them share.
var kinds = map[string]eventKind{
	"session-revoked":                    {uri: caep, usually: Kill},
	"credential-change":                  {uri: caep, usually: Note},
	"token-claims-change":                {uri: caep, usually: Note},
	"assurance-level-change":             {uri: caep, usually: Note, harmless: word("change_direction", "increase")},
	"device-compliance-change":           {uri: caep, usually: Note, harmless: word("current_status", "compliant")},
	"account-disabled":                   {uri: risc, usually: Freeze},
	"account-purged":                     {uri: risc, usually: Freeze},
	"account-credential-change-required": {uri: risc, usually: Kill},
	"identifier-changed":                 {uri: risc, usually: Note},
	"sessions-revoked":                   {uri: risc, usually: Kill}, // RISC 1.0 deprecates it, and some send nothing else
	"credential-compromise":              {uri: risc, usually: Kill},
}

// OtherKind stands for all events that nobody can act upon, where they are counted.
const OtherKind = "other"

// Kinds are the names of the events that can be acted upon, sorted.
func Kinds() []string { return slices.Sorted(maps.Keys(kinds)) }

// DefaultActions are the actions where the operator says nothing. A fresh map for each call.
func DefaultActions() map[string]string {
	actions := make(map[string]string, len(kinds))
	for name, kind := range kinds {
		actions[name] = string(kind.usually)
	}
	return actions
}

// URI is the event type of a kind.
func URI(kind string) string { return kinds[kind].uri + kind }

// kindOf is the name of an event type, "" for one that cannot be acted upon.
func kindOf(uri string) string {
	name := uri[strings.LastIndexByte(uri, '/')+1:]
	if kind, ok := kinds[name]; ok && kind.uri+name == uri {
		return name
	}
	return ""
}

// ParseActions reads what an operator wrote of the events: a kind, or its URI, and the
// action. Errors are *fault.Error with invalid_request.
func ParseActions(written map[string]string) (map[string]string, error) {
	actions := make(map[string]string, len(written))
	for _, name := range slices.Sorted(maps.Keys(written)) {
		kind := name
		if strings.Contains(name, "/") {
			kind = kindOf(name)
		}
		if _, known := kinds[kind]; !known {
			return nil, fault.New(fault.InvalidRequest, "events: %.100q is no event that can be acted upon: these are %s", name, strings.Join(Kinds(), ", "))
		}
		if _, twice := actions[kind]; twice {
			return nil, fault.New(fault.InvalidRequest, "events: %s is there twice, by its name and by its URI", kind)
		}
		switch Action(written[name]) {
		case Kill, Freeze, Note:
		default:
			return nil, fault.New(fault.InvalidRequest, "events: %s must be kill, freeze or note, not %.40q", kind, written[name])
		}
		actions[kind] = written[name]
	}
	return actions, nil
}

// ActionOn is what an operator's actions say of an event. What is not named is noted.
func ActionOn(actions map[string]string, e *Event) Action {
	if len(actions) == 0 {
		actions = DefaultActions()
	}
	action := Action(actions[e.Kind])
	if harmless := kinds[e.Kind].harmless; action == "" || harmless != nil && harmless(e.Members) {
		return Note
	}
	return action
}

// wanted are the event types that a stream is asked for.
func wanted(actions map[string]string) []string {
	if len(actions) == 0 {
		actions = DefaultActions()
	}
	var uris []string
	for _, kind := range slices.Sorted(maps.Keys(actions)) {
		uris = append(uris, URI(kind))
	}
	return uris
}

// Refusal is why a SET is not taken, as the transmitter is told (RFC 8935 2.4): it must
// hold nothing that only we know.
type Refusal struct {
	// Code is one of RFC 8935's.
	Code, Description string
	// Later means that nothing is said to the transmitter now, because it may be taken
	// when it comes again.
	Later bool
	// Last is for how long that is so from the first time on; 0 is without an end.
	Last time.Duration
}

// Error implements error.
func (r *Refusal) Error() string { return r.Code + ": " + r.Description }

// The codes of RFC 8935 2.4 that are used.
const (
	codeRequest  = "invalid_request"
	codeKey      = "invalid_key"
	codeIssuer   = "invalid_issuer"
	codeAudience = "invalid_audience"
	codeAuth     = "authentication_failed"
)

func refuse(code, format string, args ...any) *Refusal {
	return &Refusal{Code: code, Description: fmt.Sprintf(format, args...)}
}

// Unhandled is the refusal of an event that is the transmitter's, and that cannot be
// handled.
func Unhandled(format string, args ...any) *Refusal { return refuse(codeRequest, format, args...) }
