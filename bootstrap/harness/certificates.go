package harness

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"time"
)

// Certificate is a certificate with its P-256 key.
type Certificate struct {
	TLS  tls.Certificate
	X509 *x509.Certificate
	PEM  string
	Key  string // PEM, PKCS #8
}

// JWKS is what a client registers for self_signed_tls_client_auth: its public key
// with the certificate (RFC 8705 2.2).
func (c Certificate) JWKS(t TB) Fields {
	t.Helper()
	public, ok := c.X509.PublicKey.(*ecdsa.PublicKey)
	if !ok {
		t.Fatalf("the certificate's key is a %T", c.X509.PublicKey)
	}
	point, err := public.Bytes() // 4, x, y (SEC 1 2.3.3)
	if err != nil {
		t.Fatalf("public key: %v", err)
	}
	x, y := point[1:33], point[33:]
	return Fields{"keys": []Fields{{
		"kty": "EC", "crv": "P-256", "use": "sig",
		"x": base64.RawURLEncoding.EncodeToString(x), "y": base64.RawURLEncoding.EncodeToString(y),
		"x5c": []string{base64.StdEncoding.EncodeToString(c.X509.Raw)},
	}}}
}

// Authority issues certificates for one test.
type Authority struct {
	PEM string

	own Certificate
}

// NewAuthority makes a certificate authority.
func NewAuthority(t TB) *Authority {
	t.Helper()
	template := certificateTemplate(t, "harness authority")
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign
	own := issue(t, template, nil)
	return &Authority{PEM: own.PEM, own: own}
}

// ClientCertificate issues a client certificate. Its subject is, as RFC 4514 writes
// it, CN=<name>,O=harness, and uris are its subject alternative names.
func (a *Authority) ClientCertificate(t TB, name string, uris ...string) Certificate {
	t.Helper()
	template := certificateTemplate(t, name)
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	for _, uri := range uris {
		parsed, err := url.Parse(uri)
		if err != nil {
			t.Fatalf("%s: %v", uri, err)
		}
		template.URIs = append(template.URIs, parsed)
	}
	return issue(t, template, &a.own)
}

// serverCertificate issues one for servers on 127.0.0.1.
func (a *Authority) serverCertificate(t TB) Certificate {
	t.Helper()
	template := certificateTemplate(t, "127.0.0.1")
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	return issue(t, template, &a.own)
}

// SelfSignedCertificate makes a client certificate that no authority stands behind.
func SelfSignedCertificate(t TB, name string) Certificate {
	t.Helper()
	template := certificateTemplate(t, name)
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	return issue(t, template, nil)
}

func certificateTemplate(t TB, name string) *x509.Certificate {
	t.Helper()
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		t.Fatalf("serial number: %v", err)
	}
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{Organization: []string{"harness"}, CommonName: name},
		NotBefore:    time.Now().Add(-time.Minute),
		NotAfter:     time.Now().Add(24 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
	}
}

// issue signs by the issuer, or by the certificate's own key.
func issue(t TB, template *x509.Certificate, issuer *Certificate) Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatalf("key: %v", err)
	}
	parent, signer := template, any(key)
	if issuer != nil {
		parent, signer = issuer.X509, issuer.TLS.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatalf("certificate: %v", err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatalf("certificate: %v", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatalf("key: %v", err)
	}
	return Certificate{
		TLS:  tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: parsed},
		X509: parsed,
		PEM:  string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		Key:  string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})),
	}
}
