package condition

import (
	"github.com/google/cel-go/common/operators"
	"github.com/google/cel-go/common/overloads"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
	"github.com/google/cel-go/interpreter"
)

// accounting charges what CEL takes for one step, or for fewer steps than it has:
// a comparison of lists and maps for all that is in them, of which CEL counts the
// members only, and claims may be deep; the joining of lists, which is cheap, but
// for all that is done with them afterwards; a string for having its characters
// counted; a pattern for its program; and a time zone, which is read from a file.
type accounting struct{ patterns patterns }

var _ interpreter.ActualCostEstimator = accounting{}

// zoneCost is charged for a time zone by its name.
const zoneCost = 50

// CallCost implements interpreter.ActualCostEstimator. Nil leaves the call to
// CEL.
func (a accounting) CallCost(function, overload string, args []ref.Val, result ref.Val) *uint64 {
	var cost uint64
	switch {
	case function == operators.Add:
		if _, ok := result.(traits.Lister); ok {
			// The shorter list counts: where a macro gathers members, that is the one
			// member which it adds.
			cost = min(members(args[0]), members(args[1]))
		}
	case function == operators.In || overload == overloads.InList:
		cost = weigh(args[len(args)-1], MaxCost)
	case function == overloads.Size:
		if text, ok := args[0].(types.String); ok {
			cost = 1 + uint64(len(text)/10)
		}
	case function == overloads.Matches && len(args) == 2:
		text, _ := args[0].(types.String)
		pattern, _ := args[1].(types.String)
		cost = matchCost(len(text), a.patterns.size(string(pattern)))
	case zoned(function) && len(args) == 2:
		cost = zoneCost
	case len(args) == 2 && (function == operators.Equals || function == operators.NotEquals):
		cost = lighter(args[0], args[1])
	}
	if cost == 0 {
		return nil
	}
	return &cost
}

// lighter is the cost of comparing two lists or maps, which ends where the lighter one
// does. Weighing them takes no longer than that.
func lighter(a, b ref.Val) uint64 {
	for budget := 64; ; budget *= 8 {
		least := min(weigh(a, budget), weigh(b, budget))
		if least < uint64(budget) || budget >= MaxCost {
			return least
		}
	}
}

// weigh is the cost of looking at all of a list or map, about budget if it is more, and
// 0 for anything else.
func weigh(v ref.Val, budget int) uint64 {
	switch v.Type() {
	case types.ListType, types.MapType:
	default:
		return 0
	}
	switch native := v.Value().(type) {
	case []any, map[string]any:
		left := budget
		weighNative(native, &left)
		return uint64(budget - left) //nolint:gosec // never grows
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
