package role

import (
	"slices"
	"strings"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/decision"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
)

// Values of Sharing.
const (
	// SharingNone gives each request a child of its own.
	SharingNone = "none"
	// SharingEntity gives an entity's identical requests one child.
	SharingEntity = "entity"
)

// Values of Actor.
const (
	// ActorNone names nobody: to the provider the subject itself asks.
	ActorNone = "none"
	// ActorEntity names the Vault entity, for which the broker vouches.
	ActorEntity = "entity"
	// ActorToken names whoever the caller's actor_token is about.
	ActorToken = "token"
)

// SharesByEntity reports whether one child serves an entity's identical requests.
func (r *Role) SharesByEntity() bool { return r.Sharing == SharingEntity }

// validateMode judges what belongs to one mode alone.
func (r *Role) validateMode() error {
	acts := r.Actor != "" && r.Actor != ActorNone
	switch {
	case r.Mode != provider.ModeMint && len(r.SubjectIssuers) == 0:
		return fault.New(fault.InvalidRequest, "mode=%s works on a subject token: name in subject_issuers whose tokens are trusted", r.Mode)
	case acts && r.Actor != ActorEntity && r.Actor != ActorToken:
		return fault.New(fault.InvalidRequest, "actor must be none, entity or token")
	case acts && r.Mode != provider.ModeExchange:
		return fault.New(fault.InvalidRequest, "actor=%s needs mode=exchange: nobody acts for a subject otherwise", r.Actor)
	case r.Actor == ActorToken && len(r.ActorIssuers) == 0:
		return fault.New(fault.InvalidRequest, "actor=token needs actor_issuers: name whose actor tokens are trusted")
	case len(r.ActorIssuers) > 0 && r.Actor != ActorToken:
		return fault.New(fault.InvalidRequest, "actor_issuers say whose actor tokens are trusted, which needs actor=token")
	case r.Sharing != "" && r.Sharing != SharingNone && r.Sharing != SharingEntity:
		return fault.New(fault.InvalidRequest, "sharing must be none or entity")
	case r.SharesByEntity() && r.Mode == provider.ModeForward:
		return fault.New(fault.InvalidRequest, "sharing=entity contradicts mode=forward: a token that is handed on is one already")
	case r.SharesByEntity() && r.SubjectSingleUse:
		return fault.New(fault.InvalidRequest, "sharing=entity contradicts subject_single_use: no two requests would have the same subject token")
	case r.Mode == provider.ModeForward && len(r.Audiences) == 0:
		return fault.New(fault.InvalidRequest, "mode=forward needs audiences: without them a token would be handed on to anybody")
	}
	return nil
}

// inMode are the traits for this role's mode. A token that is forwarded is there already,
// so nothing of it can be asked for, and its own claims show what it is good for.
func (r *Role) inMode(traits provider.Traits) (provider.Traits, error) {
	modes := traits.Modes
	if modes == nil {
		modes = []provider.Mode{provider.ModeMint}
	}
	acts := r.Actor == ActorEntity || r.Actor == ActorToken
	switch {
	case !slices.Contains(modes, r.Mode):
		return traits, fault.New(fault.InvalidRequest, "mode=%s: the provider can only %s", r.Mode, joined(modes))
	case acts && !traits.Actors:
		return traits, fault.New(fault.InvalidRequest, "actor=%s: the provider's kind of exchange takes no actor: leave it out, or set exchange=token-exchange on the provider", r.Actor)
	case r.Mode == provider.ModeForward:
		traits.Askable = nil
		traits.Checkable = access.Dimensions{access.DimScopes: true, access.DimAudiences: true}
		traits.Ceiling = access.Everything()
		traits.Hints = map[access.Dimension]string{
			access.DimResources:   "mode=forward knows a token's audiences alone",
			access.DimPermissions: "mode=forward knows a token's scopes and audiences alone",
			access.DimDetails:     "mode=forward knows a token's scopes and audiences alone",
		}
	}
	return traits, nil
}

// acts is who is named as the actor.
func (r *Role) acts(traits provider.Traits) decision.Actor {
	switch {
	case r.Mode != provider.ModeExchange || r.Actor == ActorNone:
		return decision.ActorNone
	case r.Actor == ActorToken:
		return decision.ActorToken
	case r.Actor == ActorEntity || traits.ActsByDefault:
		return decision.ActorEntity
	}
	return decision.ActorNone
}

func joined(modes []provider.Mode) string {
	var names []string
	for _, m := range modes {
		names = append(names, string(m))
	}
	return strings.Join(names, " or ")
}
