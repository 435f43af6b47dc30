package httpclient

import (
	"context"
	"net/http"
	"slices"
)

type onceKey struct{}

// Once returns a context whose requests with secrets are never repeated once anything of
// them may have left: they may mint, or change the parent. net/http repeats a GET without
// asking, when a connection that it had kept breaks, and a server may have acted on it.
func Once(ctx context.Context) context.Context { return context.WithValue(ctx, onceKey{}, true) }

// Reading is Once undone for a request that only reads, within a context of several: it may
// be repeated, and travels on the connection that is there.
func Reading(ctx context.Context) context.Context { return context.WithValue(ctx, onceKey{}, nil) }

// repeatable are the methods of requests that net/http repeats.
var repeatable = []string{"", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace}

// fresh is a transport like t for one request on a connection of its own, which net/http
// never repeats, or t if it does not repeat req anyway.
func fresh(t *http.Transport, req *http.Request) *http.Transport {
	if req.Context().Value(onceKey{}) == nil || !slices.Contains(repeatable, req.Method) {
		return t
	}
	t = t.Clone()
	t.DisableKeepAlives = true
	return t
}

// repeating are the headers by which net/http takes any request for one that it may
// repeat, whatever the server makes of them. It knows them in this spelling only.
var repeating = map[string]string{"Idempotency-Key": "idempotency-key", "X-Idempotency-Key": "x-idempotency-key"}

// spelled are headers as they are sent: in the spelling in which net/http leaves out what
// it says itself, Host and Content-Length for two, and otherwise only what would make it
// repeat the request. A server reads all spellings as one (RFC 9110 5.1).
func spelled(headers http.Header) http.Header {
	if inOrder(headers) {
		return headers
	}
	sent := make(http.Header, len(headers))
	for name, values := range headers {
		name = http.CanonicalHeaderKey(name)
		if other, ok := repeating[name]; ok {
			name = other
		}
		sent[name] = values
	}
	return sent
}

// inOrder reports whether headers are spelled so already, as they mostly are.
func inOrder(headers http.Header) bool {
	for name := range headers {
		if _, other := repeating[name]; other || http.CanonicalHeaderKey(name) != name {
			return false
		}
	}
	return true
}

// twice reports whether a header is there in two spellings: which one a server believes
// cannot be told.
func twice(headers http.Header) bool { return len(spelled(headers)) != len(headers) }
