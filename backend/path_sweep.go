package backend

import (
	"context"
	"net/http"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

func (b *broker) pathSweep() []*framework.Path {
	return []*framework.Path{{
		Pattern:      "sweep$",
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "sweep"},
		HelpSynopsis: "Looks after all grants now, as otherwise about every minute: kills, and retries kills.",
		HelpDescription: "Judges the holders: grants of entities that are gone, disabled, or no longer meet their role\n" +
			"are killed. Retries every failed revocation without waiting for its turn, kills what outlived\n" +
			"its lease, and forgets what has expired.",
		Fields: map[string]*framework.FieldSchema{},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: &framework.PathOperation{
				Callback: b.runSweep, Summary: "Sweep now.",
				Responses: map[int][]framework.Response{http.StatusOK: {{Description: "What the sweep did.", Fields: map[string]*framework.FieldSchema{
					"killed":     {Type: framework.TypeInt, Description: "Grants killed at their provider."},
					"expired":    {Type: framework.TypeInt, Description: "Grants forgotten because their token has certainly expired."},
					"holders":    {Type: framework.TypeInt, Description: "Holders that were judged; the rest are judged by the next sweeps."},
					"bystanders": {Type: framework.TypeInt, Description: "Grants of others that died with what had to be killed: a login, say, that they came from too."},
					"pending":    {Type: framework.TypeInt, Description: "Revocations that failed again and will be retried."},
				}}}},
				ForwardPerformanceStandby: true, ForwardPerformanceSecondary: true,
			},
		},
	}}
}

func (b *broker) runSweep(ctx context.Context, _ *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	counts, err := b.sweep(ctx, true, revokeWait)
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: map[string]any{"killed": counts.Killed, "expired": counts.Expired, "pending": counts.Pending, "holders": counts.Holders, "bystanders": counts.Bystanders}}, nil
}
