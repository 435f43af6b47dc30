package kit

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// MaxWait bounds what a server can make us wait.
const MaxWait = time.Hour

// RetryAfter reads an answer's Retry-After (RFC 9110 10.2.3). It is an error that is
// provider.RetryLater, for the chain of the one that the answer becomes; nil if there is no
// such header that can be read.
func RetryAfter(resp *httpclient.Response, now time.Time) error {
	header := resp.Header.Get("Retry-After")
	if header == "" {
		return nil
	}
	header = strings.Trim(header, ` "`)
	var wait time.Duration
	if seconds, ok := form.WholeNumber(header); ok && seconds >= 0 {
		if strings.ContainsAny(header, ".eE") {
			seconds++ // a fraction may have been cut off, and nobody asks too early
		}
		wait = time.Duration(min(seconds, int64(MaxWait/time.Second))) * time.Second
	} else if at, ok := parseDate(header); ok {
		wait = at.Sub(now)
	} else {
		return nil
	}
	return Later(wait)
}

// Later is an error that is provider.RetryLater, for a system that says by other means than
// Retry-After how long it wants to be left alone.
func Later(wait time.Duration) error { return retryLater(min(max(wait, 0), MaxWait)) }

// parseDate reads a date in the forms of RFC 9110 5.6.7, in the one of mail with its
// offset (RFC 5322 3.3), or in that of RFC 3339. Only forms that leave no doubt of the zone
// are taken.
func parseDate(text string) (time.Time, bool) {
	if at, err := http.ParseTime(text); err == nil {
		return at, true
	}
	for _, layout := range []string{time.RFC3339, time.RFC1123Z, "Mon, 02 Jan 2006 15:04:05 UTC"} {
		if at, err := time.Parse(layout, text); err == nil {
			return at, true
		}
	}
	return time.Time{}, false
}

// retryLater is a provider.RetryLater.
type retryLater time.Duration

var _ provider.RetryLater = retryLater(0)

// Error implements error.
func (d retryLater) Error() string { return "the provider asks to wait " + time.Duration(d).String() }

// RetryAfter implements provider.RetryLater.
func (d retryLater) RetryAfter() time.Duration { return time.Duration(d) }

// Refusal is what the status alone says of an answer that is no success, and whose body
// says nothing that the type understands, to a request that would have made something. It
// has provider.ErrAnswerLost in its chain where that may have been made all the same.
// Where a redirect points is shown unless it repeats one of the secrets.
func Refusal(resp *httpclient.Response, now time.Time, secrets ...secret.Text) *fault.Error {
	to, wait := resp.PointsTo(), RetryAfter(resp, now)
	switch {
	case to != "" && !Repeats(to, secrets...):
		return fault.New(fault.ProviderViolation, "the provider answered with a redirect (HTTP %d) to %s, which is never followed with a credential: write the final URL", resp.Status, to)
	case resp.Status >= 300 && resp.Status < 400:
		return fault.New(fault.ProviderViolation, "the provider answered with a redirect (HTTP %d), which is never followed with a credential: write the final URL", resp.Status)
	case resp.Status == http.StatusUnauthorized:
		return ParentRefused("the provider refuses the parent credential (HTTP 401): see the provider's check path, and write a credential that works")
	case resp.Status == http.StatusTooManyRequests, resp.Status == http.StatusServiceUnavailable && wait != nil:
		// Whoever says when to come back has not done the work. Any other 503 may be
		// a gateway's that lost the answer of the server behind it.
		return unavailable("the provider is overloaded (HTTP %d): try again later", resp.Status).Because(wait)
	case resp.Status >= 500:
		// A gateway that gave up does not know what the server behind it did.
		return unavailable("the provider failed (HTTP %d): try again later", resp.Status).Because(errors.Join(provider.ErrAnswerLost, wait))
	}
	return unavailable("the provider answered HTTP %d: check its URLs", resp.Status)
}

// Lost is what becomes of err, with which a request ended that would have made something
// and of which no whole answer arrived. It has provider.ErrAnswerLost in its chain if the
// server may have got the request, unless what it made was seen in the part that did
// arrive: then it can be killed, and is not lost. An err that is a *fault.Error already is
// the reason why nothing was sent, and stays as it is.
func Lost(err error, seen bool) *fault.Error {
	var failed *httpclient.Error
	var unsent *fault.Error
	if errors.As(err, &unsent) {
		return unsent
	}
	sent := errors.As(err, &failed) && failed.Sent
	if sent && !seen {
		err = errors.Join(provider.ErrAnswerLost, err)
	}
	switch {
	case errors.Is(err, httpclient.ErrBodyTooLarge):
		return fault.New(fault.ProviderViolation, "the provider's answer is larger than any that is read: have it answer with less").Because(err)
	case errors.Is(err, httpclient.ErrCertificateRefused):
		return ParentRefused("the provider refuses the parent credential: it does not accept the client certificate; see the provider's check path, and let the server have the certificate that a read of the provider shows").Because(err)
	case sent:
		return unavailable("the provider's answer did not arrive whole or in time: try again, and see the provider's timeout").Because(err)
	}
	return Unreached(err, "the provider could not be reached: try again, and see the provider's URLs and ca_pem")
}

// Unreached is a request that has brought no answer: because it was not sent, for a reason
// that the failed exchange has in its chain; because of the proxy, of which the settings
// are another matter; or else in the type's own words.
func Unreached(err error, format string, args ...any) *fault.Error {
	var failed *httpclient.Error
	var unsent *fault.Error
	if errors.As(err, &failed) && errors.As(failed.Err, &unsent) {
		return unsent
	}
	if advice := httpclient.ProxyAdvice(err); advice != "" {
		return unavailable("%s", advice).Because(err)
	}
	return unavailable(format, args...).Because(err)
}

// ParentRefused is an answer by which the system refuses the credential itself, whatever
// was asked for.
func ParentRefused(format string, args ...any) *fault.Error {
	return fault.New(fault.ParentRefused, format, args...)
}

func unavailable(format string, args ...any) *fault.Error {
	return fault.New(fault.TemporarilyUnavailable, format, args...)
}
