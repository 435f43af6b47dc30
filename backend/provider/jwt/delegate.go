package jwt

import (
	"maps"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/kit"
)

// delegate sets the claims of an exchange. Every sub in them that came from
// elsewhere is qualified by an iss, because the token's own iss, to which a bare
// one belongs, is now the broker.
func (c *claims) delegate(p *Provider, r provider.Request, issuer string, f kit.Filling) error {
	s := r.Subject
	if _, bound := s.Claims["cnf"]; bound {
		// The proof goes to resource servers (RFC 9449 7), and none reaches the broker:
		// whoever stole the token could exchange it for one that is not bound.
		return fault.New(fault.InvalidGrant, "the subject token is bound to a key (cnf), whose possession the broker cannot see: exchange one that is not bound")
	}
	c.values["sub"] = s.ID
	c.values["sub_id"] = subjectID(s, issuer)
	c.login(s.Claims)
	if mayAct, ok := s.Claims["may_act"].(map[string]any); ok {
		c.values["may_act"] = qualified(mayAct, s.Issuer)
	}
	nested, acted := s.Claims["act"].(map[string]any)
	switch {
	case r.Actor != nil:
		act, err := actor(p, r.Actor, f)
		if err != nil {
			return err
		}
		if r.Actor.Issuer == "" { // the Vault entity, before the issuer was configured
			act["iss"] = issuer
		}
		if acted {
			act["act"] = chain(nested, s.Issuer)
		}
		c.values["act"] = act
	case acted:
		c.values["act"] = chain(nested, s.Issuer)
	}
	return nil
}

// actor is who acts, with the operator's claims about the Vault entity if that is who.
func actor(p *Provider, a *provider.Party, f kit.Filling) (map[string]any, error) {
	act := map[string]any{}
	if a.Token.Empty() { // the Vault entity
		if err := fill(act, p.settings.actors, func(t kit.Template) (any, error) { return t.Value(f) }); err != nil {
			return nil, err
		}
	}
	act["sub"], act["iss"] = a.ID, a.Issuer
	return act, nil
}

// subjectID names the subject together with its issuer (RFC 9493 3.2.4). Where the subject
// token is itself the broker's, made by an exchange, its sub_id names who that is.
func subjectID(s *provider.Party, issuer string) map[string]any {
	if s.Issuer == issuer {
		if id, ok := s.Claims["sub_id"].(map[string]any); ok {
			return maps.Clone(id)
		}
	}
	return map[string]any{"format": "iss_sub", "iss": s.Issuer, "sub": s.ID}
}

// login copies how and when the user logged in (RFC 9068 2.2.1), whose types the
// verification has judged.
func (c *claims) login(of map[string]any) {
	for _, name := range []string{"auth_time", "acr", "amr"} {
		if value, ok := of[name]; ok {
			c.values[name] = value
		}
	}
}

// maxChain bounds the recursion; the decision allows far fewer actors.
const maxChain = 32

// chain copies a chain of actors, each qualified. What stands in it beside objects
// is not part of it.
func chain(act map[string]any, issuer string) map[string]any {
	return chainTo(act, issuer, maxChain)
}

func chainTo(act map[string]any, issuer string, depth int) map[string]any {
	out := qualified(act, issuer)
	delete(out, "act")
	if nested, ok := act["act"].(map[string]any); ok && depth > 0 {
		out["act"] = chainTo(nested, issuer, depth-1)
	}
	return out
}

// qualified adds the issuer of the token that it stood in to a party that has none.
func qualified(party map[string]any, issuer string) map[string]any {
	out := maps.Clone(party)
	if _, named := out["iss"]; !named {
		out["iss"] = issuer
	}
	return out
}
