package oauth2

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/jwks"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/kit"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// selfSignedLife is how long a certificate lasts that was made here. A server that trusts a
// self-signed one compares keys (RFC 8705 2.2): what ends it is that another is registered,
// which rotate is for. An expiry date would only stop a provider that has worked for years.
const selfSignedLife = 10 * 365 * 24 * time.Hour

// backdated allows for a server whose clock is behind.
const backdated = 5 * time.Minute

// The ways in which a certificate and its key will not do.
var (
	errPair        = errors.New("must be PEM, the certificate first and then its chain, and the key must be the certificate's own")
	errNotItsOwn   = errors.New("and its certificate are not of one key, or the certificate is not PEM: write both together, or the certificate empty")
	errPairPrivate = errors.New("holds a private key, and is shown to everybody who may read the provider: write the certificates alone, and replace that key")
)

// parsePair reads a client certificate and its key. Its errors are the ends of
// sentences that begin with the name of the certificate's field.
func parsePair(certificate, key string) (*tls.Certificate, error) {
	switch {
	case len(certificate) > 4*maxToken || len(key) > maxToken:
		return nil, errPair
	case bytes.Contains([]byte(certificate), []byte("PRIVATE KEY-----")):
		return nil, errPairPrivate
	}
	private, err := kit.ParsePEMKey(key)
	if err != nil {
		return nil, errPair
	}
	if jwks.AlgorithmsOf(private.Public()) == nil {
		return nil, kit.ErrKeyKind
	}
	pair, err := tls.X509KeyPair([]byte(certificate), []byte(key))
	if err != nil {
		return nil, errPair
	}
	return &pair, nil
}

// parseCertificateOf reads the certificate of a private key, which comes first in the PEM
// text. Its errors are the ends of sentences that begin with the name of the key's field.
func parseCertificateOf(private crypto.Signer, text string) (*x509.Certificate, error) {
	switch {
	case len(text) > 4*maxToken:
		return nil, errNotItsOwn
	case strings.Contains(text, "PRIVATE KEY-----"):
		return nil, fmt.Errorf("has a certificate that %w", errPairPrivate)
	}
	block, _ := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errNotItsOwn
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, errNotItsOwn
	}
	public, ok := private.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(certificate.PublicKey) {
		return nil, errNotItsOwn
	}
	return certificate, nil
}

// makePair makes a self-signed certificate for a new key.
func makePair(algorithm string, now time.Time) (certificate, key secret.Text, err error) {
	private, err := kit.GenerateKey(jwa.SignatureAlgorithm(algorithm))
	if err != nil {
		return certificate, key, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return certificate, key, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "token broker"},
		NotBefore:             now.Add(-backdated),
		NotAfter:              now.Add(selfSignedLife),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		return certificate, key, err
	}
	key, err = kit.EncodeKey(private)
	return secret.New(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))), key, err
}

// certificateJWK is a certificate as a server has it registered: a JWK with x5c
// (RFC 8705 2.2.2, RFC 7517 4.7).
func certificateJWK(pair *tls.Certificate) (map[string]any, error) {
	private, ok := pair.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, kit.ErrKeyKind
	}
	key, err := kit.NewSigningKey(private, "", "")
	if err != nil {
		return nil, err
	}
	members, err := membersOf(key.Public)
	if err != nil {
		return nil, err
	}
	delete(members, jwk.AlgorithmKey) // it signs handshakes, not JWS
	sum := sha256.Sum256(pair.Leaf.Raw)
	members[jwk.X509CertChainKey] = []string{base64.StdEncoding.EncodeToString(pair.Leaf.Raw)}
	members[jwk.X509CertThumbprintS256Key] = base64.RawURLEncoding.EncodeToString(sum[:])
	return members, nil
}
