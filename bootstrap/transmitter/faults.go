package transmitter

import (
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// Fault answers a poll in the server's stead. act does what the server would have done, and
// returns what it would have answered.
type Fault func(w http.ResponseWriter, r *http.Request, p *Poll, act func() map[string]any)

// Break switches a fault on, nil switches it off.
func (s *Server) Break(f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
}

// Answer gives a fixed answer, and does nothing.
func Answer(status int, contentType, body string) Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ *Poll, _ func() map[string]any) {
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		_, _ = fmt.Fprint(w, body)
	}
}

// Busy answers 429 with Retry-After.
func Busy(wait time.Duration) Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ *Poll, _ func() map[string]any) {
		w.Header().Set("Retry-After", strconv.Itoa(int(wait.Seconds())))
		w.WriteHeader(http.StatusTooManyRequests)
	}
}

// Forgetful delivers, and takes no acknowledgement for one.
func (s *Server) Forgetful() Fault {
	return func(w http.ResponseWriter, _ *http.Request, p *Poll, _ func() map[string]any) {
		answer(w, http.StatusOK, s.take(p))
	}
}

// Endless answers truly, and always says that there is more.
func Endless() Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ *Poll, act func() map[string]any) {
		body := act()
		body["moreAvailable"] = true
		answer(w, http.StatusOK, body)
	}
}

// Flood answers with all that it has, whatever it was asked for.
func Flood() Fault {
	return func(w http.ResponseWriter, _ *http.Request, p *Poll, act func() map[string]any) {
		p.MaxEvents = nil
		answer(w, http.StatusOK, act())
	}
}

// Lost does what it should, and the answer never arrives.
func Lost() Fault {
	return func(_ http.ResponseWriter, _ *http.Request, _ *Poll, act func() map[string]any) {
		act()
		panic(http.ErrAbortHandler)
	}
}
