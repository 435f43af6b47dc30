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
	// deaths are what was said of each grant that was killed, by its id.
	deaths map[string]string
	// lost are the mints whose answer never arrived.
	lost []lostAnswer
	// bad are lines that must not be there.
	bad []string
}

type lostAnswer struct {
	at             time.Time
	provider, role string
}

// The broker's events are told by a field of their own: the text beside it is for people.
const (
	eventKilled = "grant_killed"
	eventLost   = "answer_lost"
)

// logPrecision is what the broker's own time is cut to in a line.
const logPrecision = time.Millisecond

var fields = regexp.MustCompile(`(?:^| )([a-z_]+)=("(?:[^"\\]|\\.)*"|\S+)`)

// readLogs reads whole logs.
func readLogs(files []string) (*logged, error) {
	l := &logged{killedBy: map[string]int{}, deaths: map[string]string{}}
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
	said := map[string]string{}
	for _, field := range fields.FindAllStringSubmatch(line, -1) {
		said[field[1]] = strings.Trim(field[2], `"`)
	}
	switch said["event"] {
	case eventKilled:
		if said["cause"] == "" {
			l.bad = append(l.bad, line)
			return
		}
		l.killedBy[said["cause"]]++
		l.deaths[said["grant_id"]] = "killed at " + said["timestamp"] + " by " + said["cause"]
	case eventLost:
		at, err := time.Parse(time.RFC3339Nano, said["timestamp"])
		if err != nil || said["provider"] == "" || said["role"] == "" {
			l.bad = append(l.bad, line)
			return
		}
		l.lost = append(l.lost, lostAnswer{at: at, provider: said["provider"], role: said["role"]})
	default:
		if strings.Contains(line, "panic: ") || strings.Contains(line, "DATA RACE") { // the words of Go's own runtime
			l.bad = append(l.bad, line)
		}
	}
}
