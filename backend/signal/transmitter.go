package signal

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

const (
	pollMethod = "urn:ietf:rfc:8936"
	// maxStreams is how many streams of one receiver are looked at.
	maxStreams = 100
)

// SetUp finds the transmitter and the stream, once, when the signal is written. A stream
// of the broker's own is asked for where the operator brings none; one that is there
// already is taken, and asked for the events that the operator wants. before is what was
// set up for the signal earlier, or nil: to other places than those the token is sent only
// if brought says that the operator has just written it. token is asked for when it is
// needed.
//
// Errors are *fault.Error: temporarily_unavailable if the transmitter could not be reached
// or failed, invalid_request if it answers what cannot be right or refuses.
func (c Config) SetUp(ctx context.Context, before *Stream, brought bool, token func(context.Context) (secret.Text, error)) (*Stream, error) {
	s, err := c.setUp(ctx, before, brought, token)
	if err == nil {
		err = s.mayFollow(before, brought)
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

// mayFollow refuses to send the token to places that are new to who wrote it.
func (s *Stream) mayFollow(before *Stream, brought bool) error {
	if before == nil || brought {
		return nil
	}
	known := before.endpoints()
	if slices.ContainsFunc(s.endpoints(), func(to string) bool { return !slices.Contains(known, to) }) {
		return invalid("this changes where the stream's token is sent: write token (or token_provider) again with it")
	}
	return nil
}

func (c Config) setUp(ctx context.Context, before *Stream, brought bool, token func(context.Context) (secret.Text, error)) (*Stream, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	client, err := c.client(0)
	if err != nil {
		return nil, err
	}
	s := &Stream{PollURL: c.PollURL, JWKSURL: c.JWKSURL, ID: c.StreamID, Audiences: []string{c.Audience}}
	if !c.discovers() {
		return s, nil
	}
	if err := c.discover(ctx, client, s); err != nil {
		return nil, err
	}
	if c.PollURL != "" {
		s.ConfigurationURL = "" // the stream is not ours to change
		if s.ID == "" {
			s.StatusURL, s.VerificationURL = "", ""
		}
		return s, nil
	}
	if s.ConfigurationURL == "" {
		return nil, invalid("the transmitter has no configuration_endpoint: have a stream set up there, and write its poll_url and audience")
	}
	if err := s.mayFollow(before, brought); err != nil {
		return nil, err
	}
	bearer, err := token(ctx)
	if err != nil {
		return nil, err
	}
	m := manager{config: c, client: client, stream: s, bearer: bearer}
	if before != nil && before.ConfigurationURL == s.ConfigurationURL {
		m.known = before
	}
	return s, m.ensure(ctx)
}

// discover reads the transmitter's metadata (SSF 1.0 6). The well-known part stands before
// the path of the issuer; some have it behind, too or only.
func (c Config) discover(ctx context.Context, client *httpclient.Client, s *Stream) error {
	u, err := url.Parse(c.Issuer)
	if err != nil {
		return invalid("issuer is not a URL")
	}
	path := strings.TrimSuffix(u.EscapedPath(), "/")
	origin := u.Scheme + "://" + u.Host
	tries := []string{origin + "/.well-known/ssf-configuration" + path}
	if path != "" {
		tries = append(tries, origin+path+"/.well-known/ssf-configuration")
	}
	var members map[string]any
	for _, at := range tries {
		if members, err = getMetadata(ctx, client, at); err == nil || fault.CodeOf(err) == fault.TemporarilyUnavailable {
			break
		}
	}
	if err != nil {
		return err
	}
	if issuer, _ := members["issuer"].(string); issuer != c.Issuer {
		return invalid("the transmitter's metadata does not say that it is %q's, but %.256q's", c.Issuer, issuer)
	}
	for name, into := range map[string]*string{
		"jwks_uri": &s.JWKSURL, "configuration_endpoint": &s.ConfigurationURL, "status_endpoint": &s.StatusURL, "verification_endpoint": &s.VerificationURL,
	} {
		found, _ := members[name].(string)
		if found == "" {
			continue
		}
		if err := c.mayBe(name, found); err != nil {
			return err
		}
		*into = found
	}
	if s.JWKSURL == "" {
		return invalid("the transmitter's metadata names no jwks_uri: write poll_url, audience and jwks_url instead")
	}
	if methods, ok := members["delivery_methods_supported"].([]any); ok && !slices.Contains(methods, any(pollMethod)) && c.PollURL == "" {
		return invalid("the transmitter does not deliver by poll (%s), and the broker takes no push: Vault's requests have no room for one", pollMethod)
	}
	return nil
}

// mayBe judges a URL that the transmitter names, as those of an issuer are judged.
func (c Config) mayBe(name, found string) error {
	if err := httpclient.CheckEndpoint(found, c.AllowHTTP); err != nil {
		return invalid("the transmitter's %s %s", name, err)
	}
	switch {
	case c.ProxyURL != "" && !httpclient.IsHTTPS(found):
		return invalid("the transmitter's %s must be https with proxy_url: a proxy reads plain http", name)
	case httpclient.IsHTTPS(c.Issuer) && !httpclient.IsHTTPS(found):
		return invalid("the transmitter's %s must be https, as the issuer is", name)
	case httpclient.IsLoopback(found) && !httpclient.IsLoopback(c.Issuer):
		return invalid("the transmitter's %s is on this machine, which a remote transmitter cannot know", name)
	}
	return nil
}

func getMetadata(ctx context.Context, client *httpclient.Client, at string) (map[string]any, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return nil, invalid("the URL cannot be requested").Because(err)
	}
	req.Header.Set("Accept", "application/json")
	resp, err := client.Do(req)
	if err := c2xx(resp, err, "the transmitter's metadata"); err != nil {
		return nil, err
	}
	members, err := form.Object(httpclient.Document(resp.Body), maxDepth)
	if err != nil {
		return nil, invalid("the transmitter's metadata is not a JSON object that can be trusted: %s", err)
	}
	return members, nil
}

// fetchKeys is the transmitter's key set.
func fetchKeys(ctx context.Context, client *httpclient.Client, at string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return nil, invalid("the URL of the keys cannot be requested").Because(err)
	}
	req.Header.Set("Accept", "application/json, application/jwk-set+json, */*;q=0.1")
	resp, err := client.Do(req)
	if err := c2xx(resp, err, "the transmitter's keys"); err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// c2xx tells what a failed exchange of a write means to its operator.
func c2xx(resp *httpclient.Response, err error, what string) error {
	switch {
	case httpclient.ProxyAdvice(err) != "":
		return fault.New(fault.TemporarilyUnavailable, "%s", httpclient.ProxyAdvice(err)).Because(err)
	case err != nil:
		return fault.New(fault.TemporarilyUnavailable, "%s could not be had: the transmitter could not be reached; retry, or check its URL, ca_pem and the network", what).Because(err)
	case resp.Status >= 500 || resp.Status == http.StatusTooManyRequests:
		return fault.New(fault.TemporarilyUnavailable, "%s could not be had: the transmitter answered with status %d; retry later", what, resp.Status)
	case resp.PointsTo() != "":
		return invalid("%s could not be had: the transmitter answered with a redirect to %s, which is not followed; write that URL if it is the transmitter's own", what, resp.PointsTo())
	case resp.Status == http.StatusUnauthorized, resp.Status == http.StatusForbidden:
		return invalid("%s could not be had: the transmitter does not take the token (status %d): write another, or give the one that is there the rights of a receiver", what, resp.Status)
	case resp.Status/100 != 2:
		return invalid("%s could not be had: the transmitter answered with status %d; check its URL", what, resp.Status)
	}
	return nil
}

// manager is the stream's configuration at the transmitter (SSF 1.0 8.1.1).
type manager struct {
	config Config
	client *httpclient.Client
	stream *Stream
	bearer secret.Text
	known  *Stream // that was set up there before, or nil
}

// ensure makes the stream, or takes the one that is there.
func (m *manager) ensure(ctx context.Context) error {
	events := wanted(m.config.Events)
	if m.known != nil && m.known.ID != "" {
		resp, err := m.change(ctx, m.known.ID, events)
		if err == nil && resp.Status == http.StatusOK {
			m.stream.Created = m.known.Created
			return m.read(resp.Body)
		}
	}
	body := map[string]any{
		"delivery":         map[string]any{"method": pollMethod},
		"events_requested": events,
		"description":      "token broker",
	}
	resp, err := m.ask(ctx, http.MethodPost, m.stream.ConfigurationURL, body)
	if err == nil && resp.Status == http.StatusConflict {
		return m.take(ctx, events)
	}
	if err := c2xx(resp, err, "a stream"); err != nil {
		return err
	}
	m.stream.Created = true
	return m.read(resp.Body)
}

// take uses the stream that the transmitter has for this receiver already.
func (m *manager) take(ctx context.Context, events []string) error {
	resp, err := m.ask(ctx, http.MethodGet, m.stream.ConfigurationURL, nil)
	if err := c2xx(resp, err, "the stream that is there already"); err != nil {
		return err
	}
	found, err := onlyPolled(resp.Body)
	if err != nil {
		return err
	}
	if err := m.read(found); err != nil {
		return err
	}
	resp, err = m.change(ctx, m.stream.ID, events)
	if err := c2xx(resp, err, "the events of the stream that is there already"); err != nil {
		return err
	}
	return m.read(resp.Body)
}

// change has a stream deliver these events.
func (m *manager) change(ctx context.Context, id string, events []string) (*httpclient.Response, error) {
	return m.ask(ctx, http.MethodPatch, m.stream.ConfigurationURL, map[string]any{"stream_id": id, "events_requested": events})
}

// onlyPolled is the one stream that is delivered by poll. A GET without an id answers with
// a list, and at some transmitters with the stream itself.
func onlyPolled(body []byte) (json.RawMessage, error) {
	body = httpclient.Document(body)
	var list []json.RawMessage
	if bytes.HasPrefix(body, []byte("[")) {
		if json.Unmarshal(body, &list) != nil || len(list) > maxStreams {
			return nil, invalid("the transmitter did not answer with its streams")
		}
	} else {
		list = []json.RawMessage{body}
	}
	var polled []json.RawMessage
	for _, raw := range list {
		stream, err := form.Object(raw, maxDepth)
		if err != nil {
			return nil, invalid("the transmitter did not answer with its streams: %s", err)
		}
		delivery, _ := stream["delivery"].(map[string]any)
		if delivery["method"] == pollMethod {
			polled = append(polled, raw)
		}
	}
	if len(polled) != 1 {
		return nil, invalid("the transmitter has a stream for this receiver already, and %d that are delivered by poll: delete what is there, or write poll_url, audience and stream_id of the one that is meant", len(polled))
	}
	return polled[0], nil
}

// read takes over what the transmitter says of the stream.
func (m *manager) read(body []byte) error {
	stream, err := form.Object(httpclient.Document(body), maxDepth)
	if err != nil {
		return invalid("the transmitter's answer about the stream is not a JSON object that can be trusted: %s", err)
	}
	id, _ := stream["stream_id"].(string)
	delivery, _ := stream["delivery"].(map[string]any)
	poll, _ := delivery["endpoint_url"].(string)
	audiences := texts(stream["aud"])
	switch {
	case !isIdentifier(id):
		return invalid("the transmitter's stream has no stream_id")
	case stream["iss"] != m.config.Issuer:
		return invalid("the events of the transmitter's stream are of another iss than %q", m.config.Issuer)
	case delivery["method"] != pollMethod || poll == "":
		return invalid("the transmitter's stream is not delivered by poll (%s), or names no endpoint_url", pollMethod)
	case len(audiences) == 0:
		return invalid("the transmitter's stream has no aud")
	case m.config.Audience != "" && !slices.Contains(audiences, m.config.Audience):
		return invalid("the aud of the transmitter's stream is not the audience that you wrote: leave audience out to take the stream's")
	}
	if err := m.config.mayBe("endpoint_url", poll); err != nil {
		return err
	}
	if m.config.Audience != "" {
		audiences = []string{m.config.Audience}
	}
	m.stream.ID, m.stream.PollURL, m.stream.Audiences = id, poll, audiences
	return nil
}

func texts(v any) []string {
	list, ok := v.([]any)
	if !ok {
		list = []any{v}
	}
	var all []string
	for _, e := range list {
		if s, ok := e.(string); ok && isIdentifier(s) {
			all = append(all, s)
		}
	}
	return all
}

// ask sends the token, to what is pinned alone.
func (m *manager) ask(ctx context.Context, method, to string, body any) (*httpclient.Response, error) {
	return send(ctx, m.client.To(m.stream.Destinations()), m.bearer, method, to, body)
}

// send is one exchange with the stream's token. Its body is JSON, or nil.
func send(ctx context.Context, client *httpclient.Client, bearer secret.Text, method, to string, body any) (*httpclient.Response, error) {
	raw := []byte{}
	if body != nil {
		var err error
		if raw, err = json.Marshal(body); err != nil {
			return nil, err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, to, bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	if body == nil {
		req.Body, req.ContentLength = nil, 0
	} else {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Authorization", "Bearer "+bearer.Reveal())
	return client.Do(req)
}

// ofStream is an endpoint for the stream of an id.
func ofStream(endpoint, id string) string {
	query := "stream_id=" + url.QueryEscape(id)
	if strings.Contains(endpoint, "?") {
		return endpoint + "&" + query
	}
	return endpoint + "?" + query
}

// TearDown deletes the stream at the transmitter, if the broker has made it. That it is
// gone is success.
func (c Config) TearDown(ctx context.Context, s *Stream, token func(context.Context) (secret.Text, error)) error {
	if !s.Created || s.ConfigurationURL == "" || s.ID == "" {
		return nil
	}
	client, err := c.client(0)
	if err != nil {
		return err
	}
	bearer, err := token(ctx)
	if err != nil {
		return err
	}
	resp, err := send(ctx, client.To(s.Destinations()), bearer, http.MethodDelete, ofStream(s.ConfigurationURL, s.ID), nil)
	if err == nil && (resp.Status == http.StatusNotFound || resp.Status == http.StatusGone) {
		return nil
	}
	return c2xx(resp, err, "the stream's end")
}

var errNonsense = errors.New("the transmitter's answer is none that RFC 8936 has")
