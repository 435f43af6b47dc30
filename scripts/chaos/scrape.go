package chaos

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

// scrapeEvery is often enough to see a plugin that is dead for seconds.
const scrapeEvery = time.Second

// scrape writes down what the mount's metrics are, each second until ctx ends, each with a
// line before it that says when (`# at <Unix milliseconds>`). A target that does not answer
// is such a line alone. bootstrap/monitoring draws a picture of it.
func (w *world) scrape(ctx context.Context, into io.Writer) error {
	ticker := time.NewTicker(scrapeEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case at := <-ticker.C:
			if _, err := fmt.Fprintf(into, "# at %d\n%s", at.UnixMilli(), w.metrics(ctx)); err != nil {
				return err
			}
		}
	}
}

// metrics is the answer of the first node that has one; nothing if none has.
func (w *world) metrics(ctx context.Context) []byte {
	for _, node := range w.root {
		ctx, cancel := context.WithTimeout(ctx, scrapeEvery)
		answer, err := node.Logical().ReadRawWithContext(ctx, mountPath+"/metrics")
		var text []byte
		if answer != nil {
			text, err = io.ReadAll(answer.Body)
			_ = answer.Body.Close()
		}
		cancel()
		if err == nil && answer != nil && answer.StatusCode == http.StatusOK {
			return text
		}
	}
	return nil
}

// keepScrapes begins to scrape into a file, and returns what ends that.
func (w *world) keepScrapes(path string) (end func(), err error) {
	if path == "" {
		return func() {}, nil
	}
	file, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- w.scrape(ctx, file) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Logf("the scrapes are not whole: %v", err)
		}
		_ = file.Close()
	}, nil
}
