package jwt

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/kit"
)

// The fields by name.
const (
	fieldSubject        = "subject"
	fieldClientID       = "client_id"
	fieldClaims         = "claims"
	fieldExchangeClaims = "exchange_claims"
	fieldRevocation     = "revocation"
)

// insideAct begins the name of a claim that stands in act.
const insideAct = "act."

// entityID is the default of subject and client_id.
const entityID = "{{" + kit.IDExpression + "}}"

// Bounds on the further claims.
const (
	maxClaims    = 32
	maxClaimName = 128 // bytes
)

func fields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		fieldSubject: {
			Type:        framework.TypeString,
			Default:     entityID,
			Description: "Template of sub in tokens about the caller; in an exchange sub is the subject token's. Templates take " + kit.KnownExpressions + ".",
		},
		fieldClientID: {
			Type:        framework.TypeString,
			Default:     entityID,
			Description: "Template of client_id, who asked for the token (RFC 9068 2.2).",
		},
		fieldClaims: {
			Type:        framework.TypeKVPairs,
			Description: "Further claims of tokens about the caller: a map of names to templates. In an exchange, where sub is somebody else, they stay out. A template that is exactly {{" + kit.GroupNames + "}} makes a list of strings, every other one a string, whatever it is filled with. Claims that the broker sets itself cannot be named.",
		},
		fieldExchangeClaims: {
			Type:        framework.TypeKVPairs,
			Description: "Further claims in an exchange: a map of names to constants, or to {{" + subjectClaims + "<name>}}, alone, which copies that claim of the verified subject token with its type; a subject token that lacks it is refused. A name such as act.team puts the claim into act, where it is about the Vault entity, and only if that is who acts: there, and only there, the templates of claims may stand.",
		},
		fieldRevocation: {
			Type:          framework.TypeString,
			Default:       string(provider.ClassExpiry),
			AllowedValues: []any{string(provider.ClassExpiry), string(provider.ClassToken)},
			Description:   "expiry: a token works until it expires wherever it is verified offline. token: the operator's word that every resource server asks oauth/introspect, where a killed token is inactive at once.",
		},
	}
}

// reserved are the claims that say who issued a token, about whom, for whom, until
// when, to what key and after what login (RFC 7519 4.1, RFC 7800, RFC 8693 4, RFC
// 9068 2.2, RFC 9396 9.1, RFC 9493, OpenID Connect Core 2), and those by which
// widespread verifiers tell kinds of tokens apart or read scopes. The broker alone
// sets them, or leaves them out. groups, roles and entitlements (RFC 9068 2.2.3.1)
// are the operator's.
var reserved = []string{
	"iss", "sub", "aud", "exp", "nbf", "iat", "jti",
	"client_id", "azp", "scope", "scp", "authorization_details", "resource",
	"act", "may_act", "cnf", "sub_id", "auth_time", "acr", "amr", "nonce", "at_hash", "c_hash", "s_hash",
	"typ", "token_use", "token_type", "active", "events", "toe", "sid",
}

// isReserved ignores case, as Unicode folds it: a verifier that decodes into a struct with
// Go's encoding/json takes SUB, or ſub, for sub.
func isReserved(name string) bool {
	return slices.ContainsFunc(reserved, func(r string) bool { return strings.EqualFold(r, name) })
}

// settings are what the fields mean.
type settings struct {
	subject, clientID kit.Template
	// claims are about the caller, and stand beside the caller's sub. In an exchange
	// subjects stand beside the subject's, and actors in the act of the Vault entity.
	claims, actors map[string]kit.Template
	subjects       map[string]copied
	class          provider.Class
}

// parseSettings judges the fields. Errors are *fault.Error with invalid_request.
func parseSettings(raw json.RawMessage) (settings, error) {
	var f struct {
		Subject    string            `json:"subject"`
		ClientID   string            `json:"client_id"`
		Claims     map[string]string `json:"claims"`
		Exchange   map[string]string `json:"exchange_claims"`
		Revocation string            `json:"revocation"`
	}
	if err := json.Unmarshal(raw, &f); err != nil {
		return settings{}, fault.New(fault.InvalidRequest, "the fields cannot be read: write the provider anew").Because(err)
	}
	s := settings{class: provider.ClassExpiry}
	switch class := provider.Class(f.Revocation); class {
	case "":
	case provider.ClassExpiry, provider.ClassToken:
		s.class = class
	default:
		return settings{}, kit.Invalid(fieldRevocation, "want expiry or token")
	}
	var err error
	if s.subject, err = parseText(fieldSubject, f.Subject); err != nil {
		return settings{}, err
	}
	if s.clientID, err = parseText(fieldClientID, f.ClientID); err != nil {
		return settings{}, err
	}
	if s.claims, err = parseClaims(fieldClaims, "", f.Claims, parseTemplate); err != nil {
		return settings{}, err
	}
	actors := map[string]string{}
	for name, source := range f.Exchange {
		if inside, ok := strings.CutPrefix(name, insideAct); ok {
			actors[inside] = source
			delete(f.Exchange, name)
		}
	}
	if s.subjects, err = parseClaims(fieldExchangeClaims, "", f.Exchange, parseCopied); err != nil {
		return settings{}, err
	}
	s.actors, err = parseClaims(fieldExchangeClaims, insideAct, actors, parseTemplate)
	return s, err
}

// parseClaims parses the claims of a field whose names begin with prefix, which has
// been cut off.
func parseClaims[T any](field, prefix string, sources map[string]string, parse func(field, source string) (T, error)) (map[string]T, error) {
	if len(sources) > maxClaims {
		return nil, kit.Invalid(field, "more than %d", maxClaims)
	}
	claims := make(map[string]T, len(sources))
	for _, name := range slices.Sorted(maps.Keys(sources)) {
		if err := checkClaimName(field, name); err != nil {
			return nil, err
		}
		var err error
		if claims[name], err = parse(field+"."+prefix+name, sources[name]); err != nil {
			return nil, err
		}
	}
	return claims, nil
}

// parseText parses a template whose claim must be a string.
func parseText(field, source string) (kit.Template, error) {
	if source == "" {
		source = entityID
	}
	t, err := parseTemplate(field, source)
	if err == nil && t.List() {
		err = kit.Invalid(field, "{{%s}} is a list, and this claim is a string", kit.GroupNames)
	}
	return t, err
}

func checkClaimName(field, name string) error {
	switch {
	case name == "" || len(name) > maxClaimName:
		return kit.Invalid(field, "a claim's name has between 1 and %d bytes", maxClaimName)
	case !kit.IsPrintable(name):
		return kit.Invalid(field, "a claim's name has an unprintable character")
	case isReserved(name):
		return kit.Invalid(field, "%s is a claim that the broker sets itself, or that would change what its tokens mean", name)
	}
	return nil
}

// aboutCaller are the templates that are filled from the Vault entity.
func (s settings) aboutCaller() []kit.Template {
	return slices.Concat([]kit.Template{s.subject, s.clientID}, slices.Collect(maps.Values(s.claims)), slices.Collect(maps.Values(s.actors)))
}

// needsEntity is true if a template takes more of the entity than its id.
func (s settings) needsEntity() bool {
	return slices.ContainsFunc(s.aboutCaller(), kit.Template.NeedsEntity)
}

func (s settings) needsGroups() bool {
	return slices.ContainsFunc(s.aboutCaller(), kit.Template.List)
}
