package reference

import (
	"context"
	"encoding/json"
	"errors"
	"net/url"
	"regexp"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/kit"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// names are those of accounts, which have at most 30 characters there.
var names = kit.MustNames("broker-", 30, kit.LowerDigits)

// Mint implements provider.Provider, in two steps. From the end of the first one on there
// is a handle, and it goes back beside every error: the account dies with all that hangs
// on it, whatever became of the second step.
func (p *Provider) Mint(ctx context.Context, r provider.Request) (*provider.Child, error) {
	scopes, listed := r.Access.Scopes.Values()
	if !listed || len(scopes) == 0 {
		return nil, fault.New(fault.InvalidScope, "an account without scopes is good for nothing: ask for some")
	}
	account, err := p.ask(ctx, "POST", "accounts", map[string]any{"name": names.Of(r.GrantID), "scopes": scopes})
	if err != nil {
		return nil, err
	}
	id, err := text(account, "id")
	if err != nil {
		return nil, err
	}
	child := &provider.Child{Class: provider.ClassToken, Handle: handle{Version: handleVersion, Account: id}.encode()}
	key, err := p.ask(ctx, "POST", "accounts/"+id+"/keys", map[string]any{"seconds": int(r.TTL.Seconds())})
	if err != nil {
		return child, err
	}
	return child, read(key, child)
}

// read fills in what the system has answered with, which is the proof of what it granted.
func read(key map[string]any, child *provider.Child) error {
	child.Secrets = map[string]secret.Text{}
	for _, name := range []string{partAccess, partSigning} {
		part, _ := key[name].(string)
		child.Secrets[name] = secret.New(part)
	}
	id, err := text(key, "id")
	if err != nil {
		return err
	}
	child.Extra = map[string]any{partID: id}
	expires, _ := key["expires_at"].(string)
	if child.ExpiresAt, err = time.Parse(time.RFC3339, expires); err != nil {
		return unread("expires_at is no time")
	}
	granted, isList := key["scopes"].([]any)
	scopes := make([]string, len(granted))
	for i, s := range granted {
		scopes[i], _ = s.(string)
	}
	if !isList || len(scopes) == 0 {
		return unread("it does not say which scopes were granted")
	}
	child.Granted = access.Access{Scopes: access.Exactly(scopes...)}
	child.Confirmed = access.Dimensions{access.DimScopes: true}
	return nil
}

// idShape is that of the system's ids. They become parts of paths, and no answer leads out
// of its place.
var idShape = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// text is an id in an answer.
func text(object map[string]any, name string) (string, error) {
	id, _ := object[name].(string)
	if !idShape.MatchString(id) {
		return "", unread(name + " is no id")
	}
	return id, nil
}

const handleVersion = 1

// handle is what kills a child: an account, whose keys the system lists. It names no URL:
// Pinned.Account has the system in it, so as long as a child lives it is the same one.
type handle struct {
	Version int    `json:"v"`
	Account string `json:"account"`
}

func (h handle) encode() secret.Text {
	raw, err := json.Marshal(h)
	if err != nil { // an int and a string cannot fail
		return secret.Text{}
	}
	return secret.New(string(raw))
}

func decodeHandle(text secret.Text) (handle, error) {
	var h handle
	if json.Unmarshal([]byte(text.Reveal()), &h) != nil || h.Version != handleVersion || !idShape.MatchString(h.Account) {
		return h, fault.New(fault.InvalidRequest, "the child's handle is not one that this version of the broker knows")
	}
	return h, nil
}

// Revoke implements provider.Revoker: Mint's steps, undone in reverse. What is gone already
// counts as done, so a revocation that stopped halfway is repeated.
func (p *Provider) Revoke(ctx context.Context, text secret.Text) error {
	h, err := decodeHandle(text)
	if err != nil {
		return err
	}
	at := "accounts/" + h.Account
	keys, err := p.list(ctx, at+"/keys")
	if errors.Is(err, errGone) {
		return nil
	}
	for _, key := range keys {
		if err == nil {
			err = gone(p.ask(ctx, "DELETE", at+"/keys/"+key, nil))
		}
	}
	if err != nil {
		return err
	}
	return gone(p.ask(ctx, "DELETE", at, nil))
}

// gone is nil of what is gone, just now or before.
func gone(_ map[string]any, err error) error {
	if errors.Is(err, errGone) {
		return nil
	}
	return err
}

// list is the ids in a list of the system's.
func (p *Provider) list(ctx context.Context, path string) ([]string, error) {
	answer, err := p.ask(ctx, "GET", path, nil)
	if err != nil {
		return nil, err
	}
	listed, isList := answer["ids"].([]any)
	if !isList {
		return nil, unread("ids is no list")
	}
	ids := make([]string, len(listed))
	for i, id := range listed {
		if ids[i], err = text(map[string]any{"id": id}, "id"); err != nil {
			return nil, err
		}
	}
	return ids, nil
}

// Find implements provider.Finder: the accounts that mints for the grant have left, at
// whichever step they stopped.
func (p *Provider) Find(ctx context.Context, t provider.Trace) ([]provider.Found, error) {
	ids, err := p.list(ctx, "accounts?name="+url.QueryEscape(names.Of(t.GrantID)))
	if err != nil {
		return nil, err
	}
	found := make([]provider.Found, len(ids))
	for i, id := range ids {
		found[i] = provider.Found{Handle: handle{Version: handleVersion, Account: id}.encode()}
	}
	return found, nil
}
