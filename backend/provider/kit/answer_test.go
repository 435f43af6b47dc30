package kit

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func answered(status int, headers ...string) *httpclient.Response {
	resp := &httpclient.Response{Status: status, Header: http.Header{}}
	for i := 0; i < len(headers); i += 2 {
		resp.Header.Set(headers[i], headers[i+1])
	}
	return resp
}

func TestRetryAfter(t *testing.T) {
	for header, want := range map[string]time.Duration{
		"7": 7 * time.Second, "0": 0, " 9 ": 9 * time.Second, noon.Add(90 * time.Second).Format(http.TimeFormat): 90 * time.Second,
		"99999999": MaxWait, "1e9": MaxWait, "99999999999999999999": MaxWait, "119.5": 2 * time.Minute, "Mon, 02 Jan 2006 15:04:05 GMT": 0,
		// Forms that RFC 9110 10.2.3 does not have, and that leave no doubt.
		`"7"`: 7 * time.Second, "2026-03-01T13:01:30+01:00": 90 * time.Second, "2026-03-01T12:00:01.5Z": 1500 * time.Millisecond,
		"Sun, 01 Mar 2026 12:01:30 +0000": 90 * time.Second, "Sun, 01 Mar 2026 12:01:30 UTC": 90 * time.Second,
		noon.Add(time.Minute).Format(time.ANSIC): time.Minute, noon.Add(time.Minute).Format("Monday, 02-Jan-06 15:04:05 GMT"): time.Minute,
	} {
		var wait provider.RetryLater
		require.ErrorAs(t, RetryAfter(answered(503, "Retry-After", header), noon), &wait, header)
		require.Equal(t, want, wait.RetryAfter(), header)
	}
	for _, header := range []string{"", "soon", "-1", "7s", "2026-03-01T13:01:30", "Sun, 01 Mar 2026 12:01:30 CET"} {
		require.NoError(t, RetryAfter(answered(503, "Retry-After", header), noon), header)
	}
}

// Whether something may have been made is what decides if anybody looks for it.
func TestRefusalsTellWhetherSomethingMayHaveBeenMade(t *testing.T) {
	for _, c := range []struct {
		resp *httpclient.Response
		code fault.Code
		lost bool
		wait bool
	}{
		{answered(307), fault.ProviderViolation, false, false},
		{answered(400), fault.TemporarilyUnavailable, false, false},
		{answered(401), fault.ParentRefused, false, false},
		{answered(403), fault.TemporarilyUnavailable, false, false},
		{answered(404), fault.TemporarilyUnavailable, false, false},
		{answered(429), fault.TemporarilyUnavailable, false, false},
		{answered(429, "Retry-After", "5"), fault.TemporarilyUnavailable, false, true},
		{answered(503, "Retry-After", "5"), fault.TemporarilyUnavailable, false, true},
		{answered(503), fault.TemporarilyUnavailable, true, false},
		{answered(500, "Retry-After", "5"), fault.TemporarilyUnavailable, true, true},
		{answered(502), fault.TemporarilyUnavailable, true, false},
		{answered(504), fault.TemporarilyUnavailable, true, false},
	} {
		err := Refusal(c.resp, noon)
		var wait provider.RetryLater
		require.Equal(t, c.code, err.Code, c.resp.Status)
		require.Equal(t, c.lost, errors.Is(err, provider.ErrAnswerLost), c.resp.Status)
		require.Equal(t, c.wait, errors.As(err, &wait), c.resp.Status)
	}
}

func TestLostAnswers(t *testing.T) {
	sent, unsent := &httpclient.Error{Sent: true, Err: context.DeadlineExceeded}, &httpclient.Error{Err: errors.New("refused")}
	require.ErrorIs(t, Lost(sent, false), provider.ErrAnswerLost)
	require.NotErrorIs(t, Lost(sent, true), provider.ErrAnswerLost, "what was made was seen")
	require.NotErrorIs(t, Lost(unsent, false), provider.ErrAnswerLost)
	require.Contains(t, Lost(unsent, false).Error(), "ca_pem")
	large := Lost(&httpclient.Error{Sent: true, Err: httpclient.ErrBodyTooLarge}, false)
	require.Equal(t, fault.ProviderViolation, large.Code)
	require.ErrorIs(t, large, provider.ErrAnswerLost)
	require.Contains(t, Lost(&httpclient.Error{Err: httpclient.ErrCertificateRefused}, false).Error(), "certificate")
	why := fault.New(fault.InvalidRequest, "no key")
	require.Same(t, why, Lost(why, false), "nothing was sent")
}

func TestTextsThatGiveASecretAway(t *testing.T) {
	own := secret.New("s3cr3t+/of the parent")
	for text, want := range map[string]bool{
		"": false, "s3cr3t": false, "of the parent": true, "at /s3cr3t+/of the parent?x": true, "another": false,
	} {
		require.Equal(t, want, Repeats(text, secret.Text{}, own), text)
	}
	for text, want := range map[string]bool{
		"": false, "s3cr3t": false, "s3cr3t+/of the": true, "s3cr3t%2B%2Fof+the+parent": true, "x czNjcjN0Ky9vZiB0aGUgcGFyZW50 y": true, "Basic aWQ6czNjcjN0Ky9vZiB0aGUgcGFyZW50": true, "aWQ6czNjcjN0": false, "something else altogether": false,
	} {
		require.Equal(t, want, Holds(text, own), text)
	}
	for _, text := range []string{"s3cr3t%2b%2fof+the+parent", `s3cr3t+\/of the parent`, "s3cr3t\\u002B/of the parent", "aWQ6czNjcjN0JTJiJTJmb2YrdGhlK3BhcmVudA"} {
		require.True(t, Repeats("https://a.test/?t="+text, own), text)
		require.True(t, Holds("https://a.test/?t="+text, own), text)
	}
	require.False(t, Holds("x", secret.Text{}))
}

// A server chooses how many texts it sends and how long its tokens are: what is too
// short to have one inside costs no more than a look at its length.
func TestShortTextsAreComparedWithLongTokensForNothing(t *testing.T) {
	long := secret.New(strings.Repeat("a", 100<<10))
	require.Zero(t, testing.AllocsPerRun(10, func() { Holds("a", long) }))
	for text, holding := range map[string]bool{"abcd": true, "abc": true, "ab": false, "xabcdex": true, "YWJjZGU": true, "x": false} {
		require.Equal(t, holding, Holds(text, secret.New("abcde")), text)
	}
}
