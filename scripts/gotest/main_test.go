package main

import (
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// toy is a module with packages of one test file each, given by name and content.
func toy(t *testing.T, packages map[string]string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	write := func(content string, path ...string) {
		path = append([]string{dir}, path...)
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(path...)), 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(path...), []byte(content), 0o600))
	}
	write("module toy\n\ngo 1.24\n", "go.mod")
	for name, content := range packages {
		write("package "+name+"\n\n"+content, name, "toy_test.go")
	}
	return dir
}

// tested is what is printed of the toy's tests, without times, line by line.
func tested(t *testing.T, dir string, passed bool, args ...string) (status int, lines []string) {
	t.Helper()
	out := &strings.Builder{}
	status = run(out, io.Discard, dir, passed, append(args, "-count=1", "-vet=off", "./..."))
	t.Log(out)
	text := regexp.MustCompile(`\d+\.\d+s`).ReplaceAllString(out.String(), "0s")
	return status, strings.Split(strings.TrimSuffix(text, "\n"), "\n")
}

const wellBehaved = `import "testing"

func TestFine(t *testing.T) { t.Log("measured: 7") }

func TestAbsent(t *testing.T) { t.Skip("needs a program") }

func TestAbsentToo(t *testing.T) { t.Skip("needs a program") }
`

func TestTheFirstFailureIsTheLastWord(t *testing.T) {
	status, lines := tested(t, toy(t, map[string]string{"fine": wellBehaved, "wrong": `import (
	"strings"
	"testing"
)

func TestFine(t *testing.T) { t.Log("quiet please"); t.Log("hydra | so is its server's log") }

func TestCluster(t *testing.T) {
	t.Run("a node", func(t *testing.T) {
		t.Cleanup(func() { t.Log("vault-1 | starts" + strings.Repeat("\nvault-1 | works", 300) + "\nvault-1 | dies") })
		t.Log("it went well until here")
		t.Fatal("the leader is\ngone")
	})
}

func TestLater(t *testing.T) { t.Error("that too") }
`}), false)
	require.Equal(t, 1, status)
	require.Contains(t, lines, "ok  \ttoy/fine\t0s")
	require.Contains(t, lines, "FAIL\ttoy/wrong\t0s")
	require.Contains(t, lines, "skipped: 2, needs a program")
	text := strings.Join(lines, "\n")
	for _, quiet := range []string{"quiet please", "so is its server's log", "measured", "PASS", "=== RUN"} {
		require.NotContains(t, text, quiet)
	}
	require.Equal(t, 200, strings.Count(text, "vault-1 | "), "the end of a server's log")
	require.Contains(t, text, "vault-1 | dies\n")
	require.Equal(t, 2, strings.Count(text, "that too"), "when it fails, and in the end")
	require.Equal(t, []string{
		"Failed:",
		"  TestCluster/a_node in toy/wrong",
		"  TestLater in toy/wrong",
		"",
		"The first of them, TestCluster/a_node in toy/wrong, said last:",
		"    toy_test.go:13: it went well until here",
		"    toy_test.go:14: the leader is",
		"        gone",
		"FAILED FIRST: TestCluster/a_node in toy/wrong",
		"Alone: go test -count=1 -run '^TestCluster$/^a_node$' toy/wrong",
	}, lines[len(lines)-10:])
}

func TestWhatPassedIsToldIfAskedFor(t *testing.T) {
	status, lines := tested(t, toy(t, map[string]string{"fine": wellBehaved}), true)
	require.Zero(t, status)
	require.Equal(t, []string{
		"--- PASS: TestFine (0s)",
		"    toy_test.go:5: measured: 7",
		"ok  \ttoy/fine\t0s",
		"skipped: 2, needs a program",
	}, lines)
}

func TestAPackageThatIsNotBuilt(t *testing.T) {
	status, lines := tested(t, toy(t, map[string]string{"fine": wellBehaved, "wrong": "func x() int { return nothing }\n"}), false)
	require.Equal(t, 1, status)
	require.Contains(t, lines, "ok  \ttoy/fine\t0s")
	require.Contains(t, lines, "FAIL\ttoy/wrong [build failed]")
	require.Equal(t, "FAILED FIRST: toy/wrong", lines[len(lines)-1])
	require.Contains(t, lines[len(lines)-2], "undefined: nothing")
}

func TestAProcessThatDies(t *testing.T) {
	const dying = `import (
	"testing"
	"time"
)

func TestOther(t *testing.T) { t.Parallel(); time.Sleep(time.Hour) }

func TestThird(t *testing.T) { t.Parallel() }

func TestFourth(t *testing.T) { t.Parallel() }

func TestDeadly(t *testing.T) {
	t.Parallel()
	time.Sleep(time.Second / 10)
	go func() { panic("no more") }()
	time.Sleep(time.Hour)
}
`
	for name, args := range map[string][]string{"it panics": nil, "its time is over": {"-timeout=50ms"}} {
		t.Run(name, func(t *testing.T) {
			status, lines := tested(t, toy(t, map[string]string{"dying": dying}), false, args...)
			require.Equal(t, 1, status)
			text := strings.Join(lines, "\n")
			end := text[strings.LastIndex(text, "Failed:"):]
			require.Contains(t, end, "\n  TestOther in toy/dying")
			require.Contains(t, end, "\n  TestDeadly in toy/dying")
			require.NotContains(t, end, "TestFourth", "it had no turn yet")
			require.Contains(t, end, "said last:\npanic: ")
			require.Regexp(t, `^FAILED FIRST: Test\w+ in toy/dying$`, lines[len(lines)-2])
		})
	}
}

func TestAPackageThatFailsOutsideOfItsTests(t *testing.T) {
	status, lines := tested(t, toy(t, map[string]string{"leaking": `import (
	"fmt"
	"os"
	"testing"
)

func TestMain(m *testing.M) {
	m.Run()
	fmt.Println("a secret stands in the log")
	os.Exit(1)
}

func TestFine(*testing.T) {}
`}), false)
	require.Equal(t, 1, status)
	require.Equal(t, []string{"a secret stands in the log", "FAILED FIRST: toy/leaking"}, lines[len(lines)-2:])
}

func TestEventsAreKept(t *testing.T) {
	dir, kept := toy(t, map[string]string{"fine": wellBehaved}), &strings.Builder{}
	require.Equal(t, 0, run(io.Discard, kept, dir, false, []string{"-count=1", "-vet=off", "./..."}))
	require.Contains(t, kept.String(), `"Action":"pass","Package":"toy/fine","Test":"TestFine"`)
	require.True(t, strings.HasSuffix(kept.String(), "\n"), "each is a line")
}
