// Command chart draws what the benchmark has found: bin/bench.json becomes the SVG
// that docs/operating.md shows.
//
//	go run ./scripts/bench/chart bin/bench.json docs/bench.svg
package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"github.com/tokenbroker/vault-plugin-secrets-broker/scripts/bench/report"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: chart <bench.json> <chart.svg>")
		os.Exit(2)
	}
	if err := draw(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "chart:", err)
		os.Exit(1)
	}
}

func draw(from, to string) error {
	r, err := report.Read(from)
	if err != nil {
		return fmt.Errorf("%w (`make bench` writes it)", err)
	}
	if r.Settings.Quick {
		return errors.New("the figures of a quick run mean nothing and are not drawn: run `make bench`")
	}
	var svg bytes.Buffer
	if err := r.Chart(&svg); err != nil {
		return err
	}
	return os.WriteFile(to, svg.Bytes(), 0o644)
}
