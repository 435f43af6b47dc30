package httpclient

import (
	"context"
	"net"
	"net/http"
	"net/netip"
)

// Forbidden says why the address is refused.
func Forbidden(a netip.Addr) string { return forbidden(a) }

// Dial connects as the client does once a name is resolved.
func (c *Client) Dial(ctx context.Context, address string) (net.Conn, error) {
	return c.http.Transport.(*http.Transport).DialContext(ctx, "tcp", address)
}
