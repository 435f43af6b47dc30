package backend

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/decision"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/downstream"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/person"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/subject"
)

// The fields of creds that bring the tokens.
const (
	fieldSubject = "subject_token"
	fieldActor   = "actor_token"
)

// parties verifies the tokens that came with the ask: on whose behalf, and who
// acts. What is a token's fault goes into the situation, as a reason against; an
// issuer that could not be asked is an error.
func (b *broker) parties(ctx context.Context, role *compiledRole, p *downstream.Provider, a ask, s *decision.Situation) error {
	var err error
	if s.Subject, err = b.verify(ctx, fieldSubject, role.SubjectIssuers, a.subjectToken); err != nil {
		return err
	}
	if token := s.Subject.Token(); token != nil && role.policy.Forward {
		s.Subject = s.Subject.Unless(checkForwardable(token, p))
	}
	if role.Mode == provider.ModeExchange {
		if err := b.exchangers(ctx, role, p, a, s); err != nil {
			return err
		}
	}
	s.ActorGiven = !a.actorToken.Empty()
	if role.policy.Acts != decision.ActorToken {
		return nil
	}
	if s.Actor, err = b.verify(ctx, fieldActor, role.ActorIssuers, a.actorToken); err != nil {
		return err
	}
	s.Actor = s.Actor.Unless(checkVouched(fieldActor, s.Actor.Token(), p))
	if token := s.Actor.Token(); token != nil && p.Traits.SignsNames {
		issuer, _, err := b.ownIssuer(ctx)
		if err != nil || token.Issuer == issuer {
			return err
		}
		refusal, err := b.checkNoEntity("the actor token's sub", token.Subject)
		if err != nil {
			return err
		}
		s.Actor = s.Actor.Unless(refusal)
	}
	return nil
}

// checkForwardable refuses to hand on what is no token of the provider's own.
func checkForwardable(t *subject.Token, p *downstream.Provider) *fault.Error {
	if t.BoundIssuer() != p.Traits.Issuer {
		return fault.New(fault.InvalidGrant, "the token is not from the provider's own issuer, so it is not good there: exchange it (mode=exchange)")
	}
	return nil
}

// exchangers judges the subject of an exchange, and names the entity where it acts.
func (b *broker) exchangers(ctx context.Context, role *compiledRole, p *downstream.Provider, a ask, s *decision.Situation) error {
	issuer, _, err := b.ownIssuer(ctx)
	if err != nil {
		return err
	}
	if token := s.Subject.Token(); token != nil && token.Issuer != issuer {
		refusal, err := b.checkNoEntity("the subject token's sub", token.Subject)
		if err != nil {
			return err
		}
		s.Subject = s.Subject.Unless(checkVouched(fieldSubject, token, p)).Unless(refusal)
		if role.policy.Acts == decision.ActorNone && p.Traits.SignsNames {
			refusal, err := b.checkActs(token, issuer)
			if err != nil {
				return err
			}
			s.Subject = s.Subject.Unless(refusal)
		}
	}
	if role.policy.Acts == decision.ActorEntity && a.entityID != "" {
		s.Actor = subject.Verified(subject.Entity(issuer, a.entityID))
	}
	return nil
}

// checkVouched refuses to sign the name of a party whose issuer nothing binds to an iss:
// its keys would vouch for whatever name they like, and verifiers are told to trust
// what the broker signs (rule 12 of the contract).
func checkVouched(field string, t *subject.Token, p *downstream.Provider) *fault.Error {
	if t == nil || !p.Traits.SignsNames || t.BoundIssuer() != "" {
		return nil
	}
	return fault.New(fault.InvalidGrant, "nothing binds the issuer %q to a name, so the broker signs none that it vouches for in a %s: an operator must set bound_issuer on issuers/%s", t.IssuerName, field, t.IssuerName)
}

// checkActs refuses another issuer's subject token that says a Vault entity acts for
// its subject, where the role names no actor: its act would be the child's own. Where
// somebody else acts, those before are known by the subject's issuer alone, and no
// service may heed them (RFC 8693 4.1).
func (b *broker) checkActs(t *subject.Token, own string) (*fault.Error, error) {
	if iss, _ := t.Actor["iss"].(string); iss == own && own != "" {
		return fault.New(fault.AccessDenied, "the subject token's act is of this broker's issuer, for which another issuer cannot speak"), nil
	}
	sub, _ := t.Actor["sub"].(string)
	return b.checkNoEntity("the sub of the subject token's act", sub)
}

// checkNoEntity refuses what another issuer calls a party if it is the id of a Vault
// entity, one that was merged into another included: to a service that reads sub
// alone the child would be that entity's, or the entity would act.
func (b *broker) checkNoEntity(what, id string) (*fault.Error, error) {
	now := b.now()
	if !mayBeHolder(id) || b.strangers.has(id, now) {
		return nil, nil
	}
	entity, err := b.System().EntityInfo(id)
	if err != nil {
		return nil, fault.New(fault.TemporarilyUnavailable, "Vault could not say whether %s is the id of an entity: try again", what).Because(err)
	}
	if entity == nil {
		b.strangers.add(id, now)
		return nil, nil
	}
	return fault.New(fault.AccessDenied, "%s is the id of a Vault entity, whom another issuer cannot speak for", what), nil
}

// mayBeHolder spares the question about what can be no entity's id, because no grant
// could be recorded for it. Nothing else is known of the form of an id: Vault's are
// UUIDs, and in a namespace a UUID, a dot and the namespace's id.
func mayBeHolder(id string) bool {
	_, ok := grant.HolderOf(id + ".x")
	return ok && len(id) <= maxName
}

// verify verifies a token by the keys of the one issuer that it claims to be from,
// among those that are trusted.
func (b *broker) verify(ctx context.Context, field string, trusted []string, raw secret.Text) (subject.Verdict, error) {
	if raw.Empty() {
		return subject.Verdict{}, nil
	}
	token, err := b.verifyFrom(ctx, field, trusted, raw)
	var refusal *fault.Error
	switch {
	case err == nil:
		return subject.Verified(token), nil
	case errors.As(err, &refusal) && refusal.Code != fault.TemporarilyUnavailable:
		return subject.Refused(refusal), nil
	default:
		return subject.Verdict{}, err
	}
}

func (b *broker) verifyFrom(ctx context.Context, field string, trusted []string, raw secret.Text) (*subject.Token, error) {
	if len(trusted) == 0 {
		return nil, fault.New(fault.InvalidRequest, "the role takes no %s: leave it out", field)
	}
	var issuers []*subject.Issuer
	for _, name := range slices.Compact(slices.Clone(trusted)) {
		i, err := b.issuers.opened(ctx, name)
		if errors.Is(err, stored.ErrAbsent) {
			continue // deleted since: nobody's tokens
		}
		if err != nil {
			return nil, err
		}
		issuers = append(issuers, i)
	}
	if len(issuers) == 0 {
		return nil, fault.New(fault.InvalidGrant, "nobody's %s is trusted here any more: an operator must write issuers/%s again, or let the role name another", field, strings.Join(trusted, " or issuers/"))
	}
	token, err := subject.VerifyFrom(ctx, raw, issuers, b.now())
	if err == nil {
		err = b.checkOwn(ctx, field, raw, token)
	}
	if err != nil {
		return nil, err
	}
	return token, nil
}

// checkOwn judges a token that bears the broker's own issuer or was signed by its
// keys, which an operator may trust so that a child can be exchanged further. Whatever
// keys verified it, it must be a child that the broker signed, or an issuer that is
// trusted could speak for the broker; and its grant must live, or a killed child would
// live on in others. The keys tell it by also where the issuer was changed or unset:
// verifiers that pinned them, or the old URL, are among the broker's own issuers too.
func (b *broker) checkOwn(ctx context.Context, field string, raw secret.Text, token *subject.Token) error {
	s, err := b.own.state(ctx)
	if err != nil {
		return err
	}
	if own := s.config.Issuer; (own == "" || token.Issuer != own) && !s.ring.Names(raw.Reveal()) {
		return nil
	}
	claims, err := b.verifyOwn(ctx, raw.Reveal())
	if err != nil {
		return err
	}
	if _, foreign := claims["sub_id"]; foreign && field == fieldActor {
		// Its sub is whatever that other issuer wrote, such as an entity's id.
		return fault.New(fault.InvalidGrant, "the %s came of an exchange and is about another issuer's subject, who does not act as one of the broker's: bring the actor's own token", field)
	}
	if _, foreign := claims["sub_id"]; !foreign && person.LooksLikeEntityID(token.Subject) {
		// The broker itself vouches for the entity: what is made of its token is in its name.
		token.Person = person.Clean(append(token.Person, person.Entity(token.Subject)))
	}
	alive, err := b.killer.Held(ctx, idOf(claims))
	if err == nil && !alive {
		err = fault.New(fault.InvalidGrant, "the %s is one of the broker's own that was revoked, or whose lease has ended: get a new one", field)
	}
	return err
}

// party is a verified token as a provider gets it; raw is empty for the entity.
func party(t *subject.Token, raw secret.Text) *provider.Party {
	if t == nil {
		return nil
	}
	p := &provider.Party{Issuer: t.Issuer, ID: t.Subject, Token: raw, ExpiresAt: t.ExpiresAt}
	if !raw.Empty() {
		p.Claims = t.Claims
	}
	return p
}

// identity is the caller as a provider gets it.
func identity(c decision.Caller) provider.Identity {
	id := provider.Identity{EntityID: c.EntityID, Name: c.Name, Metadata: c.Metadata, Groups: c.Groups}
	for _, a := range c.Aliases {
		id.Aliases = append(id.Aliases, provider.Alias{Name: a.Name, MountAccessor: a.MountAccessor, Metadata: a.Metadata})
	}
	return id
}

// checkProofs refuses a proof of possession that the provider would not look at.
func checkProofs(p *downstream.Provider, proofs map[provider.ProofKind]secret.Text) *fault.Error {
	for kind := range proofs {
		if !slices.Contains(p.Traits.Proofs, kind) {
			return fault.New(fault.InvalidRequest, "%s: the provider %q binds no token to a key in this way: leave it out", kind, p.Ref)
		}
	}
	return nil
}
