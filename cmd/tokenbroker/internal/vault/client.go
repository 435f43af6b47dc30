package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/tokenbroker/vault-plugin-secrets-broker/cmd/tokenbroker/internal/fail"
)

// Client speaks to one mount of the engine.
type Client struct {
	api   *api.Client
	mount string
}

// Ask is what is wanted of a role. All but the role only narrows.
type Ask struct {
	Role         string            `json:"role"`
	Scopes       []string          `json:"scopes,omitempty"`
	Audiences    []string          `json:"audiences,omitempty"`
	Resources    []string          `json:"resources,omitempty"`
	Permissions  map[string]string `json:"permissions,omitempty"`
	Details      json.RawMessage   `json:"authorization_details,omitempty"`
	TTL          string            `json:"ttl,omitempty"`
	SubjectToken string            `json:"subject_token,omitempty"`
	ActorToken   string            `json:"actor_token,omitempty"`
}

func (a Ask) data() (map[string]any, error) {
	text, err := json.Marshal(a)
	if err != nil {
		return nil, err
	}
	data := map[string]any{}
	if err := json.Unmarshal(text, &data); err != nil {
		return nil, err
	}
	delete(data, "role")
	return data, nil
}

// Child is a token as it was handed out, with its lease.
type Child struct {
	Role      string         `json:"role"`
	Data      map[string]any `json:"data"`
	LeaseID   string         `json:"lease_id"`
	Renewable bool           `json:"renewable"`
	// Lease is how long the lease was for, and Ends when it ends unless it is renewed.
	Lease    time.Duration `json:"lease"`
	Ends     time.Time     `json:"ends"`
	Warnings []string      `json:"warnings,omitempty"`
}

// about are the fields of an answer that tell of the token and are none of its parts.
var about = []string{
	"expires_at", "lease_expires_at", "provider", "grant_id", "revocation", "self_contained", "token_type", "subject", "subject_issuer", "actor",
	"issued_token_type", "dpop_nonce",
}

// Parts are the fields that are text and not about the token: what a program needs.
func (c *Child) Parts() []string {
	var names []string
	for name, value := range c.Data {
		if _, ok := value.(string); ok && !slices.Contains(about, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Text is a field that is text, or nothing.
func (c *Child) Text(field string) string {
	text, _ := c.Data[field].(string)
	return text
}

// Get asks for a child. What comes response-wrapped, as a role that forwards has it, is
// unwrapped at once.
func (c *Client) Get(ctx context.Context, a Ask) (*Child, error) {
	data, err := a.data()
	if err != nil {
		return nil, err
	}
	path := c.mount + "/creds/" + a.Role
	asked := time.Now()
	var answer *api.Secret
	if len(data) == 0 {
		answer, err = c.api.Logical().ReadWithContext(ctx, path)
	} else {
		answer, err = c.api.Logical().WriteWithContext(ctx, path, data)
	}
	if err == nil && answer != nil && answer.WrapInfo != nil {
		answer, err = c.api.Logical().UnwrapWithContext(ctx, answer.WrapInfo.Token)
	}
	if err != nil {
		return nil, c.why(err, "get a token of role "+a.Role, path)
	}
	if answer == nil || len(answer.Data) == 0 {
		return nil, fail.New(fail.Config, "nothing is at %s: is --mount right, and is there such a role (tokenbroker list)?", path)
	}
	lasts := time.Duration(answer.LeaseDuration) * time.Second
	child := &Child{
		Role: a.Role, Data: answer.Data, LeaseID: answer.LeaseID, Renewable: answer.Renewable && answer.LeaseID != "",
		Lease: lasts, Ends: asked.Add(lasts), Warnings: answer.Warnings,
	}
	// What was handed on has no lease, or one that began with the wrapping.
	for _, field := range []string{"lease_expires_at", "expires_at"} {
		at, err := time.Parse(time.RFC3339, child.Text(field))
		if err == nil && (child.LeaseID == "" || child.Ends.After(at)) {
			child.Ends = at
			break
		}
	}
	return child, nil
}

// Renew moves the lease's end as far as it goes.
func (c *Client) Renew(ctx context.Context, child *Child) (ends time.Time, renewable bool, err error) {
	asked := time.Now()
	answer, err := c.api.Sys().RenewWithContext(ctx, child.LeaseID, int(child.Lease/time.Second))
	if err != nil {
		return time.Time{}, false, c.why(err, "renew the lease of role "+child.Role, "sys/leases/renew")
	}
	if answer == nil {
		return time.Time{}, false, fail.New(fail.Internal, "Vault renewed the lease of role %s and said nothing", child.Role)
	}
	return asked.Add(time.Duration(answer.LeaseDuration) * time.Second), answer.Renewable, nil
}

// Revoke ends a lease, and with it the token, and waits until it is dead. Who may not
// revoke, as with Vault's default policy alone, may still renew: then the lease is cut to a
// second, and the token dies a moment later.
func (c *Client) Revoke(ctx context.Context, leaseID string) error {
	err := c.api.Sys().RevokeWithOptionsWithContext(ctx, &api.RevokeOptions{LeaseID: leaseID, Sync: true})
	var answered *api.ResponseError
	if errors.As(err, &answered) && answered.StatusCode == http.StatusForbidden && c.cutShort(ctx, leaseID) {
		return nil
	}
	role, _ := path.Split(leaseID)
	return c.why(err, "revoke the lease", "sys/leases/revoke/"+role+"*")
}

// cutShort reports whether the lease ends in a moment. What failed is tried again: a busy
// Vault may not have got to it.
func (c *Client) cutShort(ctx context.Context, leaseID string) bool {
	const tries = 5
	for tried := 1; ; tried++ {
		short, err := c.api.Sys().RenewWithContext(ctx, leaseID, 1)
		if err == nil && short != nil && short.LeaseDuration <= atOnce {
			return true
		}
		if tried == tries {
			return false
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(300 * time.Millisecond):
		}
	}
}

// atOnce is how many seconds a lease may have that has been cut short.
const atOnce = 3

// LoginEnds is when the token ends with which all is asked; zero if it does not, or if that
// cannot be told. What was got with it ends then, too.
func (c *Client) LoginEnds(ctx context.Context) time.Time {
	asked := time.Now()
	answer, err := c.api.Auth().Token().LookupSelfWithContext(ctx)
	if err != nil || answer == nil {
		return time.Time{}
	}
	left, err := answer.TokenTTL()
	if err != nil || left <= 0 {
		return time.Time{}
	}
	return asked.Add(left)
}

// RevokeGrant ends a grant by the operators' path and returns what that says.
func (c *Client) RevokeGrant(ctx context.Context, id string) (map[string]any, error) {
	path := c.mount + "/revoke/grant/" + id
	answer, err := c.api.Logical().WriteWithContext(ctx, path, map[string]any{})
	if err != nil {
		return nil, c.why(err, "revoke the grant", path)
	}
	if answer == nil {
		return nil, fail.New(fail.Internal, "Vault revoked the grant and said nothing")
	}
	return answer.Data, nil
}

// Role is one that the caller may use.
type Role struct {
	Name       string         `json:"name"`
	Provider   string         `json:"provider"`
	Mode       string         `json:"mode"`
	Revocation string         `json:"revocation"`
	Fields     []string       `json:"fields"`
	Brings     []string       `json:"brings"`
	All        map[string]any `json:"all"`
}

// Roles are those that the caller may use, as far as can be told beforehand.
func (c *Client) Roles(ctx context.Context) ([]Role, error) {
	path := c.mount + "/creds"
	var roles []Role
	for after := ""; ; {
		query := map[string][]string{"list": {"true"}}
		if after != "" {
			query["after"] = []string{after}
		}
		answer, err := c.api.Logical().ReadWithDataWithContext(ctx, path, query)
		if err != nil {
			return nil, c.why(err, "list the roles that you may use", path)
		}
		if answer == nil {
			return roles, nil
		}
		keys, _ := answer.Data["keys"].([]any)
		info, _ := answer.Data["key_info"].(map[string]any)
		for _, key := range keys {
			name, _ := key.(string)
			all, _ := info[name].(map[string]any)
			role := Role{Name: name, All: all}
			role.Provider, _ = all["provider"].(string)
			role.Mode, _ = all["mode"].(string)
			role.Revocation, _ = all["revocation"].(string)
			role.Fields, role.Brings = texts(all["fields"]), texts(all["brings"])
			roles = append(roles, role)
			after = name
		}
		if len(keys) == 0 || len(answer.Warnings) == 0 { // a warning says that more follow
			return roles, nil
		}
	}
}

func texts(value any) []string {
	list, _ := value.([]any)
	all := make([]string, 0, len(list))
	for _, v := range list {
		all = append(all, fmt.Sprint(v))
	}
	return all
}

// Explain asks what would become of an ask, for the caller or for another entity.
func (c *Client) Explain(ctx context.Context, a Ask, entityID string) (map[string]any, error) {
	data, err := a.data()
	if err != nil {
		return nil, err
	}
	if entityID != "" {
		data["entity_id"] = entityID
	}
	path := c.mount + "/roles/" + a.Role + "/explain"
	answer, err := c.api.Logical().WriteWithContext(ctx, path, data)
	if err != nil {
		return nil, c.why(err, "explain role "+a.Role, path)
	}
	if answer == nil {
		return nil, fail.New(fail.Config, "nothing is at %s: is --mount right, and is there such a role?", path)
	}
	return answer.Data, nil
}

// maxDocument bounds what is read of a published document.
const maxDocument = 1 << 20

// Published is one of the documents below .well-known that the mount's issuer publishes.
func (c *Client) Published(ctx context.Context, name string) ([]byte, error) {
	path := c.mount + "/.well-known/" + name
	answer, err := c.api.Logical().ReadRawWithContext(ctx, path)
	if answer != nil && answer.Body != nil {
		defer answer.Body.Close()
	}
	if err != nil {
		return nil, c.why(err, "read what the issuer publishes", path)
	}
	if answer == nil || answer.StatusCode != http.StatusOK {
		return nil, fail.New(fail.Config, "nothing is published at %s: is --mount right, and has its config an issuer?", path)
	}
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxDocument))
	if err != nil {
		return nil, c.why(err, "read what the issuer publishes", path)
	}
	return body, nil
}

// short is an error of Vault's in one line.
func short(texts []string) string {
	text := strings.Join(texts, "; ")
	text = strings.ReplaceAll(strings.ReplaceAll(text, "1 error occurred:", ""), "\n", " ")
	text = strings.ReplaceAll(text, "\t* ", "")
	return strings.Join(strings.Fields(text), " ")
}
