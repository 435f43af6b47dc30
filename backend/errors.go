package backend

import (
	"errors"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
)

// forOperators says of an error of the network also which address was tried: operators
// may know it, and callers of creds need not.
func forOperators(err error) error {
	var f *fault.Error
	var failed *httpclient.Error
	if !errors.As(err, &f) || !errors.As(f.Cause, &failed) || failed.Tried == "" {
		return err
	}
	return fault.New(f.Code, "%s (tried %s)", f.Message, failed.Tried).Because(f.Cause)
}

// asLogical turns a fault into what Vault answers with: code and message for the
// caller, the cause for the log. The coded error goes bare, because Vault's
// plugin protocol loses the status of a wrapped one.
func (b *broker) asLogical(req *logical.Request, err error) error {
	var f *fault.Error
	if err == nil || !errors.As(err, &f) {
		return err
	}
	if f.Cause != nil && f.Code.Status() >= 500 {
		b.Logger().Error("request failed", "operation", req.Operation, "path", req.Path, "error", f.Error(), "cause", f.Cause)
	}
	return logical.CodedError(f.Code.Status(), f.Error())
}
