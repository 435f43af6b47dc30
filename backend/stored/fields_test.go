package stored

import (
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/stretchr/testify/require"
)

type room struct {
	Text  string
	Life  time.Duration
	List  []string
	Pairs map[string]string
	Is    bool
	Count int
	Rate  float64
}

var roomFields = Fields[room]{
	{Name: "text", In: func(r *room) any { return &r.Text }, Description: "A text.", Default: "x", Allowed: []any{"x", "y"}},
	{Name: "life", In: func(r *room) any { return &r.Life }},
	{Name: "list", In: func(r *room) any { return &r.List }},
	{Name: "pairs", In: func(r *room) any { return &r.Pairs }},
	{Name: "is", In: func(r *room) any { return &r.Is }},
	{Name: "count", In: func(r *room) any { return &r.Count }},
	{Name: "rate", In: func(r *room) any { return &r.Rate }},
}

func mergedInto(t *testing.T, r *room, written map[string]any) map[string]any {
	t.Helper()
	require.NoError(t, roomFields.Merge(r, &framework.FieldData{Raw: written, Schema: roomFields.Schema()}))
	data := map[string]any{}
	roomFields.Show(r, data)
	return data
}

// TestFields: what is written is shown, what is not written stays, and what is written
// empty is unset.
func TestFields(t *testing.T) {
	r := &room{}
	unset := map[string]any{"life": int64(0), "is": false, "count": 0, "rate": 0.0}
	require.Equal(t, unset, mergedInto(t, r, nil), "a default is not written by itself")
	all := map[string]any{
		"text": "y", "life": int64(90), "list": []string{"a", "b"}, "pairs": map[string]string{"a": "b"}, "is": true, "count": 3, "rate": 1.5,
	}
	require.Equal(t, all, mergedInto(t, r, map[string]any{
		"text": "y", "life": "90s", "list": "a,b", "pairs": map[string]any{"a": "b"}, "is": true, "count": 3, "rate": 1.5,
	}))
	require.Equal(t, all, mergedInto(t, r, nil))
	require.Equal(t, unset, mergedInto(t, r, map[string]any{
		"text": "", "life": 0, "list": "", "pairs": map[string]any{}, "is": false, "count": 0, "rate": 0,
	}))
	require.Nil(t, r.List)
	require.Nil(t, r.Pairs)
	require.Equal(t, &framework.FieldSchema{Type: framework.TypeString, Description: "A text.", Default: "x", AllowedValues: []any{"x", "y"}}, roomFields.Schema()["text"])
	require.Panics(t, func() {
		Fields[room]{{Name: "no", In: func(*room) any { return 7 }}}.Schema()
	})
}
