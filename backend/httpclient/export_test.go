package httpclient

import (
	"context"
	"net"
	"net/http"
	"net/netip"
)

// Forbidden says why the address is refused.
func Forbidden(a netip.Addr) string { return forbidden(a) }

// Allow says why no secret may go where req leads.
func (all Destinations) Allow(req *http.Request) error { return all.allow(req) }

// Dial connects as the client does once a name is resolved.
func (c *Client) Dial(ctx context.Context, address string) (net.Conn, error) {
	return c.open.DialContext(ctx, "tcp", address)
}

// AsksForAProxy reports whether net/http would find itself a proxy.
func (c *Client) AsksForAProxy() bool {
	return c.open.Proxy != nil || c.certified != nil && c.certified.Proxy != nil
}
