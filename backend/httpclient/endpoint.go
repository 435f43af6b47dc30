package httpclient

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
)

// CheckEndpoint is CheckURL for a URL that may have a query, which is kept (RFC 6749
// 3.2 lets endpoints have one).
func CheckEndpoint(raw string, allowHTTP bool) error {
	if len(raw) > 2048 {
		return errors.New("is longer than 2048 characters")
	}
	bare, query, _ := strings.Cut(raw, "?")
	if err := CheckURL(bare, allowHTTP); err != nil {
		return err
	}
	if strings.Contains(query, "#") {
		return errors.New("must not have a fragment")
	}
	for _, c := range []byte(query) {
		if c <= ' ' || c > '~' {
			return errors.New("has a query that is not percent-encoded")
		}
	}
	if _, err := url.ParseQuery(query); err != nil {
		return errors.New("has a query that is malformed")
	}
	return nil
}

// PointsTo is where a redirect leads, which is never followed, or "" if it cannot be
// told: without user information, query and fragment, in which secrets travel.
func (r *Response) PointsTo() string { return r.pointsTo }

func pointsTo(resp *http.Response) string {
	to, err := resp.Location()
	if err != nil || to.Host == "" || (to.Scheme != "https" && to.Scheme != "http") {
		return ""
	}
	bare := url.URL{Scheme: to.Scheme, Host: to.Host, Path: to.Path, RawPath: to.RawPath}
	shown := bare.String()
	if len(shown) > 200 || strings.ContainsFunc(shown, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return ""
	}
	return shown
}
