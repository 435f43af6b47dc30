package authserver

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Fault answers in a server's stead. act does what the server would have done,
// with all its effects, and returns what it would have answered.
type Fault func(w http.ResponseWriter, r *http.Request, act func() reply)

// Break switches a fault on at an endpoint, nil switches it off.
func (s *Server) Break(e Endpoint, f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults[e] = f
}

// Set answers truly but for one member, which has another value.
func Set(member string, value any) Fault {
	return change(func(body map[string]any) { body[member] = value })
}

// Drop answers truly but leaves one member out.
func Drop(member string) Fault {
	return change(func(body map[string]any) { delete(body, member) })
}

func change(f func(body map[string]any)) Fault {
	return func(w http.ResponseWriter, _ *http.Request, act func() reply) {
		answer := act()
		if body, ok := answer.body.(map[string]any); ok {
			f(body)
		}
		answer.send(w)
	}
}

// Answer gives a fixed answer and does nothing. A "%s" in body becomes what the
// caller sent as its secret, so that an echo can be looked for.
func Answer(status int, contentType, body string) Fault {
	return func(w http.ResponseWriter, r *http.Request, _ func() reply) {
		_, sent, _ := r.BasicAuth()
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		_, _ = fmt.Fprint(w, strings.ReplaceAll(body, "%s", sent))
	}
}

// Echo refuses everything and repeats what it was sent, in every member.
func Echo() Fault {
	return func(w http.ResponseWriter, r *http.Request, _ func() reply) {
		sent, _ := io.ReadAll(r.Body)
		form, _ := url.ParseQuery(string(sent))
		_, secret, _ := r.BasicAuth()
		echo := secret
		for _, values := range form {
			echo += " " + strings.Join(values, " ")
		}
		reply{http.StatusBadRequest, map[string]any{"error": echo, "error_description": echo, "error_uri": echo}}.send(w)
	}
}

// HTML answers 200 with a page, as a captive portal does.
func HTML() Fault {
	return Answer(http.StatusOK, "text/html", "<!doctype html><title>Sign in</title>")
}

// Busy answers 503 with Retry-After (RFC 7009 2.2.1).
func Busy(retryAfter time.Duration) Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ func() reply) {
		w.Header().Set("Retry-After", strconv.Itoa(int(retryAfter.Seconds())))
		w.WriteHeader(http.StatusServiceUnavailable)
	}
}

// Header adds a header to f's answer.
func Header(name, value string, f Fault) Fault {
	return func(w http.ResponseWriter, r *http.Request, act func() reply) {
		w.Header().Set(name, value)
		f(w, r, act)
	}
}

// Redirect sends the caller elsewhere, with the method and the body if it obeys.
func Redirect(to string) Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ func() reply) {
		w.Header().Set("Location", to)
		w.WriteHeader(http.StatusTemporaryRedirect)
	}
}

// Slow does its work and answers after d, or never if the caller leaves first.
func Slow(d time.Duration) Fault {
	return func(w http.ResponseWriter, r *http.Request, act func() reply) {
		answer := act()
		select {
		case <-time.After(d):
			answer.send(w)
		case <-r.Context().Done():
		}
	}
}

// Endless answers with a body that has no end.
func Endless() Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ func() reply) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"padding":"`))
		chunk := bytes.Repeat([]byte("a"), 64<<10)
		for {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}
}

// EndlessAfterToken begins with the real answer's members and never ends.
func EndlessAfterToken() Fault {
	return func(w http.ResponseWriter, _ *http.Request, act func() reply) {
		raw, _ := json.Marshal(act().body)
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(append(bytes.TrimSuffix(raw, []byte("}")), `,"padding":"`...))
		chunk := bytes.Repeat([]byte("a"), 64<<10)
		for {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}
}

// Cut does its work and breaks the connection when keep bytes of the body are
// out; a negative keep counts from the end.
func Cut(keep int) Fault {
	return func(w http.ResponseWriter, _ *http.Request, act func() reply) {
		raw, _ := json.Marshal(act().body)
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", strconv.Itoa(len(raw)))
		if keep < 0 {
			keep += len(raw)
		}
		_, _ = w.Write(raw[:keep])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
}

// Hangup does its work and breaks the connection without an answer.
func Hangup() Fault {
	return func(_ http.ResponseWriter, _ *http.Request, act func() reply) {
		act()
		panic(http.ErrAbortHandler)
	}
}

// Silent does nothing and breaks the connection without an answer.
func Silent() Fault {
	return func(http.ResponseWriter, *http.Request, func() reply) { panic(http.ErrAbortHandler) }
}

// Lie answers success and does nothing.
func Lie() Fault { return Answer(http.StatusOK, "application/json", "{}") }

// WithStatus does its work and answers with another status.
func WithStatus(status int) Fault {
	return func(w http.ResponseWriter, _ *http.Request, act func() reply) {
		answer := act()
		answer.status = status
		answer.send(w)
	}
}

// Verbatim does its work and answers 200 with text made of the true answer.
func Verbatim(contentType string, text func(body map[string]any) string) Fault {
	return func(w http.ResponseWriter, _ *http.Request, act func() reply) {
		body, _ := act().body.(map[string]any)
		w.Header().Set("Content-Type", contentType)
		_, _ = fmt.Fprint(w, text(body))
	}
}

// Before does something of the test's while the request is under way, and then
// answers truly.
func Before(do func()) Fault {
	return func(w http.ResponseWriter, _ *http.Request, act func() reply) {
		do()
		act().send(w)
	}
}

// If is f for the requests whose form is such, and the server itself for the others.
func If(such func(form url.Values) bool, f Fault) Fault {
	return func(w http.ResponseWriter, r *http.Request, act func() reply) {
		sent, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(sent))
		if form, _ := url.ParseQuery(string(sent)); such(form) {
			f(w, r, act)
			return
		}
		act().send(w)
	}
}

// Once is f for the first request and the server itself for the others.
func Once(f Fault) Fault {
	used := make(chan struct{}, 1)
	used <- struct{}{}
	return func(w http.ResponseWriter, r *http.Request, act func() reply) {
		select {
		case <-used:
			f(w, r, act)
		default:
			act().send(w)
		}
	}
}

// InTurn is one fault after the other, nil for the server itself, and then the last
// one for ever.
func InTurn(faults ...Fault) Fault {
	var mu sync.Mutex
	return func(w http.ResponseWriter, r *http.Request, act func() reply) {
		mu.Lock()
		var f Fault
		if len(faults) > 0 {
			f = faults[0]
		}
		if len(faults) > 1 {
			faults = faults[1:]
		}
		mu.Unlock()
		if f == nil {
			act().send(w)
			return
		}
		f(w, r, act)
	}
}
