package jwks

import (
	"crypto/sha256"
	"slices"
	"sync"
)

// good remembers signatures of one key that have been verified: whoever acts on another's
// behalf brings that one's token time after time, and to verify it takes a fifth of an
// exchange (make profile). That is no word on the token. A signature is good for as long as
// the key is trusted, which is asked each time; the key's memory goes with the key, and
// everything else about the token is judged each time as well. Only hashes are kept. It is
// safe for concurrent use.
type good struct {
	mu sync.Mutex
	// recent are those of late, older those of before.
	recent, older map[digest]struct{}
}

// maxGood bounds recent, and older, at some fifty bytes each.
const maxGood = 4096

// digest tells a token with its signature from every other.
type digest [sha256.Size]byte

// digest is of all that is verified, in the one spelling that Parse lets it have.
func (t *Token) digest() digest {
	return sha256.Sum256(slices.Concat(t.signed, []byte("."), t.signature))
}

func (g *good) has(d digest) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, known := g.recent[d]; known {
		return true
	}
	_, known := g.older[d]
	if known {
		g.addLocked(d)
	}
	return known
}

func (g *good) add(d digest) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.addLocked(d)
}

func (g *good) addLocked(d digest) {
	if g.recent == nil || len(g.recent) >= maxGood {
		g.recent, g.older = map[digest]struct{}{}, g.recent
	}
	g.recent[d] = struct{}{}
}
