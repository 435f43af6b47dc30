package condition

import (
	"encoding/json"
	"fmt"
	"regexp"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/functions"
	"github.com/google/cel-go/common/overloads"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
	"github.com/google/cel-go/interpreter"
)

// CEL charges a call when it has returned. For nearly all functions that is soon
// enough, because their work is in proportion to what they are given. That of those
// below is the product of two of their arguments, and is judged before it is begun: no
// such call runs that would cost more than a whole condition may.

// products are these functions, but for matches, with what a call costs.
var products = map[string]func(args []ref.Val) uint64{
	"sets.contains":   func(args []ref.Val) uint64 { return pairs(args[0], args[1]) },
	"sets.intersects": func(args []ref.Val) uint64 { return pairs(args[0], args[1]) },
	"sets.equivalent": func(args []ref.Val) uint64 { return 2 * pairs(args[0], args[1]) },
	"indexOf":         func(args []ref.Val) uint64 { return search(args[0], args[1]) },
	"lastIndexOf":     func(args []ref.Val) uint64 { return search(args[0], args[1]) },
}

func tooDear() ref.Val { return types.NewErr("operation cancelled: actual cost limit exceeded") }

// guard is env with these functions judged.
func guard(env *cel.Env) (*cel.Env, error) {
	var guarded []cel.EnvOption
	for name, cost := range products {
		function := env.Functions()[name]
		bindings, err := function.Bindings()
		if err != nil {
			return nil, err
		}
		run := map[string]*functions.Overload{}
		for _, b := range bindings {
			run[b.Operator] = b
		}
		for _, o := range function.OverloadDecls() {
			declare := cel.Overload
			if o.IsMemberFunction() {
				declare = cel.MemberOverload
			}
			binding, err := judged(run[o.ID()], cost)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", o.ID(), err)
			}
			guarded = append(guarded, cel.Function(name, declare(o.ID(), o.ArgTypes(), o.ResultType(), binding)))
		}
	}
	return env.Extend(guarded...)
}

func judged(of *functions.Overload, cost func([]ref.Val) uint64) (cel.OverloadOpt, error) {
	switch {
	case of == nil:
		return nil, fmt.Errorf("not known to CEL")
	case of.Binary != nil:
		return cel.BinaryBinding(func(a, b ref.Val) ref.Val {
			if cost([]ref.Val{a, b}) > MaxCost {
				return tooDear()
			}
			return of.Binary(a, b)
		}), nil
	default:
		return cel.FunctionBinding(func(args ...ref.Val) ref.Val {
			if cost(args) > MaxCost {
				return tooDear()
			}
			return of.Function(args...)
		}), nil
	}
}

// guardedMatches are the optimizations for the two ways to write matches, whose pattern
// is always constant and compiled with the condition.
func guardedMatches(sizes patterns) cel.ProgramOption {
	var all []*interpreter.RegexOptimization
	for _, id := range []string{overloads.Matches, overloads.MatchesString} {
		all = append(all, &interpreter.RegexOptimization{Function: overloads.Matches, OverloadID: id, RegexIndex: 1, Factory: sizes.judgedMatch})
	}
	return cel.OptimizeRegex(all...)
}

func (p patterns) judgedMatch(call interpreter.InterpretableCall, pattern string) (interpreter.InterpretableCall, error) {
	compiled, err := regexp.Compile(pattern)
	if err != nil {
		return nil, err
	}
	return interpreter.NewCall(call.ID(), call.Function(), call.OverloadID(), call.Args(), func(args ...ref.Val) ref.Val {
		text, ok := args[0].(types.String)
		switch {
		case !ok:
			return types.MaybeNoSuchOverloadErr(args[0])
		case matchCost(len(text), p.size(pattern)) > MaxCost:
			return tooDear()
		default:
			return types.Bool(compiled.MatchString(string(text)))
		}
	}), nil
}

// matchCost is what CEL charges for a match in a text by a pattern of some bytes.
func matchCost(text, pattern int) uint64 {
	return uint64(1+text/10) * uint64(1+pattern/4) //nolint:gosec // lengths
}

// search is what looking for one string in another costs, character by character.
func search(in, what ref.Val) uint64 {
	a, _ := in.(types.String)
	b, _ := what.(types.String)
	return uint64(1+len(a)/10) * uint64(1+len(b)/10)
}

// pairs is what comparing each member of a list with each of another costs at the
// most: of two members, the comparison ends where the smaller one does.
func pairs(a, b ref.Val) uint64 {
	n, m := members(a), members(b)
	if n*m > MaxCost {
		return n * m
	}
	return min(n*content(b), m*content(a))
}

// members is how many a list has; more than some million are not told apart.
func members(v ref.Val) uint64 {
	sizer, ok := v.(traits.Sizer)
	if !ok {
		return 1
	}
	n, _ := sizer.Size().(types.Int)
	return min(uint64(n), 1<<30) //nolint:gosec // a length
}

// content is how many values there are in all of a list, as far as it matters.
func content(v ref.Val) uint64 {
	budget := MaxCost + 1
	contentOf(v, &budget)
	return uint64(MaxCost + 1 - max(0, budget))
}

// longText is how much of a string is compared while another value is looked at.
const longText = 1024

func contentOf(v any, budget *int) {
	*budget--
	if *budget < 0 {
		return
	}
	switch v := v.(type) {
	case ref.Val:
		*budget++
		contentOf(v.Value(), budget)
	case string:
		*budget -= len(v) / longText
	case json.Number:
		*budget -= len(v) / longText
	case []string:
		for _, m := range v {
			contentOf(m, budget)
		}
	case []any:
		for _, m := range v {
			contentOf(m, budget)
		}
	case []ref.Val:
		for _, m := range v {
			contentOf(m, budget)
		}
	case map[string]string:
		*budget -= len(v)
	case map[string]any:
		for _, m := range v {
			contentOf(m, budget)
		}
	}
}
