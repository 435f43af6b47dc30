package oauth2

import (
	"crypto/x509"
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/kit"
)

// checkClient judges the fields about how the broker authenticates. A field that
// would do nothing is refused rather than ignored.
func (s settings) checkClient() error {
	switch {
	case !s.mints() && s.Exchange == "":
		return invalid("auth_method=none contradicts grant=client_credentials: a client without a credential cannot be granted anything by it (RFC 6749 4.4); write exchange if it is to exchange subject tokens")
	case s.AuthMethod == authNone && s.DPoP:
		return invalid("dpop contradicts auth_method=none: the refresh token of a public client is itself bound to one key (RFC 9449 5), which the broker does not have")
	case s.ClientKeyAlgorithm != "" && !s.makesKeys():
		return invalid("client_key_algorithm is for auth_method=private_key_jwt or self_signed_tls_client_auth, where the broker makes the key: leave it out")
	case s.AuthMethod != authPrivateKeyJWT && (s.AssertionAudience != "" || s.AssertionSigner != ""):
		return invalid("assertion_audience and assertion_signer are for auth_method=private_key_jwt: leave them out")
	case s.AssertionSubject != "" && (s.AuthMethod != authPrivateKeyJWT || s.AssertionSigner != signerBroker):
		return invalid("assertion_subject is for assertion_signer=broker: an assertion that the client signs is about the client (RFC 7523 3)")
	}
	for name, value := range map[string]string{fieldAssertionAudience: s.AssertionAudience, fieldAssertionSubject: s.AssertionSubject} {
		if len(value) > 1024 || !kit.IsASCII(value) || strings.TrimSpace(value) != value {
			return invalid("%s must be at most 1024 printable ASCII characters", name)
		}
	}
	return nil
}

// checkCredential judges whether the secrets fit auth_method.
func (s settings) checkCredential(parent provider.Parent) error {
	current, next := s.secretFields()
	has := func(name string) bool { return !parent.Secrets[name].Empty() }
	for _, name := range allSecretFields {
		switch known := s.holdsCredential(name); {
		case slices.Contains(current, name) && !has(name):
			return invalid("%s is missing: auth_method=%s needs it", name, s.AuthMethod)
		case has(name) && !known && s.AssertionSigner == signerBroker:
			return invalid("%s contradicts assertion_signer=broker, by which nothing is stored: write it empty, or write assertion_signer=client", name)
		case has(name) && !known:
			return invalid("%s contradicts auth_method=%s: write it empty or choose another auth_method", name, s.AuthMethod)
		}
	}
	for _, fields := range [][]string{current, next} {
		if err := s.checkSecret(parent, fields); err != nil {
			return err
		}
	}
	return nil
}

// holdsCredential reports whether the field belongs to how the client authenticates.
func (s settings) holdsCredential(name string) bool {
	current, next := s.secretFields()
	for _, field := range append(current, next...) {
		if name == field || name == s.companion(field) {
			return true
		}
	}
	return false
}

// checkSecret judges one credential, if it is there.
func (s settings) checkSecret(parent provider.Parent, fields []string) error {
	value := func(i int) string { return parent.Secrets[fields[i]].Reveal() }
	var err error
	switch {
	case len(fields) == 0:
		return nil
	case !slices.ContainsFunc(fields, func(name string) bool { return !parent.Secrets[name].Empty() }):
		if companion := s.companion(fields[0]); !parent.Secrets[companion].Empty() {
			return invalid("%s is there without %s, whose certificate it is: write both, or it empty", companion, fields[0])
		}
		return nil
	case s.AuthMethod == authPrivateKeyJWT:
		_, err = s.parseKey(parent, fields[0])
	case s.mutualTLS():
		_, err = parsePair(value(0), value(1))
	default:
		return checkText(fields[0], value(0))
	}
	if err != nil {
		return invalid("%s %s", strings.Join(fields, " with "), err)
	}
	return nil
}

// checkDates refuses a certificate that no server would take any more, when it is
// written: later writes, of disabled say, must not fail for it.
func (s settings) checkDates(change provider.Change) error {
	current, next := s.secretFields()
	for _, fields := range [][]string{current, next} {
		if len(fields) == 0 {
			continue
		}
		certificate, field := s.certificateIn(change.Parent, fields)
		if certificate != nil && change.Written[field] && time.Now().After(certificate.NotAfter) {
			return invalid("%s has expired: get another", field)
		}
	}
	return nil
}

// certificateIn is the certificate of a credential, and its field; nil if it has none.
func (s settings) certificateIn(parent provider.Parent, fields []string) (*x509.Certificate, string) {
	if s.mutualTLS() {
		pair, err := parsePair(parent.Secrets[fields[0]].Reveal(), parent.Secrets[fields[1]].Reveal())
		if err != nil {
			return nil, ""
		}
		return pair.Leaf, fields[0]
	}
	if s.AuthMethod != authPrivateKeyJWT {
		return nil, ""
	}
	key, err := s.parseKey(parent, fields[0])
	if err != nil {
		return nil, ""
	}
	return key.certificate, s.companion(fields[0])
}

// checkText judges a secret that is sent as it is.
func checkText(name, value string) error {
	if hasControl(value) || len(value) > maxToken {
		return invalid("%s must be at most %d bytes without control characters (is there a line end at its end?)", name, maxToken)
	}
	return nil
}

// checkTransport: a certificate is presented in a TLS handshake or not at all, and a
// proxy reads what is not in one.
func (s settings) checkTransport(at endpoints, proxied bool) error {
	for name, value := range at.byName() {
		if proxied && value != "" && !httpclient.IsHTTPS(value) {
			return invalid("the %s endpoint must be https with proxy_url: a proxy reads plain http", name)
		}
	}
	if !s.mutualTLS() {
		return nil
	}
	for _, raw := range at.destinations() {
		if u, err := url.Parse(raw); err != nil || u.Scheme != "https" {
			return invalid("auth_method=%s needs https, and %s is not", s.AuthMethod, raw)
		}
	}
	return nil
}

// assertionFor comes before the audience of assertions among the pinned destinations.
const assertionFor = "assertion for "

// secretDestinations is where a secret may be sent, and for what: an assertion is
// good wherever its audience says, so changing that is no smaller a thing than
// changing the URL to which it goes.
func (s settings) secretDestinations(at endpoints) []string {
	all := at.destinations()
	if s.AuthMethod == authPrivateKeyJWT {
		all = append(all, assertionFor+s.assertionAudience())
		if s.Issuer != "" {
			all = append(all, assertionFor+s.Issuer) // see audiencesAt
		}
		slices.Sort(all)
	}
	return slices.Compact(all)
}

// keepUnpinned is for a provider of a build that made no assertions out to the issuer
// beside another assertion_audience: the issuer is pinned once every secret is brought
// again, or the issuer is another one. Until then no assertion is made out to it.
func (s settings) keepUnpinned(destinations []string, change provider.Change) []string {
	before, issuer := change.Config.Pinned, assertionFor+s.Issuer
	brought := true
	for name, value := range change.Parent.Secrets {
		brought = brought && (value.Empty() || change.Written[name])
	}
	signed := slices.ContainsFunc(before.Destinations, func(d string) bool { return strings.HasPrefix(d, assertionFor) })
	var was endpoints
	switch {
	case brought, !signed, slices.Contains(before.Destinations, issuer), s.assertionAudience() == s.Issuer:
		return destinations
	case json.Unmarshal(before.Data, &was) != nil || was.Issuer != s.Issuer:
		return destinations
	}
	return slices.DeleteFunc(destinations, func(d string) bool { return d == issuer })
}
