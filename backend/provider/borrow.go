package provider

import (
	"encoding/json"

	"github.com/hashicorp/vault/sdk/framework"
)

// The fields of a Borrower, by which an operator says what is borrowed.
const (
	FieldTokenProvider = "token_provider"
	FieldTokenRequest  = "token_request"
)

// Borrower is a Type whose providers may have a child of another provider for their
// credential (Deps.Borrowed). The broker gets that, keeps it in memory, renews it and kills
// it: it is a grant of the broker's own.
type Borrower interface {
	// Loan is what a provider of that configuration borrows; nil for nothing. It is told
	// from the configuration alone, also from one that an earlier version has written, or
	// that this one would refuse. LoanOf is enough for a type that has the LoanFields.
	Loan(cfg Config) *Loan
}

// Loan says what is borrowed.
type Loan struct {
	// Provider is the lender, as <type>/<name>.
	Provider string `json:"token_provider"`
	// Request is the JSON object of what is asked of it; empty for whatever it gives unasked.
	Request json.RawMessage `json:"token_request"`
}

// LoanFields declare what LoanOf reads.
func LoanFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		FieldTokenProvider: {Type: framework.TypeString, Description: "Another provider, as <type>/<name>, whose token is the credential here, in place of a secret: the broker gets one for itself, renews it and kills it. That one must not borrow itself, and its allowed_roles do not count. Whoever may write this can have a token of that provider sent to where this one is."},
		FieldTokenRequest:  {Type: framework.TypeMap, Description: `What is asked of token_provider, as a JSON object of scopes, audiences, resources, permissions, authorization_details and parameters, each as in a role and without patterns.`},
	}
}

// LoanOf reads the LoanFields among the fields of a Config; nil if nothing is borrowed.
func LoanOf(fields json.RawMessage) *Loan {
	var loan Loan
	if json.Unmarshal(fields, &loan) != nil || loan.Provider == "" {
		return nil
	}
	return &loan
}

// Same reports whether two loans are of the same; nil is none.
func (l *Loan) Same(other *Loan) bool {
	if l == nil || other == nil {
		return l == other
	}
	return l.Provider == other.Provider && string(l.Request) == string(other.Request)
}
