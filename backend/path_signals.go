package backend

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/signal"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/stored"
)

const signalsHelp = `
A signal is a transmitter of security events (Shared Signals Framework, with the events
of CAEP and RISC) whose events kill grants: a session was revoked, an account disabled.
The broker fetches them (RFC 8936) in the background, on the active node, and
acknowledges each after its kill is durable.

With issuer alone the transmitter is found by its metadata, and a stream is set up there
with the token. With poll_url and audience the stream is one that somebody has set up
before; its events are signed by issuer, with the keys of its metadata, of jwks_url or of
jwks_pem, or without issuer by one of the trusted issuers.

events says what each kind of event does to the grants of its subject: kill, freeze (which
also stops new ones, until revoke/subject is written with freeze=false) or note.
`

const signalCheckHelp = `
Fetches the events that wait at the transmitter, does what they are there for, and says how
the signal is: what is wrong, when the transmitter last answered, when the last event came.
The sign of life that is asked for is an event, too: it comes with this poll or a later one.

  vault write -f broker/signals/idp/check
`

// signalFields are the fields of a signal beside its name.
var signalFields = stored.Fields[signal.Config]{
	{Name: "issuer", In: func(c *signal.Config) any { return &c.Issuer }, Description: "The transmitter's name, which iss must equal. Without jwks_url and jwks_pem it is a URL, below which its metadata are found. This, or poll_url and audience."},
	{Name: "poll_url", In: func(c *signal.Config) any { return &c.PollURL }, Description: "Where the events of a stream are fetched that somebody else has set up. With audience."},
	{Name: "audience", In: func(c *signal.Config) any { return &c.Audience }, Description: "What the aud of the events is. Without it that of the stream that is set up."},
	{Name: "stream_id", In: func(c *signal.Config) any { return &c.StreamID }, Description: "With poll_url: the stream's id, by which the transmitter is asked for signs of life."},
	{Name: "jwks_url", In: func(c *signal.Config) any { return &c.JWKSURL }, Description: "With poll_url: where the transmitter's keys are found, for one without metadata."},
	{Name: "jwks_pem", In: func(c *signal.Config) any { return &c.JWKSPEM }, Description: "With poll_url: the transmitter's public keys themselves, as PEM or as a JSON Web Key Set."},
	{Name: "token", Secret: true, In: func(c *signal.Config) any { return &c.Token }, Description: "The bearer token of the receiver. It is sent to the transmitter's endpoints alone, and a write that changes these must bring it again."},
	{Name: "token_provider", In: func(c *signal.Config) any { return &c.TokenProvider }, Description: "Another way to a token: a provider, as <type>/<name>, of which the broker gets one for itself, renews it and kills it. Whoever may write this can have a token of that provider sent to the transmitter."},
	{Name: "token_request", In: func(c *signal.Config) any { return jsonObject{&c.TokenRequest} }, Description: "What is asked of token_provider, as a JSON object of scopes, audiences, resources, permissions, authorization_details and parameters, each as in a role and without patterns."},
	{Name: "events", In: func(c *signal.Config) any { return &c.Events }, Description: "What each kind of event does, as session-revoked=kill, once for each: kill, freeze or note. Kinds: " + strings.Join(signal.Kinds(), ", ") + ". What is not named is noted; without any, see a read for what is usual."},
	{Name: "poll_interval", In: func(c *signal.Config) any { return &c.PollInterval }, Default: int(signal.DefaultPollInterval / time.Second), Description: "The pause between two polls that a transmitter answers at once. One that holds a poll until there is an event is asked again right away."},
	{Name: "verification_interval", In: func(c *signal.Config) any { return &c.VerificationInterval }, Default: int(signal.DefaultVerificationInterval / time.Second), Description: "How often the transmitter is asked to send a sign of life; one that does not come is shown by health."},
	{Name: "disabled", In: func(c *signal.Config) any { return &c.Disabled }, Description: "Stops the polls. Events wait at the transmitter for as long as that keeps them."},
	{Name: "ca_pem", In: func(c *signal.Config) any { return &c.CAPEM }, Description: "PEM certificates that replace the system's roots for the transmitter's TLS."},
	{Name: "timeout", In: func(c *signal.Config) any { return &c.Timeout }, Default: int(httpclient.DefaultTimeout / time.Second), Description: "How long one exchange may take, beside the time for which a poll is held."},
	{Name: "allow_http", In: func(c *signal.Config) any { return &c.AllowHTTP }, Description: "Permits plain http beyond loopback. Never in production."},
	{Name: "proxy_url", In: func(c *signal.Config) any { return &c.ProxyURL }, Description: "HTTP proxy, http or https, through which alone the transmitter is reached, by CONNECT: its URLs must then be https. The environment's proxy is never used."},
	{Name: "proxy_username", In: func(c *signal.Config) any { return &c.ProxyUsername }, Description: "Username at the proxy, which gets it in plain http only on this machine or with allow_http=true."},
	{Name: "proxy_password", Secret: true, In: func(c *signal.Config) any { return &c.ProxyPassword }, Description: "Password at the proxy. A write that moves proxy_url or ca_pem must bring it again."},
}

// jsonObject is a field that is a JSON object.
type jsonObject struct{ in *json.RawMessage }

// Type implements stored.Value.
func (j jsonObject) Type() framework.FieldType { return framework.TypeMap }

// Set implements stored.Value.
func (j jsonObject) Set(written any) error {
	object, _ := written.(map[string]any)
	if len(object) == 0 {
		*j.in = nil
		return nil
	}
	raw, err := json.Marshal(object)
	*j.in = raw
	return err
}

// Get implements stored.Value.
func (j jsonObject) Get() any {
	var written any
	if len(*j.in) == 0 || json.Unmarshal(*j.in, &written) != nil {
		return nil
	}
	return written
}

// healthFields is the schema of a signal's health.
func signalHealthFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"health":              {Type: framework.TypeString, Description: "ok, or what is wrong: " + strings.Join(signal.States()[1:], ", ") + "."},
		"health_detail":       {Type: framework.TypeString, Description: "What is wrong, in words."},
		"last_poll":           {Type: framework.TypeString, Description: "When this node was last answered."},
		"last_event":          {Type: framework.TypeString, Description: "When the last new event came to this node."},
		"last_verification":   {Type: framework.TypeString, Description: "When the last sign of life came that this node has asked for."},
		"stream_status":       {Type: framework.TypeString, Description: "What the transmitter says of the stream: enabled, paused or disabled."},
		"stream_reason":       {Type: framework.TypeString, Description: "Why, as the transmitter says."},
		"unknown_issuer":      {Type: framework.TypeString, Description: "The issuer of the last subject whose issuer is none of the trusted ones: is it spelled otherwise in issuers?"},
		"clock_ahead_seconds": {Type: framework.TypeInt, Description: "By how much the transmitter's clock was ahead of this node's at the last event."},
	}
}

func (b *broker) pathSignals() []*framework.Path {
	fields := signalFields.Schema()
	fields["name"] = &framework.FieldSchema{Type: framework.TypeString, Description: "Name of the signal."}
	shown := signalFields.ShownAll()
	shown["name"], shown[fieldInWords] = fields["name"], inWordsField
	shown["stream"] = &framework.FieldSchema{Type: framework.TypeMap, Description: "What was found or set up when the signal was written, and is used until it is written again."}
	for name, schema := range signalHealthFields() {
		shown[name] = schema
	}
	write := &framework.PathOperation{
		Callback: b.writeSignal, Summary: "Create or update a transmitter of security events.",
		Responses:                   map[int][]framework.Response{http.StatusNoContent: {{Description: "Written."}}},
		ForwardPerformanceSecondary: true, ForwardPerformanceStandby: true,
	}
	one := "signals/" + framework.GenericNameRegex("name")
	return []*framework.Path{
		{
			Pattern:         "signals/?$",
			DisplayAttrs:    &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "signals"},
			HelpSynopsis:    "Lists the transmitters of security events.",
			HelpDescription: strings.TrimSpace(signalsHelp),
			Fields:          map[string]*framework.FieldSchema{},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ListOperation: &framework.PathOperation{Callback: b.listSignals, Summary: "List the signals.", Responses: listResponses("health", "and what a read shows of it"), ForwardPerformanceStandby: true},
			},
		},
		{
			Pattern:         one + "$",
			DisplayAttrs:    &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "signal"},
			HelpSynopsis:    "Manages a transmitter of security events.",
			HelpDescription: strings.TrimSpace(signalsHelp),
			Fields:          fields,
			ExistenceCheck: func(ctx context.Context, _ *logical.Request, d *framework.FieldData) (bool, error) {
				return b.signals.Exists(ctx, d.Get("name").(string))
			},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.CreateOperation: write,
				logical.UpdateOperation: write,
				logical.ReadOperation:   &framework.PathOperation{Callback: b.showSignal, Summary: "Read a signal, and how it is.", Responses: map[int][]framework.Response{http.StatusOK: {{Description: "The signal.", Fields: shown}}}, ForwardPerformanceStandby: true},
				logical.DeleteOperation: &framework.PathOperation{Callback: b.deleteSignal, Summary: "Delete a signal, and its stream if the broker has made it.", Responses: map[int][]framework.Response{http.StatusOK: {{Description: "Deleted, with warnings."}}, http.StatusNoContent: {{Description: "Deleted."}}}, ForwardPerformanceSecondary: true, ForwardPerformanceStandby: true},
			},
		},
		{
			Pattern:         one + "/check$",
			DisplayAttrs:    &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "check", OperationSuffix: "signal"},
			HelpSynopsis:    "Polls a transmitter of security events now, and asks it for a sign of life.",
			HelpDescription: strings.TrimSpace(signalCheckHelp),
			Fields:          map[string]*framework.FieldSchema{"name": fields["name"]},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.UpdateOperation: &framework.PathOperation{
					Callback: b.checkSignal, Summary: "Poll now.", Responses: map[int][]framework.Response{http.StatusOK: {{Description: "How the signal is.", Fields: signalHealthFields()}}},
					ForwardPerformanceSecondary: true, ForwardPerformanceStandby: true,
				},
			},
		},
	}
}

// movesSignal are the fields that say where the stream is or how it is reached, or what it
// is to deliver: a write of one of them finds the stream anew.
var movesSignal = []string{"issuer", "poll_url", "audience", "stream_id", "jwks_url", "jwks_pem", "token", "token_provider", "token_request", "events", "ca_pem", "allow_http", "proxy_url", "proxy_username", "proxy_password"}

func (b *broker) writeSignal(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name := d.Get("name").(string)
	after := &storedSignal{}
	before, err := b.signals.Get(ctx, name)
	switch {
	case err == nil:
		*after = *before
	case !errors.Is(err, stored.ErrAbsent):
		return nil, err
	}
	if err := signalFields.Merge(&after.Config, d); err != nil {
		return nil, err
	}
	if len(after.Events) > 0 {
		if after.Events, err = signal.ParseActions(after.Events); err != nil {
			return nil, err
		}
	}
	// An empty value brings nothing: the token that is stored would follow it.
	brought := written(req, "token") && after.Token != "" || written(req, "token_provider") && after.TokenProvider != ""
	switch {
	case before == nil:
	case written(req, "token") && !written(req, "token_provider") && after.Token != "":
		after.TokenProvider, after.TokenRequest = "", nil
	case written(req, "token_provider") && !written(req, "token") && after.TokenProvider != "":
		after.Token = ""
	}
	if before != nil {
		if err := mayMoveSignal(req, before, after, brought); err != nil {
			return nil, err
		}
	}
	setUp := before == nil
	for _, field := range movesSignal {
		setUp = setUp || written(req, field)
	}
	if err := b.signals.replace(ctx, name, before, after, brought, setUp); err != nil {
		return nil, forOperators(err)
	}
	b.lender.settle(context.WithoutCancel(ctx), borrowerSignal(name))
	b.signals.tend(ctx)
	return nil, nil
}

func written(req *logical.Request, field string) bool {
	_, ok := req.Data[field]
	return ok
}

// mayMoveSignal refuses to send secrets elsewhere unasked. What discovery finds elsewhere
// is judged when it is found.
func mayMoveSignal(req *logical.Request, before, after *storedSignal, brought bool) error {
	if after.ProxyURL == "" && before.ProxyURL != "" {
		after.ProxyUsername, after.ProxyPassword = "", ""
	}
	if after.ProxyPassword != "" && !written(req, "proxy_password") && (before.ProxyURL != after.ProxyURL || before.CAPEM != after.CAPEM) {
		return fault.New(fault.InvalidRequest, "this changes where the proxy's password is sent: write proxy_password again with it")
	}
	moved := before.Issuer != after.Issuer || before.PollURL != after.PollURL || before.CAPEM != after.CAPEM || before.ProxyURL != after.ProxyURL
	if moved && !brought {
		return fault.New(fault.InvalidRequest, "this changes where the stream's token is sent: write token (or token_provider) again with it")
	}
	return nil
}

func (b *broker) showSignal(ctx context.Context, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name := d.Get("name").(string)
	entry, err := b.signals.Get(ctx, name)
	if err != nil {
		return nil, nothingIfAbsent(err)
	}
	data := map[string]any{"name": name, "stream": streamData(&entry.Stream)}
	config := entry.WithDefaults()
	signalFields.ShowAll(&config, data)
	data[fieldInWords] = signalFields.Words(&config)
	b.showSignalHealth(ctx, name, data)
	return &logical.Response{Data: data}, nil
}

// streamData is what was set up, of which nothing is secret.
func streamData(s *signal.Stream) map[string]any {
	data := map[string]any{"audiences": s.Audiences, "created": s.Created}
	for name, value := range map[string]string{
		"poll_url": s.PollURL, "jwks_url": s.JWKSURL, "stream_id": s.ID, "configuration_url": s.ConfigurationURL, "status_url": s.StatusURL, "verification_url": s.VerificationURL,
	} {
		if value != "" {
			data[name] = value
		}
	}
	return data
}

// showSignalHealth adds how the stream is, as far as this node knows.
func (b *broker) showSignalHealth(ctx context.Context, name string, data map[string]any) {
	l, err := b.signals.listener(ctx, name)
	if err != nil {
		data["health"], data["health_detail"] = signal.StateFailing, "it cannot be listened to: "+fault.Public(err)
		return
	}
	s := l.receiver.Status()
	data["health"] = s.State
	for field, text := range map[string]string{"health_detail": s.Says, "stream_status": s.Stream, "stream_reason": s.StreamReason, "unknown_issuer": s.UnknownIssuer} {
		if text != "" {
			data[field] = text
		}
	}
	for field, at := range map[string]time.Time{"last_poll": s.LastPoll, "last_event": s.LastEvent, "last_verification": s.LastVerified} {
		if !at.IsZero() {
			data[field] = stamp(at)
		}
	}
	if s.Ahead > 0 {
		data["clock_ahead_seconds"] = int64(s.Ahead / time.Second)
	}
}

func (b *broker) listSignals(ctx context.Context, _ *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	names, err := b.signals.List(ctx, "")
	if err != nil {
		return nil, err
	}
	info := map[string]any{}
	for _, name := range names {
		about := map[string]any{}
		b.showSignalHealth(ctx, name, about)
		info[name] = about
	}
	return logical.ListResponseWithInfo(names, info), nil
}

// checkPatience bounds a poll by hand, with all that follows each other.
const checkPatience = 30 * time.Second

func (b *broker) checkSignal(ctx context.Context, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name := d.Get("name").(string)
	l, err := b.signals.listener(ctx, name)
	if errors.Is(err, stored.ErrAbsent) {
		return nil, fault.New(fault.InvalidRequest, "there is no signals/%s: write it first", name)
	}
	if err != nil {
		return nil, err
	}
	if l.receiver.Status().State == signal.StateDisabled {
		return nil, fault.New(fault.InvalidRequest, "signals/%s is disabled, and is not polled: write disabled=false", name)
	}
	patient, cancel := context.WithTimeout(ctx, checkPatience)
	defer cancel()
	l.receiver.PollNow(patient)
	data := map[string]any{}
	b.showSignalHealth(ctx, name, data)
	return &logical.Response{Data: data}, nil
}

func (b *broker) deleteSignal(ctx context.Context, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name := d.Get("name").(string)
	entry, err := b.signals.Get(ctx, name)
	if errors.Is(err, stored.ErrAbsent) {
		return nil, nil
	}
	var resp *logical.Response
	if err == nil {
		token := b.signals.token(name, entry)
		failed := entry.TearDown(ctx, &entry.Stream, func(ctx context.Context) (secret.Text, error) { return token(ctx, false) })
		if failed != nil {
			resp = withWarnings(resp, []string{"the stream " + entry.Stream.ID + " may be left at the transmitter, which keeps its events for nobody: delete it there (" + fault.Public(failed) + ")"})
		}
	}
	if err := b.signals.Delete(ctx, name); err != nil { // also of what cannot be read
		return nil, err
	}
	if err := b.signals.seen.forget(ctx, name); err != nil {
		b.Logger().Warn("the memory of a deleted signal's events could not be deleted", "signal", name, "error", err)
	}
	b.lender.settle(context.WithoutCancel(ctx), borrowerSignal(name))
	return resp, nil
}
