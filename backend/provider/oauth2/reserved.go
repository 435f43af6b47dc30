package oauth2

import (
	"encoding/json"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
)

var _ provider.Reserving = Type{}

// ReservedAudiences implements provider.Reserving. They are the same whatever
// auth_method says: a server that trusts the broker's issuer trusts it also for a
// jwt-bearer grant (RFC 7523 2.1) or a subject token, and for other clients than the
// one that is stored here. It looks at its endpoints, issuer and what assertions are
// made out to (RFC 7523 3, and draft-ietf-oauth-rfc7523bis 4, which leaves the issuer).
func (Type) ReservedAudiences(cfg provider.Config) provider.Reserved {
	var r provider.Reserved
	// Unreadable is what no opened provider could have; what was pinned is known.
	var at endpoints
	_ = json.Unmarshal(cfg.Pinned.Data, &at)
	for _, pinned := range cfg.Pinned.Destinations {
		if audience, ok := strings.CutPrefix(pinned, assertionFor); ok {
			r.Names = append(r.Names, audience)
			continue
		}
		r.Endpoints = append(r.Endpoints, pinned)
	}
	r.Endpoints = append(append(r.Endpoints, at.destinations()...), at.Others...)
	s, err := parseSettings(cfg.Fields)
	if err == nil {
		r.Names = append(r.Names, s.Issuer, s.assertionAudience())
	}
	r.Names = append(r.Names, at.Issuer)
	if at.Issuer == "" && s.Issuer == "" {
		r.Names = append(r.Names, possibleIssuers(at.Token)...)
	}
	return provider.Reserved{Endpoints: distinct(r.Endpoints), Names: distinct(r.Names)}
}

// possibleIssuers are what the issuer may be called of which no more is known than
// its token endpoint: every server has it below its issuer, or at the same host.
func possibleIssuers(token string) []string {
	u, err := url.Parse(token)
	if err != nil || u.Host == "" {
		return nil
	}
	origin := u.Scheme + "://" + u.Host
	names := []string{origin}
	for p := path.Dir(path.Clean("/" + u.EscapedPath())); p != "/"; p = path.Dir(p) {
		names = append(names, origin+p)
	}
	return names
}

func distinct(values []string) []string {
	slices.Sort(values)
	return slices.DeleteFunc(slices.Compact(values), func(v string) bool { return v == "" })
}
