package httpapi

import (
	"regexp"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
)

// Definition says how one system's tokens are made and ended, as docs/http.md has it. It
// is what Parse makes of an operator's JSON, is judged whole, and is immutable.
type Definition struct {
	// About is what it is for, Source where that is documented, and Tried against which
	// product it was proven; "" if nobody has.
	About, Source, Tried string
	// BaseURL is the system's address where the provider writes none; "" for none.
	BaseURL string

	Class         provider.Class
	Life          provider.Life
	SelfContained bool

	// Settings are the operator's for the provider, Parameters for a role.
	Settings, Parameters map[string]Variable
	Access               map[access.Dimension]Dimension
	Names                Names

	Parent  Parent
	Headers map[string]template // of every request

	Mint     []Step
	Child    Child
	Check    *Step
	Refusals []Refusal

	// needs are the parent's expressions in it, sorted: what must be written with it.
	needs []string
}

// Variable is a text that an operator gives.
type Variable struct {
	About    string
	Pattern  *regexp.Regexp // of the whole text; nil for any
	Default  string
	Optional bool
}

// Dimension is what the system makes of one dimension of access.
type Dimension struct {
	About string
	// Ask and Check are that it is a part of the request, and of the answer.
	Ask, Check bool
	// Required is that a role must have a ceiling in it, and a request a part of that.
	Required bool
	Values   []string       // all that there are, globs allowed; nil where that is not known
	Pattern  *regexp.Regexp // of each value; nil for any
	Levels   access.Levels  // of permissions
}

// Names is how a grant's things are called at the system.
type Names struct {
	Prefix string
	Most   int // characters
}

// Parent is how the broker shows who it is.
type Parent struct {
	// Headers go with every request of a step that does not say otherwise.
	Headers map[string]template
	Login   *Login // nil for none
	JWT     *JWT   // nil for none
}

// Login is a request that gives a credential for others.
type Login struct {
	Step  Step
	Lasts time.Duration // where the answer does not say
	Ends  *Moment       // nil where it does not
}

// JWT is one that the broker signs as its own issuer.
type JWT struct {
	Audience, Subject template
	Life              time.Duration
}

// Step is one request, and what its answer must be.
type Step struct {
	Method  string
	Path    []template // by segment
	Query   map[string]template
	Headers map[string]template
	JSON    *tree // nil for no such body
	Form    map[string]template
	// Alone is that the parent's headers are not sent.
	Alone   bool
	Success Condition
	Take    map[string]Taking
	// Undo ends what the step has made, and Find looks for that; nil for neither.
	Undo *Step
	Find *Find
	// Gone is of an undo: that there was nothing to be ended.
	Gone *Condition
}

// pointer leads into an answer, to its whole if it has no tokens. The zero one is none.
type pointer struct {
	form.Pointer
	given bool
}

// Taking is where in an answer something is that is needed later.
type Taking struct {
	At       pointer // empty for the whole answer
	Header   string  // instead
	Optional bool
}

// Condition is of an answer. The zero one is of every success.
type Condition struct {
	Status []int  `json:"s,omitempty"` // empty for any success
	Where  []Test `json:"w,omitempty"`
}

// Test is of a value in an answer.
type Test struct {
	At       pointer
	Exists   *bool
	Is       []any // scalars, or template
	Contains string
}

// Find lists what there is and tells what a grant's mint has left there.
type Find struct {
	Step  Step
	Page  *Page   // nil if there is one
	Items pointer // to the list; empty for the answer itself
	Where []Test  // of an item
	Take  map[string]Taking
}

// Page is how a list goes on, by a number or by what the page before says.
type Page struct {
	Query       string
	First, Step int
	Next        pointer // to what the next one is asked with; nil for a number
	More        pointer // to whether there is a next one; nil: until one is empty
}

// Child is what is handed out.
type Child struct {
	Secrets, Shown map[string]template
	TokenType      string
	Ends           Ends
	Granted        map[access.Dimension]Granted
}

// Ends is when it does: at the Moment, or as it was asked for, or after a while that the
// system always gives, or never by itself.
type Ends struct {
	Asked, Never bool
	Assumed      time.Duration
	At           *Moment
}

// Moment is a time in an answer.
type Moment struct {
	From  string // what was taken
	As    string
	Never []any // what means that there is none
}

// Granted is what of an answer proves one dimension.
type Granted struct {
	From string
	As   string
	Each pointer // into each element of a list; nil for the element itself
	Name string  // of a permission, whose level it is
}

// Refusal is what an answer means.
type Refusal struct {
	Condition
	Code fault.Code
	Says string
}
