package condition

import (
	"github.com/google/cel-go/common/overloads"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/interpreter"
)

// accounting charges a comparison of lists and maps for all that is in them.
// CEL counts their members only, and claims may be deep.
type accounting struct{}

var _ interpreter.ActualCostEstimator = accounting{}

// CallCost implements interpreter.ActualCostEstimator. Nil leaves the call to
// CEL.
func (accounting) CallCost(_, overload string, args []ref.Val, _ ref.Val) *uint64 {
	var cost uint64
	switch {
	case len(args) != 2:
		return nil
	case overload == overloads.Equals || overload == overloads.NotEquals:
		// A comparison ends where the smaller one does.
		cost = min(weigh(args[0]), weigh(args[1]))
	case overload == overloads.InList:
		cost = weigh(args[1])
	}
	if cost == 0 {
		return nil
	}
	return &cost
}

// weigh is the cost of looking at all of a list or map, and 0 for anything else.
func weigh(v ref.Val) uint64 {
	switch native := v.Value().(type) {
	case []any, map[string]any:
		budget := MaxCost
		weighNative(native, &budget)
		return uint64(MaxCost - budget)
	default:
		return 0
	}
}

// weighNative takes from the budget one unit for each value, and one for ten
// bytes of a string, until nothing is left.
func weighNative(v any, budget *int) {
	*budget--
	switch v := v.(type) {
	case string:
		*budget -= len(v) / 10
	case []any:
		for _, m := range v {
			if *budget <= 0 {
				return
			}
			weighNative(m, budget)
		}
	case map[string]any:
		for k, m := range v {
			if *budget <= 0 {
				return
			}
			*budget -= len(k) / 10
			weighNative(m, budget)
		}
	}
}
