package condition

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common"
	"github.com/google/cel-go/common/ast"
	"github.com/google/cel-go/common/types"
)

// told is what the compiler found first, in one line, for whoever wrote the expression:
// what it says, where, and of a name that does not exist which ones do.
func told(env *cel.Env, expr string, issues *cel.Issues) error {
	found := issues.Errors()
	if len(found) == 0 {
		return issues.Err()
	}
	first := found[0]
	text, _, _ := strings.Cut(first.Message, "\n")
	line := ""
	if lines := strings.Split(expr, "\n"); first.Location.Line() >= 1 && first.Location.Line() <= len(lines) {
		line = strings.TrimSpace(lines[first.Location.Line()-1])
	}
	if runes := []rune(line); len(runes) > maxShown {
		line = string(runes[:maxShown]) + "…"
	}
	return fmt.Errorf("condition: %s (line %d, column %d: %s)%s", text, first.Location.Line(), first.Location.Column()+1, line, known(env, expr, first))
}

// maxShown bounds how much of a line is shown.
const maxShown = 200

// known lists the names that could have stood in the place of one that does not exist.
func known(env *cel.Env, expr string, e *common.Error) string {
	switch {
	case strings.HasPrefix(e.Message, "undeclared reference"):
		return ": there are identity, request, subject and now; a text stands in quotes"
	case strings.HasPrefix(e.Message, "found no matching overload"):
		return ": both sides must be of one type, such as two texts; a function or operator does not take every type"
	case !strings.HasPrefix(e.Message, "undefined field"):
		return ""
	}
	if variable := variableOf(env, expr, e.ExprID); variable != "" {
		return ": " + variable + " has " + names(fields[variables[variable]])
	}
	var all []string
	for _, variable := range slices.Sorted(maps.Keys(variables)) {
		all = append(all, variable+" has "+names(fields[variables[variable]]))
	}
	return ": " + strings.Join(append(all, "an alias has "+names(fields[typeAlias])), "; ")
}

// variables are those that have fields, with their types.
var variables = map[string]string{varIdentity: typeIdentity, varRequest: typeRequest, varSubject: typeSubject}

func names(fields map[string]*types.FieldType) string {
	return strings.Join(slices.Sorted(maps.Keys(fields)), ", ")
}

// variableOf is the variable whose field the expression with that id is; "" for the
// field of anything else.
func variableOf(env *cel.Env, expr string, id int64) (variable string) {
	parsed, issues := env.Parse(expr)
	if issues.Err() != nil {
		return ""
	}
	ast.PreOrderVisit(parsed.NativeRep().Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if e.ID() != id || e.Kind() != ast.SelectKind || e.AsSelect().Operand().Kind() != ast.IdentKind {
			return
		}
		if name := e.AsSelect().Operand().AsIdent(); variables[name] != "" {
			variable = name
		}
	}))
	return variable
}

// MissingKey reports whether the condition could not be evaluated for a key that a map,
// such as identity.metadata or subject.claims, has not. The key is told only if the
// expression itself names it.
func (f *Failure) MissingKey() (key string, missing bool) {
	if errors.Is(f.Cause, ErrFalse) {
		return "", false
	}
	key, missing = strings.CutPrefix(f.Cause.Error(), "no such key: ")
	if !strings.Contains(f.Expr, key) {
		key = ""
	}
	return key, missing
}
