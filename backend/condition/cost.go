package condition

import (
	"encoding/json"
	"slices"
	"time"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/checker"
	"github.com/google/cel-go/common/ast"
	"github.com/google/cel-go/common/operators"
	"github.com/google/cel-go/common/overloads"
	"github.com/google/cel-go/common/types"
)

// CEL's accounting at run time more than doubles the time and the allocations of
// an evaluation. For nearly every condition it is not needed: if the inputs are
// of usual size, the estimate made at compile time is proof enough. So a Program
// has two plans, and takes the one with accounting for inputs beyond these.
const (
	usualItems  = 128 // members of a list or map
	usualString = 512 // bytes
	usualDepth  = 8   // of claims
	usualClaims = 512 // values in all claims together
)

// cheap reports whether the condition costs at most MaxCost over any input of
// usual size.
func cheap(env *cel.Env, checked *cel.Ast) bool {
	if computesMembers(checked.NativeRep()) || underestimated(checked.NativeRep()) {
		return false
	}
	cost, err := env.EstimateCost(checked, usualSizes{})
	return err == nil && cost.Max <= MaxCost
}

// computesMembers reports whether a list or map is made of computed values, such
// as by the macro map. A loop over these could make them longer with every turn,
// in a way that the estimate need not foresee.
func computesMembers(checked *ast.AST) bool {
	literals := ast.MatchDescendants(ast.NavigateAST(checked), func(e ast.NavigableExpr) bool {
		return e.Kind() == ast.ListKind || e.Kind() == ast.MapKind
	})
	for _, l := range literals {
		for _, m := range l.Children() {
			if m.Kind() != ast.IdentKind && !ast.ConstantValueMatcher()(m) {
				return true
			}
		}
	}
	return false
}

// underestimated reports whether a call is in the condition that accounting charges
// for what the estimate knows nothing of.
func underestimated(checked *ast.AST) bool {
	calls := ast.MatchDescendants(ast.NavigateAST(checked), ast.KindMatcher(ast.CallKind))
	return slices.ContainsFunc(calls, func(e ast.NavigableExpr) bool {
		call := e.AsCall()
		switch name := call.FunctionName(); name {
		case operators.Add:
			return !scalar(e.Type())
		case overloads.Matches:
			pattern, _ := lastString(call)
			size, _ := programSize(pattern)
			return size > 2*len(pattern)+16
		default:
			return zoned(name) && len(call.Args()) > 0
		}
	})
}

// usualSizes tells the estimate how large the variables are.
type usualSizes struct{}

// EstimateSize implements checker.CostEstimator. What has no path to a variable
// was computed, and is left to CEL.
func (usualSizes) EstimateSize(node checker.AstNode) *checker.SizeEstimate {
	if len(node.Path()) == 0 {
		return nil
	}
	switch node.Type().Kind() {
	case types.ListKind, types.MapKind:
		return &checker.SizeEstimate{Max: usualItems}
	case types.StringKind, types.DynKind:
		return &checker.SizeEstimate{Max: usualString}
	default:
		return nil
	}
}

// EstimateCallCost implements checker.CostEstimator: CEL knows its functions.
func (usualSizes) EstimateCallCost(string, string, *checker.AstNode, []checker.AstNode) *checker.CallEstimate {
	return nil
}

// usual reports whether those variables of in that the condition uses are of
// usual size.
func (p *Program) usual(in *Input) bool {
	return (!p.Uses(varIdentity) || in.Identity.usual()) &&
		(!p.Uses(varRequest) || in.Request.usual()) &&
		(!p.Uses(varSubject) || usualClaimSet(in.Subject.Claims))
}

func (i *Identity) usual() bool {
	if !usualText(i.EntityID) || !usualText(i.Name) || !usualMap(i.Metadata) || !usualList(i.Groups) || len(i.Aliases) > usualItems {
		return false
	}
	for _, a := range i.Aliases {
		if !usualText(a.Name) || !usualText(a.MountAccessor) || !usualText(a.MountType) || !usualMap(a.Metadata) {
			return false
		}
	}
	return true
}

func (r *Request) usual() bool {
	return usualList(r.Scopes) && usualList(r.Audiences) && usualList(r.Resources) &&
		usualMap(r.Permissions) && usualText(r.RemoteAddr)
}

func usualText(s string) bool { return len(s) <= usualString }

func usualList(l []string) bool {
	for _, s := range l {
		if !usualText(s) {
			return false
		}
	}
	return len(l) <= usualItems
}

func usualMap(m map[string]string) bool {
	if len(m) > usualItems {
		return false
	}
	for k, v := range m {
		if !usualText(k) || !usualText(v) {
			return false
		}
	}
	return true
}

func usualClaimSet(claims map[string]any) bool {
	budget := usualClaims
	return usualClaim(claims, 0, &budget)
}

// usualClaim walks a claim; budget is what it may still look at.
func usualClaim(v any, depth int, budget *int) bool {
	*budget--
	if *budget < 0 || depth > usualDepth {
		return false
	}
	switch v := v.(type) {
	case nil, bool, float64, int64, int, time.Time:
		return true
	case string:
		return usualText(v)
	case json.Number:
		return usualText(string(v))
	case []string:
		*budget -= len(v)
		return usualList(v)
	case []any:
		if len(v) > usualItems {
			return false
		}
		for _, m := range v {
			if !usualClaim(m, depth+1, budget) {
				return false
			}
		}
		return true
	case map[string]any:
		if len(v) > usualItems {
			return false
		}
		for k, m := range v {
			if !usualText(k) || !usualClaim(m, depth+1, budget) {
				return false
			}
		}
		return true
	default:
		return false
	}
}
