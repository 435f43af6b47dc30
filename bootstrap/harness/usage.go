package harness

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// Usage is what a process has used since it began. It needs /proc.
type Usage struct {
	CPU  time.Duration // of all its threads, in steps of ClockTick
	RSS  uint64        // bytes resident now
	Peak uint64        // the most bytes that ever were
}

// ClockTick is the unit of the times in /proc: Linux fixes it for programs, whatever
// its own clock does.
const ClockTick = 10 * time.Millisecond

// Usage is what the server's own process has used, without its plugins.
func (v *Vault) Usage(t TB) Usage {
	t.Helper()
	return usageOf(t, v.process.cmd.Process.Pid)
}

// PluginUsage is what the processes of one plugin have used together; of the peaks
// it is the highest.
func (v *Vault) PluginUsage(t TB, plugin string) Usage {
	t.Helper()
	pids := v.pidsOf(t, plugin)
	if len(pids) == 0 {
		t.Fatalf("this Vault runs no process of %s", plugin)
	}
	var sum Usage
	for _, pid := range pids {
		u := usageOf(t, pid)
		sum.CPU, sum.RSS, sum.Peak = sum.CPU+u.CPU, sum.RSS+u.RSS, max(sum.Peak, u.Peak)
	}
	return sum
}

func usageOf(t TB, pid int) Usage {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatalf("what a process uses: %v", err)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatalf("what a process uses: %v", err)
	}
	u, err := parseUsage(string(stat), string(status))
	if err != nil {
		t.Fatalf("what process %d uses: %v", pid, err)
	}
	return u
}

// parseUsage reads /proc/<pid>/stat and /proc/<pid>/status, proc(5).
func parseUsage(stat, status string) (Usage, error) {
	// pid (name) state ppid …, where the name may hold anything; utime and stime are
	// the 14th and the 15th.
	fields := strings.Fields(stat[strings.LastIndex(stat, ")")+1:])
	if len(fields) < 13 {
		return Usage{}, fmt.Errorf("unexpected stat %q", stat)
	}
	var u Usage
	for _, field := range fields[11:13] {
		ticks, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return Usage{}, fmt.Errorf("unexpected stat %q", stat)
		}
		u.CPU += time.Duration(ticks) * ClockTick
	}
	for line := range strings.Lines(status) {
		var kib uint64
		if n, _ := fmt.Sscanf(line, "VmRSS: %d kB", &kib); n == 1 {
			u.RSS = kib << 10
		}
		if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &kib); n == 1 {
			u.Peak = kib << 10
		}
	}
	if u.RSS == 0 || u.Peak == 0 {
		return Usage{}, fmt.Errorf("no resident size: has the process ended?")
	}
	return u, nil
}
