package backend

import (
	"errors"
	"net/http"

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
// caller, the cause for the log. What is the caller's own mistake is a response beside
// one of Vault's own two errors, because only these come out of core as they went in.
// Of any other status core keeps nothing where a response stands beside it, so that one
// comes as a coded error, bare, as the plugin protocol loses a wrapped one's status; core
// puts "1 error occurred:" in front.
func (b *broker) asLogical(req *logical.Request, err error) (*logical.Response, error) {
	var f *fault.Error
	if !errors.As(err, &f) {
		return nil, err
	}
	if f.Cause != nil && f.Code.Status() >= 500 {
		b.Logger().Error("request failed", "operation", req.Operation, "path", req.Path, "error", f.Error(), "cause", f.Cause)
	}
	if status := f.Code.Status(); ofCore(req.Operation) || clean[status] == nil {
		return nil, logical.CodedError(status, f.Error())
	}
	return logical.ErrorResponse(f.Error()), clean[f.Code.Status()]
}

// clean are the errors beside which core leaves a response's text alone, by the status
// that it makes of them.
var clean = map[int]error{http.StatusBadRequest: logical.ErrInvalidRequest, http.StatusForbidden: logical.ErrPermissionDenied}

// ofCore reports whether it is Vault itself who asks: it writes an answer that stands
// beside an error into its own message as Go prints it.
func ofCore(op logical.Operation) bool {
	return op == logical.RenewOperation || op == logical.RevokeOperation || op == logical.RollbackOperation
}
