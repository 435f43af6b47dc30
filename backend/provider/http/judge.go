package httpapi

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
)

// scope is what templates may be filled with where they stand.
type scope struct {
	roots []string
	taken map[string]Taking // nil for nothing
	login map[string]Taking
	// secrets are the roots that may stand in bodies and headers, and in no URL.
	secrets []string
}

func (s scope) with(roots ...string) scope {
	s.roots = slices.Concat(s.roots, roots)
	return s
}

// place is where in a request a template stands.
type place int

const (
	inPath place = iota
	inQuery
	inHeader
	inForm
	inJSON
	inChild
	inTest
)

// judgement is the reading of one definition as a whole.
type judgement struct {
	d    *Definition
	m    *mistakes
	used map[string]bool // settings.x, parameters.x, dimensions, ttl and so on
}

func (d *Definition) judge(m *mistakes) {
	j := &judgement{d: d, m: m, used: map[string]bool{}}
	if d.BaseURL != "" {
		if err := httpclient.CheckURL(d.BaseURL, true); err != nil {
			m.add("/base_url", "%s", err)
		}
	}
	j.parent()
	for name, t := range d.Headers {
		at := "/headers/" + name
		j.header(at, name, t, scope{roots: []string{rootSettings}})
		if d.Parent.Headers[name].parts != nil {
			m.add(at, "is a header of the parent's already")
		}
	}
	j.mint()
	j.child()
	if d.Check != nil {
		j.step("/check", *d.Check, scope{roots: []string{rootSettings, rootUsername}})
	}
	j.declared()
	for name := range j.used {
		root, key, _ := strings.Cut(name, ".")
		if slices.Contains(parentSecrets, root) && (root != rootSecrets || key != "") {
			d.needs = append(d.needs, name)
		}
	}
	if j.used[rootUsername] {
		d.needs = append(d.needs, rootUsername)
	}
	slices.Sort(d.needs)
}

// dimensionRoots are the roots of what is asked for.
func dimensionRoots() []string {
	var all []string
	for _, d := range access.AllDimensions() {
		all = append(all, string(d))
	}
	return all
}

// parentSecrets are the roots that the parent is made of.
var parentSecrets = []string{rootPassword, rootToken, rootSecrets, rootJWT, rootBorrowed, rootBasic}

// credential is how a header shows who somebody is: a scheme, perhaps, and one value.
var credential = regexp.MustCompile(`^([A-Za-z][A-Za-z0-9-]{0,19} )?([a-z]{1,16}=)?$`)

func (j *judgement) parent() {
	p := j.d.Parent
	if len(p.Headers) == 0 && p.JWT == nil {
		j.m.add("/parent", "must have headers, by which the system knows the broker, or jwt, which the mint sends")
	}
	if p.JWT != nil {
		s := scope{roots: []string{rootSettings}}
		j.template("/parent/jwt/audience", p.JWT.Audience, inTest, s)
		j.template("/parent/jwt/subject", p.JWT.Subject, inTest, s)
	}
	var login map[string]Taking
	if p.Login != nil {
		login = p.Login.Step.Take
		s := scope{roots: []string{rootSettings, rootUsername}, secrets: parentSecrets}
		step := p.Login.Step
		step.Alone = true // it is before there are headers
		j.step("/parent/login", step, s)
		if len(login) == 0 {
			j.m.add("/parent/login/take", "must name what the answer gives, for {{login.<name>}} in headers")
		}
		if e := p.Login.Ends; e != nil {
			if _, ok := login[e.From]; !ok {
				j.m.add("/parent/login/expires/from", "is nothing that take takes")
			}
		}
	}
	s := scope{roots: []string{rootUsername}, secrets: append(slices.Clone(parentSecrets), rootLogin), login: login}
	for name, t := range p.Headers {
		at := "/parent/headers/" + name
		if len(t.expressions()) != 1 || !credential.MatchString(t.literal()) || t.parts[len(t.parts)-1].expr == nil {
			j.m.add(at, `must be one expression, with no more before it than a scheme, as in "Bearer {{token}}": a definition is readable, and holds no secret`)
			continue
		}
		j.template(at, t, inHeader, s)
	}
}

// secretive are names of headers in which nobody sends anything but a credential.
var secretive = regexp.MustCompile(`(?i)auth|cookie|token|secret|key|passw|credential|session|signature|jwt|assertion`)

// harmless are headers of such names in which no credential is.
var harmless = []string{"Idempotency-Key"}

// header judges a header of a step. One that is for a credential may hold what the steps
// before have taken, which is the child's, and nothing that is written down.
func (j *judgement) header(at, name string, t template, s scope) {
	j.template(at, t, inHeader, s)
	if !secretive.MatchString(name) || slices.Contains(harmless, name) {
		return
	}
	own := func(e *expression) bool {
		return e.root == rootTaken || e.root == rootRandom || slices.Contains(s.secrets, e.root)
	}
	all := t.expressions()
	if len(all) != 1 || !own(all[0]) || !credential.MatchString(t.literal()) || t.parts[len(t.parts)-1].expr == nil {
		j.m.add(at, "is a header for a credential: a definition is readable, so there may stand what a step has taken, as in \"Bearer {{taken.token}}\"; the parent's own stands in parent")
	}
}

func (j *judgement) mint() {
	taken := map[string]Taking{}
	finds := 0
	for i, step := range j.d.Mint {
		at := "/mint/" + strconv.Itoa(i)
		s := scope{
			roots: slices.Concat(dimensionRoots(), []string{rootName, rootTTL, rootExpires, rootSettings, rootParams, rootTaken, rootUsername}),
			taken: taken, secrets: []string{rootRandom, rootJWT},
		}
		j.step(at, step, s)
		for name := range step.Take {
			if _, twice := taken[name]; twice {
				j.m.add(at+"/take/"+name, "is taken by a step before already: give it another name")
			}
		}
		taken = maps.Clone(taken)
		maps.Copy(taken, step.Take)
		if step.Undo != nil {
			j.undo(at, step, taken)
		}
		if step.Find != nil {
			finds++
			j.find(at, step)
		}
	}
	undos := 0
	for i, step := range j.d.Mint {
		if step.Undo == nil {
			continue
		}
		undos++
		if finds > 0 && step.Find == nil {
			j.m.add("/mint/"+strconv.Itoa(i), "has an undo and no find, and another step has one: what a lost answer has left is found whole or not at all")
		}
	}
	switch {
	case undos == 0 && j.d.Class == provider.ClassToken:
		j.m.add("/class", "is token, and no step has an undo by which a child is ended")
	case undos > 0 && j.d.Class == provider.ClassExpiry:
		j.m.add("/class", "is expiry, and there is an undo: with one it is token")
	}
}

func (j *judgement) undo(at string, step Step, taken map[string]Taking) {
	at += "/undo"
	j.step(at, *step.Undo, scope{
		roots: slices.Concat(dimensionRoots(), []string{rootName, rootSettings, rootParams, rootTaken, rootUsername}),
		taken: taken, secrets: []string{rootRandom},
	})
	if step.Undo.Gone == nil {
		return
	}
	for _, status := range step.Undo.Gone.Status {
		refused := status == 401 || status == 403
		switch {
		case refused && step.Undo.Alone:
		case refused, status == 429, status >= 300 && status < 400, status >= 500:
			j.m.add(at+"/gone/status", "has %d, which says that the system did not look, and not that there is nothing", status)
		case status < 300 && len(step.Undo.Gone.Where) == 0:
			j.m.add(at+"/gone/status", "has %d, which is a success: it stands in success", status)
		}
	}
}

func (j *judgement) find(at string, step Step) {
	f, at := step.Find, at+"/find"
	if step.Undo == nil {
		j.m.add(at, "finds what no undo ends")
		return
	}
	asked := append(dimensionRoots(), rootName, rootSettings, rootUsername, rootParams)
	j.step(at, f.Step, scope{roots: asked})
	for name, t := range f.Take {
		if t.Header != "" {
			j.m.add(at+"/take/"+name, "is of a header, which an item of a list has not")
		}
	}
	named := false
	for i, t := range f.Where {
		all := len(t.Is) > 0
		for _, is := range t.Is {
			text, ok := is.(template)
			if ok {
				j.template(fmt.Sprintf("%s/where/%d/is", at, i), text, inTest, scope{roots: []string{rootName, rootSettings}})
			}
			all = all && ok && text.uses(rootName) // another one would be somebody else's
		}
		named = named || all
	}
	if !named {
		j.m.add(at+"/where", "must tell what is a grant's from what is not: by one condition at least with {{name}} in its is, in each if there are several")
	}
	fills := scope{roots: append(asked, rootTaken), taken: f.Take}
	quiet := &judgement{d: j.d, m: &mistakes{}, used: map[string]bool{}}
	if quiet.step("", *step.Undo, fills); len(quiet.m.all) > 0 {
		j.m.add(at+"/take", "does not fill the step's undo, which can be filled with what find takes, with the name, with settings and with what was asked for: its undo%s", quiet.m.all[0])
	}
	uses := false
	step.each(func(t template) { uses = uses || t.uses(rootName) })
	if !uses {
		j.m.add(at, "looks for a name that the step does not send: {{name}} must stand in it")
	}
}

// uses reports whether an expression of that root is in the template.
func (t template) uses(root string) bool {
	return slices.ContainsFunc(t.expressions(), func(e *expression) bool { return e.root == root })
}

// each visits every template of a request.
func (s Step) each(visit func(template)) {
	for _, t := range s.Path {
		visit(t)
	}
	for _, all := range []map[string]template{s.Query, s.Headers, s.Form} {
		for _, t := range all {
			visit(t)
		}
	}
	s.JSON.visit(func(t template) { visit(t) })
}

func (t *tree) visit(see func(template)) {
	switch {
	case t == nil:
	case t.text != nil:
		see(*t.text)
	case t.each != nil:
		see(template{parts: []part{{expr: &t.each.of}}})
		if t.each.key != nil {
			see(*t.each.key)
		}
		t.each.value.visit(see)
	default:
		for _, inner := range t.list {
			inner.visit(see)
		}
		for _, inner := range t.object {
			inner.visit(see)
		}
	}
}

// step judges a request's templates.
func (j *judgement) step(at string, step Step, s scope) {
	for _, t := range step.Path {
		j.template(at+"/path", t, inPath, s)
	}
	for name, t := range step.Query {
		j.template(at+"/query/"+name, t, inQuery, s)
	}
	for name, t := range step.Form {
		j.template(at+"/form/"+name, t, inForm, s)
	}
	for name, t := range step.Headers {
		j.header(at+"/headers/"+name, name, t, s)
		if !step.Alone && j.d.Parent.Headers[name].parts != nil {
			j.m.add(at+"/headers/"+name, `is a header of the parent's: with "parent": false the step sends its own`)
		}
	}
	if step.JSON != nil {
		j.tree(at+"/json", step.JSON, s)
	}
}

func (j *judgement) tree(at string, t *tree, s scope) {
	switch {
	case t.text != nil:
		j.template(at, *t.text, inJSON, s)
	case t.each != nil:
		j.template(at+"/$each", template{parts: []part{{expr: &t.each.of}}}, inJSON, s)
		inner := s.with(rootItem)
		if t.each.key != nil {
			j.template(at+"/key", *t.each.key, inTest, inner)
		}
		j.tree(at+"/value", t.each.value, inner)
	default:
		for i, element := range t.list {
			j.tree(at+"/"+strconv.Itoa(i), element, s)
		}
		for name, member := range t.object {
			j.tree(at+"/"+escapePointer.Replace(name), member, s)
		}
	}
}

// template judges what fills a template, where it stands.
func (j *judgement) template(at string, t template, where place, s scope) {
	for _, e := range t.expressions() {
		j.used[e.root] = true
		j.used[e.String()] = true
		if why := j.expression(e, s); why != "" {
			j.m.add(at, "has {{%s}}%s", e, why)
			continue
		}
		switch k := e.kind(); {
		case k == kindSecret && (where == inPath || where == inQuery):
			j.m.add(at, "has {{%s}}, a secret, in a URL, which is logged wherever it passes", e)
		case (k == kindMap || k == kindDetails) && where != inJSON:
			j.m.add(at, "has {{%s}}, which is %s and can stand in JSON alone", e, k)
		case k == kindList && where != inJSON && where != inQuery && where != inForm:
			j.m.add(at, "has {{%s}}, a list: %s", e, fits(k))
		case e.optional && t.whole() == nil:
			j.m.add(at, "has {{%s?}} beside other text: what may be missing stands alone", e)
		case e.optional && (where == inPath || where == inChild || where == inTest):
			j.m.add(at, "has {{%s?}} where nothing can be left out", e)
		}
	}
}

// expression says why it cannot stand here, or "".
func (j *judgement) expression(e *expression, s scope) string {
	all := slices.Concat(s.roots, s.secrets)
	if !slices.Contains(all, e.root) {
		if slices.Contains(parentSecrets, e.root) || e.root == rootLogin {
			return ", which is the parent's: it stands in parent alone, so that nothing leads it elsewhere"
		}
		return ", which nothing fills here: here there are " + strings.Join(all, ", ")
	}
	missing := func(may bool) string {
		if may && !e.optional {
			return ", which there may not be: with {{" + e.String() + "?}} what it stands in is left out then"
		}
		return ""
	}
	switch e.root {
	case rootTaken:
		t, ok := s.taken[e.key]
		if !ok {
			return ", which no step before has taken"
		}
		return missing(t.Optional)
	case rootLogin:
		t, ok := s.login[e.key]
		if !ok {
			return ", which the login does not take"
		}
		return missing(t.Optional)
	case rootSettings:
		return j.declares("settings", j.d.Settings, e, missing)
	case rootParams:
		return j.declares("parameters", j.d.Parameters, e, missing)
	case rootJWT:
		if j.d.Parent.JWT == nil {
			return ", and /parent/jwt does not say for whom it is"
		}
	case rootBasic:
		return j.basic(e)
	}
	if d, ok := j.d.Access[access.Dimension(e.root)]; slices.Contains(dimensionRoots(), e.root) && (!ok || !d.Ask) {
		return ", and /access/" + e.root + " does not say that it is asked for"
	}
	return ""
}

func (j *judgement) declares(what string, all map[string]Variable, e *expression, missing func(bool) string) string {
	v, ok := all[e.key]
	if !ok {
		return ", which /" + what + " does not declare"
	}
	return missing(v.Optional && v.Default == "")
}

// basic is who stands behind the colon of {{basic.x}}: the password where it does not say.
func (j *judgement) basic(e *expression) string {
	inner, err := parseExpression(cmpOr(e.key, rootPassword))
	if err != nil || !slices.Contains([]string{rootPassword, rootToken, rootSecrets, rootJWT, rootBorrowed}, inner.root) {
		return ", and behind basic there may stand token, jwt, borrowed or secrets.<name>: what is sent as the password"
	}
	j.used[inner.root], j.used[inner.String()], j.used[rootUsername] = true, true, true
	if inner.root == rootJWT && j.d.Parent.JWT == nil {
		return ", and /parent/jwt does not say for whom it is"
	}
	return ""
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// takings are all that the mint takes.
func (d *Definition) takings() map[string]Taking {
	all := map[string]Taking{}
	for _, step := range d.Mint {
		maps.Copy(all, step.Take)
	}
	return all
}

func (j *judgement) child() {
	c, taken := j.d.Child, j.d.takings()
	s := scope{roots: []string{rootTaken, rootName, rootSettings, rootUsername}, taken: taken}
	for name, t := range c.Secrets {
		at := "/child/secrets/" + name
		secret := s
		secret.secrets = []string{rootRandom}
		j.template(at, t, inChild, secret)
		if !t.uses(rootTaken) && !t.uses(rootRandom) {
			j.m.add(at, "is no secret: it must have {{taken.<name>}} in it, from an answer, or {{random}}")
		}
		if provider.Taken(name) {
			j.m.add(at, "is a field of every creds response already")
		}
	}
	for name, t := range c.Shown {
		at := "/child/shown/" + name
		shown := s.with(rootParams)
		j.template(at, t, inChild, shown)
		if _, secret := c.Secrets[name]; secret || provider.Taken(name) {
			j.m.add(at, "is a field of the response already")
		}
	}
	if e := c.Ends.At; e != nil {
		if _, ok := taken[e.From]; !ok {
			j.m.add("/child/expires/from", "is nothing that a step takes")
		}
	}
	if c.Ends.Asked && !j.used[rootTTL] && !j.used[rootExpires] { // which only the mint can use
		j.m.add("/child/expires", "is asked, and no step sends ttl or expires")
	}
	if c.Ends.Never && j.d.Class == provider.ClassExpiry {
		j.m.add("/child/expires", "is never, and nothing can end a child: such a provider could serve no role")
	}
	for d, g := range c.Granted {
		at := "/child/granted/" + string(d)
		if _, ok := taken[g.From]; !ok {
			j.m.add(at+"/from", "is nothing that a step takes")
		}
		if !j.d.Access[d].Check {
			j.m.add(at, "is proof of a dimension that /access does not call check")
		}
	}
}

// declared holds what is declared against what is used.
func (j *judgement) declared() {
	sent := func(root string) bool {
		return slices.ContainsFunc(j.d.Mint, func(s Step) bool {
			found := false
			s.each(func(t template) { found = found || t.uses(root) })
			return found
		})
	}
	for name := range j.d.Settings {
		if !j.used["settings."+name] {
			j.m.add("/settings/"+name, "is used nowhere")
		}
	}
	for name := range j.d.Parameters {
		if !j.used["parameters."+name] {
			j.m.add("/parameters/"+name, "is used nowhere")
		}
	}
	for d, one := range j.d.Access {
		if one.Ask && !sent(string(d)) {
			j.m.add("/access/"+string(d), "is asked for, and no step of the mint sends it")
		}
		if _, proven := j.d.Child.Granted[d]; one.Check && !proven {
			j.m.add("/access/"+string(d), "is checked, and /child/granted does not say by what")
		}
		if d == access.DimPermissions && len(one.Levels) > 0 {
			if _, err := access.NewPermissions(one.Levels, nil); err != nil {
				j.m.add("/access/permissions/levels", "cannot be used: %s", err)
			}
		}
	}
	slices.Sort(j.m.all)
}
