package github

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/kit"
)

// nowhere is the place of what is about the App alone: no installation is to blame.
var nowhere = place{}

// Check implements provider.Checker: GitHub knows the App by its key, and what it can do
// where it is installed. Counting repositories takes a token, which is killed.
func (p *Provider) Check(ctx context.Context) (provider.Health, error) {
	app, err := p.readApp(p.asApp(ctx, http.MethodGet, "app", nil))
	if err != nil {
		return provider.Health{}, err
	}
	app.by = p.byNext()
	if p.at.isNone() {
		return provider.Health{Detail: "GitHub knows " + app.String() + "; roles say which installation"}, nil
	}
	in, err := p.lookUp(ctx, p.at)
	if err != nil {
		return provider.Health{}, err
	}
	health := provider.Health{Grants: in.permissions}
	health.Detail = fmt.Sprintf("GitHub knows %s, and its installation %s by %s", app, in.id, in.at)
	if in.at.kind == fieldEnterprise {
		return health, nil
	}
	token, err := p.mintReader(ctx, in)
	if token != nil {
		health.Children = []*provider.Child{token}
	}
	if err != nil {
		return health, err
	}
	count, err := p.page(ctx, in, token, 1, func(string, json.Number) {})
	if err != nil {
		return health, err
	}
	health.Detail += fmt.Sprintf(", which has %d repositories of %s (%s)", count, in.owner, selectionWord(in.selection))
	return health, nil
}

// selectionWord is what GitHub says of which repositories an installation has.
func selectionWord(selection string) string {
	if selection == "all" {
		return "all that there are"
	}
	return "selected ones"
}

// app is what GitHub says of the App.
type app struct{ name, id, by string }

func (a app) String() string { return fmt.Sprintf("the App %q (%s)%s", a.name, a.id, a.by) }

// byNext says so if it is by the next key that GitHub knows the App.
func (p *Provider) byNext() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.keys) > 1 && p.working == p.keys[1] {
		return " by private_key_next alone, and refuses private_key (rotate puts the next one in its place)"
	}
	return ""
}

// readApp reads the answer to who the App is.
func (p *Provider) readApp(resp *httpclient.Response, err error) (app, error) {
	switch {
	case err != nil:
		return app{}, unread(err)
	case resp.Status == http.StatusNotFound:
		return app{}, kit.ParentRefused("GitHub knows no such App (HTTP 404): see %s, and base_url, which on a GitHub Enterprise Server ends with /api/v3", p.appField())
	case resp.Status != http.StatusOK:
		return app{}, p.refusal(resp, nowhere)
	}
	object, err := form.Object(resp.Body, maxDepth)
	if err != nil {
		return app{}, odd200("the App", err.Error())
	}
	id, _ := object["id"].(json.Number)
	name, _ := object["slug"].(string)
	if !appIDShape.MatchString(id.String()) || !repositoryShape.MatchString(name) {
		return app{}, odd200("the App", "it has no id, or no name")
	}
	return app{name: name, id: id.String()}, nil
}

// Rotate implements provider.Rotator: private_key_next becomes private_key once GitHub
// has known the App by it. An App has as many keys as it likes, so none is withdrawn.
func (p *Provider) Rotate(ctx context.Context) (provider.Health, error) {
	next := p.next()
	if next == nil {
		return provider.Health{}, fault.New(fault.InvalidRequest, "there is nothing to rotate to: generate a private key in the App's settings at GitHub, write it as private_key_next, and rotate then")
	}
	known, err := p.readApp(p.asKey(ctx, next, http.MethodGet, "app", nil))
	if err != nil {
		return provider.Health{}, fault.New(fault.CodeOf(err), "private_key_next was not proven to work, so private_key stays: %s", message(err)).Because(err)
	}
	err = kit.Succession{Deps: p.deps, Adopt: p.adopt}.Change(ctx, fieldPrivateKey, func(parent *provider.Parent) error {
		keys, err := keysOf(*parent)
		if err != nil || len(keys) < 2 || keys[1].private.ID != next.private.ID {
			return kit.ErrChangedMeanwhile
		}
		kit.Promote(parent, []string{fieldPrivateKey}, []string{fieldNextKey})
		return nil
	})
	if err != nil {
		return provider.Health{}, err
	}
	return provider.Health{Detail: fmt.Sprintf("GitHub knows %s by private_key_next, which is private_key now; the former one can be deleted in the App's settings", known)}, nil
}

// message is err's text without its code, which another one replaces.
func message(err error) string {
	var f *fault.Error
	if errors.As(err, &f) {
		return f.Message
	}
	return "an unexpected error"
}
