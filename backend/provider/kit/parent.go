package kit

import (
	"context"
	"errors"
	"maps"
	"sync"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// Succession is how one parent credential follows another, so that there is a working one
// whatever fails in between: the next one is durable before the former one is forgotten.
// There are two ways to the next one.
//
// Where the system itself replaces the credential as it is used (a refresh token that
// rotates), the uses stand in a queue, the parent's Turn: whoever is at the front Loads what
// is stored, uses it ToTheEnd, and Saves what came in its place before the next one's turn.
// What cannot be stored is kept in memory, for the life of the process, and until it is
// stored nothing more is asked: never does more than one credential hang in memory.
//
// Where there can be two at a time (keys, secrets, tokens of an account), the next one is
// stored beside the current one by a Change, proven, and put in its place by another
// (Promote). A crash leaves both on record.
type Succession struct {
	// Field is the secret that the system replaces; "" if it replaces none.
	Field string
	Deps  provider.Deps
	// Adopt is told which parent is stored now; nil for nobody.
	Adopt func(provider.Parent)
}

// saveTimeout bounds storing a parent, which outlives the request that caused it.
const saveTimeout = 15 * time.Second

// leastTime is what a use has, however little time its caller has left.
const leastTime = 15 * time.Second

// ToTheEnd is a context that does not end when the caller gives up, and has what time
// the caller has left, or 15 seconds: a use that is given up in the middle may lose the
// credential that would have followed.
func ToTheEnd(ctx context.Context) (context.Context, context.CancelFunc) {
	left := leastTime
	if deadline, ok := ctx.Deadline(); !ok {
		return context.WithCancel(context.WithoutCancel(ctx))
	} else if until := time.Until(deadline); until > left {
		left = until
	}
	return context.WithTimeout(context.WithoutCancel(ctx), left)
}

// ErrChangedMeanwhile is why a Change did not take place.
var ErrChangedMeanwhile = unavailable("the parent credential was changed meanwhile: rotate again")

// Turn waits until nobody else uses or changes this parent. Its error is *fault.Error.
func (s Succession) Turn(ctx context.Context) (release func(), err error) {
	release, err = s.Deps.Turn(ctx)
	if err != nil {
		return nil, unavailable("another request is using this provider's parent credential: try again").Because(err)
	}
	return release, nil
}

// Load reads the parent at the beginning of a turn. A successor that could not be stored
// before is stored now. Its error is *fault.Error; nothing must be sent then.
func (s Succession) Load(ctx context.Context) (provider.Parent, error) {
	parent, err := s.Deps.LoadParent(ctx)
	if err != nil {
		return parent, unavailable("the parent credential could not be read from storage: try again").Because(err)
	}
	used := parent.Secrets[s.Field]
	if next, waiting := unsaved.get(used); waiting {
		// Only what the system said is carried over. An operator may have changed
		// the other secrets since; one who wrote this credential again wants it tried.
		parent = With(parent, s.Field, next.Secrets[s.Field])
		if next.Serial == parent.Serial {
			parent.Refused = next.Refused
		}
		if err := s.Save(ctx, used, parent); err != nil {
			return parent, err
		}
	}
	s.adopt(parent)
	return parent, nil
}

// Waiting reports whether what follows a stored secret could not be stored yet.
func (s Succession) Waiting(stored secret.Text) bool {
	_, waiting := unsaved.get(stored)
	return waiting
}

// Save stores, in the parent's turn, a parent that follows the one with the secret that
// was used. If that fails the parent is kept in memory, and saved by the next Load, of
// whichever Provider that is opened on it. If an operator wrote another secret meanwhile,
// that one stands; if it is others that were written, this one goes on top of them. Its
// error is *fault.Error.
func (s Succession) Save(ctx context.Context, used secret.Text, parent provider.Parent) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), saveTimeout)
	defer cancel()
	err := s.Deps.SaveParent(ctx, parent)
	for range maxRebases {
		if !errors.Is(err, provider.ErrParentChanged) {
			break
		}
		parent, err = s.rebase(ctx, used, parent)
	}
	switch {
	case errors.Is(err, errReplaced):
		unsaved.drop(used)
		return nil
	case err != nil:
		unsaved.put(used, parent)
		s.Deps.Logger.Error("the parent credential could not be stored and is kept in memory until it can", "error", err)
		return unavailable("the parent credential that the provider gave next could not be stored: try again").Because(err)
	}
	unsaved.drop(used)
	s.adopt(parent)
	return nil
}

// maxRebases bounds how often an operator may write between our load and save.
const maxRebases = 5

var errReplaced = errors.New("an operator replaced the credential")

// rebase is for a save that came after an operator's write. If that brought other
// secrets but left the one that was used alone, what the system gave in its place
// still follows it, and is saved on top. A refusal is not: the write cleared it.
func (s Succession) rebase(ctx context.Context, used secret.Text, parent provider.Parent) (provider.Parent, error) {
	current, err := s.Deps.LoadParent(ctx)
	next := parent.Secrets[s.Field]
	switch {
	case errors.Is(err, provider.ErrParentChanged): // it is gone
		return parent, errReplaced
	case err != nil:
		return parent, err
	case !current.Secrets[s.Field].Equal(used), next.Equal(used):
		return current, errReplaced
	}
	parent = With(current, s.Field, next)
	return parent, s.Deps.SaveParent(ctx, parent)
}

// Change stores the parent as change leaves it, in the parent's turn. It is all or
// nothing: else the secret in the field current stays, and an operator's write in between
// is ErrChangedMeanwhile. Its errors are *fault.Error, or change's.
func (s Succession) Change(ctx context.Context, current string, change func(*provider.Parent) error) error {
	release, err := s.Turn(ctx)
	if err != nil {
		return err
	}
	defer release()
	parent, err := s.Load(ctx)
	if err != nil {
		return err
	}
	parent.Secrets = maps.Clone(parent.Secrets)
	if err := change(&parent); err != nil {
		return err
	}
	switch err := s.Deps.SaveParent(ctx, parent); {
	case errors.Is(err, provider.ErrParentChanged):
		return ErrChangedMeanwhile
	case err != nil:
		return unavailable("the changed parent credential could not be stored, so %s stays: try again", current).Because(err)
	}
	s.adopt(parent)
	return nil
}

func (s Succession) adopt(parent provider.Parent) {
	if s.Adopt != nil {
		s.Adopt(parent)
	}
}

// Promote puts the secrets in the fields of next in the place of those in current, one by
// one, and leaves next empty. What next lacks, current has no more.
func Promote(parent *provider.Parent, current, next []string) {
	for i, name := range next {
		delete(parent.Secrets, current[i])
		if value := parent.Secrets[name]; !value.Empty() {
			parent.Secrets[current[i]] = value
		}
		delete(parent.Secrets, name)
	}
}

// With is the parent with that secret in the field.
func With(parent provider.Parent, field string, value secret.Text) provider.Parent {
	secrets := maps.Clone(parent.Secrets)
	if secrets == nil {
		secrets = map[string]secret.Text{}
	}
	secrets[field] = value
	parent.Secrets = secrets
	return parent
}

// successors are parents that could not be stored when they came, by the fingerprint of
// the stored secret that they follow.
type successors struct {
	mu sync.Mutex
	of map[string]provider.Parent
}

// unsaved is the process's own, because Providers come and go with every edit of their
// configuration while the system remembers what it gave last. The key is the secret
// itself, so mounts do not meet here unless they share one.
var unsaved successors

func (s *successors) get(used secret.Text) (provider.Parent, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	parent, ok := s.of[used.Fingerprint()]
	return parent, ok && !used.Empty()
}

func (s *successors) put(used secret.Text, parent provider.Parent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.of == nil {
		s.of = map[string]provider.Parent{}
	}
	s.of[used.Fingerprint()] = parent
}

func (s *successors) drop(used secret.Text) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.of, used.Fingerprint())
}
