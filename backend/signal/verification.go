package signal

import (
	"context"
	"net/http"

	"github.com/hashicorp/go-uuid"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
)

// askForLife asks the transmitter for a verification event (SSF 1.0 8.1.4), by its
// schedule, and how the stream is. What fails here is found out by the silence.
func (r *Receiver) askForLife(ctx context.Context, byHand bool) {
	now := r.deps.Now()
	r.mu.Lock()
	due := r.status.Verifies && (byHand || r.asked.at.IsZero() || now.Sub(r.asked.at) >= r.config.VerificationInterval)
	r.mu.Unlock()
	if !due {
		return
	}
	state, err := uuid.GenerateUUID()
	if err != nil {
		return
	}
	bearer, err := r.token(ctx)
	if err != nil {
		return // the poll says so
	}
	r.mu.Lock()
	before := r.asked
	r.asked = verification{state: state, at: now}
	r.mu.Unlock()
	resp, err := send(ctx, r.client, bearer, http.MethodPost, r.stream.VerificationURL, map[string]any{"stream_id": r.stream.ID, "state": state})
	if err != nil || resp.Status/100 != 2 {
		r.mu.Lock()
		r.asked.state = before.state // which may still come; a transmitter may say that it was asked too often
		r.mu.Unlock()
		r.deps.Warn("a stream of security events could not be asked for a sign of life", "status", statusOf(resp), "cause", err)
	}
	if r.stream.StatusURL == "" {
		return
	}
	resp, err = send(ctx, r.client, bearer, http.MethodGet, ofStream(r.stream.StatusURL, r.stream.ID), nil)
	if err != nil || resp.Status != http.StatusOK {
		return
	}
	if said, err := form.Object(httpclient.Document(resp.Body), maxDepth); err == nil {
		r.setStatus(said)
	}
}

func statusOf(resp *httpclient.Response) int {
	if resp == nil {
		return 0
	}
	return resp.Status
}

// lives notes a sign of life. One that nobody asked for proves nothing new.
func (r *Receiver) lives(e *Event) {
	state, _ := e.Members["state"].(string)
	r.mu.Lock()
	defer r.mu.Unlock()
	if state == "" || state != r.asked.state {
		return
	}
	r.asked.state = ""
	r.status.LastVerified = r.deps.Now()
}

// updated takes over what the transmitter says of the stream's status (SSF 1.0 8.1.5).
func (r *Receiver) updated(e *Event) {
	r.setStatus(e.Members)
	r.deps.Warn("the transmitter has changed the status of a stream of security events", "status", r.Status().Stream)
}

func (r *Receiver) setStatus(said map[string]any) {
	status, _ := said["status"].(string)
	reason, _ := said["reason"].(string)
	r.mu.Lock()
	defer r.mu.Unlock()
	switch status {
	case "enabled", "paused", "disabled":
		r.status.Stream, r.status.StreamReason = status, bounded(reason)
	}
}

// silentLocked reports whether a sign of life is overdue. The caller holds mu.
func (r *Receiver) silentLocked() bool {
	if !r.status.Verifies {
		return false
	}
	now := r.deps.Now()
	if r.asked.state != "" && now.Sub(r.asked.at) > verificationPatience {
		return true
	}
	return now.Sub(latest(r.status.Began, r.status.LastVerified)) > r.config.VerificationInterval+verificationPatience
}
