package oauth2

import (
	"encoding/json"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
)

// account tells whose children a provider's are, and by whose word they die where they
// do: a child is dead only where those who issued it say so, and every other server
// would answer 200 for a token that it does not know.
type account struct {
	Issuer string `json:"issuer,omitempty"`
	// Token is the token endpoint where no issuer is written. Beside one it may be another
	// while grants live: they die where they did.
	Token  string `json:"token,omitempty"`
	Client string `json:"client"`
	// Revocation is where the operator has children die. Where it is the issuer who says
	// it, it is wherever he says so today (see revocationOf), and IssuerRevokes is true.
	Revocation    string `json:"revocation,omitempty"`
	IssuerRevokes bool   `json:"issuer_revokes,omitempty"`
}

func (s settings) account(at endpoints) account {
	a := account{Issuer: s.Issuer, Client: s.ClientID}
	if s.Issuer == "" {
		a.Token = at.Token
	}
	if a.IssuerRevokes = s.issuerRevokesAt(at); !a.IssuerRevokes {
		a.Revocation = at.Revocation
	}
	return a
}

// issuerRevokesAt reports whether it is the issuer's own word where children die.
func (s settings) issuerRevokesAt(at endpoints) bool {
	return s.Issuer != "" && s.RevocationURL == "" && at.Revocation != ""
}

// pinAccount is the account after a change. One that is the same as before stays as it
// is written: earlier builds wrote an array, with the first revocation endpoint in it and
// not whose word that was, which what was stored with it tells as well.
func (s settings) pinAccount(at endpoints, change provider.Change) (string, error) {
	now := s.account(at)
	if was, ok := accountBefore(change); ok && was == now {
		return change.Config.Pinned.Account, nil
	}
	raw, err := json.Marshal(now)
	return string(raw), err
}

// accountBefore is the account of what a change replaces, if there is any.
func accountBefore(change provider.Change) (account, bool) {
	var at endpoints
	if len(change.Former) == 0 || json.Unmarshal(change.Config.Pinned.Data, &at) != nil {
		return account{}, false
	}
	s, err := parseSettings(change.Former)
	return s.account(at), err == nil
}
