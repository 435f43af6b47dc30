package reference

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/kit"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// jwtLife is how long the system takes one JWT.
const jwtLife = 10 * time.Minute

// maxDepth bounds how deep the system's answers nest.
const maxDepth = 4

// errGone is that the system does not know what was asked for: it is dead, which is what
// a revocation is about.
var errGone = errors.New("there is no such thing at the system")

// ask sends one request, and returns the object that a success answers with. Every other
// answer is an error: what the system says of the parent or of itself is
// temporarily_unavailable, and provider.ErrAnswerLost is in the chain where it may have
// done what was asked. No text of the system's is passed on: it may repeat what was sent.
func (p *Provider) ask(ctx context.Context, method, path string, body map[string]any) (map[string]any, error) {
	resp, err := p.send(ctx, method, path, body)
	if err != nil {
		return nil, kit.Lost(err, false)
	}
	switch {
	case resp.Status == http.StatusNoContent:
		return nil, nil
	case resp.Status/100 == 2:
		object, err := form.Object(resp.Body, maxDepth)
		if err != nil {
			return nil, unread(err.Error())
		}
		return object, nil
	case resp.Status == http.StatusNotFound:
		return nil, fault.New(fault.TemporarilyUnavailable, "the system knows no such thing: check base_url").Because(errGone)
	case resp.Status == http.StatusUnprocessableEntity:
		return nil, fault.New(fault.InvalidScope, "the system does not know one of the scopes: ask for others, or have an operator change the role")
	case resp.Status == http.StatusUnauthorized:
		p.jwt.Forget()
	}
	return nil, kit.Refusal(resp, p.deps.Now())
}

// unread is a success that cannot be read. What it speaks of is there.
func unread(why string) *fault.Error {
	return fault.New(fault.ProviderViolation, "the system's answer cannot be used: %s", why).Because(provider.ErrAnswerLost)
}

func (p *Provider) send(ctx context.Context, method, path string, body map[string]any) (*httpclient.Response, error) {
	token, err := p.jwt.Get(p.deps.Now(), p.sign)
	if err != nil {
		return nil, fault.New(fault.TemporarilyUnavailable, "the JWT for the system could not be signed: write private_key anew").Because(err)
	}
	var content []byte
	if body != nil {
		if content, err = json.Marshal(body); err != nil {
			return nil, err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(p.settings.BaseURL, "/")+"/"+path, bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+token.Reveal())
	req.Header.Set("Content-Type", "application/json")
	return p.deps.Client.Do(req)
}

// sign makes the JWT by which the system knows the client.
func (p *Provider) sign() (secret.Text, time.Time, error) {
	now := p.deps.Now()
	ends := now.Add(jwtLife)
	token, err := p.key.Sign(map[string]any{"typ": "JWT", "kid": p.key.ID}, map[string]any{
		"iss": p.settings.ClientID, "aud": p.settings.BaseURL, "iat": now.Unix(), "exp": ends.Unix(), "jti": rand.Text(),
	})
	return token, ends, err
}
