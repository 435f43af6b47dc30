package oauth2

import (
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/hashicorp/vault/sdk/framework"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/kit"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// Some servers say beside the token what whoever uses it needs: where it is good
// (Salesforce's instance_url), or whose it is. extra_members names such members for the
// caller.

const (
	// maxExtraMembers and maxExtra bound how many they are, and one's JSON in bytes.
	maxExtraMembers = 16
	maxExtra        = 4 << 10
	maxExtraDepth   = 16

	memberIdentity = "id_token"
)

// memberName is what a response can have for a field.
var memberName = regexp.MustCompile(`^[A-Za-z_][-._A-Za-z0-9]{0,63}$`)

// secretNames are the ends of names, in lower case and without what parts their words,
// under which a token or another secret stands: access_token, refreshToken,
// bot.Access-Token, client_secret. What nobody kills is not handed out.
var secretNames = []string{"token", "tokens", "secret", "secrets", "password", "passwd", "apikey", "privatekey", "assertion", "cookie"}

// namesSecret reports whether a member of that name holds a secret, if it holds anything.
func namesSecret(name string) bool {
	plain := plainName(name)
	return slices.ContainsFunc(secretNames, func(end string) bool { return strings.HasSuffix(plain, end) })
}

// plainName is a name in lower case and without what parts its words.
func plainName(name string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsLetter(r) && !unicode.IsDigit(r) {
			return -1
		}
		return unicode.ToLower(r)
	}, name)
}

// sameName reports whether name is member, such as access_token, in another spelling.
func sameName(name, member string) bool {
	long := len(name) - len(member)
	return name == member || -1 <= long && long <= 1 && plainName(name) == plainName(member)
}

// spokenFor are the members of an answer that have a field of the type's own in a creds
// response, or another name there, or say that there is none.
var spokenFor = []string{"dpop_nonce", "expires_in", "scope", "error", "error_description", "error_uri"}

// Answer implements provider.Type.
func (Type) Answer() map[string]*framework.FieldSchema {
	fields := provider.TokenField()
	fields["dpop_nonce"] = &framework.FieldSchema{Type: framework.TypeString, Description: "The nonce that the next DPoP proof for this provider must hold, if its server says so (RFC 9449 8.2)."}
	return fields
}

// answer is Answer with the members that the operator has named.
func (s settings) answer() map[string]*framework.FieldSchema {
	fields := Type{}.Answer()
	for _, name := range s.namedMembers() {
		fields[name] = &framework.FieldSchema{Type: framework.TypeString, Description: "Member of the server's answer."}
	}
	return fields
}

// namedMembers are those of extra_members that this version would take, too: a name may
// have a field of its own by now, or be known for one of a secret.
func (s settings) namedMembers() []string {
	return slices.DeleteFunc(slices.Clone(s.ExtraMembers), func(name string) bool { return hasField(name) || namesSecret(name) })
}

// hasField reports whether a creds response has a field for that member of an answer.
func hasField(name string) bool {
	return provider.Taken(name) || slices.ContainsFunc(spokenFor, func(m string) bool { return strings.EqualFold(m, name) })
}

// checkExtraMembers judges extra_members.
func (s settings) checkExtraMembers() error {
	if len(s.ExtraMembers) > maxExtraMembers {
		return invalid("extra_members must be at most %d names", maxExtraMembers)
	}
	for _, name := range s.ExtraMembers {
		switch {
		case !memberName.MatchString(name):
			return invalid("extra_members must be names of at most 64 letters, digits, '_', '-' and '.'")
		case namesSecret(name):
			return invalid("extra_members cannot have %s: no token or secret but the child itself is handed out", name)
		case hasField(name):
			return invalid("extra_members cannot have %s: a creds response has a field for it", name)
		}
	}
	return nil
}

// extra are the members that the operator has named for the caller, as far as they
// hold no token and nothing of the parent; never nil.
func (p *Provider) extra(a answer, got reply) map[string]any {
	extra := map[string]any{}
	if len(p.settings.ExtraMembers) == 0 {
		return extra
	}
	secrets := slices.Concat(p.ownSecrets(), got.own, got.theirs)
	for _, token := range slices.Concat(got.tokens.access, got.tokens.beside, got.tokens.refresh) {
		secrets = append(secrets, secret.New(token))
	}
	if identity, err := stringMember(a.members[memberIdentity]); err == nil && identity != "" {
		secrets = append(secrets, secret.New(identity))
	}
	for _, name := range p.settings.namedMembers() {
		raw := present(a.members[name])
		if raw == nil {
			continue
		}
		value, err := decodeMember(raw)
		if len(raw) > maxExtra || err != nil || slices.Contains(a.twice, name) || confidential(value, secrets) {
			p.deps.Logger.Warn("a member of the provider's answer is not handed out: it is too long, ambiguous, or holds a token", "member", name)
			continue
		}
		extra[name] = value
	}
	return extra
}

// decodeMember keeps numbers as they are spelled, because an id may have more digits
// than floating point, and leaves nulls out.
func decodeMember(raw json.RawMessage) (any, error) {
	value, err := form.Value(raw, maxExtraDepth)
	return withoutNulls(value), err
}

func withoutNulls(value any) any {
	switch v := value.(type) {
	case []any:
		for i := range v {
			v[i] = withoutNulls(v[i])
		}
		return slices.DeleteFunc(v, func(inner any) bool { return inner == nil })
	case map[string]any:
		for name, inner := range v {
			v[name] = withoutNulls(inner)
		}
		maps.DeleteFunc(v, func(_ string, inner any) bool { return inner == nil })
	}
	return value
}

// confidential reports whether any text in value, however deep, is one of secrets, has
// one inside, or is most of one; or is under the name of a secret.
func confidential(value any, secrets []secret.Text) bool {
	switch v := value.(type) {
	case string:
		return slices.ContainsFunc(secrets, func(s secret.Text) bool { return kit.Holds(v, s) })
	case json.Number:
		return confidential(v.String(), secrets)
	case []any:
		return slices.ContainsFunc(v, func(inner any) bool { return confidential(inner, secrets) })
	case map[string]any:
		for name, inner := range v {
			if namesSecret(name) || confidential(name, secrets) || confidential(inner, secrets) {
				return true
			}
		}
	}
	return false
}
