// Package form is how JSON is read: strictly where somebody else wrote it (strict.go,
// number.go, pointer.go), and by the number of its form where we have stored it.
//
// The numbers keep an older version of the plugin from misreading what a newer one
// has stored. Everything is stored as a JSON object; a member "form" beside the others
// numbers its form, and is left out for the first one, so that what was stored before
// there were numbers is in it. A reader refuses a higher number than it knows, and
// names the version of the plugin that is needed.
//
// A member that an older version may overlook, and lose when it writes again, needs no
// new form. One that it must not overlook does: whoever adds it appends to the Since of
// its kind the first version of the plugin that reads it.
package form

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// ErrNewer means that something is there, and that this version of the plugin cannot
// know what it says: it is neither gone nor broken.
var ErrNewer = errors.New("it was stored by a newer version of the plugin")

// Kind is a kind of things that are stored.
type Kind struct {
	// Name is what a message calls one.
	Name string
	// Since are the first versions of the plugin that read the second form, the third
	// and so on. The last one is what is written, but by EncodeIn.
	Since []string
}

// newest is the number of the form that is written, and the highest that is read.
func (k Kind) newest() int { return 1 + len(k.Since) }

// mark are the members that tell the form.
type mark struct {
	Form int `json:"form"`
	// Plugin is the first version that reads the form.
	Plugin string `json:"form_plugin"`
}

// begin stands in every text that has a mark, so that a text without it need not be decoded
// to know that it has none. Within a JSON string its quotes would be escaped.
var begin = []byte(`"form":`)

// Encode is v as it is stored; v must become a JSON object.
func (k Kind) Encode(v any) ([]byte, error) { return k.EncodeIn(k.newest(), v) }

// EncodeIn is Encode in an earlier form, for what versions that read no later one
// understand rightly all the same.
func (k Kind) EncodeIn(number int, v any) ([]byte, error) {
	raw, err := json.Marshal(v)
	if err != nil || number == 1 {
		return raw, err
	}
	marked, err := json.Marshal(mark{Form: number, Plugin: k.Since[number-2]})
	if err != nil {
		return nil, err
	}
	if rest := bytes.TrimPrefix(raw, []byte("{")); !bytes.Equal(rest, []byte("}")) {
		return append(append(marked[:len(marked)-1], ','), rest...), nil
	}
	return marked, nil
}

// Decode reads what was stored into v, unless it is ErrNewer.
func (k Kind) Decode(raw []byte, v any) error {
	if err := k.Check(raw); err != nil {
		return err
	}
	return json.Unmarshal(raw, v)
}

// Check is for those who decode by themselves: an error of the kind ErrNewer, or nil.
func (k Kind) Check(raw []byte) error {
	if !bytes.Contains(raw, begin) {
		return nil
	}
	var m mark
	// What is no mark, or no JSON, is the decoder's to judge.
	if err := json.Unmarshal(raw, &m); err == nil && m.Form > k.newest() {
		return &newer{kind: k, mark: m}
	}
	return nil
}

type newer struct {
	kind Kind
	mark mark
}

// Error implements error. It is shown to operators, and what it quotes of storage is
// bounded.
func (e *newer) Error() string {
	needed := "a newer one"
	if e.mark.Plugin != "" {
		needed = fmt.Sprintf("%.40s or newer", e.mark.Plugin)
	}
	return fmt.Sprintf("the %s is stored in form %d, and this version of the plugin reads forms up to %d: it needs %s", e.kind.Name, e.mark.Form, e.kind.newest(), needed)
}

// Is makes it ErrNewer.
func (e *newer) Is(target error) bool { return target == ErrNewer }

// Explain is what an operator is told of an error in whose chain ErrNewer is; "" of
// any other.
func Explain(err error) string {
	var n *newer
	if errors.As(err, &n) {
		return n.Error()
	}
	return ""
}
