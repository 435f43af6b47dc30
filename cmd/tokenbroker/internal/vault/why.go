package vault

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/hashicorp/vault/api"

	"github.com/tokenbroker/vault-plugin-secrets-broker/cmd/tokenbroker/internal/fail"
)

// why says of what kind an error is, and what can be done.
func (c *Client) why(err error, doing, path string) error {
	if err == nil {
		return nil
	}
	var answered *api.ResponseError
	if errors.As(err, &answered) {
		return c.answered(answered, doing, path)
	}
	var mine *fail.Error
	if errors.As(err, &mine) {
		return mine
	}
	cause := err
	if sent := (*url.Error)(nil); errors.As(err, &sent) { // whose text has the whole URL
		cause = sent.Err
	}
	switch {
	case isCertificate(err):
		return fail.New(fail.Config, "cannot %s: the certificate of %s: %s (VAULT_CACERT names the CA's)", doing, c.api.Address(), cause)
	case errors.Is(err, context.DeadlineExceeded):
		return fail.New(fail.Unavailable, "cannot %s: %s did not answer in time", doing, c.api.Address())
	}
	return fail.New(fail.Unavailable, "cannot %s: %s cannot be reached: %s (is VAULT_ADDR right?)", doing, c.api.Address(), cause)
}

func isCertificate(err error) bool {
	var invalid *tls.CertificateVerificationError
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	return errors.As(err, &invalid) || errors.As(err, &unknown) || errors.As(err, &name)
}

func (c *Client) answered(answered *api.ResponseError, doing, path string) error {
	text := short(answered.Errors)
	if text == "" {
		text = http.StatusText(answered.StatusCode)
	}
	switch status := answered.StatusCode; {
	case status == http.StatusServiceUnavailable && strings.Contains(text, "sealed"):
		return fail.New(fail.Unavailable, "cannot %s: Vault at %s is sealed", doing, c.api.Address())
	case status >= 500 || status == http.StatusTooManyRequests || status == http.StatusPreconditionFailed:
		return fail.New(fail.Unavailable, "cannot %s now: %s", doing, text)
	case status == http.StatusNotFound || strings.Contains(text, "no handler for route"):
		return fail.New(fail.Config, "cannot %s: nothing is at %s: is --mount right?", doing, path)
	case status == http.StatusForbidden && strings.Contains(text, "invalid token"):
		return fail.New(fail.Config, "cannot %s: Vault does not know this token, or it has expired: log in again (vault login)", doing)
	case status == http.StatusForbidden && !strings.Contains(text, "access_denied"):
		return fail.New(fail.Refused, "cannot %s: permission denied: no policy of yours allows it on %s, or your token has expired (vault token lookup)", doing, path)
	}
	return fail.New(fail.Refused, "cannot %s: %s", doing, text)
}
