package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/harness"
	"github.com/tokenbroker/vault-plugin-secrets-broker/scripts/bench/report"
)

// machine is where this runs.
func machine() report.Machine {
	return report.Machine{CPUs: runtime.NumCPU(), OS: runtime.GOOS, Arch: runtime.GOARCH, Go: runtime.Version()}
}

// machineCPU is what all CPUs have worked since the machine began.
func machineCPU(t harness.TB) time.Duration {
	stat, err := os.ReadFile("/proc/stat")
	if err == nil {
		var worked time.Duration
		if worked, err = parseWorked(string(stat)); err == nil {
			return worked
		}
	}
	t.Fatalf("what the machine's CPUs do: %v", err)
	return 0
}

// parseWorked adds up the first line of /proc/stat: user, nice, system, idle, iowait,
// irq, softirq, steal. What another guest took (steal) is work of others too.
func parseWorked(stat string) (time.Duration, error) {
	line, _, _ := strings.Cut(stat, "\n")
	fields := strings.Fields(line)
	if len(fields) < 9 || fields[0] != "cpu" {
		return 0, fmt.Errorf("unexpected /proc/stat: %q", line)
	}
	var worked time.Duration
	for i, field := range fields[1:9] {
		ticks, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("unexpected /proc/stat: %q", line)
		}
		if idle := i == 3 || i == 4; !idle {
			worked += time.Duration(ticks) * harness.ClockTick
		}
	}
	return worked, nil
}
