package acceptance

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// block is one block of commands in a document.
type block struct {
	where    string   // file and line
	as       []string // policies
	never    bool     // none of it is run
	except   string   // what a command begins with that is not run
	commands []command
}

// command is one command of a block, or a step that its reader does elsewhere.
type command struct {
	where, text string
	step, never bool
	shown       []string // lines of output
}

var (
	runAs    = regexp.MustCompile(`^<!-- run as ([a-z, ]+?)(?:, but not "([^"]+)": .+)? -->$`)
	runNever = regexp.MustCompile(`^<!-- not run: .+ -->$`)
)

// blocksOf are the commands of a document. Above each block a comment, which no reader
// sees, says with which policies it is run, or why it is not.
func blocksOf(t *testing.T, name, content string) []block {
	t.Helper()
	var found []block
	before, inside := "", false
	for i, line := range strings.Split(content, "\n") {
		where := fmt.Sprintf("%s:%d", name, i+1)
		switch {
		case !inside && line == "```console":
			found = append(found, newBlock(t, where, before))
			inside = true
		case !inside:
			before = line
		case line == "```":
			inside, before = false, ""
		default:
			found[len(found)-1].take(t, where, line)
		}
	}
	require.False(t, inside, "%s: a block without an end", name)
	for _, b := range found {
		require.NotEmpty(t, b.commands, b.where)
		skipped := 0
		for _, c := range b.commands {
			if c.never {
				skipped++
			}
		}
		require.Equal(t, b.never || b.except != "", skipped > 0, "%s: what is not run is not there", b.where)
	}
	return found
}

func newBlock(t *testing.T, where, before string) block {
	t.Helper()
	if runNever.MatchString(before) {
		return block{where: where, never: true}
	}
	as := runAs.FindStringSubmatch(before)
	require.NotNil(t, as, "%s: the line above must say as whom it is run, or why it is not: see CONTRIBUTING.md", where)
	return block{where: where, as: strings.Split(as[1], ", "), except: as[2]}
}

// take reads one line of a block: a command, more of it, a step, or what it prints.
func (b *block) take(t *testing.T, where, line string) {
	t.Helper()
	text, isCommand := strings.CutPrefix(line, "$ ")
	step := strings.HasPrefix(line, "# ")
	if isCommand || step {
		never := b.never || b.except != "" && strings.HasPrefix(text, b.except)
		b.commands = append(b.commands, command{where: where, text: text, step: step, never: never})
		return
	}
	require.NotEmpty(t, b.commands, "%s: what is this the output of?", where)
	last := &b.commands[len(b.commands)-1]
	if strings.HasPrefix(line, "  ") {
		last.text += "\n" + line
		return
	}
	last.shown = append(last.shown, line)
}

// The rules by which the documents are read.
func TestBlocksOfADocument(t *testing.T) {
	t.Parallel()
	found := blocksOf(t, "x.md", "text\n\n<!-- run as operators, agents, but not \"make\": it is slow -->\n```console\n$ make all\n$ vault read \\\n    a/<b>\nKey … Value\n# go there\n$ date  # now\n```\n<!-- not run: it is\ndangerous -->\n"+
		"<!-- not run: it burns -->\n```console\n$ fire\n```\n```text\n$ nothing\n```\n")
	require.Equal(t, []block{
		{where: "x.md:4", as: []string{"operators", "agents"}, except: "make", commands: []command{
			{where: "x.md:5", text: "make all", never: true},
			{where: "x.md:6", text: "vault read \\\n    a/<b>", shown: []string{"Key … Value"}},
			{where: "x.md:9", text: "# go there", step: true},
			{where: "x.md:10", text: "date  # now"},
		}},
		{where: "x.md:15", never: true, commands: []command{{where: "x.md:16", text: "fire", never: true}}},
	}, found)
}
