package oauth2

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/url"
	"slices"
	"unicode/utf8"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/kit"
)

// seen are the tokens that an answer holds, however broken the rest of it is: each may
// live, so each is killed or recorded.
type seen struct {
	access  []string
	refresh []string
	// beside are access tokens inside or behind an object that has one of its own: they
	// are nobody's, and die with that.
	beside []string
	// next is the refresh token that the answer gives, "" if it only mentions some. A
	// gateway's page may repeat the request, and a complaint name its members: what
	// stands anywhere else than at the top of an object is given only beside an access
	// token.
	next string
}

// maxSeen bounds how many tokens of one answer are kept.
const maxSeen = 8

const (
	memberAccess  = "access_token"
	memberRefresh = "refresh_token"
)

// seeTokens takes the tokens out of an answer of any status.
func seeTokens(resp *httpclient.Response) seen {
	s := seeTokensIn(resp.Body)
	if len(s.access) > 0 || len(s.refresh) > 0 {
		return s
	}
	// A form, whatever it calls itself, and however the rest of it is spoiled: a token in
	// it lives as well.
	form, _ := url.ParseQuery(string(httpclient.Document(resp.Body)))
	for _, member := range []string{memberAccess, memberRefresh} {
		for _, token := range form[member] {
			s.add(member, token)
		}
	}
	s.settleNext()
	return s
}

// mentions is how often a member by which a token is known is named in body.
func mentions(body []byte) int {
	return bytes.Count(body, []byte(`"`+memberAccess+`"`)) + bytes.Count(body, []byte(`"`+memberRefresh+`"`))
}

// settleNext chooses the next refresh token where the answer is no object with one at its
// top.
func (s *seen) settleNext() {
	if s.next == "" && len(s.access) > 0 && len(s.refresh) > 0 {
		s.next = s.refresh[len(s.refresh)-1]
	}
}

// seeTokensIn reads the members of a JSON object one after the other up to where
// it breaks off. Then the bytes are searched: a token may stand behind other text,
// inside HTML or in an inner object.
func seeTokensIn(body []byte) seen {
	var s, other seen
	s.readMembers(httpclient.Document(body), &other)
	other.search(body, memberAccess)
	other.search(body, memberRefresh)
	for _, token := range other.refresh {
		s.add(memberRefresh, token)
	}
	if len(s.access) == 0 {
		s.access = other.access
		s.settleNext()
		return s
	}
	s.beside = slices.DeleteFunc(other.access, func(token string) bool { return slices.Contains(s.access, token) })
	return s
}

// document is an answer's body as JSON. A form is one where the answer says so and no
// name stands in it twice: servers older than RFC 6749 answer so. A text that is a
// document is what became of one on its way through a gateway that encodes twice.
func document(resp *httpclient.Response) []byte {
	body := httpclient.Document(resp.Body)
	if mentions(body) != mentions(resp.Body) {
		return resp.Body // what stands around it may be a token too, and is to be seen
	}
	var text string
	for bytes.HasPrefix(body, []byte(`"`)) && utf8.Valid(body) && json.Unmarshal(body, &text) == nil {
		body = httpclient.Document([]byte(text))
	}
	kind, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil || kind != "application/x-www-form-urlencoded" || len(body) == 0 || body[0] == '{' || !utf8.Valid(body) {
		return body
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return body
	}
	members := map[string]string{}
	for name, values := range form {
		members[name] = values[0]
		if len(values) > 1 || !utf8.ValidString(name) || !utf8.ValidString(values[0]) {
			return body
		}
	}
	object, err := json.Marshal(members)
	if err != nil {
		return body
	}
	return object
}

// readMembers collects from the top level of one JSON object, as far as it goes; what its
// values have inside goes to inner.
func (s *seen) readMembers(body []byte, inner *seen) {
	whole := form.EachMember(body, func(name string, value json.RawMessage) { s.readValue(name, value, inner) })
	if whole != nil {
		s.readAsFarAsItGoes(body, inner)
	}
}

// readAsFarAsItGoes is readMembers of what is no object, or not all of one.
func (s *seen) readAsFarAsItGoes(body []byte, inner *seen) {
	dec := json.NewDecoder(bytes.NewReader(body))
	if open, err := dec.Token(); err != nil || open != json.Delim('{') {
		return
	}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return
		}
		var value json.RawMessage
		if dec.Decode(&value) != nil {
			return
		}
		text, _ := name.(string)
		s.readValue(text, value, inner)
	}
}

// readValue collects from one member; value is JSON.
func (s *seen) readValue(name string, value json.RawMessage, inner *seen) {
	if value[0] == '{' || value[0] == '[' {
		var v any
		_ = json.Unmarshal(value, &v)
		inner.inside(v)
		return
	}
	s.readMember(name, value, inner)
}

// readMember collects a token from the top. In another spelling of its name it is none of
// RFC 6749's, and lives all the same.
func (s *seen) readMember(name string, value json.RawMessage, inner *seen) {
	exact := name == memberAccess || name == memberRefresh
	var token string
	switch {
	case isText(value):
		_ = json.Unmarshal(value, &token)
	case exact && len(value) >= shortestNumber && digits(value):
		token = string(value)
	}
	token = tokenText(token)
	switch {
	case token == "":
	case exact:
		s.add(name, token)
		if name == memberRefresh {
			s.next = token
		}
	default:
		inner.add(name, token)
	}
}

// shortestNumber is how many digits a number has at least that is taken for a token, and
// not for a word on whether there is one.
const shortestNumber = 8

// inside collects from the objects in v, however deep.
func (s *seen) inside(v any) {
	switch v := v.(type) {
	case []any:
		for _, inner := range v {
			s.inside(inner)
		}
	case map[string]any:
		for name, inner := range v {
			if token, ok := inner.(string); ok {
				s.add(name, token)
			}
			s.inside(inner)
		}
	}
}

// search finds every `"member" : "value"` in body, value being a whole string. It reads
// only the value behind the name, so that a body that repeats the name a million times
// costs one pass.
func (s *seen) search(body []byte, member string) {
	name := []byte(`"` + member + `"`)
	for {
		at := bytes.Index(body, name)
		if at < 0 {
			return
		}
		body = body[at+len(name):]
		rest, ok := bytes.CutPrefix(bytes.TrimLeft(body, " \t\r\n"), []byte(":"))
		if !ok {
			continue
		}
		if token, whole := leadingString(bytes.TrimLeft(rest, " \t\r\n")); whole && !s.add(member, token) {
			return
		}
	}
}

// leadingString is the JSON string that b begins with, if it ends in b.
func leadingString(b []byte) (string, bool) {
	if len(b) == 0 || b[0] != '"' {
		return "", false
	}
	for i := 1; i < len(b); i++ {
		switch b[i] {
		case '\\':
			i++
		case '"':
			var s string
			err := json.Unmarshal(b[:i+1], &s)
			return s, err == nil
		}
	}
	return "", false
}

// add notes a token once, and reports whether there is room for more of its kind. A name
// counts in every spelling, such as accessToken.
func (s *seen) add(name, token string) bool {
	into := &s.access
	switch {
	case sameName(name, memberAccess):
	case sameName(name, memberRefresh):
		into = &s.refresh
	default:
		return true
	}
	token = tokenText(token)
	if token != "" && len(*into) < maxSeen && !slices.Contains(*into, token) {
		*into = append(*into, token)
	}
	return len(*into) < maxSeen
}

// answer is what a token endpoint said in a well-formed success (RFC 6749 5.1).
type answer struct {
	accessToken string
	tokenType   string
	lifetime    optionalSeconds
	scope       scopeList
	details     json.RawMessage
	issuedType  string     // RFC 8693 2.2.1, of an exchange
	proof       *dpopProof // that came with the request, nil for none
	members     map[string]json.RawMessage
	twice       []string // the members that stand in it more than once
}

// typeJudge reads the token_type, and what belongs to it, into the answer.
type typeJudge func(members map[string]json.RawMessage, a *answer) error

// The ways in which an answer is not one, apart from its lifetime.
var (
	errNoObject     = errors.New("the provider's answer is not a JSON object")
	errNoToken      = errors.New("the provider's answer holds no access_token")
	errTwoTokens    = errors.New("the provider's answer holds more than one access_token")
	errTokenShape   = errors.New("the provider's access token is not made of 1 to 16384 printable ASCII characters")
	errScopeShape   = errors.New("the provider's scope is not a list of scopes in RFC 6749's alphabet")
	errLifetime     = errors.New("the provider's expires_in is not a number of seconds of at least 1")
	errLifetimeLong = errors.New("the provider's expires_in is longer than 10 years")
)

// parseAnswer judges the body of a success, of which tokens were seen, strictly. Its
// errors are texts for the caller.
func parseAnswer(body []byte, tokens seen, judgeType typeJudge) (answer, error) {
	members, twice, err := form.Members(body)
	if err != nil {
		return answer{}, errNoObject
	}
	a := answer{members: members, twice: twice}
	a.accessToken, err = stringMember(members[memberAccess])
	if a.accessToken = tokenText(a.accessToken); err != nil || a.accessToken == "" {
		return a, errNoToken
	}
	if len(tokens.access) > 1 {
		return a, errTwoTokens
	}
	if err := eachOnce(twice, ruling); err != nil {
		return a, err
	}
	if len(a.accessToken) > maxToken || !kit.IsASCII(a.accessToken) {
		return a, errTokenShape
	}
	if err := judgeType(members, &a); err != nil {
		return a, err
	}
	if a.lifetime, err = parseLifetime(members["expires_in"]); err != nil {
		return a, err
	}
	if a.scope, err = parseScope(members["scope"]); err != nil {
		return a, err
	}
	a.details = presentDetails(members["authorization_details"])
	return a, nil
}

// ruling are the members by which it is judged what the token is and may. Where one
// stands twice, parsers differ in which they take: whoever made one of them up, to us or
// to the next reader, would be believed.
var ruling = []string{memberAccess, "token_type", "issued_token_type", "expires_in", "scope", "authorization_details", "error"}

// eachOnce is an error if one of names is among those that stand twice.
func eachOnce(twice, names []string) error {
	for _, name := range twice {
		if slices.Contains(names, name) {
			return fmt.Errorf("the provider's answer holds %s twice, and nobody knows which one is meant", name)
		}
	}
	return nil
}

// succeeded reports whether a status is a success: RFC 6749 5.1 has 200, and servers to
// which a token is a resource say 201. RFC 9110 15.3 has them all mean the same.
func succeeded(status int) bool { return status/100 == 2 }

// cutShort reports whether a success looks like the beginning of an object.
func cutShort(resp *httpclient.Response) bool {
	trimmed := bytes.TrimSpace(resp.Body)
	return succeeded(resp.Status) && !json.Valid(trimmed) && (len(trimmed) == 0 || trimmed[0] == '{')
}
