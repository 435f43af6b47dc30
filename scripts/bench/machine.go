package main

import (
	"fmt"
	"os"
	"runtime"

	"github.com/tokenbroker/vault-plugin-secrets-broker/scripts/bench/report"
)

// machine is where this runs. A load average that cannot be read is 0.
func machine() report.Machine {
	m := report.Machine{CPUs: runtime.NumCPU(), OS: runtime.GOOS, Arch: runtime.GOARCH, Go: runtime.Version()}
	if load, err := os.ReadFile("/proc/loadavg"); err == nil {
		_, _ = fmt.Sscan(string(load), &m.LoadAverage)
	}
	return m
}
