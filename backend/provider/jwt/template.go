package jwt

import (
	"strings"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/kit"
)

// subjectClaims begins the expression that is a claim of the subject token.
const subjectClaims = "subject.claims."

// parseTemplate parses what is filled from the Vault entity.
func parseTemplate(field, source string) (kit.Template, error) {
	expressions, err := kit.Expressions(field, source)
	if err != nil {
		return kit.Template{}, err
	}
	for _, e := range expressions {
		if strings.HasPrefix(e, subjectClaims) {
			return kit.Template{}, kit.Invalid(field, "{{%s}} is about the subject of an exchange, and this claim is about the caller: write it into %s", e, fieldExchangeClaims)
		}
	}
	return kit.ParseTemplate(field, source)
}

// copied is a claim beside the subject of an exchange: a constant, or one claim of the
// subject token. Text around that would be neither the subject's word nor the operator's.
type copied struct {
	field, source string
	// claim is the subject token's, "" where it is a constant.
	claim string
}

func parseCopied(field, source string) (copied, error) {
	c := copied{field: field, source: source}
	expressions, err := kit.Expressions(field, source)
	if err != nil {
		return c, err
	}
	for _, e := range expressions {
		claim, ok := strings.CutPrefix(e, subjectClaims)
		switch {
		case strings.HasPrefix(e, "identity."):
			return c, kit.Invalid(field, "{{%s}} is about the caller and would stand beside the subject's sub, as if it were the subject's: write a name such as %steam, which puts it into act", e, insideAct)
		case !ok || claim == "":
			return c, kit.Invalid(field, "{{%s}} is nothing that can be copied in an exchange: it takes {{%s<name>}}, or text", e, subjectClaims)
		case !kit.IsOneExpression(source):
			return c, kit.Invalid(field, "{{%s}} is copied as it is: it must be the whole template", e)
		}
		c.claim = claim
	}
	return c, nil
}

// of is the constant, or what the subject token says, with its type. The error is
// *fault.Error with access_denied and holds no value.
func (c copied) of(claims map[string]any) (any, error) {
	if c.claim == "" {
		return c.source, nil
	}
	value := claims[c.claim]
	if value == nil {
		return nil, fault.New(fault.AccessDenied, "%s: the subject token has no claim %q: have its issuer put it in, or an operator change the provider", c.field, c.claim)
	}
	return value, nil
}
