package harness

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// PluginPIDs are the plugin processes that this Vault runs. One process serves all
// mounts.
func (v *Vault) PluginPIDs(t TB) []int {
	t.Helper()
	return v.pidsOf(t, filepath.Base(PluginPath(t)))
}

// pidsOf are the processes of one program that this Vault runs.
func (v *Vault) pidsOf(t TB, program string) []int {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil || len(stats) == 0 {
		t.Fatalf("finding plugin processes needs /proc")
	}
	var pids []int
	for _, path := range stats {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue // it ended meanwhile
		}
		// pid (name) state ppid …, where the name may hold anything.
		_, rest, _ := strings.Cut(string(stat), ") ")
		fields := strings.Fields(string(stat)[strings.LastIndex(string(stat), ")")+1:])
		if rest == "" || len(fields) < 2 || fields[0] == "Z" || fields[1] != strconv.Itoa(v.process.cmd.Process.Pid) {
			continue
		}
		command, err := os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline"))
		if err != nil || !bytes.Contains(command, []byte(program)) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// KillPlugin ends this Vault's plugin processes without a last word, and returns
// when Vault has noticed. It starts a new one at the next request. What it was just
// asking the plugin is lost, as is what it asks before it notices.
func (v *Vault) KillPlugin(t TB) {
	t.Helper()
	killed := v.PluginPIDs(t)
	if len(killed) == 0 {
		t.Fatalf("this Vault runs no plugin process")
	}
	exits := v.pluginExits(t)
	for _, pid := range killed {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatalf("killing the plugin: %v", err)
		}
	}
	Eventually(t, Patience, "Vault notices that its plugin is gone", func() error {
		if noticed := v.pluginExits(t) - exits; noticed < len(killed) {
			return fmt.Errorf("%d of %d processes", noticed, len(killed))
		}
		return nil
	})
}

func (v *Vault) pluginExits(t TB) int {
	t.Helper()
	log, err := os.ReadFile(v.LogFile())
	if err != nil {
		t.Fatalf("%v", err)
	}
	return bytes.Count(log, []byte("plugin process exited"))
}

// PluginPeakMemory is the largest resident size, in bytes, that any of this Vault's
// plugin processes has had.
func (v *Vault) PluginPeakMemory(t TB) uint64 {
	t.Helper()
	var peak uint64
	for _, pid := range v.PluginPIDs(t) {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(status)) {
			var kib uint64
			if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &kib); n == 1 {
				peak = max(peak, kib<<10)
			}
		}
	}
	if peak == 0 {
		t.Fatalf("this Vault runs no plugin process")
	}
	return peak
}

// KillLeavingPlugins ends the server's process alone, as the kernel does when it
// runs out of memory, and returns the plugin processes that it leaves behind.
// They end with EndOrphan, or with the test.
func (v *Vault) KillLeavingPlugins(t TB) []Orphan {
	t.Helper()
	var orphans []Orphan
	for _, pid := range v.PluginPIDs(t) {
		orphan := Orphan{PID: pid, born: birthOf(pid)}
		orphans = append(orphans, orphan)
		t.Cleanup(orphan.End)
	}
	if err := v.process.cmd.Process.Kill(); err != nil {
		t.Fatalf("killing Vault: %v", err)
	}
	<-v.process.done
	return orphans
}

// Orphan is a plugin process whose Vault is gone.
type Orphan struct {
	PID  int
	born string
}

// Alive reports whether the process is still there.
func (o Orphan) Alive() bool { return o.born != "" && birthOf(o.PID) == o.born }

// End kills the process, unless it is gone: its number may be another's by now.
func (o Orphan) End() {
	if o.Alive() {
		_ = syscall.Kill(o.PID, syscall.SIGKILL)
	}
}

// birthOf is when a process started, in the kernel's ticks; "" if there is none.
func birthOf(pid int) string {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	// pid (name) state ppid …; starttime is the 22nd.
	fields := strings.Fields(string(stat)[strings.LastIndex(string(stat), ")")+1:])
	if len(fields) < 20 || fields[0] == "Z" {
		return ""
	}
	return fields[19]
}
