// Package condition compiles and evaluates a role's condition: a CEL expression
// (https://github.com/google/cel-spec) over who asks and what would be granted.
//
// It is pure: no I/O, no clock. An expression is typed, so a misspelled field is
// found when the role is written; it cannot build anything larger than what it
// was given, and its running cost is bounded, so no role can stall the broker.
// Everything but a plain true is a denial.
//
// What is in scope, beside CEL's standard library and the functions charAt,
// indexOf, lastIndexOf, lowerAscii, upperAscii, reverse, split, substring,
// trim, sets.contains, sets.equivalent and sets.intersects: Names.
package condition

import (
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
)

// Bounds on an expression.
const (
	// MaxLength is in bytes.
	MaxLength = 4096
	// MaxCost is in CEL's cost units, of which one is about one step or ten
	// characters looked at. It allows a loop over some thousand groups, and is
	// used up within some tens of milliseconds. No single call costs more than that
	// (guard.go), so an evaluation costs at most twice as much.
	MaxCost = 50_000
	// maxDepth is how deep an expression may nest.
	maxDepth = 64
)

// ErrFalse is in the chain of Eval's error if the condition is false, as opposed
// to one that could not be evaluated.
var ErrFalse = errors.New("the condition is false")

// Failure is the error of a condition that is not met. Its text holds the
// expression, which is the operator's own, and no value that it was evaluated
// over. It is for operators: both may tell of whom the caller may have no right to
// know about.
type Failure struct {
	// Expr is the expression.
	Expr string
	// Cause is ErrFalse, or for the log only what went wrong, which may quote
	// values.
	Cause error
}

// Error is fit for an operator.
func (f *Failure) Error() string {
	if errors.Is(f.Cause, ErrFalse) {
		return fmt.Sprintf("the condition %q is not met", f.Expr)
	}
	return fmt.Sprintf("the condition %q could not be evaluated, which denies", f.Expr)
}

// Unwrap gives the cause to errors.Is and errors.As.
func (f *Failure) Unwrap() error { return f.Cause }

// Program is a compiled condition. It is immutable and safe for concurrent use.
type Program struct {
	expr string
	// counted stops at MaxCost. plain, nil unless the condition is cheap, does not
	// count, and is for inputs of usual size only.
	counted, plain cel.Program
	uses           uses
	// unmet is the error for false, which says the same every time.
	unmet *Failure
}

// Compile parses and type-checks an expression. The error says where it is wrong
// and is fit for whoever wrote the expression.
func Compile(expr string) (p *Program, err error) {
	// A panic here would end the plugin, and with it every role.
	defer func() {
		if r := recover(); r != nil {
			p, err = nil, errors.New("condition cannot be compiled")
		}
	}()
	switch {
	case expr == "":
		return nil, errors.New("condition is empty: leave it out")
	case len(expr) > MaxLength:
		return nil, fmt.Errorf("condition has %d bytes, more than %d", len(expr), MaxLength)
	case !utf8.ValidString(expr):
		return nil, errors.New("condition is not valid UTF-8")
	}
	env, err := environment()
	if err != nil {
		return nil, fmt.Errorf("condition: %w", err)
	}
	checked, issues := env.Compile(expr)
	if issues.Err() != nil {
		return nil, told(env, expr, issues)
	}
	if checked.OutputType() != types.BoolType {
		return nil, fmt.Errorf("condition must be a bool and is a %s: compare it with something", checked.OutputType())
	}
	if err := restrict(checked.NativeRep()); err != nil {
		return nil, fmt.Errorf("condition: %w", err)
	}
	patterns, err := findPatterns(checked.NativeRep())
	if err != nil {
		return nil, fmt.Errorf("condition: %w", err)
	}
	return plan(env, checked, expr, patterns)
}

func plan(env *cel.Env, checked *cel.Ast, expr string, sizes patterns) (*Program, error) {
	counted, err := env.Program(checked, cel.EvalOptions(cel.OptOptimize), guardedMatches(sizes), cel.CostTracking(accounting{sizes}), cel.CostLimit(MaxCost))
	if err != nil {
		return nil, fmt.Errorf("condition: %w", err)
	}
	p := &Program{
		expr:    expr,
		counted: counted,
		uses:    findUses(checked.NativeRep()),
		unmet:   &Failure{Expr: expr, Cause: ErrFalse},
	}
	if cheap(env, checked) {
		p.plain, err = env.Program(checked, cel.EvalOptions(cel.OptOptimize), guardedMatches(sizes))
		if err != nil {
			return nil, fmt.Errorf("condition: %w", err)
		}
	}
	return p, nil
}

// String is the expression.
func (p *Program) String() string { return p.expr }

// Uses reports whether the expression refers to the variable: identity, request,
// subject or now.
func (p *Program) Uses(name string) bool { return p.uses.variables[name] }

// UsesGroups reports whether the expression may look at identity.groups, which
// are dearer to find out than the rest. It never errs towards false.
func (p *Program) UsesGroups() bool { return p.uses.groups }

// Eval returns nil if the condition is true of in, and else a *Failure: with
// ErrFalse if it is false, with the cause if it could not be evaluated (a key
// that a map has not, a claim of another type, too high a cost). As CEL defines
// it, an error in one operand of && or || does not matter if the other operand
// decides. Eval reads in and keeps nothing of it.
func (p *Program) Eval(in Input) error {
	out, err := p.run(&in)
	switch {
	case err != nil:
		return &Failure{Expr: p.expr, Cause: err}
	case out:
		return nil
	default:
		return p.unmet
	}
}

func (p *Program) run(in *Input) (met bool, err error) {
	// CEL recovers panics itself where it can; a condition must deny whatever it
	// does.
	defer func() {
		if r := recover(); r != nil {
			met, err = false, fmt.Errorf("panic: %v", r)
		}
	}()
	prog := p.counted
	if p.plain != nil && p.usual(in) {
		prog = p.plain
	}
	out, _, err := prog.Eval((*activation)(in))
	if err != nil {
		return false, err
	}
	b, ok := out.(types.Bool)
	if !ok {
		return false, fmt.Errorf("the result is a %s", out.Type().TypeName())
	}
	return bool(b), nil
}
