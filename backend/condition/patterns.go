package condition

import (
	"fmt"
	"regexp/syntax"

	"github.com/google/cel-go/common/ast"
	"github.com/google/cel-go/common/overloads"
)

// maxProgram bounds a compiled pattern, in instructions.
const maxProgram = 4096

// patterns are those of a condition, with how many instructions each has. Its text says
// little of what one costs: the six characters {1000} become a thousand instructions.
type patterns map[string]int

// findPatterns finds the condition's patterns, which are constants by now. CEL has a
// limit of its own on their programs, which panics where there is any repetition.
func findPatterns(checked *ast.AST) (patterns, error) {
	found := patterns{}
	for _, e := range ast.MatchDescendants(ast.NavigateAST(checked), ast.KindMatcher(ast.CallKind)) {
		call := e.AsCall()
		pattern, ok := lastString(call)
		if call.FunctionName() != overloads.Matches || !ok {
			continue
		}
		size, err := programSize(pattern)
		if err != nil {
			return nil, err
		}
		if size > maxProgram {
			return nil, fmt.Errorf("the pattern of matches is too large: it becomes %d instructions, more than %d", size, maxProgram)
		}
		found[pattern] = size
	}
	return found, nil
}

func programSize(pattern string) (int, error) {
	parsed, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return 0, err
	}
	program, err := syntax.Compile(parsed.Simplify())
	if err != nil {
		return 0, err
	}
	return len(program.Inst), nil
}

// size is what the pattern is charged for.
func (p patterns) size(pattern string) int { return max(len(pattern), p[pattern]) }
