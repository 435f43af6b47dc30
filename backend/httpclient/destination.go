package httpclient

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// What a pinned destination may be, beside one whole URL. Neither is a URL, so that no
// URL is ever taken for one of them.
const (
	below       = "below "
	belowAny    = "below any "
	belowNested = "below nested "
)

// Below is the destination of everything below base, which is a URL without a query:
// whatever path and query come after it. It is for systems at which the place behind
// that, such as a repository, is no other tenant's.
func Below(base string) string { return below + base }

// BelowAny is Below for a host of which one label is free, such as the region in
// https://sts.*.amazonaws.com/: letters, digits and hyphens stand for the *, which
// follows a label and is followed by two. It is never for the label that tells tenants
// apart.
func BelowAny(base string) string { return belowAny + base }

// BelowNested is Below for a system in whose paths one segment can be a path of its own,
// its slashes encoded once (%2F): a project in a group, say. Whoever takes such a slash for
// one that parts segments is led nowhere but below base either.
func BelowNested(base string) string { return belowNested + base }

// Destinations are the places to which a secret may go.
type Destinations []destination

type destination struct {
	scheme, host, port string
	region             bool // a label of host is *
	below              bool
	nested             bool   // an encoded slash is one
	path               string // escaped; ends with a slash if below
	query              string
}

// ParseDestinations reads what is pinned. What is no destination is passed over and so
// allows nothing; the error says that there was one which should be and cannot.
func ParseDestinations(pinned []string) (Destinations, error) {
	var all Destinations
	var failed error
	for _, text := range pinned {
		d, ok, err := parseDestination(text)
		switch {
		case err != nil:
			failed = err
		case ok:
			all = append(all, d)
		}
	}
	return all, failed
}

func parseDestination(text string) (d destination, ok bool, err error) {
	raw := text
	if rest, found := strings.CutPrefix(text, belowAny); found {
		d.below, d.region, raw = true, true, rest
	} else if rest, found := strings.CutPrefix(text, belowNested); found {
		d.below, d.nested, raw = true, true, rest
	} else if rest, found := strings.CutPrefix(text, below); found {
		d.below, raw = true, rest
	}
	if !d.below && !strings.HasPrefix(strings.ToLower(raw), "https://") && !strings.HasPrefix(strings.ToLower(raw), "http://") {
		return d, false, nil
	}
	u, err := url.Parse(raw)
	if err != nil || u.Hostname() == "" || u.User != nil || u.Opaque != "" {
		return d, false, errors.New("a destination is not a URL")
	}
	d.scheme, d.host, d.port = origin(u)
	d.path, d.query = escapedPath(u), u.RawQuery
	switch {
	case !d.below:
	case u.RawQuery != "" || u.ForceQuery:
		return d, false, errors.New("what is below a URL with a query cannot be told")
	case outside(d.path):
		return d, false, errors.New("a path below which a secret may go must not lead anywhere else")
	case !strings.HasSuffix(d.path, "/"):
		d.path += "/"
	}
	if d.below && d.region != validRegion(d.host) {
		return d, false, errors.New("the host of a destination has a * that does not stand for one label between others")
	}
	return d, true, nil
}

// validRegion reports whether host has one label that is *, with one before it and two
// behind.
func validRegion(host string) bool {
	labels := strings.Split(host, ".")
	at := slices.Index(labels, "*")
	return strings.Count(host, "*") == 1 && at > 0 && at < len(labels)-2
}

// Plain reports whether one of them is reached by plain http, which a proxy would read.
func (all Destinations) Plain() bool {
	return slices.ContainsFunc(all, func(d destination) bool { return d.scheme != "https" })
}

// allow says why no secret may go where req leads, or nil.
func (all Destinations) allow(req *http.Request) error {
	scheme, host, port := origin(req.URL)
	path := escapedPath(req.URL)
	for _, d := range all {
		if d.scheme == scheme && d.port == port && d.hosts(host) && d.leads(path, req.URL) {
			return nil
		}
	}
	return errors.New("the URL is none to which the provider's secrets may go: only what was pinned when it was written is")
}

func (d destination) hosts(host string) bool {
	if !d.region {
		return d.host == host
	}
	before, after, _ := strings.Cut(d.host, "*")
	label, ok := strings.CutPrefix(host, before)
	if !ok {
		return false
	}
	label, ok = strings.CutSuffix(label, after)
	return ok && len(label) > 0 && len(label) <= 63 && !strings.ContainsFunc(label, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-'
	})
}

// leads compares the path and, of a whole URL, the query: at some servers either of
// them says whose tenant it is.
func (d destination) leads(path string, u *url.URL) bool {
	if !d.below {
		return d.path == path && d.query == u.RawQuery && (u.RawQuery != "" || !u.ForceQuery)
	}
	if !strings.HasPrefix(path, d.path) {
		return false
	}
	if d.nested {
		path = encodedSlash.Replace(path)
	}
	return !outside(path)
}

var encodedSlash = strings.NewReplacer("%2F", "/", "%2f", "/")

// outside reports whether a server might read the path as one that leads elsewhere: it
// has a segment that is . or .. or empty, or hides a slash in one, in any encoding or
// twice encoded. What a server cuts off a segment (its parameters, what it takes for a
// query, blanks) hides nothing.
func outside(escaped string) bool {
	segments := strings.Split(strings.TrimPrefix(escaped, "/"), "/")
	for i, segment := range segments {
		if segment == "" && i < len(segments)-1 {
			return true
		}
		for range 4 {
			if misread(segment) {
				return true
			}
			segment = unescaped(segment)
		}
		if unescaped(segment) != segment {
			return true // encoded more often than anybody means it
		}
	}
	return false
}

// misread reports whether a server might take the segment for another one, or for two.
func misread(segment string) bool {
	name := blanks.Replace(segment)
	if cut := strings.IndexAny(name, ";?#"); cut >= 0 {
		name = name[:cut]
	}
	return name == "." || name == ".." || strings.ContainsAny(segment, `/\`) || !utf8.ValidString(segment) ||
		strings.ContainsFunc(segment, func(c rune) bool { return control(c) || resembling(c) }) ||
		strings.Contains(strings.ToLower(segment), "%u") // IIS's way to write a character
}

var blanks = strings.NewReplacer(" ", "", "+", "")

// resembling reports whether c is beyond ASCII and anything but a letter or a digit: a
// dot, a slash or a blank of another script becomes ASCII's in some servers, and what is
// invisible goes.
func resembling(c rune) bool {
	return c > unicode.MaxASCII && !unicode.In(c, unicode.L, unicode.M, unicode.Nd)
}

// unescaped is url.PathUnescape as a lenient server has it: what is no escape stays.
func unescaped(segment string) string {
	var decoded strings.Builder
	for i := 0; i < len(segment); i++ {
		if segment[i] == '%' && i+2 < len(segment) {
			if b, err := strconv.ParseUint(segment[i+1:i+3], 16, 8); err == nil {
				decoded.WriteByte(byte(b))
				i += 2
				continue
			}
		}
		decoded.WriteByte(segment[i])
	}
	return decoded.String()
}

func control(c rune) bool { return c < ' ' || c == 0x7f }

// origin is where a URL leads, in one spelling.
func origin(u *url.URL) (scheme, host, port string) {
	port = u.Port()
	switch {
	case port != "":
		if n, err := strconv.ParseUint(port, 10, 16); err == nil {
			port = strconv.FormatUint(n, 10)
		}
	case u.Scheme == "https":
		port = "443"
	case u.Scheme == "http":
		port = "80"
	}
	return u.Scheme, strings.ToLower(u.Hostname()), port
}

func escapedPath(u *url.URL) string {
	if path := u.EscapedPath(); path != "" {
		return path
	}
	return "/"
}

// publicHeaders are those of a request for a public document.
var publicHeaders = []string{"Accept", "Accept-Language", "If-Modified-Since", "If-None-Match", "User-Agent"}

// allowPublic says why req is none for a public document, or nil: it brings something
// along that may be a secret.
func allowPublic(req *http.Request) error {
	if req.Method != http.MethodGet && req.Method != http.MethodHead && req.Method != "" {
		return errors.New("a request for a public document is a GET or a HEAD")
	}
	if req.Body != nil && req.Body != http.NoBody {
		return errors.New("a request for a public document has no body")
	}
	for name := range req.Header {
		if !slices.Contains(publicHeaders, http.CanonicalHeaderKey(name)) {
			return errors.New("a request for a public document has no header that could be a credential")
		}
	}
	return nil
}
