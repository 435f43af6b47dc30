package chaos

import (
	"sync"
	"time"
)

// Window is a time in which something was the matter.
type Window struct {
	Kind Kind
	// Line is the line that was broken, "" for processes and operators.
	Line string
	// About is the victim: an entity, a role, a provider.
	About string
	Began time.Time
	// Ended is zero while it lasts, and for what lasts for good.
	Ended time.Time
}

// overlaps reports whether the window touches the time from begin to end.
func (w *Window) overlaps(begin, end time.Time) bool {
	return !w.Began.After(end) && (w.Ended.IsZero() || !w.Ended.Before(begin))
}

// history collects what was done to the system. It is safe for concurrent use.
type history struct {
	mu      sync.Mutex
	windows []*Window
}

// begin notes that something begins now; end must be called when it is over.
func (h *history) begin(kind Kind, line, about string) (end func()) {
	w := &Window{Kind: kind, Line: line, About: about, Began: time.Now()}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.windows = append(h.windows, w)
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		w.Ended = time.Now()
	}
}

// all is a copy of what happened so far.
func (h *history) all() []Window {
	h.mu.Lock()
	defer h.mu.Unlock()
	windows := make([]Window, 0, len(h.windows))
	for _, w := range h.windows {
		windows = append(windows, *w)
	}
	return windows
}
