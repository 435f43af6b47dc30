package backend

import (
	"context"
	"errors"
	"maps"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/keyring"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
)

// Where the broker's own issuer is stored. The keys are seal-wrapped.
const (
	configKey      = "config"
	signingKeysKey = "signing-keys"
)

var configForm = form.Kind{Name: "configuration"}

// ownIssuer is the broker as an issuer of its own JWTs: what it is called and the
// keys that it signs with. It is safe for concurrent use. Keys are in storage before
// anybody sees or uses them, so the node that takes over has them too.
type ownIssuer struct {
	config *stored.Keeper[config]
	keys   *stored.Keeper[keyring.Ring]
	states *stored.Cache[*ownState] // one, by ""
}

// ownState is the issuer as it is stored. It is never changed once it is there.
type ownState struct {
	config config
	ring   *keyring.Ring
}

func newOwnIssuer(storage logical.Storage) *ownIssuer {
	configKind := stored.KindOf[config](configForm)
	configKind.Decode = func(raw []byte) (*config, error) {
		c := defaultConfig()
		return &c, configForm.Decode(raw, &c)
	}
	o := &ownIssuer{
		config: stored.NewKeeper(storage, configKey, configKind),
		keys: stored.NewKeeper(storage, signingKeysKey, stored.Kind[keyring.Ring]{
			Name: "set of signing keys", SealWrap: true, Encode: (*keyring.Ring).Encode, Decode: keyring.Decode,
		}),
		states: stored.NewCache[*ownState](),
	}
	o.config.OnChange(o.states.Drop)
	o.keys.OnChange(o.states.Drop)
	return o
}

// state is what is stored. It takes the configuration first, because change writes it
// last: so it never comes with keys that are older.
func (o *ownIssuer) state(ctx context.Context) (*ownState, error) {
	return o.states.Get("", func() (*ownState, error) {
		config, err := o.config.Get(ctx, "")
		if err != nil && !errors.Is(err, stored.ErrAbsent) {
			return nil, err
		}
		ring, err := o.keys.Get(ctx, "")
		if err != nil && !errors.Is(err, stored.ErrAbsent) {
			return nil, err
		}
		return newState(config, ring), nil
	})
}

// newState is what is meant where something was never stored.
func newState(c *config, ring *keyring.Ring) *ownState {
	s := &ownState{config: defaultConfig(), ring: ring}
	if c != nil {
		s.config = *c
	}
	if ring == nil {
		s.ring = &keyring.Ring{}
	}
	return s
}

// change lets edit make another state of the stored one, and stores what differs:
// the keys first, so that no configuration promises what they do not keep.
func (o *ownIssuer) change(ctx context.Context, edit func(*ownState) error) (before, after *ownState, err error) {
	err = o.config.Change(ctx, "", func(c *config) (*config, error) {
		err := o.keys.Change(ctx, "", func(ring *keyring.Ring) (*keyring.Ring, error) {
			before = newState(c, ring)
			edited := *before
			if err := edit(&edited); err != nil {
				return nil, err
			}
			after = &edited
			if edited.ring == before.ring {
				return nil, stored.ErrUnchanged
			}
			return edited.ring, nil
		})
		if err != nil {
			return nil, err
		}
		if after.config == before.config {
			return nil, stored.ErrUnchanged
		}
		return &after.config, nil
	})
	if err != nil {
		return nil, nil, err
	}
	if *after == *before {
		after = before
	}
	return before, after, nil
}

// followSchedule makes, activates and retires keys as the configuration says. Without
// an issuer nothing is signed, and what was signed before is outlived.
func (s *ownState) followSchedule(now time.Time) error {
	var next *keyring.Ring
	var err error
	if s.config.Issuer == "" {
		next, _, err = s.ring.Stop(now)
	} else {
		next, _, err = s.ring.Advance(now, s.config.terms())
	}
	if err != nil {
		return fault.New(fault.TemporarilyUnavailable, "the signing keys could not be made: try again").Because(err)
	}
	s.ring = next
	return nil
}

// advanceKeys does what the keys' schedule makes due. Making RSA keys takes seconds,
// once in a rotation period.
func (b *broker) advanceKeys(ctx context.Context) error {
	before, after, err := b.own.change(ctx, func(s *ownState) error { return s.followSchedule(b.now()) })
	if err == nil && before != after {
		b.logKeys(after)
	}
	return err
}

func (b *broker) logKeys(s *ownState) {
	for _, k := range s.ring.Published(b.now()) {
		b.Logger().Info("signing key", "purpose", k.Purpose, "kid", k.ID, "algorithm", k.Algorithm, "active_from", stamp(k.ActiveFrom))
	}
}

var errNoIssuer = fault.New(fault.TemporarilyUnavailable, "config issuer is not set: an operator must write config issuer=...")

// ownIssuer is the broker's own issuer URL, "" if none is configured, and the longest
// life of what it signs.
func (b *broker) ownIssuer(ctx context.Context) (url string, maxTTL time.Duration, err error) {
	s, err := b.own.state(ctx)
	if err != nil {
		return "", 0, err
	}
	return s.config.Issuer, s.config.MaxTokenTTL, nil
}

// signToken signs the claims, with iss added, as a JWT of the purpose's typ. They
// must hold an exp, at most max_token_ttl away; a child is for nothing that is reserved
// at this moment, whatever its role was held against before. claims are not changed.
func (b *broker) signToken(ctx context.Context, purpose keyring.Purpose, claims map[string]any) (string, error) {
	s, err := b.own.state(ctx)
	if err != nil {
		return "", err
	}
	if s.config.Issuer == "" {
		return "", errNoIssuer
	}
	if purpose == keyring.Child {
		if err := b.providers.CheckSigned(ctx, claims["aud"]); err != nil {
			return "", err
		}
	}
	now := b.now()
	if exp, ok := form.NumericDate(claims["exp"]); ok && exp.Sub(now) > s.config.MaxTokenTTL {
		return "", fault.New(fault.InvalidRequest, "the token would live until %s, longer than config max_token_ttl=%s allows: ask for a shorter ttl", stamp(exp), s.config.MaxTokenTTL)
	}
	signed := make(map[string]any, len(claims)+1)
	maps.Copy(signed, claims)
	signed["iss"] = s.config.Issuer
	token, err := s.ring.Sign(purpose, now, signed)
	if errors.Is(err, keyring.ErrClaims) {
		return "", fault.New(fault.InvalidRequest, "no such token can be signed: %s", err)
	}
	if err != nil {
		return "", fault.New(fault.TemporarilyUnavailable, "the token could not be signed: try again in a minute").Because(err)
	}
	return token, nil
}

// verifyOwn returns the claims of a child token that this broker has signed, with
// numbers as json.Number. It judges signature, typ, iss and exp; whether the grant
// still lives is the ledger's to say. The error is invalid_grant for any other token,
// such as one that bears an issuer which is not configured any more.
func (b *broker) verifyOwn(ctx context.Context, compact string) (claims map[string]any, err error) {
	s, err := b.own.state(ctx)
	if err != nil {
		return nil, err
	}
	now := b.now()
	payload, err := s.ring.Verify(keyring.Child, compact, now)
	if err != nil {
		return nil, errNotOwn
	}
	// What a subject token nested, and what stands around it here.
	if claims, err = form.Object(payload, 2*maxDepth); err != nil {
		return nil, errNotOwn
	}
	exp, ok := form.NumericDate(claims["exp"])
	if s.config.Issuer == "" || claims["iss"] != s.config.Issuer || !ok || !now.Before(exp) {
		return nil, errNotOwn
	}
	return claims, nil
}

var errNotOwn = fault.New(fault.InvalidGrant, "the token is not one that this broker has signed, or it has expired")
