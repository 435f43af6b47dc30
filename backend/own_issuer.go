package backend

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/keyring"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
)

// Where the broker's own issuer is stored. The keys are seal-wrapped.
const (
	configKey      = "config"
	signingKeysKey = "signing-keys"
)

var configForm = form.Kind{Name: "configuration"}

// Defaults and bounds of the configuration.
const (
	defaultRotationPeriod = 30 * 24 * time.Hour
	minRotationPeriod     = 2 * keyring.Lead
	maxRotationPeriod     = 366 * 24 * time.Hour
	defaultMaxTokenTTL    = 24 * time.Hour
	// minMaxTokenTTL leaves room for what is signed for one request: actor tokens
	// and client assertions.
	minMaxTokenTTL = 2 * time.Minute
	maxMaxTokenTTL = 10 * 24 * time.Hour
	// A record of a kill outlives the kill at least, and is no archive.
	defaultKillsRetention = 90 * 24 * time.Hour
	minKillsRetention     = 24 * time.Hour
	maxKillsRetention     = 10 * 366 * 24 * time.Hour
)

// config is the mount's settings as they are stored.
type config struct {
	Issuer           string        `json:"issuer,omitempty"`
	SigningAlgorithm string        `json:"signing_algorithm"`
	RotationPeriod   time.Duration `json:"rotation_period"`
	MaxTokenTTL      time.Duration `json:"max_token_ttl"`
	// KillsRetention is absent in what earlier builds have stored: then it is the default.
	KillsRetention time.Duration `json:"kills_retention,omitempty"`
}

func defaultConfig() config {
	return config{SigningAlgorithm: keyring.Algorithms()[0], RotationPeriod: defaultRotationPeriod, MaxTokenTTL: defaultMaxTokenTTL, KillsRetention: defaultKillsRetention}
}

func (c config) terms() keyring.Terms {
	return keyring.Terms{Algorithm: c.SigningAlgorithm, LongestLife: c.MaxTokenTTL, Period: c.RotationPeriod}
}

func (c config) validate() error {
	switch {
	case !slices.Contains(keyring.Algorithms(), c.SigningAlgorithm):
		return fault.New(fault.InvalidRequest, "signing_algorithm must be one of %s", strings.Join(keyring.Algorithms(), ", "))
	case c.MaxTokenTTL < minMaxTokenTTL || c.MaxTokenTTL > maxMaxTokenTTL:
		return fault.New(fault.InvalidRequest, "max_token_ttl must be between %s and %s", minMaxTokenTTL, maxMaxTokenTTL)
	case c.RotationPeriod < minRotationPeriod || c.RotationPeriod > maxRotationPeriod:
		return fault.New(fault.InvalidRequest, "rotation_period must be between %s and %s: keys always rotate", minRotationPeriod, maxRotationPeriod)
	case c.RotationPeriod < c.MaxTokenTTL:
		// Otherwise retired keys, which outlive what they signed, would pile up.
		return fault.New(fault.InvalidRequest, "rotation_period must not be shorter than max_token_ttl, which is %s", c.MaxTokenTTL)
	case c.KillsRetention < minKillsRetention || c.KillsRetention > maxKillsRetention:
		return fault.New(fault.InvalidRequest, "kills_retention must be between %s and %s", stored.InWords(minKillsRetention), stored.InWords(maxKillsRetention))
	case c.Issuer != "":
		return checkOwnIssuer(c.Issuer)
	}
	return nil
}

// checkOwnIssuer holds the URL against OIDC Discovery 1.0 section 3, and against what
// would make the paths below it ambiguous.
func checkOwnIssuer(issuer string) error {
	if err := httpclient.CheckURL(issuer, true); err != nil {
		return fault.New(fault.InvalidRequest, "issuer %s", err)
	}
	if err := httpclient.CheckURL(issuer, false); err != nil {
		return fault.New(fault.InvalidRequest, "issuer must be an https URL: whoever reads the keys on their way can replace them (plain http is for loopback only)")
	}
	if strings.HasSuffix(issuer, "/") {
		return fault.New(fault.InvalidRequest, "issuer must not end with a slash, as in https://vault.example.com:8200/v1/broker")
	}
	return nil
}

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

// followSchedule makes, activates and retires keys as the configuration says. Without an
// issuer nothing is signed, and the keys stay published until all that they signed has
// expired.
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

var errNothingPublished = fault.New(fault.InvalidRequest, "this broker is no issuer: an operator must write config issuer=...")

// rotate makes the next keys, and withdraws those that are there if somebody may have
// stolen them.
func (s *ownState) rotate(now time.Time, emergency bool) error {
	if s.config.Issuer == "" {
		return errNothingPublished
	}
	next, err := s.ring.Rotate(now, s.config.terms(), emergency)
	if errors.Is(err, keyring.ErrRefused) {
		return fault.New(fault.InvalidRequest, "%s; emergency=true withdraws them, and what they signed, at once", err)
	}
	if err != nil {
		return fault.New(fault.TemporarilyUnavailable, "the signing keys could not be made: try again").Because(err)
	}
	s.ring = next
	return nil
}

// discoveryDocument is the broker's discovery document: what OIDC clients and Kubernetes'
// API server insist on. There are no authorization and token endpoints, as in the
// document that Kubernetes publishes itself, because tokens come from creds.
type discoveryDocument struct {
	Issuer                           string   `json:"issuer"`
	JWKSURI                          string   `json:"jwks_uri"`
	IntrospectionEndpoint            string   `json:"introspection_endpoint"`
	RevocationEndpoint               string   `json:"revocation_endpoint"`
	ResponseTypesSupported           []string `json:"response_types_supported"`
	SubjectTypesSupported            []string `json:"subject_types_supported"`
	IDTokenSigningAlgValuesSupported []string `json:"id_token_signing_alg_values_supported"`
}

func (s *ownState) discovery(now time.Time) ([]byte, error) {
	issuer := s.config.Issuer
	document, err := json.Marshal(discoveryDocument{
		Issuer: issuer, JWKSURI: issuer + "/" + jwksPath,
		IntrospectionEndpoint: issuer + "/" + introspectionPath, RevocationEndpoint: issuer + "/" + revocationPath,
		ResponseTypesSupported: []string{"id_token"}, SubjectTypesSupported: []string{"public"},
		IDTokenSigningAlgValuesSupported: s.ring.ActiveAlgorithms(now),
	})
	if err != nil {
		return nil, stored.Fault(err)
	}
	return document, nil
}

// ownEndpoints are the URLs at which a token could be used against the broker itself, as
// the issuer of that name.
func ownEndpoints(issuer string) []string {
	return []string{issuer, issuer + "/" + introspectionPath, issuer + "/" + revocationPath}
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
