// Command picture draws what the dashboard shows of a mount that was scraped: it is no
// screenshot of Grafana, but its queries are evaluated by Prometheus' own engine.
//
//	go run ./picture -scrapes <file of make chaos SCRAPES=> -dashboard <grafana.json> -to <svg>
package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	monitoring "github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/monitoring"
)

func main() {
	scrapes := flag.String("scrapes", "", "what make chaos SCRAPES= has written")
	dashboard := flag.String("dashboard", "", "the dashboard")
	to := flag.String("to", "", "the picture")
	flag.Parse()
	if err := run(*scrapes, *dashboard, *to); err != nil {
		fmt.Fprintln(os.Stderr, "picture:", err)
		os.Exit(1)
	}
}

func run(scrapes, dashboard, to string) error {
	d, err := monitoring.ReadDashboard(dashboard)
	if err != nil {
		return err
	}
	in, err := os.Open(scrapes)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	dir, err := os.MkdirTemp("", "tokenbroker-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	store, err := monitoring.OpenStore(dir, "instance", "vault", "mount", "broker")
	if err != nil {
		return err
	}
	var svg bytes.Buffer
	from, until, err := load(store, in)
	if err == nil {
		err = draw(&svg, d, store, from, until)
	}
	if err := errors.Join(err, store.Close()); err != nil {
		return err
	}
	return os.WriteFile(to, svg.Bytes(), 0o644)
}

// load appends the scrapes of a fault run, each of which has a line before it that says when.
func load(store *monitoring.Store, in io.Reader) (from, until time.Time, err error) {
	lines := bufio.NewReader(in)
	var text []byte
	flush := func() error {
		if until.IsZero() {
			return nil
		}
		if from.IsZero() {
			from = until
		}
		if len(text) == 0 {
			text = nil // it did not answer
		}
		return store.Append(context.Background(), until, text)
	}
	for {
		line, readErr := lines.ReadString('\n')
		if at, found := strings.CutPrefix(line, "# at "); found {
			if err := flush(); err != nil {
				return from, until, err
			}
			milliseconds, err := strconv.ParseInt(strings.TrimSpace(at), 10, 64)
			if err != nil {
				return from, until, err
			}
			until, text = time.UnixMilli(milliseconds), nil
		} else {
			text = append(text, line...)
		}
		if errors.Is(readErr, io.EOF) {
			break
		}
		if readErr != nil {
			return from, until, readErr
		}
	}
	if err := flush(); err != nil {
		return from, until, err
	}
	if from.IsZero() {
		return from, until, errors.New("nothing was scraped")
	}
	return from, until, nil
}
