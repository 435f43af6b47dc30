package provider

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/hashicorp/vault/sdk/framework"
)

// CommonFields are the fields of a creds response that are the same for providers of every
// type. No type declares one of them.
func CommonFields() map[string]*framework.FieldSchema {
	text, list := framework.TypeString, framework.TypeStringSlice
	return map[string]*framework.FieldSchema{
		"token_type":            {Type: text, Description: "How to present a token, as in RFC 6749 7.1; left out for what is not presented so."},
		"expires_at":            {Type: framework.TypeTime, Description: "When the token is dead at the latest, RFC 3339."},
		"lease_expires_at":      {Type: framework.TypeTime, Description: "When the lease ends unless it is renewed, RFC 3339; the token is killed then, if it can be. Keep it no longer."},
		"scopes":                {Type: list, Description: "Scopes as granted."},
		"audiences":             {Type: list, Description: "Audiences as granted."},
		"resources":             {Type: list, Description: "Resources as granted."},
		"permissions":           {Type: framework.TypeMap, Description: "Permissions as granted."},
		"authorization_details": {Type: framework.TypeSlice, Description: "Authorization details as granted."},
		"granted":               {Type: list, Description: "All of it flat, for the audit log."},
		"stripped":              {Type: list, Description: "What was asked for beyond the role and dropped."},
		"unverified":            {Type: list, Description: "Dimensions for which the provider's word was not checked, and binding if nobody looked whether the token is bound to the caller's key, and actor if nothing shows that the token names who acts."},
		"subject":               {Type: text, Description: "On whose behalf: the subject token's sub."},
		"subject_issuer":        {Type: text, Description: "The issuer that vouched for the subject, by the name it has in issuers."},
		"actor":                 {Type: text, Description: "Who acts for the subject: the entity's id, or the actor token's sub."},
		"issued_token_type":     {Type: text, Description: "What an exchange gave, as in RFC 8693 3."},
		"provider":              {Type: text, Description: "The provider as <type>/<name>."},
		"grant_id":              {Type: text, Description: "The grant's id, for grants/ and revoke/."},
		"revocation":            {Type: text, Description: "token, lever or expiry: what can kill the token before it expires."},
		"self_contained":        {Type: framework.TypeBool, Description: "True if services that verify offline accept the token until expires_at even after revocation."},
	}
}

// besides are names that Vault's own clients show beside a response's fields.
var besides = []string{"lease_id", "lease_duration", "renewable"}

// Taken reports whether no type may have a field of that name, however it is spelled.
func Taken(name string) bool {
	folded := strings.ToLower(name)
	_, common := commonFields[folded]
	return common || slices.Contains(besides, folded)
}

var commonFields = CommonFields()

// TokenField declares the field of children that are one token.
func TokenField() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		FieldToken: {Type: framework.TypeString, DisplayAttrs: &framework.DisplayAttributes{Sensitive: true}, Description: "The child token."},
	}
}

// IsSecret reports whether a field's declaration calls it a secret.
func IsSecret(f *framework.FieldSchema) bool {
	return f.DisplayAttrs != nil && f.DisplayAttrs.Sensitive
}

var fieldName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,63}$`)

// CheckAnswer says what is wrong with a declaration of fields, or nil.
func CheckAnswer(fields map[string]*framework.FieldSchema) error {
	secrets := 0
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		f := fields[name]
		switch {
		case !fieldName.MatchString(name):
			return fmt.Errorf("%q is no name for a field: lower-case letters, digits and _ make one", name)
		case Taken(name):
			return fmt.Errorf("%s is a field of every creds response already", name)
		case f.Description == "":
			return fmt.Errorf("%s has no description", name)
		case IsSecret(f) && f.Type != framework.TypeString:
			return fmt.Errorf("%s is a secret and no string", name)
		case IsSecret(f):
			secrets++
		}
	}
	if secrets == 0 {
		return fmt.Errorf("none of the fields is a secret: there is nothing to hand out")
	}
	return nil
}

// Answer is what the children of one provider consist of. It is immutable.
type Answer struct{ secret map[string]bool }

// AnswerOf is the answer of a Type's provider with these traits.
func AnswerOf(t Type, traits Traits) Answer {
	fields := traits.Answer
	if fields == nil {
		fields = t.Answer()
	}
	a := Answer{secret: make(map[string]bool, len(fields))}
	for name, f := range fields {
		a.secret[name] = IsSecret(f)
	}
	return a
}

// IsOnly reports whether a child has no other secret than the field of that name.
func (a Answer) IsOnly(name string) bool {
	secrets := 0
	for _, isSecret := range a.secret {
		if isSecret {
			secrets++
		}
	}
	return a.secret[name] && secrets == 1
}

// Names are the fields of a child that says all that it can, in order.
func (a Answer) Names() []string { return slices.Sorted(maps.Keys(a.secret)) }

// maxLever bounds the name of a lever, which is recorded.
const maxLever = 4 << 10

// CanBeLever reports whether a lever may have that name. What is no text would not be the
// same name after it was recorded.
func CanBeLever(name string) bool {
	return len(name) <= maxLever && utf8.ValidString(name) && !strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) })
}

// Violation says why the child is not what its provider has declared, or "". It repeats
// nothing of what came, which may be a secret.
func (a Answer) Violation(c *Child) string {
	for name, isSecret := range a.secret {
		if isSecret && c.Secrets[name].Empty() {
			return "the provider answered without " + name
		}
	}
	for name := range c.Secrets {
		if !a.secret[name] {
			return "the provider answered with a secret that its type does not declare: it declares " + a.names(true)
		}
	}
	for name := range c.Extra {
		if isSecret, declared := a.secret[name]; !declared || isSecret {
			return "the provider answered with a field that its type does not declare, or declares a secret: what it declares and calls no secret is " + a.names(false)
		}
	}
	switch {
	case !slices.Contains([]Class{ClassToken, ClassLever, ClassExpiry}, c.Class):
		return "the provider calls the revocation class of what it answered neither token nor lever nor expiry"
	case c.Handle.Empty() != (c.Class == ClassExpiry):
		return fmt.Sprintf("the provider calls the revocation class of what it answered %s, and what would kill it does not go with that", c.Class)
	case !CanBeLever(c.Lever):
		return "the provider's token hangs on something whose name cannot be recorded: it is longer than 4 KiB, or no printable text"
	case c.Lever != "" && c.Class != ClassLever:
		return fmt.Sprintf("the provider names a lever for what it answered, whose revocation class is %s", c.Class)
	}
	return ""
}

// names are the declared fields that are secrets, or those that are none.
func (a Answer) names(secrets bool) string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(a.secret)) {
		if a.secret[name] == secrets {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return "nothing"
	}
	return strings.Join(names, ", ")
}
