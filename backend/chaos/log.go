package chaos

import (
	"os"
	"regexp"
	"strings"
	"time"
)

// logged is what the broker itself reported in Vault's logs. Its metrics start
// again with every process; the logs stay.
type logged struct {
	// killedBy counts the grants that were killed, by cause.
	killedBy map[string]int
	// lost are the mints whose answer never arrived.
	lost []lostAnswer
	// bad are lines that must not be there.
	bad []string
}

type lostAnswer struct {
	at       time.Time
	provider string
}

var (
	causeField    = regexp.MustCompile(`\bcause=("[^"]*"|\S+)`)
	providerField = regexp.MustCompile(`\bprovider=(\S+)`)
)

// readLogs reads whole logs.
func readLogs(files []string) (*logged, error) {
	l := &logged{killedBy: map[string]int{}}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(content)) {
			l.add(strings.TrimSpace(line))
		}
	}
	return l, nil
}

func (l *logged) add(line string) {
	switch {
	case strings.Contains(line, "grant killed: "):
		if cause := causeField.FindStringSubmatch(line); cause != nil {
			l.killedBy[strings.Trim(cause[1], `"`)]++
		}
	case strings.Contains(line, "a mint's answer was lost"):
		stamp, _, _ := strings.Cut(line, " ")
		at, err := time.Parse(time.RFC3339Nano, stamp)
		provider := providerField.FindStringSubmatch(line)
		if err != nil || provider == nil {
			l.bad = append(l.bad, line)
			return
		}
		l.lost = append(l.lost, lostAnswer{at: at, provider: provider[1]})
	case strings.Contains(line, "panic: "), strings.Contains(line, "DATA RACE"):
		l.bad = append(l.bad, line)
	}
}
