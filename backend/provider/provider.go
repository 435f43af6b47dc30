// Package provider says what the broker needs of a downstream system. A type of
// provider is one folder below this one and one line in the catalog; it knows
// its wire protocol and nothing of Vault, leases, roles or storage. What must
// hold whatever the type (granted is within allowed, a failed kill is retried,
// a child is recorded before it is handed out) is done once, by the caller.
package provider

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/framework"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// Type is one kind of downstream system. Its methods are safe for concurrent use.
type Type interface {
	// Name is the path segment and the value in a role's provider field.
	Name() string
	// Fields are the type's own fields beside the common ones. A field that holds
	// a secret has DisplayAttrs.Sensitive and is of type string; of a Compound it may be a
	// map of strings (TypeKVPairs), which Parent.Secrets has as a JSON object.
	Fields() map[string]*framework.FieldSchema
	// Parameters are the keys that a role's parameters may hold, with a
	// description each; nil for none.
	Parameters() map[string]string
	// Answer are the fields that its children have in a creds response beside the
	// CommonFields. Those with DisplayAttrs.Sensitive, of type string, are Child.Secrets;
	// the others, which a child may lack, Child.Extra. CheckAnswer has nothing against
	// them.
	Answer() map[string]*framework.FieldSchema
	// Configure judges what an operator wrote and pins the endpoints that
	// discovery finds. It may use the network, and never sends a secret. Errors
	// are *fault.Error.
	Configure(ctx context.Context, change Change) (*Pinned, error)
	// Open makes a Provider of what Configure accepted, without the network.
	Open(cfg Config, parent Parent, deps Deps) (Provider, error)
}

// Compound is a Type with a secret field that holds several secrets.
type Compound interface {
	// Parts are the secrets in the fields that are of several, each by itself: what is
	// looked for in what the provider answers. Errors are passed over.
	Parts(secrets map[string]secret.Text) []secret.Text
}

// Guided is a Type that tells a stranger how to begin.
type Guided interface {
	Guide() Guide
}

// Guide is what the help says of a type beside its fields.
type Guide struct {
	// About is what a provider of the type is, and after an empty line, indented, a command
	// that writes one.
	About string
	// Rotation is how its parent credential is changed.
	Rotation string
}

// Presetting is a Type that has named systems as data, by its field preset.
type Presetting interface {
	// Presets are all of them, sorted by their names.
	Presets() []Preset
}

// Preset is a system whose endpoints and habits the plugin knows.
type Preset struct {
	Name string
	// About says for people what it is, Source where that is documented, and Tried against
	// which product it was proven; "" if nobody has.
	About, Source, Tried string
	Class                Class
	// Needs are the fields to be written with it, and Settings and Parameters what the
	// fields of these names hold, with what each is; optional ones included.
	Needs                []string
	Settings, Parameters map[string]string
}

// Reserving is a Type of systems that could take a JWT of the broker's signing for a
// credential of the broker's own: which client it is, or whom it may act for. What
// such a system answers to, as the aud of a JWT, is reserved for these credentials.
type Reserving interface {
	// ReservedAudiences are told from the configuration alone, also from one that an
	// earlier version has written, or that this one would refuse.
	ReservedAudiences(cfg Config) Reserved
}

// Reserved are audiences that are kept for the broker's own credentials (rule 10 of
// the contract). They are told in one spelling; whoever compares knows the others.
type Reserved struct {
	// Endpoints are URLs at which the broker authenticates. No child is for them,
	// whoever signs it.
	Endpoints []string
	// Names are what else the system takes as the aud of a JWT: its issuer, say. No
	// child that the broker signs is for them; the system may sign others, such as
	// tokens for an API of its own that is called like its issuer.
	Names []string
}

// Config is a provider's stored configuration, without its secrets.
type Config struct {
	Name string
	// Fields is a JSON object of the type's own fields that are not secret, by
	// field name; durations are whole seconds; what was never written is absent.
	Fields json.RawMessage
	Pinned Pinned
}

// Parent is the parent credential: the secret fields by name, and what the
// provider last said of them.
type Parent struct {
	Secrets map[string]secret.Text
	// Refused is why the provider refused the credential for good, such as an
	// invalid_grant on a refresh token; "" while it is not known to be refused.
	// It holds no secret. Writing the credential clears it.
	Refused string
	// Serial counts the operator's writes of the credential. What a provider
	// saves keeps the serial of the parent that it descends from.
	Serial uint64
}

// Change is one create or update as the operator wants it.
type Change struct {
	// Config is the whole configuration after the change. Its Pinned is the
	// previous one, zero on create.
	Config Config
	// Former are the fields as they were stored when Config.Pinned was; nil on create.
	Former json.RawMessage
	Parent Parent
	// Written are the names of the fields that this request brought: endpoints
	// are discovered anew only if it brought one that names them.
	Written map[string]bool
	// AllowHTTP is the common field allow_http, for httpclient.CheckURL.
	AllowHTTP bool
	// Client is for public documents alone.
	Client *httpclient.Client
}

// Pinned is what Configure fixed for the life of this configuration.
type Pinned struct {
	// Destinations are where a secret may be sent, sorted: whole URLs, or what
	// httpclient.Below makes of a base. Deps.Client sends to them and nowhere else.
	// What else stands here is no destination, but something for which a secret is
	// good. A change here demands every stored secret anew.
	Destinations []string `json:"destinations"`
	// Account tells whose children these are (issuer, client and so on). While
	// grants live it must not change, or they could not be killed any more: whatever
	// a handle names that is no destination any more must have a place among today's
	// at which the child dies as well, or be part of this.
	Account string `json:"account"`
	// Data is the type's own, such as discovered endpoints.
	Data json.RawMessage `json:"data,omitempty"`
}

// Deps is what a Provider may use of the world.
type Deps struct {
	// Client may send secrets to Pinned.Destinations; its Public is for documents.
	Client *httpclient.Client
	Logger hclog.Logger
	// Now is the clock.
	Now func() time.Time
	// LoadParent reads the parent as it is stored now.
	LoadParent func(ctx context.Context) (Parent, error)
	// SaveParent durably replaces the parent with one that descends from it (same
	// Serial). It fails with ErrParentChanged if an operator wrote another one
	// meanwhile; that one then stands and nothing was stored.
	SaveParent func(ctx context.Context, p Parent) error
	// Turn waits until nobody else is changing this parent, across every Provider
	// that was opened on it. What holds the turn loads the parent anew first. It
	// is a queue of one parent's refreshes, not a lock on anything of the broker.
	Turn func(ctx context.Context) (release func(), err error)
	// Signer is the broker as an issuer of its own.
	Signer Signer
	// Borrowed is what the provider has for a credential, if it is a Borrower; nil for one
	// that borrows nothing. refused is a token that Borrowed has given and that the system
	// does not take any more, empty if there is none: another one is got then, once in a
	// while, and parent_refused is the error if that helps nobody. The token is good for a
	// call that begins at once, and is not to be kept. Errors are *fault.Error.
	Borrowed func(ctx context.Context, refused secret.Text) (secret.Text, error)
	// Discard kills a child that the type has minted for itself, such as one to look
	// something up with; if that fails it is on record, and killed later. It takes no
	// longer than a revocation does.
	Discard func(ctx context.Context, c *Child)
}

// Verifier is a Signer that can also tell what it has signed.
type Verifier interface {
	// Verify returns the claims of a token of PurposeChild that the broker signed as
	// its present issuer and that has not expired. Whether its grant still lives is
	// another question.
	Verify(ctx context.Context, token secret.Text) (claims map[string]any, err error)
}

// ErrParentChanged is SaveParent's answer when the stored parent is newer.
var ErrParentChanged = errors.New("the parent credential was changed meanwhile")

// Provider mints children of one parent credential. It is safe for concurrent
// use, and holds no lock across a call.
type Provider interface {
	Traits() Traits
	// Mint asks for exactly r.Access, in the dimensions of Traits.Expands for what the system
	// has of it, and never more than once: after an error
	// that leaves open whether the provider minted, it does not repeat.
	//
	// A Child is returned whenever any part of one was seen, also beside an error: the
	// caller then owns something alive that must be killed. Errors are *fault.Error:
	// what the request itself caused is a 4xx code, a refused parent parent_refused, a
	// failed provider temporarily_unavailable, an answer that must not be handed out
	// provider_violation. ErrAnswerLost is in the chain if the provider may have
	// minted and the answer never arrived whole.
	Mint(ctx context.Context, r Request) (*Child, error)
}

// Exchanger is a Provider that gives a child for somebody else's token (RFC 8693).
type Exchanger interface {
	// Exchange is Mint with a Subject, and keeps Mint's promises. That the subject
	// token is at fault is invalid_grant; a login that does not do is
	// insufficient_user_authentication. The tokens of the request are the
	// caller's: none of them is ever the child, nor revoked.
	Exchange(ctx context.Context, r Request) (*Child, error)
}

// Forwarder is a Provider whose tokens can be handed on as they are.
type Forwarder interface {
	// Forward makes a child of r.Subject's own token, whose access is r.Access. It
	// mints nothing. An error is *fault.Error; the token then stays the caller's
	// affair.
	Forward(ctx context.Context, r Request) (*Child, error)
}

// ErrAnswerLost marks a mint that may have succeeded although no token was seen.
var ErrAnswerLost = errors.New("the provider may have minted a token whose answer was lost")

// ErrRefusalKnown marks a parent_refused that the type has already made sure of, and that
// is on record as Parent.Refused: nobody need look again.
var ErrRefusalKnown = errors.New("the refusal of the parent is on record")

// ErrUntold marks the end of a Check that says nothing for the parent and nothing against
// it, such as at a server that grants nothing without a scope.
var ErrUntold = errors.New("the check does not tell whether the parent works")

// ParameterChecker is a Provider that judges the values of a role's parameters, of
// which it gets known keys only.
type ParameterChecker interface {
	// CheckParameters returns *fault.Error with invalid_request for what a role in
	// that mode must not have. It needs no network.
	CheckParameters(mode Mode, parameters map[string]string) error
}

// CeilingChecker is a Provider that knows which values its dimensions have.
type CeilingChecker interface {
	// CheckCeiling returns *fault.Error with invalid_request for a ceiling, of a role in
	// that mode with these parameters, that names what the system does not have: it
	// would never be granted. In dimensions without a ceiling there is nothing. It
	// needs no network.
	CheckCeiling(mode Mode, parameters map[string]string, ceiling access.Access) error
}

// Varying is a Provider whose children's class or life, or what they can be asked to have,
// depends on a role's mode and parameters.
type Varying interface {
	// TraitsFor are Traits for a role's children. It gets what CheckParameters has
	// nothing against, and needs no network. What is about the provider as a whole
	// (Modes, Answer, Signed, SignsNames, Issuer, Proofs, and whom it needs to know) is
	// as in Traits, and Traits.Class is a class that some role's children have.
	TraitsFor(mode Mode, parameters map[string]string) Traits
}

// Composer is a Provider whose children say more than their request does: what it is
// filled with is the caller's, or the provider's own.
type Composer interface {
	// Ingredients is all that a child for r would say, but for what tells it from any
	// other child (r.GrantID, the time). It needs no network; its errors are Mint's.
	Ingredients(ctx context.Context, r Request) (string, error)
}

// UnverifiedBinding in Child.Unverified: the provider says that the child is bound
// to the caller's key, and nobody looked whether the token itself says so.
const UnverifiedBinding = "binding"

// Generator is a Type that makes secrets of a parent itself, such as a key pair.
type Generator interface {
	// Generate returns the secret fields that change lacks and that the broker
	// makes rather than the operator; it uses no network.
	Generate(change Change) (map[string]secret.Text, error)
}

// Publisher is a Provider with something public to show, such as the key to
// register at the server.
type Publisher interface {
	// Public are the fields that a read of the provider adds: never null, no
	// secrets.
	Public() map[string]any
}

// Shows is a Type that describes the fields of its Providers' Public.
type Shows interface {
	PublicFields() map[string]*framework.FieldSchema
}

// RetryLater is in the chain of an error with which the provider asked to wait for a while
// (Retry-After, RFC 9110 10.2.3).
type RetryLater interface {
	error
	RetryAfter() time.Duration
}

// Lasting is in the chain of an error that every request of the same kind would meet: for
// LastsFor nobody need make another.
type Lasting interface {
	error
	LastsFor() time.Duration
}

// Revoker is a Provider whose children can be killed.
type Revoker interface {
	// Revoke kills the child, and returns nil if it was already gone. A handle
	// written by any earlier version must still work. ErrCannotRevoke is in the chain
	// if no retry would do more.
	Revoke(ctx context.Context, handle secret.Text) error
}

// ErrCannotRevoke marks a revocation that the provider refuses for good: it kills no
// tokens of this kind, which live until they expire.
var ErrCannotRevoke = errors.New("the provider revokes no tokens of this kind")

// Finder is a Revoker that can find its children again by what they were named after.
// Then a mint whose answer was lost, or that stopped between two of its steps, leaves
// nothing behind: the broker writes down before the mint that something may come of it,
// and looks for that afterwards.
type Finder interface {
	Revoker
	// Find returns what mints with the trace's GrantID have left at the system, also what a
	// mint has not come to the end of; none if nothing is there. An error is that this could
	// not be told. What has been killed already may be found again, as long as the system
	// shows it.
	Find(ctx context.Context, t Trace) ([]Found, error)
}

// Trace is what is on record of a mint before it is made.
type Trace struct {
	GrantID string
	// Where is what Locating said of the request; "" without.
	Where string
}

// Locating is a Finder of a system that lists children only where they were made: in one
// project, say.
type Locating interface {
	// Where is where to look for what comes of r. It is on record while the mint is under
	// way, and no secret. It needs no network; its errors are Mint's.
	Where(r Request) (string, error)
}

// Found is a child, or a part of one, that was found by its name.
type Found struct {
	// Handle is what Revoke needs to kill it, as a Child's.
	Handle secret.Text
	// Lever names what dies with it, as a Child's.
	Lever string
	// ExpiresAt is zero if its end is not known.
	ExpiresAt time.Time
}

// Health is the outcome of a live check.
type Health struct {
	// Detail says in words what was proven.
	Detail string
	// Untold is true if that says nothing of the parent, although nothing has failed.
	Untold bool
	// Grants lists what the parent can grant, flat as in a creds response, where
	// the provider says so.
	Grants []string
	// Ends is when the parent itself ends; zero if it does not, or nobody says.
	Ends time.Time
	// Children are tokens that the check could not help minting; the caller
	// records and kills them.
	Children []*Child
}

// Checker is a Provider whose parent credential can be proven to work.
type Checker interface {
	// Check returns an error if the credential does not work, parent_refused if that is
	// the system's word, and the Children that it minted in either case.
	Check(ctx context.Context) (Health, error)
}

// Trusted is a Provider that may have no parent of which a check proves anything: what
// counts is that the system trusts the broker's issuer, say.
type Trusted interface {
	// Unprovable is why that is so, with what is to be done for the children to be good
	// for something; "" where a Check proves the parent.
	Unprovable() string
}

// Rotator is a Provider that can change its parent credential.
type Rotator interface {
	// Rotate makes the next credential the parent, proven to work before the old
	// one is forgotten, and says in words what it did. Children as for Check.
	Rotate(ctx context.Context) (Health, error)
}
