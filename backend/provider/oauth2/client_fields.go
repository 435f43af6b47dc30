package oauth2

import "github.com/hashicorp/vault/sdk/framework"

// The fields about how the broker authenticates, beside client_secret, and about
// keys that only the caller holds.
const (
	fieldPrivateKey         = "private_key"
	fieldPrivateKeyNext     = "private_key_next"
	fieldCertificate        = "client_certificate"
	fieldCertificateNext    = "client_certificate_next"
	fieldCertificateKey     = "client_certificate_key"
	fieldCertificateKeyNext = "client_certificate_key_next"
	fieldClientKeyAlgorithm = "client_key_algorithm"
	fieldAssertionAudience  = "assertion_audience"
	fieldAssertionSigner    = "assertion_signer"
	fieldAssertionSubject   = "assertion_subject"
	fieldDPoP               = "dpop"
)

// The values of assertion_signer and client_key_algorithm.
const (
	signerClient = "client"
	signerBroker = "broker"

	keyES256 = "ES256"
	keyRS256 = "RS256"
	keyPS256 = "PS256"
	keyEdDSA = "EdDSA"
)

// clientSettings are those of the fields above that are no secrets. What was not
// written is "", so that it can be told from what contradicts auth_method.
type clientSettings struct {
	ClientKeyAlgorithm string `json:"client_key_algorithm"`
	AssertionAudience  string `json:"assertion_audience"`
	AssertionSigner    string `json:"assertion_signer"`
	AssertionSubject   string `json:"assertion_subject"`
	DPoP               bool   `json:"dpop"`
}

// allSecretFields are every secret by which a client can authenticate.
var allSecretFields = []string{
	fieldClientSecret, fieldClientSecretNext, fieldPrivateKey, fieldPrivateKeyNext,
	fieldCertificate, fieldCertificateKey, fieldCertificateNext, fieldCertificateKeyNext,
}

// secretFields are those that auth_method lives on: the current credential, and
// the one that will follow; none where nothing is stored.
func (s settings) secretFields() (current, next []string) {
	switch s.AuthMethod {
	case authBasic, authPost:
		return []string{fieldClientSecret}, []string{fieldClientSecretNext}
	case authPrivateKeyJWT:
		if s.AssertionSigner != signerBroker {
			return []string{fieldPrivateKey}, []string{fieldPrivateKeyNext}
		}
	case authTLS, authSelfSignedTLS:
		return []string{fieldCertificate, fieldCertificateKey}, []string{fieldCertificateNext, fieldCertificateKeyNext}
	}
	return nil, nil
}

// companion is the field of the certificate by whose thumbprint a server may find the
// private key of that field; "" if there is none.
func (s settings) companion(field string) string {
	switch {
	case s.AuthMethod != authPrivateKeyJWT || s.AssertionSigner == signerBroker:
	case field == fieldPrivateKey:
		return fieldCertificate
	case field == fieldPrivateKeyNext:
		return fieldCertificateNext
	}
	return ""
}

// makesKeys reports whether the broker makes the credential itself: what it needs
// of the server is only that the public half is registered there.
func (s settings) makesKeys() bool {
	return s.AuthMethod == authSelfSignedTLS || (s.AuthMethod == authPrivateKeyJWT && s.AssertionSigner != signerBroker)
}

func (s settings) mutualTLS() bool {
	return s.AuthMethod == authTLS || s.AuthMethod == authSelfSignedTLS
}

func (s settings) keyAlgorithm() string {
	if s.ClientKeyAlgorithm == "" {
		return keyES256
	}
	return s.ClientKeyAlgorithm
}

// assertionAudience is what an assertion is good for. The issuer is the only value
// that no other server can be told to accept (draft-ietf-oauth-rfc7523bis 4), and
// like token_url it is the operator's own word, never discovery's. zitadel and
// oidc-provider take it; Hydra (fosite) takes nothing but its token endpoint, for
// which the operator has to write the field.
func (s settings) assertionAudience() string {
	switch {
	case s.AssertionAudience != "":
		return s.AssertionAudience
	case s.Issuer != "":
		return s.Issuer
	}
	return s.TokenURL
}

func clientFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		fieldPrivateKey:         secretText("The private key of auth_method=private_key_jwt: PEM (PKCS#8, PKCS#1 or SEC 1) or a JWK. Absent or written empty, the broker makes one. Its public half is client_jwks in a read of the provider."),
		fieldPrivateKeyNext:     secretText("The private key that will follow. The rotate path makes it, and makes it the private_key once the server has taken it. It is tried when the server refuses private_key."),
		fieldCertificate:        secretText("The client certificate of auth_method=tls_client_auth or self_signed_tls_client_auth in PEM, with the chain after it. It is shown by a read, and kept with its key, so that the two change together. For self_signed_tls_client_auth the broker makes both if there is no key. With auth_method=private_key_jwt it is optional, the certificate of private_key: assertions then name it by its thumbprints (x5t and x5t#S256, RFC 7515 4.1.7), for servers such as Entra that find the key by them."),
		fieldCertificateNext:    secretText("The client certificate that will follow, with client_certificate_key_next, or with private_key_next."),
		fieldCertificateKey:     secretText("The private key of client_certificate in PEM."),
		fieldCertificateKeyNext: secretText("The private key of client_certificate_next in PEM. It is tried when the server refuses client_certificate, and the rotate path makes the two the current ones."),
		fieldClientKeyAlgorithm: choice("The kind of key that the broker makes for private_key_jwt and self_signed_tls_client_auth. An RSA private_key of your own signs with it too, if it is RS256 or PS256 and the key is no JWK that says otherwise.",
			keyES256, keyRS256, keyPS256, keyEdDSA),
		fieldAssertionAudience: text("The aud of client assertions. Default: issuer, or token_url where no issuer is written. Hydra and other servers on fosite want their token endpoint here. The revocation and introspection endpoints get it too, and if they refuse the client, assertions for their own URL, the issuer and the token endpoint."),
		fieldAssertionSigner: choice("Who signs client assertions: client (with private_key) or broker, which then signs as its own issuer (config issuer), so that nothing is stored here: the server must trust that issuer.",
			signerClient, signerBroker),
		fieldAssertionSubject: text("The sub of assertions with assertion_signer=broker. Default: client_id."),
		fieldDPoP: {
			Type:         framework.TypeBool,
			Description:  "Whether child tokens are bound to a key that only the caller holds (RFC 9449). Every creds request must then bring dpop_proof.",
			DisplayAttrs: &framework.DisplayAttributes{Name: "DPoP"},
		},
	}
}
