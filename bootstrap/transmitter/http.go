package transmitter

import (
	"encoding/json"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"
)

const streamID = "stream-1"

// Where the endpoints are, below the issuer.
const (
	pathKeys   = "/jwks"
	pathStream = "/ssf/stream"
	pathStatus = "/ssf/status"
	pathVerify = "/ssf/verify"
	pathPoll   = "/ssf/poll"
)

// PollURL is where events are fetched.
func (s *Server) PollURL() string { return s.URL + pathPoll }

// KeysURL is where the keys are.
func (s *Server) KeysURL() string { return s.URL + pathKeys }

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	wellKnown := "/.well-known/ssf-configuration" + s.options.Path
	if s.options.Appended {
		wellKnown = s.options.Path + "/.well-known/ssf-configuration"
	}
	path := strings.TrimPrefix(r.URL.Path, s.options.Path)
	switch {
	case r.URL.Path == wellKnown:
		s.metadata(w)
	case path == pathKeys:
		w.Header().Set("Content-Type", "application/jwk-set+json")
		_, _ = w.Write(s.keySet())
	case slices.Contains([]string{pathStream, pathStatus, pathVerify, pathPoll}, path):
		s.protected(w, r, path)
	default:
		http.NotFound(w, r)
	}
}

func (s *Server) metadata(w http.ResponseWriter) {
	m := map[string]any{
		"spec_version": "1_0", "issuer": s.URL, "jwks_uri": s.KeysURL(), "delivery_methods_supported": []string{PollMethod},
		"default_subjects": "ALL", "authorization_schemes": []any{map[string]any{"spec_urn": "urn:ietf:rfc:6749"}},
	}
	if !s.options.WithoutManagement {
		m["configuration_endpoint"], m["status_endpoint"] = s.URL+pathStream, s.URL+pathStatus
	}
	if !s.options.WithoutVerification {
		m["verification_endpoint"] = s.URL + pathVerify
	}
	answer(w, http.StatusOK, m)
}

func (s *Server) protected(w http.ResponseWriter, r *http.Request, path string) {
	token, ok := s.bearer(r)
	if !ok {
		w.Header().Set("WWW-Authenticate", "Bearer")
		answer(w, http.StatusUnauthorized, map[string]any{"err": "authentication_failed", "description": "no such token"})
		return
	}
	switch path {
	case pathStream:
		s.stream(w, r)
	case pathStatus:
		if r.URL.Query().Get("stream_id") != streamID {
			http.NotFound(w, r)
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		answer(w, http.StatusOK, map[string]any{"stream_id": streamID, "status": s.status})
	case pathVerify:
		s.verify(w, r)
	case pathPoll:
		s.poll(w, r, token)
	}
}

func (s *Server) stream(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	config := func() map[string]any {
		return map[string]any{
			"stream_id": streamID, "iss": s.URL, "aud": s.options.Audience, "events_supported": s.requested, "events_requested": s.requested, "events_delivered": s.requested,
			"delivery": map[string]any{"method": PollMethod, "endpoint_url": s.PollURL()},
		}
	}
	var body struct {
		ID        string         `json:"stream_id"`
		Delivery  map[string]any `json:"delivery"`
		Requested []string       `json:"events_requested"`
	}
	if r.Method == http.MethodPost || r.Method == http.MethodPatch {
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
	}
	switch {
	case r.Method == http.MethodPost && s.streams > 0:
		w.WriteHeader(http.StatusConflict)
	case r.Method == http.MethodPost && body.Delivery["method"] != PollMethod, r.Method == http.MethodPatch && body.ID != streamID:
		w.WriteHeader(http.StatusBadRequest)
	case r.Method == http.MethodPost:
		s.streams, s.requested = 1, body.Requested
		answer(w, http.StatusCreated, config())
	case s.streams == 0:
		w.WriteHeader(http.StatusNotFound)
	case r.Method == http.MethodPatch:
		s.requested = body.Requested
		answer(w, http.StatusOK, config())
	case r.Method == http.MethodGet && r.URL.Query().Get("stream_id") == "":
		answer(w, http.StatusOK, []any{config()})
	case r.Method == http.MethodGet:
		answer(w, http.StatusOK, config())
	case r.Method == http.MethodDelete && r.URL.Query().Get("stream_id") == streamID:
		s.streams, s.queue = 0, nil
		w.WriteHeader(http.StatusNoContent)
	default:
		w.WriteHeader(http.StatusBadRequest)
	}
}

func (s *Server) verify(w http.ResponseWriter, r *http.Request) {
	var body struct {
		ID    string `json:"stream_id"`
		State string `json:"state"`
	}
	if r.Method != http.MethodPost || json.NewDecoder(r.Body).Decode(&body) != nil || body.ID != streamID {
		s.violate("a verification is asked for by a POST with the stream's id")
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	deaf := s.deaf
	s.mu.Unlock()
	w.WriteHeader(http.StatusNoContent)
	if !deaf {
		s.Send(Event{Type: SSF + "verification", Subject: s.streamSubject(), Members: map[string]any{"state": body.State}})
	}
}

// poll is RFC 8936 2.
func (s *Server) poll(w http.ResponseWriter, r *http.Request, token string) {
	p, wrong := readPoll(r)
	if wrong != "" {
		s.violate("%s", wrong)
		answer(w, http.StatusBadRequest, map[string]any{"err": "invalid_request", "description": wrong})
		return
	}
	p.Token = token
	s.mu.Lock()
	s.polls = append(s.polls, *p)
	fault := s.fault
	s.mu.Unlock()
	act := func() map[string]any {
		s.settle(p)
		if !p.ReturnImmediately {
			s.hold(r)
		}
		return s.take(p)
	}
	if fault != nil {
		fault(w, r, p, act)
		return
	}
	answer(w, http.StatusOK, act())
}

// readPoll judges a poll, and says what is wrong with it.
func readPoll(r *http.Request) (p *Poll, wrong string) {
	media, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	raw, err := io.ReadAll(io.LimitReader(r.Body, 4<<20))
	switch {
	case r.Method != http.MethodPost:
		return nil, "a poll is a POST"
	case media != "application/json":
		return nil, "a poll is application/json"
	case !strings.Contains(r.Header.Get("Accept"), "application/json"):
		return nil, "a poll accepts application/json"
	case err != nil:
		return nil, "the body broke off"
	}
	decoder := json.NewDecoder(strings.NewReader(string(raw)))
	decoder.DisallowUnknownFields()
	p = &Poll{}
	if err := decoder.Decode(p); err != nil {
		return nil, "a poll has maxEvents, returnImmediately, ack and setErrs, and nothing else: " + err.Error()
	}
	for id, e := range p.SetErrs {
		if !slices.Contains([]string{"invalid_request", "invalid_key", "invalid_issuer", "invalid_audience", "authentication_failed", "access_denied", "invalid_state"}, e.Code) || e.Description == "" {
			return nil, "setErrs of " + id + " is none of RFC 8935 2.4"
		}
		if slices.Contains(p.Ack, id) {
			return nil, id + " is acknowledged and refused at once"
		}
	}
	if len(p.SetErrs) > 0 && r.Header.Get("Content-Language") == "" {
		return nil, "setErrs need Content-Language"
	}
	return p, ""
}

// settle takes what is acknowledged or refused out of the queue.
func (s *Server) settle(p *Poll) {
	s.mu.Lock()
	defer s.mu.Unlock()
	drop := map[string]bool{}
	for _, id := range p.Ack {
		if !s.delivered[id] {
			s.violations = append(s.violations, id+" is acknowledged, and was never delivered")
		}
		drop[id] = true
		s.acked = append(s.acked, id)
		if s.ackedAt[id].IsZero() {
			s.ackedAt[id] = time.Now()
		}
	}
	for id, e := range p.SetErrs {
		if !s.delivered[id] {
			s.violations = append(s.violations, id+" is refused, and was never delivered")
		}
		drop[id] = true
		s.refused[id] = e
	}
	s.queue = slices.DeleteFunc(s.queue, func(item set) bool { return drop[item.id] })
}

// hold waits until something is there.
func (s *Server) hold(r *http.Request) {
	timer := time.NewTimer(s.options.Hold)
	defer timer.Stop()
	for {
		s.mu.Lock()
		waiting, arrived := len(s.queue) == 0 && s.status == "enabled", s.arrived
		s.mu.Unlock()
		if !waiting {
			return
		}
		select {
		case <-arrived:
		case <-timer.C:
			return
		case <-r.Context().Done():
			return
		}
	}
}

// take is what the queue has for a poll.
func (s *Server) take(p *Poll) map[string]any {
	s.mu.Lock()
	defer s.mu.Unlock()
	sets, left := map[string]any{}, 0
	for _, item := range s.queue {
		switch {
		case s.status != "enabled" && !item.ofStream:
		case p.MaxEvents != nil && len(sets) >= *p.MaxEvents:
			left++
		default:
			sets[item.id] = item.compact
			s.delivered[item.id] = true
		}
	}
	body := map[string]any{"sets": sets}
	if left > 0 {
		body["moreAvailable"] = true
	}
	return body
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}
