package httpclient

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
)

var errNoHTTP = errors.New("the answer is no valid HTTP")

// said is what net/http says in words of its own, by what they have in common: its types
// for that cannot be asked for. What is shown of it is ours, since whatever stands around
// the words may be the server's.
var said = []struct {
	words string
	shown error
}{
	{"GOAWAY", errors.New("the server ended the connection (HTTP/2 GOAWAY)")},
	{"stream error", errors.New("the server broke off the exchange (HTTP/2 stream error)")},
	{"client connection lost", errors.New("the connection was lost (HTTP/2)")},
	{"server closed idle connection", errors.New("the server closed the connection before it answered")},
	{"server response headers exceeded", errTooManyHeaders},
	{"header list larger than", errTooManyHeaders},
}

var errTooManyHeaders = errors.New("the server response headers exceeded what is read of them")

// discreet is what may be kept of an error that came once there was a connection. net/http
// quotes an answer that is no HTTP, in many ways, and that may be a token; so it is only
// what is known to quote nothing, and of that what stands in the middle of the chain: the
// errors around it may quote.
func discreet(err error) error {
	var network *net.OpError // a TLS alert is one too
	switch {
	case errors.Is(err, ErrBodyTooLarge):
		return ErrBodyTooLarge
	case errors.As(err, &network):
		return network
	case errors.Is(err, context.DeadlineExceeded):
		return context.DeadlineExceeded
	case errors.Is(err, context.Canceled):
		return context.Canceled
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return io.ErrUnexpectedEOF
	}
	for _, s := range said {
		if strings.Contains(err.Error(), s.words) {
			return s.shown
		}
	}
	return errNoHTTP
}
