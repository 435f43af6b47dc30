package httpclient

import (
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// What is refused, in the words of the errors.
const (
	linkLocal   = "a link-local address"
	metadata    = "the address of a cloud's metadata service"
	oddAddress  = "an address in another spelling than RFC 3986 3.2.2 has"
	unspecified = "an address of 0.0.0.0/8 or ::, which is nobody's (RFC 1122 3.2.1.3)"
)

// metadataServices are those that are not link-local.
var metadataServices = addrs(
	"100.100.100.200",    // Alibaba
	"fd00:100::100:200",  // Alibaba
	"168.63.129.16",      // Azure
	"192.0.0.192",        // Oracle
	"fd00:c1::a9fe:a9fe", // Oracle
	"fd00:ec2::254",      // AWS
	"fd00:ec2::23",       // AWS, the credentials of pods
	"fd20:ce::254",       // Google
	"fd00:42::42",        // Scaleway
	"fd00:a9fe:a9fe::1",  // Akamai
)

var thisNetwork = netip.MustParsePrefix("0.0.0.0/8")

func addrs(literals ...string) map[netip.Addr]bool {
	set := map[netip.Addr]bool{}
	for _, literal := range literals {
		set[netip.MustParseAddr(literal)] = true
	}
	return set
}

// metadataNames are those by which clouds' machines find such a service. What any other
// name leads to is only seen where it is dialled.
var metadataNames = []string{
	"metadata.google.internal", "metadata.goog", // Google
	"instance-data.ec2.internal", // AWS
	"metadata.tencentyun.com", "metadata.platformequinix.com",
}

// shortMetadataNames mean the same in the networks of these clouds and anything in
// others: where a name is resolved here its address tells.
var shortMetadataNames = []string{"metadata", "instance-data"}

// forbiddenHost says why no provider is at the host of a URL, or "".
func forbiddenHost(host string) string {
	if addr, err := netip.ParseAddr(host); err == nil {
		return forbidden(addr)
	}
	name := named(host)
	if slices.Contains(metadataNames, name) {
		return metadata
	}
	// 0xa9fea9fe, 2852039166 or 0251.0376.43518: no name ends so, but some resolvers,
	// a proxy's for one, take it for an address (inet_aton).
	last := name[strings.LastIndexByte(name, '.')+1:]
	digits := last
	if hex, ok := strings.CutPrefix(last, "0x"); ok {
		digits = strings.Trim(hex, "abcdef0123456789")
	} else {
		digits = strings.Trim(digits, "0123456789")
	}
	if last != "" && digits == "" {
		return oddAddress
	}
	return ""
}

// named is a host in one spelling: without the dot of the root at its end, or the many
// that a resolver may take for it.
func named(host string) string { return strings.ToLower(strings.TrimRight(host, ".")) }

// isThisMachine reports whether host is surely this machine, so that nobody else reads
// what is sent there in plain.
func isThisMachine(host string) bool {
	addr, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || (err == nil && addr.Unmap().IsLoopback())
}

// IsHTTPS reports whether raw is an https URL.
func IsHTTPS(raw string) bool {
	return len(raw) > len("https://") && strings.EqualFold(raw[:len("https://")], "https://")
}

// IsLoopback reports whether raw may be a URL of this machine, by name or by address:
// what no remote server has any business to name.
func IsLoopback(raw string) bool {
	u, err := url.Parse(raw)
	return err == nil && raw != "" && isLoopback(u.Hostname())
}

func isLoopback(host string) bool {
	host = named(host)
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || (err == nil && addr.Unmap().IsLoopback())
}

// forbidden says why no provider is at the address, or "". Linux takes 0.0.0.0 and ::
// for loopback, so they would be a way around what is said of that.
func forbidden(a netip.Addr) string {
	a = a.Unmap().WithZone("")
	if a.IsUnspecified() || thisNetwork.Contains(a) {
		return unspecified
	}
	if what := serves(a); what != "" {
		return what
	}
	for _, inner := range embedded(a) {
		if what := serves(inner); what != "" {
			return what
		}
	}
	return ""
}

func serves(a netip.Addr) string {
	switch {
	case a.IsLinkLocalUnicast() || a.IsLinkLocalMulticast() || a.IsInterfaceLocalMulticast():
		return linkLocal
	case metadataServices[a]:
		return metadata
	}
	return ""
}

// The prefixes of IPv6 addresses behind which an IPv4 address is.
var (
	compatible = netip.MustParsePrefix("::/96")           // RFC 4291 2.5.5.1
	translated = netip.MustParsePrefix("::ffff:0:0:0/96") // RFC 2765 2.1
	nat64      = netip.MustParsePrefix("64:ff9b::/96")    // RFC 6052 2.1
	localNAT64 = netip.MustParsePrefix("64:ff9b:1::/48")  // RFC 8215
	sixToFour  = netip.MustParsePrefix("2002::/16")       // RFC 3056 2
	teredo     = netip.MustParsePrefix("2001::/32")       // RFC 4380 4
)

// embedded are the IPv4 addresses to which a translator or a tunnel might bring what is
// sent to the address.
func embedded(a netip.Addr) []netip.Addr {
	if a.Is4() {
		return nil
	}
	b := a.As16()
	at := func(i, j, k, l int) netip.Addr { return netip.AddrFrom4([4]byte{b[i], b[j], b[k], b[l]}) }
	var inner []netip.Addr
	switch {
	case compatible.Contains(a), translated.Contains(a), nat64.Contains(a):
		inner = append(inner, at(12, 13, 14, 15))
	case localNAT64.Contains(a):
		// Of which length the network's own prefix is cannot be told (RFC 6052 2.2).
		inner = append(inner, at(12, 13, 14, 15), at(9, 10, 11, 12), at(7, 9, 10, 11), at(6, 7, 9, 10))
	case sixToFour.Contains(a):
		inner = append(inner, at(2, 3, 4, 5))
	case teredo.Contains(a):
		client := netip.AddrFrom4([4]byte{^b[12], ^b[13], ^b[14], ^b[15]})
		inner = append(inner, at(4, 5, 6, 7), client)
	}
	// ISATAP (RFC 5214 6.1) is told by the interface identifier.
	if (b[8] == 0 || b[8] == 2) && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe {
		inner = append(inner, at(12, 13, 14, 15))
	}
	return inner
}
