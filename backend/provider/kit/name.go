package kit

import (
	"crypto/sha512"
	"fmt"
	"math"
	"math/big"
	"strings"
)

// Names makes the names that a grant's children have at the provider. They come from the
// grant's id alone, so that what a mint has left behind can be looked for by whoever
// knows the id, and nobody need remember the name.
//
// A grant's id has 69 characters and more, of any alphabet: it begins with the holder's
// id, about which nothing is known. A name has as many as the system takes, of its
// alphabet, and tells nothing about the holder.
type Names struct {
	prefix, digits string
	count          int
}

// LowerDigits are the characters that stand anywhere but at the beginning in the names
// of every system that we know. A prefix with a letter begins the name.
const LowerDigits = "abcdefghijklmnopqrstuvwxyz0123456789"

// With nameBits the chance that two grants have the same name is negligible; with fewer
// than leastBits somebody could search for an id that has another's name.
const (
	nameBits  = 160
	leastBits = 112
)

// MustNames makes names that begin with the prefix and then consist of digits, such as
// LowerDigits, of at most that many characters in all. It panics if that is too little
// to tell grants apart: that is a mistake in the type that asks for it, not in any
// configuration.
func MustNames(prefix string, atMost int, digits string) Names {
	each := math.Log2(float64(len(digits)))
	count := min(atMost-len(prefix), int(math.Ceil(nameBits/each)))
	if float64(count)*each < leastBits {
		panic(fmt.Sprintf("names of %d characters that begin with %q have no room for %d bits", atMost, prefix, leastBits))
	}
	return Names{prefix: prefix, digits: digits, count: count}
}

// Of is the name of the grant's child. A grant with several children at the provider
// uses it for one of each kind.
func (n Names) Of(grantID string) string {
	sum := sha512.Sum512([]byte(grantID))
	rest, radix, digit := new(big.Int).SetBytes(sum[:]), big.NewInt(int64(len(n.digits))), new(big.Int)
	var name strings.Builder
	name.WriteString(n.prefix)
	for range n.count {
		rest.DivMod(rest, radix, digit)
		name.WriteByte(n.digits[digit.Int64()])
	}
	return name.String()
}
