package oauth2

import (
	"slices"
	"sync"
)

// RFC 7523 3 lets each endpoint want an audience of its own, and servers do: the token
// endpoint its own URL, and the revocation endpoint the issuer, or its own URL. The
// operator's assertion_audience is the token endpoint's, by which a mint stands and
// falls; the others are asked with it first, and if they refuse the client, with what
// else they may want. A kill must not fail where the mint did not.
//
// Each of these audiences is one of the server's own to which the operator has the
// client authenticate anyway, and pinned: who changes one brings the key again. Nothing
// that is signed for a caller is for one of them (rule 10 of the contract).

// candidatesAt are the credentials to try at endpoint: with assertions, each for every
// audience that the endpoint may want.
func (p *Provider) candidatesAt(endpoint string) []credential {
	all := p.candidates()
	if p.settings.AuthMethod != authPrivateKeyJWT || endpoint == p.at.Token {
		return all
	}
	var expanded []credential
	for _, audience := range p.audiencesAt(endpoint) {
		for _, c := range all {
			c.audience = audience
			expanded = append(expanded, c)
		}
	}
	return expanded
}

// audiencesAt are those audiences, the one that last worked first.
func (p *Provider) audiencesAt(endpoint string) []string {
	var found []string
	issuer := p.settings.Issuer
	if !slices.Contains(p.pinned.Destinations, assertionFor+issuer) {
		issuer = "" // of a provider of an earlier build (keepUnpinned)
	}
	for _, audience := range []string{p.audiences.of(endpoint), p.settings.assertionAudience(), endpoint, issuer, p.at.Token} {
		if audience != "" && !slices.Contains(found, audience) {
			found = append(found, audience)
		}
	}
	return found
}

// audiences are the audiences by which endpoints have taken an assertion. It is safe
// for concurrent use.
type audiences struct {
	mu sync.Mutex
	by map[string]string
}

func (a *audiences) of(endpoint string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.by[endpoint]
}

// remember notes an audience that was not refused; a server that has failed says
// nothing of it.
func (a *audiences) remember(endpoint, audience string, status int) {
	if audience == "" || status >= 500 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.by == nil {
		a.by = map[string]string{}
	}
	a.by[endpoint] = audience
}
