// Package okta stands for Okta's SDK, a second factor of logins.
package okta

import (
	"context"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/vault/without"
)

// NewConfiguration fails, so nothing below is ever used.
func NewConfiguration(...Setting) (*Configuration, error) {
	return nil, without.Error("the second factor Okta")
}

// Configuration has what Vault reads of it.
type Configuration struct{ Context context.Context }

// Setting is one of the following.
type Setting struct{}

// WithToken says nothing.
func WithToken(string) Setting { return Setting{} }

// WithOrgUrl says nothing.
func WithOrgUrl(string) Setting { return Setting{} }

// WithCache says nothing.
func WithCache(bool) Setting { return Setting{} }

// Client has the parts that Vault uses.
type Client struct {
	UserAPI       UserAPI
	UserFactorAPI UserFactorAPI
}

// NewAPIClient makes one.
func NewAPIClient(*Configuration) *Client { return &Client{} }

// GetConfig has nothing to tell.
func (*Client) GetConfig() *Configuration { return &Configuration{} }

// Request is one that can be sent.
type Request[T any] struct{}

// Filter says nothing.
func (r Request[T]) Filter(string) Request[T] { return r }

// Execute answers nothing.
func (Request[T]) Execute() (found T, response any, err error) { return }

// UserAPI knows the users.
type UserAPI struct{}

// ListUsers asks for them.
func (UserAPI) ListUsers(context.Context) (r Request[[]User]) { return }

// User is one of them.
type User struct{}

// GetId is the user's.
func (User) GetId() string { return "" }

// UserFactorAPI knows a user's factors.
type UserFactorAPI struct{}

// ListFactors asks for them.
func (UserFactorAPI) ListFactors(_ context.Context, user string) (r Request[[]Factor]) { return }

// VerifyFactor asks the user.
func (UserFactorAPI) VerifyFactor(_ context.Context, user, factor string) (r Request[*Verification]) {
	return
}

// GetFactorTransactionStatus asks what the user said.
func (UserFactorAPI) GetFactorTransactionStatus(_ context.Context, user, factor, transaction string) (r Request[Status]) {
	return
}

// Factor is a way to ask a user.
type Factor struct{ UserFactorPush *UserFactorPush }

// UserFactorPush is a factor that asks on a telephone.
type UserFactorPush struct{}

// GetId is the factor's.
func (*UserFactorPush) GetId() string { return "" }

// Verification is a question under way.
type Verification struct{ Links map[string]any }

// GetFactorResult is how far it is.
func (*Verification) GetFactorResult() string { return "" }

// Status has one member that is not nil.
type Status struct {
	UserFactorPushTransactionWaiting, UserFactorPushTransaction,
	UserFactorPushTransactionRejected, UserFactorPushTransactionTimeout *struct{}
}
