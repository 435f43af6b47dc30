package condition

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/cel-go/common/ast"
	"github.com/google/cel-go/common/types"
)

// restrict refuses what CEL's cost accounting does not see or sees too late. It
// counts a comparison by the lengths of the two lists, not by what is in them;
// and it counts a call when it has returned (see guard.go for those of which it is
// told). So a condition may not build values
// that hold one another several times over, which a few nested macros would
// multiply beyond any bound, nor call a function whose output is the product of
// its inputs.
func restrict(checked *ast.AST) error {
	root := ast.NavigateAST(checked)
	for _, e := range ast.MatchDescendants(root, func(ast.NavigableExpr) bool { return true }) {
		if err := restrictOne(e); err != nil {
			return err
		}
	}
	return nil
}

func restrictOne(e ast.NavigableExpr) error {
	switch e.Kind() {
	case ast.StructKind:
		return errors.New("objects cannot be made in a condition")
	case ast.ListKind, ast.MapKind:
		if !flat(e) {
			return errors.New("a list or map written in a condition holds constants, or strings, numbers and other plain values: use string(…) to convert a claim")
		}
	case ast.CallKind:
		return restrictCall(e.AsCall())
	}
	return nil
}

// flat reports whether a literal cannot multiply what it holds: it is constant,
// its members are scalars, or it is a list of just one variable (which the
// macros filter and map write).
func flat(literal ast.NavigableExpr) bool {
	if ast.ConstantValueMatcher()(literal) {
		return true
	}
	members := literal.Children()
	if literal.Kind() == ast.ListKind && len(members) == 1 && members[0].Kind() == ast.IdentKind {
		return true
	}
	for _, m := range members {
		if m.Kind() == ast.UnspecifiedExprKind { // a map's entry
			continue
		}
		if !scalar(m.Type()) {
			return false
		}
	}
	return true
}

func scalar(t *types.Type) bool {
	switch t.Kind() {
	case types.BoolKind, types.IntKind, types.UintKind, types.DoubleKind, types.StringKind,
		types.BytesKind, types.DurationKind, types.TimestampKind, types.NullTypeKind:
		return true
	default:
		return false
	}
}

func restrictCall(call ast.CallExpr) error {
	name := call.FunctionName()
	switch name {
	case "replace", "join", "format":
		return fmt.Errorf("%s is not available in a condition", name)
	case "matches":
		// A pattern from a token would be compiled at each evaluation.
		if _, ok := lastString(call); !ok {
			return errors.New("the pattern of matches must be a constant string")
		}
	}
	if zoned(name) {
		return checkZone(call)
	}
	return nil
}

// zoned reports whether the function is one that may take a time zone.
func zoned(function string) bool {
	switch function {
	case "getFullYear", "getMonth", "getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear",
		"getHours", "getMinutes", "getSeconds", "getMilliseconds":
		return true
	default:
		return false
	}
}

// checkZone wants a time zone that exists, which CEL looks up only when it
// evaluates: an offset such as +02:00, or a name of the tz database.
func checkZone(call ast.CallExpr) error {
	if len(call.Args()) == 0 {
		return nil
	}
	zone, ok := lastString(call)
	if !ok {
		return fmt.Errorf("the time zone of %s must be a constant string", call.FunctionName())
	}
	if strings.Contains(zone, ":") {
		return nil
	}
	if _, err := time.LoadLocation(zone); err != nil {
		return fmt.Errorf("the time zone %q is not known here", zone)
	}
	return nil
}

func lastString(call ast.CallExpr) (string, bool) {
	args := call.Args()
	if len(args) == 0 || args[len(args)-1].Kind() != ast.LiteralKind {
		return "", false
	}
	s, ok := args[len(args)-1].AsLiteral().(types.String)
	return string(s), ok
}

// uses is what an expression refers to.
type uses struct {
	variables map[string]bool
	groups    bool
}

// findUses looks at every name. A macro's own variable of the same name counts
// too: it errs towards true.
func findUses(checked *ast.AST) uses {
	u := uses{variables: map[string]bool{}}
	idents := ast.MatchDescendants(ast.NavigateAST(checked), ast.KindMatcher(ast.IdentKind))
	for _, ident := range idents {
		name := strings.TrimPrefix(ident.AsIdent(), ".")
		u.variables[name] = true
		if name != varIdentity {
			continue
		}
		parent, ok := ident.Parent()
		selected := ok && parent.Kind() == ast.SelectKind
		u.groups = u.groups || !selected || parent.AsSelect().FieldName() == "groups"
	}
	return u
}
