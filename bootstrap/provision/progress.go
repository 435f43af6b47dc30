package main

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"runtime"
	"strings"
	"sync"
	"time"
)

const (
	progressEvery = 10 * time.Second
	linesKept     = 40

	// usualPace is how many bytes of source one core compiles in a second, roughly.
	// What a run measures counts more and more: as much once it has compiled trial.
	usualPace = 0.25e6
	trial     = 5e6
	// Linking takes as long as compiling this much.
	linking = 2e6
)

// A board shows how far the programs are that a run makes.
type board struct {
	out io.Writer
	now func() time.Time

	mu       sync.Mutex
	programs []*progress
	began    time.Time // when the first began to compile
	compiled float64   // bytes, by all of them
}

func newBoard(out io.Writer) *board { return &board{out: out, now: time.Now} }

// progress is how far one program is. It reads what the commands say that make it.
type progress struct {
	board *board
	name  string

	// Under the board's lock.
	started   time.Time // zero while it only waits, or is done
	at        string    // what it is at, while it compiles nothing
	downloads int
	left      float64            // bytes to compile, a guess before sizes are known
	sizes     map[string]float64 // of the packages that it has yet to begin with
	packages  int                // to compile in all
	standard  int                // of the standard library, yet to begin with
	release   func()             // called when these have begun, or at the end
	rest      []byte
	lines     []string
}

// add puts a program on the board. megabytes is how much source is compiled where
// nothing is in the cache.
func (b *board) add(name string, megabytes float64) *progress {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := &progress{board: b, name: name, left: megabytes*1e6 + linking}
	b.programs = append(b.programs, p)
	return p
}

// doing says what the program is at, while it compiles nothing.
func (p *progress) doing(what string) {
	p.board.mu.Lock()
	defer p.board.mu.Unlock()
	if p.started.IsZero() {
		p.started = p.board.now()
	}
	p.at = what
}

// compiling says what there is to compile. release is called once all of the standard
// library has begun.
func (p *progress) compiling(sizes map[string]float64, release func()) {
	p.board.mu.Lock()
	defer p.board.mu.Unlock()
	if p.board.began.IsZero() {
		p.board.began = p.board.now()
	}
	p.at, p.sizes, p.packages, p.left, p.release = "", sizes, len(sizes), linking, release
	for imported, size := range sizes {
		p.left += size
		if isStandard(imported) {
			p.standard++
		}
	}
	p.releaseIfDone()
}

// end says that nothing more comes.
func (p *progress) end() {
	p.board.mu.Lock()
	defer p.board.mu.Unlock()
	p.started, p.left, p.standard = time.Time{}, 0, 0
	p.releaseIfDone()
}

func (p *progress) releaseIfDone() {
	if p.standard == 0 && p.release != nil {
		p.release()
		p.release = nil
	}
}

// Write implements io.Writer for what a command says.
func (p *progress) Write(said []byte) (int, error) {
	p.board.mu.Lock()
	defer p.board.mu.Unlock()
	p.rest = append(p.rest, said...)
	for {
		line, rest, found := bytes.Cut(p.rest, []byte("\n"))
		if !found {
			return len(said), nil
		}
		p.rest = rest
		p.read(string(line))
	}
}

func (p *progress) read(line string) {
	p.lines = append(p.lines, line)
	p.lines = p.lines[max(0, len(p.lines)-linesKept):]
	size, compiles := p.sizes[line]
	switch module, downloads := strings.CutPrefix(line, "go: downloading "); {
	case downloads:
		p.downloads++
		p.at = fmt.Sprintf("downloading modules, %d so far, now %s", p.downloads, module)
	case compiles:
		delete(p.sizes, line)
		p.at = line
		p.left -= size
		p.board.compiled += size
		if isStandard(line) {
			p.standard--
			p.releaseIfDone()
		}
	case p.sizes == nil:
		p.at = line
	}
}

// said is the end of what the commands have said.
func (p *progress) said() string {
	p.board.mu.Lock()
	defer p.board.mu.Unlock()
	return strings.Join(append(p.lines, string(p.rest)), "\n")
}

// isStandard tells import paths of the standard library, which name no host.
func isStandard(imported string) bool {
	host, _, _ := strings.Cut(imported, "/")
	return !strings.Contains(host, ".")
}

// show prints a line for each program under way, and how long all of them still take.
func (b *board) show() {
	b.mu.Lock()
	defer b.mu.Unlock()
	var left float64
	for _, p := range b.programs {
		left += p.left
		if !p.started.IsZero() {
			fmt.Fprintf(b.out, "%s: %s\n", p.name, p.state())
		}
	}
	fmt.Fprintf(b.out, "about %s left\n", b.time(left))
}

func (p *progress) state() string {
	text := fmt.Sprintf("%3.0f s, ", p.board.now().Sub(p.started).Seconds())
	if p.sizes != nil {
		text += fmt.Sprintf("%d of %d packages, ", p.packages-len(p.sizes), p.packages)
	}
	switch {
	case p.sizes != nil && len(p.sizes) == 0:
		return text + "finishing"
	case p.at == "":
		return text + "starting"
	}
	return text + p.at
}

// time is how long it takes to compile so much, at the pace of this run.
func (b *board) time(size float64) time.Duration {
	usual := usualPace * float64(runtime.NumCPU())
	seconds := size / usual
	if !b.began.IsZero() {
		spent := b.now().Sub(b.began).Seconds()
		seconds = size * (spent + trial/usual) / (b.compiled + trial)
	}
	return time.Duration(math.Ceil(seconds/10)) * 10 * time.Second
}

// showing prints the board now and then until the returned function is called.
func (b *board) showing() (stop func()) {
	ticker, done := time.NewTicker(progressEvery), make(chan struct{})
	go func() {
		for {
			select {
			case <-ticker.C:
				b.show()
			case <-done:
				return
			}
		}
	}()
	return func() { ticker.Stop(); close(done) }
}
