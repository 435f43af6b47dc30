package access

import (
	"maps"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/idna"
)

// Targets are audiences that are recognized in every usual spelling. What a server
// takes for its own name is its own affair: some compare text, others normalize first
// (RFC 3986 6.2), or compute their URL from a request that came through a proxy. So a
// target is found also where it differs in any of these, and rather too often than
// too seldom: it is for refusing, never for allowing. The zero Targets is none.
// It is safe for concurrent reading once nothing is added any more.
type Targets struct {
	// names are the targets as they were written, by spelling.
	names map[string]string
	// trees are those of which everything below them is one, too.
	trees map[string]string
}

// Add adds targets by name; empty ones are left out.
func (t *Targets) Add(names ...string) { t.names = added(t.names, names) }

// AddTree adds a target together with everything below its path.
func (t *Targets) AddTree(root string) {
	t.Add(root)
	t.trees = added(t.trees, []string{root})
}

func added(to map[string]string, names []string) map[string]string {
	if to == nil {
		to = map[string]string{}
	}
	for _, name := range names {
		if key := spelling(name); key != "" {
			to[key] = name
		}
	}
	return to
}

// Find returns the target, as it was added, that v is a spelling of, or is below.
func (t Targets) Find(v string) (target string, found bool) {
	key := spelling(v)
	if target, found = t.names[key]; found {
		return target, true
	}
	for tree, root := range t.trees {
		if strings.HasPrefix(key, tree+"/") {
			return root, true
		}
	}
	return "", false
}

// FindIn returns a target that one of the set's values is a spelling of, or that one
// of its patterns matches as written or in its plainest form.
func (t Targets) FindIn(s Set) (target string, found bool) {
	for _, v := range s.Literals() {
		if target, found = t.Find(v); found {
			return target, true
		}
	}
	if s.enumerable() {
		return "", false
	}
	for _, key := range slices.Sorted(maps.Keys(t.names)) {
		name := t.names[key]
		plain := key
		if scheme, _, ok := strings.Cut(name, "://"); ok && !strings.Contains(key, "://") {
			plain = strings.ToLower(scheme) + "://" + key
		}
		if slices.ContainsFunc([]string{name, plain, plain + "/"}, s.Contains) {
			return name, true
		}
	}
	return "", false
}

// spelling is v without what differs between the usual spellings of one name: case,
// http or https, escapes, user information, a default port, the dot of the root after
// a host, the ways to write an address or an international name, doubled and final
// slashes, dot segments, parameters, query and fragment. It is for comparing alone.
func spelling(v string) string {
	v = strings.TrimSpace(strings.ReplaceAll(strings.ToLower(unescaped(v)), `\`, "/"))
	v, _, _ = strings.Cut(v, "#")
	v, _, _ = strings.Cut(v, "?")
	scheme, rest := "", v
	if s, r, ok := strings.Cut(v, ":"); ok && (s == "https" || s == "http") {
		rest = r
	} else if i := strings.Index(v, "://"); i >= 0 {
		scheme, rest = v[:i+len("://")], v[i+len("://"):]
	}
	authority, below, _ := strings.Cut(strings.TrimLeft(rest, "/"), "/")
	if i := strings.LastIndex(authority, "@"); i >= 0 {
		authority = authority[i+1:]
	}
	segments := strings.Split(below, "/")
	for i, segment := range segments {
		segment, _, _ = strings.Cut(segment, ";")
		segments[i] = strings.TrimSpace(segment)
	}
	return scheme + plainHost(strings.TrimSpace(authority)) + strings.TrimRight(path.Clean("/"+strings.Join(segments, "/")), "/")
}

// maxUnescapes is more often than any server does, and bounds what a caller can ask for.
const maxUnescapes = 8

// unescaped resolves escapes for as long as there are any, since nobody knows how often
// a server does, and leaves what is none.
func unescaped(v string) string {
	for range maxUnescapes {
		pieces := strings.Split(v, "%")
		var out strings.Builder
		out.WriteString(pieces[0])
		for _, piece := range pieces[1:] {
			if plain, err := url.PathUnescape("%" + piece[:min(2, len(piece))]); err == nil {
				out.WriteString(plain + piece[2:])
			} else {
				out.WriteString("%" + piece)
			}
		}
		if out.Len() == len(v) {
			return v
		}
		v = out.String()
	}
	return v
}

// lenient lets names pass that are in use although no registrar would sell them.
var lenient = idna.New(idna.MapForLookup(), idna.Transitional(false), idna.StrictDomainName(false))

// plainHost is a host without a default port, with an address in its shortest form.
func plainHost(authority string) string {
	host, port := authority, ""
	if i := strings.LastIndex(authority, ":"); i > strings.LastIndex(authority, "]") {
		host, port = authority[:i], ":"+strings.TrimLeft(authority[i+1:], "0")
	}
	if port == ":443" || port == ":80" || port == ":" {
		port = ""
	}
	if ascii, err := lenient.ToASCII(host); err == nil {
		host = ascii
	}
	host = strings.TrimRight(host, ".")
	if addr, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		host = addr.Unmap().WithZone("").String()
	} else if addr, ok := ipv4(host); ok {
		host = addr.String()
	}
	return host + port
}

// ipv4 reads an address of which browsers and C know more forms: fewer than four
// parts, the last of which fills the rest, and other bases than ten.
func ipv4(host string) (addr netip.Addr, ok bool) {
	parts := strings.Split(host, ".")
	if len(parts) > 4 {
		return addr, false
	}
	var sum uint64
	for i, part := range parts {
		n, err := strconv.ParseUint(part, 0, 32)
		bits := 8
		if i == len(parts)-1 {
			bits = 8 * (4 - i)
		}
		if err != nil || n>>bits != 0 {
			return addr, false
		}
		sum = sum<<bits | n
	}
	return netip.AddrFrom4([4]byte{byte(sum >> 24), byte(sum >> 16), byte(sum >> 8), byte(sum)}), true
}
