package main

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestProgressSaysWhatHowFarAndHowLong(t *testing.T) {
	var shown strings.Builder
	now := time.Unix(0, 0)
	b := newBoard(&shown)
	b.now = func() time.Time { return now }
	see := func(want ...string) {
		t.Helper()
		shown.Reset()
		b.show()
		for _, w := range want {
			if !strings.Contains(shown.String(), w) {
				t.Errorf("no %q in\n%s", w, shown.String())
			}
		}
	}
	big, later := b.add("big", 100), b.add("later", 0)
	big.doing("starting")
	now = now.Add(10 * time.Second)
	see("big:  10 s, starting", "left")
	if strings.Contains(shown.String(), "later") {
		t.Errorf("it shows what has not begun:\n%s", shown.String())
	}
	fmt.Fprint(big, "go: downloading example.com/a v1.0.0\ngo: downloading exam")
	see("downloading modules, 1 so far, now example.com/a v1.0.0")
	fmt.Fprint(big, "ple.com/b v1.0.0\n")
	see("2 so far, now example.com/b")

	sizes := map[string]float64{}
	for i := range 100 {
		sizes[fmt.Sprintf("example.com/p%d", i)] = 1e6
	}
	big.compiling(sizes, nil)
	see("0 of 100 packages, starting")
	for i := range 50 {
		now = now.Add(2 * time.Second)
		fmt.Fprintf(big, "example.com/p%d\n", i)
	}
	fmt.Fprint(big, "# example.com/p49\nsome warning\nexample.com/unlisted\n")
	// Half of it took 100 s, so the rest takes about as long.
	see("50 of 100 packages, example.com/p49")
	_, left, _ := strings.Cut(strings.TrimSuffix(shown.String(), " left\n"), "about ")
	if d, err := time.ParseDuration(left); err != nil || d < 80*time.Second || d > 120*time.Second {
		t.Errorf("%q left: %v", left, err)
	}
	later.doing("starting")
	see("later:")
	for i := 50; i < 100; i++ {
		fmt.Fprintf(big, "example.com/p%d\n", i)
	}
	see("100 of 100 packages, finishing")
	big.end()
	later.end()
	see("about 0s left")
	if strings.Contains(shown.String(), "big") {
		t.Errorf("it still shows what is done:\n%s", shown.String())
	}
}

// Two builds that begin at the same time would both compile the standard library.
func TestOthersWaitUntilTheStandardLibraryIsUnderWay(t *testing.T) {
	released := 0
	begin := func(sizes map[string]float64) *progress {
		released = 0
		p := newBoard(&strings.Builder{}).add("x", 0)
		p.compiling(sizes, func() { released++ })
		return p
	}
	p := begin(map[string]float64{"fmt": 1, "net/http": 1, "example.com/a": 1})
	fmt.Fprint(p, "fmt\nexample.com/a\n")
	if released != 0 {
		t.Fatal("released while net/http is to be compiled")
	}
	fmt.Fprint(p, "net/http\n")
	p.end()
	if released != 1 {
		t.Fatalf("released %d times", released)
	}
	begin(map[string]float64{"fmt": 1}).end() // it failed
	if released != 1 {
		t.Fatalf("released %d times", released)
	}
	begin(map[string]float64{"example.com/a": 1})
	if released != 1 {
		t.Fatalf("released %d times", released)
	}
}
