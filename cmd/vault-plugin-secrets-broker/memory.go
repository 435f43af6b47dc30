package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// room is how much garbage may lie about where less than that lives. What lives is about
// 10 MiB in a plugin with few grants: Go, which waits for as much garbage as lives, would
// collect many times a second, in a tenth of the plugin's time (make profile). From room on
// nothing is different, so a plugin that has to remember a million grants takes no more.
const room = 16 << 20

// goPercent is what Go does unasked.
const goPercent = 100

// paceCollector makes room for garbage, unless the operator has said by GOGC how often to
// collect. GOMEMLIMIT is heeded by Go itself.
func paceCollector() {
	if os.Getenv("GOGC") != "" {
		return
	}
	pace := func() { debug.SetGCPercent(percentFor(scanned())) }
	pace()
	afterEachCollection(pace)
}

// least is what Go takes the percentage of, if less lives.
const least = 4 << 20

// percentFor is the GOGC by which room, or as much as lives if that is more, is the garbage
// that makes Go collect.
func percentFor(lives uint64) int {
	if lives >= room {
		return goPercent
	}
	return 100 * room / int(max(lives, least))
}

// scanned is what GOGC is a percentage of: what the last collection has left, and what it had
// to look through beside that.
func scanned() (bytes uint64) {
	samples := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/scan/stack:bytes"}, {Name: "/gc/scan/globals:bytes"}}
	metrics.Read(samples)
	for _, s := range samples {
		if s.Value.Kind() == metrics.KindUint64 { // else this Go has no such metric
			bytes += s.Value.Uint64()
		}
	}
	return bytes
}

// afterEachCollection has do called once after each, by way of garbage that is there for
// nothing else: Go tells nobody.
func afterEachCollection(do func()) {
	var collected func(*[]byte)
	collected = func(garbage *[]byte) {
		do()
		runtime.SetFinalizer(garbage, collected)
	}
	runtime.SetFinalizer(new([]byte), collected)
}
