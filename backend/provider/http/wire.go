package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/kit"
)

// wire is a request whose templates are filled, without what shows who the broker is. It
// is also what a handle holds of an undo, so its members' names are stored.
type wire struct {
	Method  string            `json:"m"`
	Path    string            `json:"p"` // escaped, below base_url
	Query   string            `json:"q,omitempty"`
	Headers map[string]string `json:"h,omitempty"`
	Body    string            `json:"b,omitempty"`
	Type    string            `json:"t,omitempty"` // of the body
	Alone   bool              `json:"a,omitempty"`
	Success *Condition        `json:"ok,omitempty"`
	Gone    *Condition        `json:"gone,omitempty"`
}

// maxBody bounds a request's body, in bytes.
const maxBody = 256 << 10

// build fills a step's templates.
func (f *filling) build(s Step, common map[string]template) (*wire, error) {
	w := &wire{Method: s.Method, Alone: s.Alone, Gone: s.Gone}
	if len(s.Success.Status) > 0 || len(s.Success.Where) > 0 {
		w.Success = &s.Success
	}
	var err error
	if w.Path, err = f.path(s.Path); err != nil {
		return nil, err
	}
	if w.Query, err = f.pairs(s.Query); err != nil {
		return nil, err
	}
	w.Headers = map[string]string{}
	for _, all := range []map[string]template{common, s.Headers} {
		if err := f.headers(all, w.Headers); err != nil {
			return nil, err
		}
	}
	switch {
	case s.JSON != nil:
		v, _, err := f.value(s.JSON)
		if err != nil {
			return nil, err
		}
		raw, err := json.Marshal(v)
		if err != nil {
			return nil, kit.Invalid(fieldDefinition, "a body cannot be made of what is asked for")
		}
		w.Body, w.Type = string(raw), "application/json"
	case s.Form != nil:
		if w.Body, err = f.pairs(s.Form); err != nil {
			return nil, err
		}
		w.Type = "application/x-www-form-urlencoded"
	}
	if len(w.Body) > maxBody {
		return nil, kit.Invalid(fieldDefinition, "a body would be longer than %d bytes: ask for less", maxBody)
	}
	return w, nil
}

// path fills each segment, and refuses what would not be one.
func (f *filling) path(segments []template) (string, error) {
	escaped := make([]string, len(segments))
	for i, t := range segments {
		s, err := f.must(t)
		if err != nil {
			return "", err
		}
		if len(t.parts) == 0 { // a slash at the end
			continue
		}
		if !isSegment(s) {
			for _, e := range t.expressions() {
				return "", unfit(e, "it would not stay in its place in a URL: letters, digits and a few marks may stand there, and no slash")
			}
			return "", kit.Invalid(fieldDefinition, "a path might lead elsewhere")
		}
		escaped[i] = url.PathEscape(s)
	}
	return strings.Join(escaped, "/"), nil
}

// pairs are those of a query or a form. A list is as many values of its name.
func (f *filling) pairs(all map[string]template) (string, error) {
	values := url.Values{}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		t := all[name]
		if e := t.whole(); e != nil && e.kind() == kindList {
			v, found, err := f.fill(e)
			if err != nil {
				return "", err
			}
			if list, _ := v.([]string); found {
				values[name] = list
			}
			continue
		}
		s, found, err := f.text(t)
		if err != nil {
			return "", err
		}
		if found {
			values.Set(name, s)
		}
	}
	return values.Encode(), nil
}

func (f *filling) headers(all map[string]template, into map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(all)) {
		s, found, err := f.text(all[name])
		if err != nil {
			return err
		}
		if !found {
			continue
		}
		if !isHeaderValue(s) {
			for _, e := range all[name].expressions() {
				return unfit(e, "it would not stay in its place in a header: printable ASCII does")
			}
			return kit.Invalid(fieldDefinition, "the header %s cannot be sent", name)
		}
		into[name] = s
	}
	return nil
}

// isHeaderValue reports whether a text is one value of a header and nothing else.
func isHeaderValue(s string) bool {
	return s != "" && len(s) <= 16<<10 && kit.IsASCII(s) && strings.TrimSpace(s) == s
}

// request makes what is sent. base has no slash at its end.
func (w *wire) request(ctx context.Context, base string) (*http.Request, error) {
	target := base + "/" + w.Path
	if w.Query != "" {
		target += "?" + w.Query
	}
	req, err := http.NewRequestWithContext(ctx, w.Method, target, bytes.NewReader([]byte(w.Body)))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	if w.Type != "" {
		req.Header.Set("Content-Type", w.Type)
	}
	for name, value := range w.Headers {
		req.Header.Set(name, value)
	}
	return req, nil
}

// encodedTest is a Test as a handle holds it.
type encodedTest struct {
	At       string `json:"at"`
	Exists   *bool  `json:"exists,omitempty"`
	Is       []any  `json:"is,omitempty"`
	Contains string `json:"contains,omitempty"`
}

// MarshalJSON is for a handle.
func (t Test) MarshalJSON() ([]byte, error) {
	return json.Marshal(encodedTest{At: t.At.String(), Exists: t.Exists, Is: t.Is, Contains: t.Contains})
}

// UnmarshalJSON is for a handle.
func (t *Test) UnmarshalJSON(raw []byte) error {
	var e encodedTest
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	if err := decoder.Decode(&e); err != nil {
		return err
	}
	*t = Test{Exists: e.Exists, Is: e.Is, Contains: e.Contains, At: pointer{given: true}}
	if e.At == "" {
		return nil
	}
	at, err := form.ParsePointer(e.At)
	t.At.Pointer = at
	return err
}

// String is the pointer as RFC 6901 writes it.
func (p pointer) String() string {
	var all strings.Builder
	for _, token := range p.Pointer {
		all.WriteString("/" + escapePointer.Replace(token))
	}
	return all.String()
}
