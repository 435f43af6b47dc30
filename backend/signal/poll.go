package signal

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

const (
	// maxEvents is how many SETs an answer may bring: as many of the largest kind fit into
	// what is read of one.
	maxEvents = 50
	// maxTaken is how many of an answer are looked at, should the transmitter send more.
	maxTaken = 1000
	// maxWait is the longest pause that a transmitter may ask for.
	maxWait = time.Hour
)

// The states of a stream, by its last poll and its signs of life.
const (
	StateUnknown     = "unknown"     // this process has not polled yet
	StateOK          = "ok"          //
	StateUnreachable = "unreachable" // no answer, or a 5xx or 429
	StateRefused     = "refused"     // the token is not taken
	StateGone        = "gone"        // there is no such stream any more
	StateInvalid     = "invalid"     // what comes is no poll's answer
	StatePaused      = "paused"      // by the transmitter, which says so
	StateSilent      = "silent"      // no sign of life came that was asked for
	StateFailing     = "failing"     // events cannot be handled: Vault's storage fails, say
	StateDisabled    = "disabled"    // by an operator
)

// States are all of them.
func States() []string {
	return []string{StateOK, StateUnknown, StateUnreachable, StateRefused, StateGone, StateInvalid, StatePaused, StateSilent, StateFailing, StateDisabled}
}

// pollError is why a poll brought nothing.
type pollError struct {
	state, says string
	wait        time.Duration // that the transmitter asked for
	unwanted    bool          // something in the poll itself is not taken
	cause       error
}

// Error implements error; it is for operators.
func (e *pollError) Error() string { return e.says }

// Unwrap gives the cause, for the log.
func (e *pollError) Unwrap() error { return e.cause }

// polled is a poll's answer.
type polled struct {
	sets map[string]string // nothing is known of them yet
	// odd are the names of what is no text, and so no SET.
	odd  []string
	more bool
	// cut is true if the answer was larger than what is read, so that there is more.
	cut bool
}

// request is a poll (RFC 8936 2.2).
type request struct {
	Max         int               `json:"maxEvents"`
	Immediately bool              `json:"returnImmediately"`
	Ack         []string          `json:"ack,omitempty"`
	Errors      map[string]setErr `json:"setErrs,omitempty"`
}

// setErr is RFC 8936 2.6's.
type setErr struct {
	Code        string `json:"err"`
	Description string `json:"description"`
}

// poll is one exchange. Its error is a *pollError.
func poll(ctx context.Context, client *httpclient.Client, to string, bearer secret.Text, p request) (*polled, error) {
	raw, err := json.Marshal(p)
	if err != nil {
		return nil, &pollError{state: StateInvalid, says: "the poll could not be written", cause: err}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, bytes.NewReader(raw))
	if err != nil {
		return nil, &pollError{state: StateInvalid, says: "the poll URL cannot be requested", cause: err}
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Authorization", "Bearer "+bearer.Reveal())
	if len(p.Errors) > 0 {
		req.Header.Set("Content-Language", "en") // of the descriptions
	}
	resp, err := client.Do(req)
	var failed *httpclient.Error
	if errors.As(err, &failed) && errors.Is(failed.Err, httpclient.ErrBodyTooLarge) && failed.Status == http.StatusOK {
		return salvage(failed.Partial)
	}
	if err != nil {
		says := "the transmitter could not be reached, or did not answer"
		if advice := httpclient.ProxyAdvice(err); advice != "" {
			says = advice
		}
		return nil, &pollError{state: StateUnreachable, says: says, cause: err}
	}
	if err := judgeStatus(resp); err != nil {
		return nil, err
	}
	if resp.Status == http.StatusNoContent { // which says as much as an empty set of SETs
		return &polled{}, nil
	}
	return readPolled(resp.Body, p.Max == 0)
}

func judgeStatus(resp *httpclient.Response) error {
	status := strconv.Itoa(resp.Status)
	e := &pollError{says: "the transmitter answered with status " + status, wait: retryAfter(resp.Header)}
	switch {
	case resp.Status == http.StatusOK, resp.Status == http.StatusAccepted, resp.Status == http.StatusNoContent:
		return nil
	case resp.Status == http.StatusUnauthorized, resp.Status == http.StatusForbidden:
		e.state, e.says = StateRefused, "the transmitter does not take the token of the stream (status "+status+")"
	case resp.Status == http.StatusNotFound, resp.Status == http.StatusGone:
		e.state, e.says = StateGone, "the transmitter knows no such stream (status "+status+"): write the signal again"
	case resp.Status >= 500, resp.Status == http.StatusTooManyRequests:
		e.state = StateUnreachable
	default:
		e.state, e.unwanted = StateInvalid, resp.Status/100 == 4
		if to := resp.PointsTo(); to != "" {
			e.says += ", a redirect to " + to + ", which is not followed"
		}
	}
	return e
}

func retryAfter(h http.Header) time.Duration {
	seconds, err := strconv.Atoi(h.Get("Retry-After"))
	if err != nil || seconds < 0 {
		return 0
	}
	return min(time.Duration(seconds)*time.Second, maxWait)
}

// readPolled is strict about what rests on it: which SETs there are, each under one name.
func readPolled(body []byte, onlyAck bool) (*polled, error) {
	body = httpclient.Document(body)
	if len(body) == 0 && onlyAck {
		return &polled{}, nil
	}
	nonsense := &pollError{state: StateInvalid, says: errNonsense.Error()}
	members, err := form.UniqueMembers(body)
	if err != nil || members["sets"] == nil {
		return nil, nonsense
	}
	var sets map[string]json.RawMessage
	if raw := members["sets"]; string(raw) != "null" { // as some write a map of which nothing is
		if sets, err = form.UniqueMembers(raw); err != nil {
			return nil, nonsense
		}
	}
	p := &polled{sets: make(map[string]string, len(sets))}
	if more := members["moreAvailable"]; more != nil && json.Unmarshal(more, &p.more) != nil {
		return nil, nonsense
	}
	for name, raw := range sets {
		p.add(name, raw)
	}
	return p, nil
}

func (p *polled) add(name string, raw json.RawMessage) {
	if len(p.sets)+len(p.odd) >= maxTaken {
		p.cut = true // the rest comes again
		return
	}
	var text string
	if json.Unmarshal(raw, &text) != nil {
		p.odd = append(p.odd, name)
		return
	}
	p.sets[name] = text
}

// salvage takes the SETs out of the beginning of an answer that was too large to be read:
// once they are acknowledged the next answer is smaller by them. Without it a transmitter
// that sends more than it was asked for would never get rid of anything.
func salvage(partial []byte) (*polled, error) {
	p := &polled{sets: map[string]string{}, cut: true, more: true}
	decoder := json.NewDecoder(bytes.NewReader(httpclient.Document(partial)))
	if !skipTo(decoder, "sets") {
		return nil, &pollError{state: StateInvalid, says: httpclient.ErrBodyTooLarge.Error()}
	}
	if open, err := decoder.Token(); err != nil || open != json.Delim('{') {
		return nil, &pollError{state: StateInvalid, says: errNonsense.Error()}
	}
	for len(p.sets) < maxTaken && decoder.More() {
		name, err := decoder.Token()
		key, ok := name.(string)
		var raw json.RawMessage
		if err != nil || !ok || decoder.Decode(&raw) != nil {
			break
		}
		p.add(key, raw)
	}
	if len(p.sets)+len(p.odd) == 0 {
		return nil, &pollError{state: StateInvalid, says: httpclient.ErrBodyTooLarge.Error()}
	}
	return p, nil
}

// skipTo goes on to the value of a member of the object that comes.
func skipTo(decoder *json.Decoder, member string) bool {
	if open, err := decoder.Token(); err != nil || open != json.Delim('{') {
		return false
	}
	for decoder.More() {
		name, err := decoder.Token()
		if err != nil {
			return false
		}
		if name == member {
			return true
		}
		var skipped json.RawMessage
		if decoder.Decode(&skipped) != nil {
			return false
		}
	}
	return false
}
