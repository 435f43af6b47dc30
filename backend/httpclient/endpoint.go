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
// told: without user information, query, fragment and parameters of the path, in which
// secrets travel. The path ends with "..." where more than names would follow.
func (r *Response) PointsTo() string { return r.pointsTo }

func pointsTo(resp *http.Response, sent http.Header) string {
	to, err := resp.Location()
	if err != nil || to.Host == "" || (to.Scheme != "https" && to.Scheme != "http") {
		return ""
	}
	shown := to.Scheme + "://" + to.Host + names(to.EscapedPath())
	if len(shown) > 200 || strings.ContainsFunc(shown, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return ""
	}
	for _, values := range sent {
		for _, word := range strings.Fields(strings.Join(values, " ")) {
			if len(word) >= 8 && strings.Contains(shown, word) {
				return ""
			}
		}
	}
	return shown
}

// longestName is how long what stands between two of "-._~" may be: in a name of
// people's making nothing is longer, and in most tokens something is.
const longestName = 24

// names are the segments of a path as long as they are but names.
func names(path string) string {
	var shown strings.Builder
	for segment := range strings.SplitSeq(strings.TrimPrefix(path, "/"), "/") {
		name, _, _ := strings.Cut(segment, ";")
		run := 0
		for _, c := range []byte(name) {
			switch {
			case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
				run++
			case strings.IndexByte("-._~", c) >= 0:
				run = 0
			default: // a percent sign: whatever it stands for
				run = longestName + 1
			}
			if run > longestName {
				return shown.String() + "/..."
			}
		}
		shown.WriteString("/" + name)
	}
	if path == "" {
		return ""
	}
	return shown.String()
}
