// Package grant is the ledger: one durable record for every child token that
// the broker has handed out and that is not known to be dead.
//
// # What each write protects
//
// Record is the only write on the way of an issue. It happens after the
// provider has answered and before the caller gets the token. Seen from a crash:
//
//   - before the provider answered: the token, if one was minted, was never
//     seen. It lives until the provider's own expiry; nobody holds it.
//   - after the answer, before Record returned: the same.
//     At a provider that can find its children by name neither is so: see below.
//   - after Record, before Vault stored the lease: the record is without a
//     lease. The sweep finds it when its lease would have ended and kills it.
//   - after Vault stored the lease: the lease's end kills it, or the sweep.
//
// If Record itself fails, the caller kills the token before it answers, and if
// that fails too keeps it in memory (Ledger.Keep) and tries both again.
//
// Update writes before a renewal is answered, so that a record never ends
// earlier than its lease. Doom writes before a failed revocation is reported, so
// that the retry survives a restart. Remove is written only once the provider
// has confirmed, or the token has certainly expired; a crash before it repeats
// the kill, which finds the token already gone.
//
// # What is in memory
//
// Memory grows with holders and their roles, and with the subjects and actors on whose
// word they got something, not with grants: how many grants of which role and provider
// each holder has, and how many of which party, and of each grant due next its id and
// when. The rest of these ids lies in storage, in pages of some thousand (see
// agenda.go). Whoever needs a holder's grants reads the holder's records, and only those
// whose ids may be of what is looked for (see Clue). All of it is made anew from the
// records after a start, in the background; the pages protect nothing and are deleted
// then. Kills do not wait for that: see Find. Beside it are the records that were written
// last, as many as there is room for (see lately.go).
//
// The counts err to one side only: while storage fails, a holder may be counted
// with a grant that is gone, never without one that lives.
//
// # Intents
//
// Where a provider can find its children again by name, an intent is on record before
// the mint: a grant without a token, at the grant's own id, from which the name is
// made. With the answer it becomes the grant (Rewrite); if surely nothing was minted it
// is withdrawn. It counts as a grant that lives and can be killed, and is due at its
// deadline, when the mint cannot be under way any more: whatever is found by its name
// then is killed, and the intent is withdrawn. An issue at such a provider is two
// writes, at any other one.
//
// # Levers
//
// What dies together hangs on one lever, which the provider has named. The end of a
// lease on it only releases the grant, while others hold the lever: the token lives on,
// so the grant stays on record, but is not due before it has expired. A lever that
// nobody holds any more is idle, until it is pulled and its grants are removed. Memory
// has of each lever how many grants of each holder hang on it, and so grows with levers
// and the holders on each. A lever of a grant's own is not named, and costs nothing.
//
// # What a record holds
//
// Of secrets the handle alone, and of that what the kill needs and nothing else: the
// child token itself where the protocol wants it (RFC 7009 2.1), and nothing where the
// record's own end kills the child or where nothing can. Neither the parent nor a
// subject token is ever in it. Vault's barrier encrypts records; they are not
// seal-wrapped as well (see the backend's PathsSpecial).
package grant

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/hashicorp/go-uuid"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/person"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

const (
	// NoHolder is the holder of all grants to callers without an entity.
	NoHolder = "none"
	// OwnHolder is the holder of the broker's own grants: children of one provider that
	// another one, or a stream of signals, has for its credential. Vault is never asked
	// about it.
	OwnHolder = "broker"
)

// ExpiryGrace is how long after its expiry a token is certainly dead: it covers
// a provider whose clock is behind ours.
const ExpiryGrace = time.Minute

// Grant is one child token handed out: who, what exactly, until when, and how it
// can be killed.
type Grant struct {
	// ID is "<holder>.<random>", so the record is found without an index. Nothing is
	// known of the holder's alphabet but that it can stand in a storage key. The random part
	// tells a little of the grant (see Told).
	ID string `json:"id"`
	// Holder is the entity's id, NoHolder or OwnHolder.
	Holder   string `json:"holder"`
	Role     string `json:"role"`
	Provider string `json:"provider"`
	// Borrower is what the broker has a grant of its own for, by its path.
	Borrower string `json:"borrower,omitempty"`
	// Subject and Actor are identifiers, never tokens.
	Subject       string `json:"subject,omitempty"`
	SubjectIssuer string `json:"subject_issuer,omitempty"`
	Actor         string `json:"actor,omitempty"`
	// ActorIssuer vouched for the actor, by its name in issuers; "" for the entity.
	ActorIssuer string `json:"actor_issuer,omitempty"`
	// ActorIss is the iss that goes with Actor, for which the broker's own issuer speaks if
	// it is the entity; "" in records of earlier builds. The subject's is in its claims.
	ActorIss string `json:"actor_iss,omitempty"`
	// SubjectIssuerPrint and ActorIssuerPrint tell whether the issuer that has the name
	// later is the one that vouched. Grants of earlier builds have none.
	SubjectIssuerPrint string `json:"subject_issuer_print,omitempty"`
	ActorIssuerPrint   string `json:"actor_issuer_print,omitempty"`
	// SubjectTies and ActorTies tie the subject and the actor to Vault entities, as the
	// issuers said when it was made. Grants of earlier builds have none.
	SubjectTies []person.Tie `json:"subject_ties,omitempty"`
	ActorTies   []person.Tie `json:"actor_ties,omitempty"`
	// Access is what the provider granted, as values; Granted is the same, flat.
	Access  Access   `json:"access"`
	Granted []string `json:"granted,omitempty"`
	// Facts are what a renewal judges again and cannot learn anew.
	Facts Facts `json:"facts"`

	IssuedAt time.Time `json:"issued_at"`
	// ExpiresAt is the provider's end of the token; zero if it has none known.
	ExpiresAt time.Time `json:"expires_at,omitzero"`
	// LeaseEnds is when Vault was told that the lease ends; MaxLease how far
	// renewals may move it.
	LeaseEnds time.Time `json:"lease_ends"`
	MaxLease  time.Time `json:"max_lease"`

	// Shares are the leases that share the token; none for a token of one lease. LeaseEnds is
	// the last one's end. On record they are storedShares.
	Shares []Share `json:"-"`

	Class         provider.Class `json:"class"`
	SelfContained bool           `json:"self_contained,omitempty"`
	// Issuer and KeyID are the broker's own, with which it signed the token; "" for
	// another's token, and in records of builds that did not note them.
	Issuer string `json:"issuer,omitempty"`
	KeyID  string `json:"key_id,omitempty"`
	// Withheld is a token that was never handed out.
	Withheld bool `json:"withheld,omitempty"`
	// Lever is the provider's name for what dies together with the token; "" if nothing
	// else that was handed out does.
	Lever string `json:"lever,omitempty"`
	// Released is true once the lease has ended and the token was left alive, because
	// others hold its lever.
	Released bool `json:"released,omitempty"`
	// Intent is zero but for an intent: a mint that is under way, or whose answer never
	// came. At that time it is not under way any more.
	Intent time.Time `json:"intent,omitzero"`
	// Where is where the provider looks for what has come of an intent; "" where it needs
	// no telling.
	Where string `json:"where,omitempty"`
	// Doom is set from the first failed revocation on.
	Doom *Doom `json:"doom,omitempty"`
	// Handle is what kills the token; empty for ClassExpiry.
	Handle secret.Text `json:"-"`
}

// Access is the granted access as plain values.
type Access struct {
	Scopes      []string          `json:"scopes,omitempty"`
	Audiences   []string          `json:"audiences,omitempty"`
	Resources   []string          `json:"resources,omitempty"`
	Permissions map[string]string `json:"permissions,omitempty"`
	Details     json.RawMessage   `json:"authorization_details,omitempty"`
}

// Facts of the issue that a renewal needs again.
type Facts struct {
	RemoteAddr    string         `json:"remote_addr,omitempty"`
	SubjectClaims map[string]any `json:"subject_claims,omitempty"`
	// SubjectExpires bounds every renewal of a grant made on a subject's behalf.
	SubjectExpires time.Time `json:"subject_expires,omitzero"`
}

// Doom is a revocation that has been decided and has not yet succeeded.
type Doom struct {
	Since    time.Time `json:"since"`
	Cause    string    `json:"cause"`
	Attempts int       `json:"attempts"`
	// Tried is how many of them were by the grant's own handle, where it hangs on a lever.
	Tried int       `json:"tried,omitempty"`
	Next  time.Time `json:"next"`
	// Error is the last failure's public text.
	Error string `json:"error,omitempty"`
	// Kills are those that meant the grant and have left it pending, the last few of them:
	// their records are told what becomes of it.
	Kills []KillRef `json:"kills,omitempty"`
	// Final means that the provider will never kill the token, so that nobody tries
	// again of himself. Records of earlier builds lack it, and are tried again.
	Final bool `json:"final,omitempty"`
}

// KillRef names a kill by its record, and says when that happened to which it is the answer.
type KillRef struct {
	ID    string    `json:"id"`
	Event time.Time `json:"event,omitzero"`
}

// maxKills bounds a doom that many kills come upon.
const maxKills = 8

// MeantBy notes that a kill means the grant.
func (d *Doom) MeantBy(kill KillRef) {
	if slices.ContainsFunc(d.Kills, func(k KillRef) bool { return k.ID == kill.ID }) {
		return
	}
	d.Kills = append(slices.Clone(d.Kills), kill)
	if over := len(d.Kills) - maxKills; over > 0 {
		d.Kills = d.Kills[over:]
	}
}

// IsIntent reports whether it is not known yet whether there is a token.
func (g *Grant) IsIntent() bool { return !g.Intent.IsZero() }

// Revocable reports whether something can kill the token, as far as is known. What came
// of an intent is found by its name.
func (g *Grant) Revocable() bool {
	return (!g.Handle.Empty() || g.IsIntent()) && (g.Doom == nil || !g.Doom.Final)
}

// Revocation is the token's class as it has turned out to be.
func (g *Grant) Revocation() provider.Class {
	if !g.Revocable() {
		return provider.ClassExpiry
	}
	return g.Class
}

// NewID makes an id of a grant to an entity ("" is NoHolder) that tells nothing of the grant,
// as those of early builds. No entity may be NoHolder or OwnHolder, about whom the sweep never
// asks.
func NewID(entity string) (string, error) {
	holder, err := holderOf(entity)
	if err != nil {
		return "", err
	}
	random, err := newRandom(holder)
	if err != nil {
		return "", err
	}
	return holder + "." + random, nil
}

// holderOf is whose the grants to an entity are.
func holderOf(entity string) (string, error) {
	switch entity {
	case NoHolder, OwnHolder:
		return "", ErrHolder
	case "":
		return NoHolder, nil
	}
	return entity, nil
}

// newRandom is the random part of an id.
func newRandom(holder string) (string, error) {
	if !IsHolder(holder) {
		return "", ErrHolder
	}
	random, err := uuid.GenerateUUID()
	if err != nil {
		return "", fmt.Errorf("cannot make a grant id: %w", err)
	}
	random = strings.ReplaceAll(random, "-", "")
	if strings.Contains(holder, ".") {
		random = dottedMark + random
	}
	return random, nil
}

// ErrHolder means that a holder's id cannot be a part of a storage key.
var ErrHolder = errors.New("the holder's id is none or broker, or has a slash, two dots side by side or a control character, or is no text")

// IsHolder reports whether a holder of that id could have grants.
func IsHolder(id string) bool {
	_, ok := HolderOf(id + ".x")
	return ok
}

// HolderOf is the holder that id encodes; false if id has not the form of one. Only
// the random part is known to have no dot in it: an entity outside the root namespace
// has an id of the form <uuid>.<namespace>.
func HolderOf(id string) (string, bool) {
	// Storage refuses keys with "..", and the way to it takes text alone.
	at := strings.LastIndexByte(id, '.')
	if at < 1 || at == len(id)-1 || strings.Contains(id, "/") || strings.Contains(id, "..") || !utf8.ValidString(id) || strings.ContainsFunc(id, unicode.IsControl) {
		return "", false
	}
	return id[:at], true
}

// Clone is a copy that can be changed; nil of nil. What a grant refers to beside
// its doom and its shares is never changed.
func (g *Grant) Clone() *Grant {
	if g == nil {
		return nil
	}
	copied := *g
	copied.Shares = slices.Clone(g.Shares)
	if g.Doom != nil {
		doom := *g.Doom
		copied.Doom = &doom
	}
	return &copied
}

// inherit keeps of a grant as it was on record the kill that was decided of it.
func (g *Grant) inherit(before *Grant) {
	if before.Doom == nil {
		return
	}
	doom := *before.Doom
	if g.Doom != nil { // one more attempt
		doom.Attempts += g.Doom.Attempts
		doom.Next, doom.Error, doom.Final = g.Doom.Next, g.Doom.Error, g.Doom.Final
	}
	g.Doom = &doom
}

// stored is the record's form in Vault's encrypted storage, the only place where
// the handle is written out.
type stored struct {
	*Grant
	storedShares
	Handle string `json:"handle,omitempty"`
}

func (g *Grant) encode() ([]byte, error) {
	return recordForm.Encode(stored{Grant: g, storedShares: storeShares(g.Shares), Handle: g.Handle.Reveal()})
}

// recordForm is the form of records. One that is newer is ErrUnreadable, and ErrNewer
// of package form beside: its token lives, and a newer version can kill it.
var recordForm = form.Kind{Name: "record of a grant"}

func decode(raw []byte) (*Grant, error) {
	if err := recordForm.Check(raw); err != nil {
		return nil, errors.Join(ErrUnreadable, err)
	}
	s := stored{Grant: &Grant{}}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber() // claims compare by their exact numbers
	if err := dec.Decode(&s); err != nil {
		return nil, errors.Join(ErrUnreadable, err)
	}
	var err error
	if s.Shares, err = s.shares(); err != nil {
		return nil, errors.Join(ErrUnreadable, err)
	}
	s.Grant.Handle = secret.New(s.Handle)
	return s.Grant, nil
}
