package grant

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"maps"
	"slices"
	"strconv"
	"time"
)

// Share is one of the leases that share a token.
type Share struct {
	// Name tells it from the grant's others, those of before too: Vault repeats the end of
	// a lease.
	Name string
	// Ends is when the lease does, in Unix milliseconds.
	Ends int64
}

// SetShare notes a lease that shares the token, or its new end.
func (g *Grant) SetShare(name string, ends time.Time) {
	if i := g.share(name); i >= 0 {
		g.Shares[i].Ends = ends.UnixMilli()
	} else {
		g.Shares = append(g.Shares, Share{name, ends.UnixMilli()})
	}
	g.endWithShares()
}

// EndShare forgets a lease that shared the token. Forgetting one that is unknown is
// no error: Vault may repeat it.
func (g *Grant) EndShare(name string) {
	if i := g.share(name); i >= 0 {
		g.Shares = slices.Delete(g.Shares, i, i+1)
	}
	g.endWithShares()
}

// HasShare reports whether a lease of that name shares the token.
func (g *Grant) HasShare(name string) bool { return g.share(name) >= 0 }

func (g *Grant) share(name string) int {
	return slices.IndexFunc(g.Shares, func(s Share) bool { return s.Name == name })
}

func (g *Grant) endWithShares() {
	if last := lastEnd(g.Shares); last > 0 {
		g.LeaseEnds = time.UnixMilli(last).UTC()
	}
}

func lastEnd(shares []Share) (last int64) {
	for _, s := range shares {
		last = max(last, s.Ends)
	}
	return last
}

// storedShares are a grant's shares on record. Every lease that is added writes all of
// them, so that those whose names are numbers are a text of some five characters each
// (BenchmarkShares). Builds of before know ByName alone. There they find one share which
// no lease has, so that for them the token lives until the last lease would have ended,
// and none of its leases is renewed; what they write has that share alone, and this build
// reads it as they do.
type storedShares struct {
	ByName map[string]int64 `json:"shares,omitempty"`
	// Listed has of each share the differences of number and end to those of the one
	// before, as varints, in base64.
	Listed string `json:"share_list,omitempty"`
}

// standIn is the name of the share that builds of before find.
const standIn = "+"

func storeShares(shares []Share) storedShares {
	if len(shares) == 0 {
		return storedShares{}
	}
	raw := make([]byte, 0, 8*len(shares))
	var before struct{ number, ends int64 }
	for _, s := range shares {
		number, ok := shareNumber(s.Name)
		if !ok { // it is of a build of before
			return storedShares{ByName: byName(shares)}
		}
		raw = binary.AppendVarint(raw, number-before.number)
		raw = binary.AppendVarint(raw, s.Ends-before.ends)
		before.number, before.ends = number, s.Ends
	}
	return storedShares{ByName: map[string]int64{standIn: lastEnd(shares)}, Listed: base64.RawStdEncoding.EncodeToString(raw)}
}

// shareNumber is the number that is a share's name; false of any other name.
func shareNumber(name string) (number int64, ok bool) {
	number, err := strconv.ParseInt(name, 10, 64)
	return number, err == nil && number > 0 && ShareName(number) == name
}

// ShareName is the name of a share by its number.
func ShareName(number int64) string { return strconv.FormatInt(number, 10) }

func byName(shares []Share) map[string]int64 {
	named := make(map[string]int64, len(shares))
	for _, s := range shares {
		named[s.Name] = s.Ends
	}
	return named
}

var errShares = errors.New("its list of shares is broken")

func (s storedShares) shares() ([]Share, error) {
	if s.Listed == "" {
		var shares []Share
		for _, name := range slices.Sorted(maps.Keys(s.ByName)) {
			shares = append(shares, Share{name, s.ByName[name]})
		}
		return shares, nil
	}
	raw, err := base64.RawStdEncoding.DecodeString(s.Listed)
	if err != nil {
		return nil, errShares
	}
	var shares []Share
	var number, ends int64
	for len(raw) > 0 {
		for _, sum := range []*int64{&number, &ends} {
			difference, n := binary.Varint(raw)
			if n <= 0 {
				return nil, errShares
			}
			*sum, raw = *sum+difference, raw[n:]
		}
		shares = append(shares, Share{ShareName(number), ends})
	}
	return shares, nil
}
