package harness

import (
	"os"
	"regexp"
	"strings"
)

// pageFile is a block of a page that is a file: its first line is a comment with the file's
// name. The policies of docs/operating.md are such blocks, too.
var pageFile = regexp.MustCompile("(?s)\n```[a-z]+\n(# ([\\w.-]+\\.[a-z]+): .*?\n)```\n")

// PageFiles are the files that a page of the documents shows, by their names.
func PageFiles(t TB, page string) map[string]string {
	t.Helper()
	content, err := os.ReadFile(page)
	if err != nil {
		t.Fatalf("%v", err)
	}
	files := map[string]string{}
	for _, found := range pageFile.FindAllStringSubmatch(string(content), -1) {
		if files[found[2]] != "" {
			t.Fatalf("%s shows two files of the name %s", page, found[2])
		}
		files[found[2]] = found[1]
	}
	return files
}

// PageCommands are the commands of those console blocks of a page that are not run with those
// of the other pages: the comment above says so.
func PageCommands(t TB, page string) []string {
	t.Helper()
	content, err := os.ReadFile(page)
	if err != nil {
		t.Fatalf("%v", err)
	}
	var commands []string
	inside, before := false, ""
	for line := range strings.Lines(string(content)) {
		switch line = strings.TrimSuffix(line, "\n"); {
		case line == "```console":
			inside = strings.HasPrefix(before, "<!-- not run: ")
		case line == "```":
			inside = false
		case inside && strings.HasPrefix(line, "$ "):
			commands = append(commands, line[2:])
		case inside && strings.HasPrefix(line, "  ") && len(commands) > 0:
			commands[len(commands)-1] += "\n" + line
		}
		before = line
	}
	return commands
}
