package gitlab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/kit"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// maxDepth bounds how deep GitLab's answers nest.
const maxDepth = 12

// refused is an answer that is no success, as far as the status says what to do.
type refused struct {
	status int
	// text is what the body says, for the type's own eyes: it may repeat what was sent.
	text string
}

func (refused) Error() string { return "GitLab refuses" }

// status is the status with which GitLab refused, 0 if it did not.
func status(err error) int {
	var r refused
	errors.As(err, &r)
	return r.status
}

// ask sends one request with a token, and returns what a success answers with: an object, a
// list, or nil for no content. Other answers are errors with refused in the chain.
func (p *Provider) ask(ctx context.Context, as secret.Text, method, path string, body map[string]any) (any, error) {
	resp, err := p.send(ctx, as, method, path, body)
	if err != nil {
		return nil, kit.Lost(err, false)
	}
	if resp.Status/100 == 2 {
		if resp.Status == http.StatusNoContent {
			return nil, nil
		}
		answer, err := form.Value(resp.Body, maxDepth)
		if err != nil {
			return nil, unread(err.Error())
		}
		return answer, nil
	}
	f := kit.Refusal(resp, p.deps.Now(), as)
	return nil, fault.New(f.Code, "%s", f.Message).Because(errors.Join(f.Cause, refused{status: resp.Status, text: string(resp.Body)}))
}

func (p *Provider) send(ctx context.Context, as secret.Text, method, path string, body map[string]any) (*httpclient.Response, error) {
	if method == http.MethodGet {
		ctx = httpclient.Reading(ctx)
	}
	var content []byte
	if body != nil {
		var err error
		if content, err = json.Marshal(body); err != nil {
			return nil, err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, p.settings.api()+"/"+path, bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Private-Token", as.Reveal())
	req.Header.Set("Accept", "application/json")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	return p.deps.Client.Do(req)
}

// object is ask for what must answer with an object.
func (p *Provider) object(ctx context.Context, as secret.Text, method, path string, body map[string]any) (map[string]any, error) {
	answer, err := p.ask(ctx, as, method, path, body)
	if err != nil {
		return nil, err
	}
	object, ok := answer.(map[string]any)
	if !ok {
		return nil, unread("it is no object")
	}
	return object, nil
}

// unread is a success that cannot be read. What it speaks of is there.
func unread(why string) *fault.Error {
	return fault.New(fault.ProviderViolation, "GitLab's answer cannot be used: %s", why).Because(provider.ErrAnswerLost)
}

// whole is what is known of a lost answer: that nothing was made by a request which only
// reads.
func whole(err error) error {
	var f *fault.Error
	if !errors.As(err, &f) || !errors.Is(err, provider.ErrAnswerLost) {
		return err
	}
	return fault.New(f.Code, "%s", f.Message)
}
