package httpapi

import (
	"maps"
	"net/http"
	"net/textproto"
	"regexp"
	"slices"
	"strings"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/kit"
)

// Bounds on a definition.
const (
	maxDefinition = 48 << 10 // bytes
	maxNesting    = 16
	maxSteps      = 8
	maxMembers    = 64
	maxValues     = 512
)

// Parse reads a definition and judges it whole. Its error is *fault.Error with
// invalid_request, and has the place of each mistake.
func Parse(raw []byte) (*Definition, error) {
	d, mistaken, err := parse(raw)
	if err == nil {
		err = mistaken
	}
	if err != nil {
		return nil, err
	}
	return d, nil
}

// parse returns beside what is mistaken what could be read all the same; err is that
// nothing could.
func parse(raw []byte) (d *Definition, mistaken, err error) {
	if len(raw) > maxDefinition {
		return nil, nil, kit.Invalid(fieldDefinition, "it is longer than %d bytes", maxDefinition)
	}
	v, err := form.Object(raw, maxNesting)
	if err != nil {
		return nil, nil, kit.Invalid(fieldDefinition, "it cannot be read: %s", err)
	}
	m := &mistakes{}
	d = readDefinition(node{v: v, found: true, m: m})
	if m.err() == nil {
		d.judge(m)
	}
	return d, m.err(), nil
}

func readDefinition(n node) *Definition {
	n.object("about", "source", "tried", "base_url", "class", "life", "self_contained", "settings", "parameters",
		"access", "name", "parent", "headers", "mint", "child", "check", "refusals")
	d := &Definition{
		About: n.child("about").text(), Source: n.child("source").text(), Tried: n.child("tried").text(),
		BaseURL:       n.child("base_url").text(),
		Class:         provider.Class(n.child("class").word(string(provider.ClassToken), string(provider.ClassExpiry))),
		SelfContained: n.child("self_contained").flag(),
		Settings:      readVariables(n.child("settings")), Parameters: readVariables(n.child("parameters")),
		Access: readAccess(n.child("access")), Names: readNames(n.child("name")),
		Parent: readParent(n.child("parent")), Headers: readHeaders(n.child("headers")),
		Child: readChild(n.child("child")), Refusals: readRefusals(n.child("refusals")),
	}
	if d.Class == "" {
		n.m.add("/class", "must be token, if a child can be ended, or expiry")
	}
	life := n.child("life")
	if life.object("least", "most") {
		d.Life = provider.Life{Least: life.child("least").duration(), Most: life.child("most").duration()}
		if d.Life.Most > 0 && d.Life.Most < d.Life.Least {
			life.wrong("has a least that is longer than its most")
		}
	}
	for _, step := range n.child("mint").list(maxSteps) {
		d.Mint = append(d.Mint, readStep(step, asMint))
	}
	if len(d.Mint) == 0 {
		n.m.add("/mint", "must be an array of the steps that make a child, in their order")
	}
	if check := n.child("check"); check.found {
		step := readStep(check, asCheck)
		d.Check = &step
	}
	return d
}

// variableName is how settings, parameters and what is taken are called.
var variableName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,63}$`)

// credentialNames are what the names of secrets end with, however they are written:
// clientSecret, api-key and bot_token are such names.
var credentialNames = []string{
	"password", "passwd", "pwd", "passphrase", "secret", "apikey", "accesskey", "secretkey", "privatekey", "token", "jwt", "authorization", "credential", "credentials",
}

var withoutMarks = strings.NewReplacer("-", "", "_", "", ".", "", " ", "")

func isCredentialName(name string) bool {
	name = withoutMarks.Replace(strings.ToLower(name))
	return slices.ContainsFunc(credentialNames, func(ends string) bool { return strings.HasSuffix(name, ends) })
}

func (n node) named(most int) map[string]node {
	all := map[string]node{}
	for _, name := range n.members(most) {
		member := n.child(name)
		if !variableName.MatchString(name) {
			member.wrong("has a name that is none: lower-case letters, digits and _ make one, of at most 64")
			continue
		}
		all[name] = member
	}
	return all
}

func readVariables(n node) map[string]Variable {
	all := map[string]Variable{}
	for name, v := range n.named(maxMembers) {
		v.object("about", "pattern", "default", "optional")
		if isCredentialName(name) {
			v.wrong("is called like a secret, and is shown to whoever reads the provider: a secret stands in secrets, and in the definition as {{secrets.<name>}}")
		}
		all[name] = Variable{About: v.child("about").text(), Pattern: v.child("pattern").pattern(), Default: v.child("default").text(), Optional: v.child("optional").flag()}
		if all[name].About == "" {
			v.wrong("needs about, what it is, for whoever writes it")
		}
		if p := all[name].Pattern; p != nil && all[name].Default != "" && !p.MatchString(all[name].Default) {
			v.wrong("has a default that does not match its pattern")
		}
	}
	return all
}

func readAccess(n node) map[access.Dimension]Dimension {
	all := map[access.Dimension]Dimension{}
	var names []string
	for _, d := range access.AllDimensions() {
		names = append(names, string(d))
	}
	if !n.object(names...) {
		return all
	}
	for _, dim := range access.AllDimensions() {
		v := n.child(string(dim))
		if !v.object("about", "ask", "check", "required", "values", "pattern", "levels") {
			continue
		}
		one := Dimension{
			About: v.child("about").text(), Ask: v.child("ask").flag(), Check: v.child("check").flag(), Required: v.child("required").flag(),
			Values: v.child("values").texts(maxValues), Pattern: v.child("pattern").pattern(), Levels: v.child("levels").texts(access.MaxLevels),
		}
		if !one.Ask && !one.Check {
			v.wrong("must have ask, if the mint asks for it, or check, if the answer proves it, or both; a dimension that has neither is left out")
		}
		if one.Levels != nil && dim != access.DimPermissions {
			v.wrong("has levels, which only permissions have")
		}
		if _, err := access.Ceiling(one.Values...); err != nil && dim != access.DimPermissions {
			v.child("values").wrong("cannot be a ceiling: %s", err)
		}
		if dim == access.DimDetails && (one.Values != nil || one.Pattern != nil) {
			v.wrong("has values or a pattern, which elements of authorization_details have not")
		}
		all[dim] = one
	}
	return all
}

// Names have at least so many characters behind their prefix, to tell grants apart.
const leastName = 22

var namePrefix = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]{0,19}$`)

func readNames(n node) Names {
	names := Names{Prefix: "broker-", Most: 63}
	if !n.object("prefix", "most") {
		return names
	}
	if p := n.child("prefix"); p.found {
		if names.Prefix = p.text(); !namePrefix.MatchString(names.Prefix) {
			p.wrong("must be at most 20 letters, digits, _ and -, beginning with a letter")
			names.Prefix = "broker-"
		}
	}
	if most := n.child("most"); most.found {
		names.Most = most.number(leastName+1, 255)
	}
	if names.Most-len(names.Prefix) < leastName {
		n.wrong("leaves too little room: behind the prefix there must be %d characters, by which grants are told apart", leastName)
		names = Names{Prefix: "b", Most: 63}
	}
	return names
}

func readParent(n node) Parent {
	var p Parent
	if !n.found {
		n.wrong("must say how the broker shows who it is, by headers, login or jwt")
		return p
	}
	if !n.object("headers", "login", "jwt") {
		return p
	}
	p.Headers = readHeaders(n.child("headers"))
	if l := n.child("login"); l.found {
		step := readStep(l, asLogin)
		p.Login = &Login{Step: step, Lasts: l.child("lasts").duration(), Ends: readMoment(l.child("expires"))}
		if p.Login.Lasts == 0 && p.Login.Ends == nil {
			l.wrong("must say how long what it gives lasts: by lasts, such as 10m, or expires")
		}
	}
	if j := n.child("jwt"); j.object("audience", "subject", "life") {
		p.JWT = &JWT{Audience: j.child("audience").template(), Subject: j.child("subject").template(), Life: j.child("life").duration()}
		if len(p.JWT.Audience.parts) == 0 || len(p.JWT.Subject.parts) == 0 {
			j.wrong("must have the audience that the system expects and the subject that it knows")
		}
	}
	return p
}

// headerName is a token of RFC 9110 5.6.2, as far as anybody uses it.
var headerName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]{0,63}$`)

// ownHeaders are for the transport to set.
var ownHeaders = []string{
	"Host", "Content-Length", "Transfer-Encoding", "Connection", "Te", "Trailer", "Upgrade", "Keep-Alive",
	"Proxy-Authorization", "Proxy-Connection", "Accept-Encoding", "Expect", "Forwarded", "X-Forwarded-Host", "X-Original-Url", "X-Rewrite-Url",
	"X-Http-Method-Override", "X-Http-Method", "X-Method-Override",
}

func readHeaders(n node) map[string]template {
	all := map[string]template{}
	for _, name := range n.members(maxMembers) {
		h := n.child(name)
		canonical := textproto.CanonicalMIMEHeaderKey(name)
		_, twice := all[canonical]
		switch {
		case !headerName.MatchString(name):
			h.wrong("is no name of a header")
		case slices.Contains(ownHeaders, canonical):
			h.wrong("is a header that says where a request leads or how it is sent, which the broker does by itself")
		case twice:
			h.wrong("is there twice, in two spellings")
		}
		all[canonical] = h.template()
	}
	return all
}

// role is what a step is for.
type role int

const (
	asMint role = iota
	asUndo
	asFind
	asCheck
	asLogin
)

var methods = []string{"GET", "POST", "PUT", "PATCH", "DELETE"}

func readStep(n node, as role) Step {
	members := []string{"method", "path", "query", "headers", "json", "form", "parent", "success"}
	switch as {
	case asMint:
		members = append(members, "take", "undo", "find")
	case asUndo:
		members = append(members, "gone")
	case asFind:
		members = append(members, "page", "items", "where", "take")
	case asLogin:
		members = append(members, "take", "lasts", "expires")
	}
	if !n.object(members...) {
		return Step{}
	}
	s := Step{
		Method: n.child("method").word(methods...), Path: readPath(n.child("path")),
		Query: readTexts(n.child("query")), Headers: readHeaders(n.child("headers")), Form: readForm(n.child("form")),
		Success: readCondition(n.child("success"), nil), Take: readTakings(n.child("take")),
	}
	if s.Method == "" {
		n.child("method").wrong("must be one of %s", strings.Join(methods, ", "))
	}
	if p := n.child("parent"); p.found {
		s.Alone = !p.flag()
	}
	if body := n.child("json"); body.found {
		t := readTree(body, 0)
		s.JSON = t
	}
	if s.JSON != nil && s.Form != nil {
		n.wrong("has both json and form: a request has one body")
	}
	if (s.JSON != nil || s.Form != nil) && s.Method == http.MethodGet {
		n.wrong("has a body, and a GET has none")
	}
	if undo := n.child("undo"); undo.found {
		step := readStep(undo, asUndo)
		s.Undo = &step
	}
	if gone := n.child("gone"); gone.found {
		c := readCondition(gone, nil)
		s.Gone = &c
	}
	if find := n.child("find"); find.found {
		s.Find = readFind(find)
	}
	return s
}

func readTexts(n node) map[string]template {
	all := map[string]template{}
	for _, name := range n.members(maxMembers) {
		v := n.child(name)
		if name == "" || len(name) > 128 || !kit.IsPrintable(name) {
			v.wrong("has a name that is none")
		}
		t := v.template()
		all[name] = t
		if isCredentialName(name) && strings.TrimSpace(t.literal()) != "" {
			v.wrong("is a secret by its name, and a definition is readable: a secret stands in secrets or another secret field")
		}
	}
	return all
}

func readForm(n node) map[string]template {
	if !n.found {
		return nil
	}
	return readTexts(n)
}

func readTakings(n node) map[string]Taking {
	all := map[string]Taking{}
	for name, v := range n.named(maxMembers) {
		if _, short := v.v.(string); short {
			all[name] = Taking{At: v.pointer()}
			continue
		}
		if !v.object("at", "header", "optional") {
			continue
		}
		t := Taking{At: v.child("at").pointer(), Header: v.child("header").text(), Optional: v.child("optional").flag()}
		if t.At.given == (t.Header != "") {
			v.wrong("must have at, a JSON Pointer into the answer, or header, one of its headers")
		}
		all[name] = t
	}
	return all
}

func readCondition(n node, fill func(node) any) Condition {
	var c Condition
	if !n.object("status", "where") {
		return c
	}
	c.Status, c.Where = readStatuses(n.child("status")), readTests(n.child("where"), fill)
	if len(c.Status) == 0 && len(c.Where) == 0 {
		n.wrong("says nothing: it must have status, an array of HTTP statuses, or where, an array of conditions")
	}
	return c
}

func readStatuses(n node) []int {
	var all []int
	for _, s := range n.list(maxMembers) {
		all = append(all, s.number(200, 599))
	}
	return all
}

// readTests reads conditions; fill is what becomes of a text, nil for the text itself.
func readTests(n node, fill func(node) any) []Test {
	var all []Test
	for _, v := range n.list(maxMembers) {
		if !v.object("at", "is", "exists", "contains") {
			continue
		}
		t := Test{At: v.child("at").pointer(), Contains: v.child("contains").text()}
		if !t.At.given {
			v.wrong("must have at, a JSON Pointer into the answer")
		}
		if e := v.child("exists"); e.found {
			flag := e.flag()
			t.Exists = &flag
		}
		if is := v.child("is"); is.found {
			t.Is = readScalars(is, fill)
		}
		if n := count(t.Exists != nil, t.Is != nil, t.Contains != ""); n != 1 {
			v.wrong("must have one of is, exists and contains")
		}
		all = append(all, t)
	}
	return all
}

func count(all ...bool) (n int) {
	for _, b := range all {
		if b {
			n++
		}
	}
	return n
}

// readScalars reads one scalar, or an array of some.
func readScalars(n node, fill func(node) any) []any {
	nodes := []node{n}
	if _, many := n.v.([]any); many {
		nodes = n.list(maxMembers)
	}
	all := []any{}
	for _, v := range nodes {
		_, isText := v.v.(string)
		switch {
		case !isScalar(v.v):
			v.wrong("must be a text, a number, true, false or null, or an array of these")
		case isText && fill != nil:
			all = append(all, fill(v))
		default:
			all = append(all, v.v)
		}
	}
	return all
}

func readFind(n node) *Find {
	f := &Find{Step: readStep(n, asFind), Items: n.child("items").pointer(), Take: nil}
	f.Where = readTests(n.child("where"), func(v node) any { return v.template() })
	f.Take, f.Step.Take = f.Step.Take, nil
	if !f.Items.given {
		n.wrong("must have items, a JSON Pointer to the list in the answer; \"\" if it is the list itself")
	}
	if p := n.child("page"); p.object("query", "first", "step", "next", "more") {
		f.Page = &Page{Query: p.child("query").text(), First: 1, Step: 1, Next: p.child("next").pointer(), More: p.child("more").pointer()}
		if first := p.child("first"); first.found {
			f.Page.First = first.number(0, 1)
		}
		if step := p.child("step"); step.found {
			f.Page.Step = step.number(1, 10000)
		}
		if f.Page.Query == "" {
			p.wrong("must have query, the parameter that asks for a page")
		}
		if _, twice := f.Step.Query[f.Page.Query]; twice {
			p.wrong("has a query that stands in query already")
		}
		if f.Page.Next.given && (p.child("first").found || p.child("step").found || f.Page.More.given) {
			p.wrong("has next, by which the answer says what comes next, and so neither first nor step nor more")
		}
	}
	return f
}

func readChild(n node) Child {
	var c Child
	if !n.found {
		n.wrong("must say what is handed out")
		return c
	}
	if !n.object("secrets", "shown", "token_type", "expires", "granted") {
		return c
	}
	c.Secrets, c.Shown, c.TokenType = map[string]template{}, map[string]template{}, n.child("token_type").text()
	for name, v := range n.child("secrets").named(16) {
		c.Secrets[name] = v.template()
	}
	for name, v := range n.child("shown").named(16) {
		c.Shown[name] = v.template()
	}
	if len(c.Secrets) == 0 {
		n.child("secrets").wrong("must hold the child's secrets by the names that they have in a creds response: access_token for a token")
	}
	if _, isToken := c.Secrets[provider.FieldToken]; isToken && c.TokenType == "" {
		c.TokenType = "Bearer"
	} else if !isToken && c.TokenType != "" {
		n.child("token_type").wrong("is of a token, and there is no access_token among the secrets")
	}
	switch e := n.child("expires"); e.v {
	case "asked":
		c.Ends.Asked = true
	case "never":
		c.Ends.Never = true
	default:
		if a := e.child("assumed"); a.found {
			e.object("assumed")
			c.Ends.Assumed = a.duration()
			break
		}
		if c.Ends.At = readMoment(e); c.Ends.At == nil {
			e.wrong(`must say when a child ends: "asked", as the request said; "never", not by itself; {"from": what was taken, "as": how it is written}; or {"assumed": "1h"} where the system always gives that`)
		}
	}
	c.Granted = readGranted(n.child("granted"))
	return c
}

// moments are how a time in an answer can be written.
var moments = []string{"rfc3339", "unix", "unix_ms", "date", "seconds", "minutes", "hours", "days"}

func readMoment(n node) *Moment {
	if !n.object("from", "as", "never") {
		return nil
	}
	m := &Moment{From: n.child("from").text(), As: n.child("as").word(moments...)}
	if m.From == "" || m.As == "" {
		n.wrong("must have from, the name of what was taken, and as, one of %s", strings.Join(moments, ", "))
	}
	if never := n.child("never"); never.found {
		m.Never = readScalars(never, nil)
	}
	return m
}

// grantings are how what was granted can be written, by dimension.
func grantings(d access.Dimension) []string {
	switch d {
	case access.DimPermissions:
		return []string{"map", "level"}
	case access.DimDetails:
		return []string{"details"}
	}
	return []string{"list", "space", "comma", "one"}
}

func readGranted(n node) map[access.Dimension]Granted {
	all := map[access.Dimension]Granted{}
	var names []string
	for _, d := range access.AllDimensions() {
		names = append(names, string(d))
	}
	if !n.object(names...) {
		return all
	}
	for _, d := range access.AllDimensions() {
		v := n.child(string(d))
		if !v.object("from", "as", "each", "name") {
			continue
		}
		g := Granted{From: v.child("from").text(), As: v.child("as").word(grantings(d)...), Each: v.child("each").pointer(), Name: v.child("name").text()}
		if g.As == "" {
			v.wrong("must have as, one of %s", strings.Join(grantings(d), ", "))
		}
		if (g.As == "level") != (g.Name != "") {
			v.wrong("must have name, that of the permission, with as level, and with it alone")
		}
		if g.Each.given && g.As != "list" {
			v.wrong("has each, which is of a list")
		}
		all[d] = g
	}
	return all
}

// refusalCodes are what an answer can mean.
var refusalCodes = []fault.Code{
	fault.InvalidRequest, fault.InvalidScope, fault.InvalidTarget, fault.AccessDenied, fault.SlowDown, fault.ParentRefused, fault.TemporarilyUnavailable,
}

func readRefusals(n node) []Refusal {
	var all []Refusal
	var words []string
	for _, c := range refusalCodes {
		words = append(words, string(c))
	}
	for _, v := range n.list(maxMembers) {
		if !v.object("status", "where", "code", "says") {
			continue
		}
		r := Refusal{Condition: Condition{Status: readStatuses(v.child("status")), Where: readTests(v.child("where"), nil)}, Code: fault.Code(v.child("code").word(words...)), Says: v.child("says").text()}
		switch {
		case len(r.Status) == 0:
			v.wrong("must have status, an array of HTTP statuses")
		case r.Code == "" || r.Says == "":
			v.wrong("must have code, one of %s, and says, what whoever asked shall do", strings.Join(words, ", "))
		}
		all = append(all, r)
	}
	return all
}

// readTree reads a body of JSON.
func readTree(n node, depth int) *tree {
	if depth > maxNesting {
		n.wrong("nests too deep")
		return &tree{}
	}
	switch v := n.v.(type) {
	case string:
		t := n.template()
		return &tree{text: &t}
	case []any:
		all := &tree{list: []*tree{}}
		for _, element := range n.list(maxValues) {
			all.list = append(all.list, readTree(element, depth+1))
		}
		return all
	case map[string]any:
		if _, ok := v["$each"]; ok {
			return readEach(n, depth)
		}
		all := &tree{object: map[string]*tree{}}
		for _, name := range slices.Sorted(maps.Keys(v)) {
			member := n.child(name)
			if strings.Contains(name, "{{") {
				member.wrong("has {{ in its name: a name that is filled in is the key of a $each")
			}
			inner := readTree(member, depth+1)
			if isCredentialName(name) && inner.text != nil && strings.TrimSpace(inner.text.literal()) != "" {
				member.wrong("is a secret by its name, and a definition is readable: a secret stands in secrets or another secret field")
			}
			all.object[name] = inner
		}
		return all
	default:
		return &tree{scalar: v}
	}
}

func readEach(n node, depth int) *tree {
	n.object("$each", "key", "value")
	of := n.child("$each").text()
	e, err := parseExpression(of)
	if err != nil {
		n.child("$each").wrong("%s", err)
		return &tree{}
	}
	switch e.kind() {
	case kindList, kindMap, kindDetails:
	default:
		n.child("$each").wrong("must be scopes, audiences, resources, permissions or authorization_details, with ? behind it if there may be none")
	}
	all := &each{of: *e}
	if key := n.child("key"); key.found {
		t := key.template()
		all.key = &t
	}
	if value := n.child("value"); value.found {
		all.value = readTree(value, depth+1)
	} else {
		n.wrong("must have value, what each becomes, in which it is {{item}}")
		all.value = &tree{}
	}
	return &tree{each: all}
}

// readPath reads where a request leads below base_url, by segment: what fills a template
// is a part of one segment, whatever it holds.
func readPath(n node) []template {
	s, _ := n.v.(string)
	s = strings.TrimPrefix(s, "/")
	if s == "" {
		n.wrong("must be a path below base_url, such as api/tokens")
		return nil
	}
	if strings.ContainsAny(s, "?#") {
		n.wrong("must not have a ? or #: what follows stands in query")
		return nil
	}
	whole, err := parseTemplate(s)
	if err != nil {
		n.wrong("%s", err)
		return nil
	}
	var path []template
	var current template
	for _, p := range whole.parts {
		if p.expr != nil {
			current.parts = append(current.parts, p)
			continue
		}
		for i, piece := range strings.Split(p.literal, "/") {
			if i > 0 {
				path, current = append(path, current), template{}
			}
			if piece != "" {
				current.parts = append(current.parts, part{literal: piece})
			}
		}
	}
	path = append(path, current)
	for i, segment := range path {
		if len(segment.parts) == 0 && i < len(path)-1 {
			n.wrong("has an empty segment")
			return nil
		}
		literal := segment.literal()
		if len(segment.expressions()) > 0 {
			literal = "x" + literal // what fills it is judged with it
		}
		if literal != "" && !isSegment(literal) {
			n.wrong("has the segment %q, which might lead elsewhere", short(literal))
		}
	}
	return path
}
