package oauth2

import (
	"encoding/json"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/kit"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// publicJWKS is the field of a read that shows the keys to register.
const publicJWKS = "client_jwks"

var (
	_ provider.Generator = Type{}
	_ provider.Shows     = Type{}
	_ provider.Publisher = (*Provider)(nil)
)

// Generate implements provider.Generator: the key of private_key_jwt, and key and
// certificate of self_signed_tls_client_auth, where no key is there. Fields that contradict
// each other are Configure's to refuse.
func (Type) Generate(change provider.Change) (map[string]secret.Text, error) {
	s, err := parseSettings(change.Config.Fields)
	if err != nil {
		return nil, err
	}
	current, _ := s.secretFields()
	key := fieldPrivateKey
	if s.mutualTLS() {
		key = fieldCertificateKey
	}
	certificate := change.Parent.Secrets[fieldCertificate]
	switch {
	case !s.makesKeys() || !change.Parent.Secrets[key].Empty():
		return nil, nil
	case change.Written[fieldCertificate] && !certificate.Empty():
		return nil, nil // somebody's own, whose key was forgotten
	}
	return s.makeCredential(current, false)
}

// makeCredential makes the secrets of those fields, in the order of secretFields;
// certified adds the certificate by which the server is to find a private key.
func (s settings) makeCredential(fields []string, certified bool) (map[string]secret.Text, error) {
	if s.mutualTLS() || certified {
		certificate, key, err := makePair(s.keyAlgorithm(), time.Now())
		if err != nil {
			return nil, unavailable("a client certificate could not be made: try again").Because(err)
		}
		if certified {
			return map[string]secret.Text{fields[0]: key, s.companion(fields[0]): certificate}, nil
		}
		return map[string]secret.Text{fields[0]: certificate, fields[1]: key}, nil
	}
	private, err := kit.GenerateKey(jwa.SignatureAlgorithm(s.keyAlgorithm()))
	if err != nil {
		return nil, unavailable("a private key could not be made: try again").Because(err)
	}
	text, err := kit.EncodeKey(private)
	if err != nil {
		return nil, unavailable("a private key could not be made: try again").Because(err)
	}
	return map[string]secret.Text{fields[0]: text}, nil
}

// PublicFields implements provider.Shows.
func (Type) PublicFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		publicJWKS:           {Type: framework.TypeMap, Description: "The public keys to register at the server (RFC 7517): of auth_method=private_key_jwt, or the certificates of self_signed_tls_client_auth; the current one and the one that will follow."},
		fieldCertificate:     text("The client certificate in PEM; of auth_method=private_key_jwt, what to register where the server finds the key by it."),
		fieldCertificateNext: text("The client certificate that will follow, in PEM."),
	}
}

// Public implements provider.Publisher.
func (p *Provider) Public() map[string]any {
	p.mu.Lock()
	defer p.mu.Unlock()
	shown := map[string]any{}
	if p.settings.mutualTLS() || p.settings.companion(fieldPrivateKey) != "" {
		for _, name := range []string{fieldCertificate, fieldCertificateNext} {
			if pem := p.parent.Secrets[name]; !pem.Empty() {
				shown[name] = pem.Reveal() // public: it is shown in every handshake, or registered
			}
		}
	}
	var keys []any
	for i, c := range p.credentials {
		if i > 0 && c.id == p.credentials[0].id {
			continue
		}
		if members := c.published(p.settings); members != nil {
			keys = append(keys, members)
		}
	}
	if len(keys) > 0 {
		shown[publicJWKS] = map[string]any{"keys": keys}
	}
	return shown
}

// published is the credential's public key as a server registers it, or nil.
func (c credential) published(s settings) map[string]any {
	var members map[string]any
	var err error
	switch {
	case c.key != nil:
		members, err = membersOf(c.key.Public)
	case c.pair != nil && s.AuthMethod == authSelfSignedTLS:
		members, err = certificateJWK(c.pair)
	}
	if err != nil {
		return nil
	}
	return members
}

func membersOf(key jwk.Key) (map[string]any, error) {
	raw, err := json.Marshal(key)
	if err != nil {
		return nil, err
	}
	members := map[string]any{}
	err = json.Unmarshal(raw, &members)
	return members, err
}
