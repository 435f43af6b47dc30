package oauth2

import (
	"crypto/tls"
	"slices"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/kit"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// credential is one thing by which the client authenticates, ready for use. The
// zero value is that of a client that has none of its own: a public one, or one
// for which the broker signs.
type credential struct {
	field  string // the first of the fields that hold it
	id     string // a fingerprint of all of it
	secret secret.Text
	key    *clientKey
	pair   *tls.Certificate
	client *httpclient.Client // presents pair
	// audience is whom an assertion is for in this one request, "" for the usual one.
	audience string
}

// credentialsOf makes ready what parent holds: the current credential, and the
// next one if there is one. What has not changed since is taken as it
// is: a refresh token that rotates must cost neither a parsed key nor a handshake.
func (p *Provider) credentialsOf(parent provider.Parent) ([]credential, error) {
	current, next := p.settings.secretFields()
	if current == nil {
		return []credential{{}}, nil
	}
	first, err := p.credentialIn(parent, current)
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(next, func(name string) bool { return parent.Secrets[name].Empty() }) {
		return []credential{first}, nil
	}
	second, err := p.credentialIn(parent, next)
	if err != nil {
		return nil, err
	}
	return []credential{first, second}, nil
}

func (p *Provider) credentialIn(parent provider.Parent, fields []string) (credential, error) {
	var joined string
	for _, name := range append(slices.Clone(fields), p.settings.companion(fields[0])) {
		joined += parent.Secrets[name].Reveal() + "\x00"
	}
	c := credential{field: fields[0], id: secret.New(joined).Fingerprint(), secret: parent.Secrets[fields[0]]}
	p.mu.Lock()
	known := slices.IndexFunc(p.credentials, func(k credential) bool { return k.id == c.id })
	if known >= 0 {
		c = p.credentials[known]
		c.field = fields[0]
	}
	p.mu.Unlock()
	if known >= 0 {
		return c, nil
	}
	var err error
	switch {
	case p.settings.AuthMethod == authPrivateKeyJWT:
		c.key, err = p.settings.parseKey(parent, fields[0])
	case p.settings.mutualTLS():
		if c.pair, err = parsePair(c.secret.Reveal(), parent.Secrets[fields[1]].Reveal()); err == nil {
			c.client, err = p.deps.Client.WithCertificate(*c.pair)
		}
	}
	if err != nil {
		return c, invalid("%s %s", fields[0], err)
	}
	return c, nil
}

// parseKey reads the private key in that field, with its certificate if it has one. Its
// errors are the ends of sentences that begin with the field's name.
func (s settings) parseKey(parent provider.Parent, field string) (*clientKey, error) {
	signing, err := kit.ParseSigningKey(parent.Secrets[field].Reveal(), s.ClientKeyAlgorithm)
	if err != nil {
		return nil, err
	}
	key := &clientKey{SigningKey: signing}
	if certificate := parent.Secrets[s.companion(field)]; !certificate.Empty() {
		key.certificate, err = parseCertificateOf(key.Private, certificate.Reveal())
	}
	return key, err
}

// setParent is for a parent that was loaded or stored. Its credentials were judged
// when they were written, so if they are not readable the ones in use stay.
func (p *Provider) setParent(parent provider.Parent) {
	credentials, err := p.credentialsOf(parent)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.parent = parent
	if err != nil {
		p.deps.Logger.Error("the stored client credential is not readable", "error", err)
		return
	}
	p.credentials = credentials
}

// candidates are the credentials to try, the one that last worked first, each once.
func (p *Provider) candidates() []credential {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := slices.Clone(p.credentials)
	if len(all) > 1 && p.working == all[1].id {
		slices.Reverse(all)
	}
	return slices.CompactFunc(all, func(a, b credential) bool { return a.id == b.id })
}

// remember notes which credential works.
func (p *Provider) remember(c credential) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.working = c.id
}

// nextCredential is the one that will follow, if there is one.
func (p *Provider) nextCredential() (credential, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.credentials) < 2 {
		return credential{}, false
	}
	return p.credentials[1], true
}
