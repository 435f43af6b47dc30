//go:build !unix

package cli

import "os"

// On Windows the console tells all of its processes of Ctrl-C; there is no other signal.
var terminate = os.Kill

func forwarded() []os.Signal { return []os.Signal{os.Interrupt} }

func ends(os.Signal) bool { return true }

func number(os.Signal) int { return 2 }

func fromTerminal(s os.Signal) bool { return s == os.Interrupt }

func codeOf(state *os.ProcessState) int { return state.ExitCode() }
