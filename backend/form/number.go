package form

import (
	"encoding/json"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// decimal is a number by its digits, so that none of them is lost to floating point: its
// value is 0.digits x 10^point. digits begin and end with another digit than 0; zero has
// none.
type decimal struct {
	negative bool
	digits   string
	point    int
}

// number is RFC 8259 6's, with leading zeros too, which 1*DIGIT has (RFC 6749 A.14).
var number = regexp.MustCompile(`^(-?)([0-9]+)(?:\.([0-9]+))?(?:[eE]([+-]?[0-9]+))?$`)

// maxExponent is more than any text has digits.
const maxExponent = 1 << 30

func parseDecimal(text string) (decimal, bool) {
	parts := number.FindStringSubmatch(text)
	if parts == nil {
		return decimal{}, false
	}
	digits, point := parts[2]+parts[3], len(parts[2])
	if parts[4] != "" {
		exponent, err := strconv.ParseInt(parts[4], 10, 32) // the nearest one, if it is out of range
		if err != nil && exponent == 0 {
			return decimal{}, false
		}
		point += int(min(max(exponent, -maxExponent), maxExponent))
	}
	trimmed := strings.TrimLeft(digits, "0")
	point -= len(digits) - len(trimmed)
	return decimal{negative: parts[1] != "", digits: strings.TrimRight(trimmed, "0"), point: point}, true
}

// CanonicalNumber is the one text for the value of a JSON number: 1, 1.0, 10e-1
// and 1E0 are all "1". Values of moderate size are written plainly, others with an
// exponent. ok is false if s is not a JSON number, or has an exponent that no sensible
// number has.
func CanonicalNumber(s string) (text string, ok bool) {
	whole := strings.TrimPrefix(s, "-")
	if len(whole) > 1 && whole[0] == '0' && '0' <= whole[1] && whole[1] <= '9' {
		return "", false
	}
	if at := strings.IndexAny(s, "eE"); at >= 0 && len(strings.TrimLeft(s[at+1:], "+-")) > 6 {
		return "", false
	}
	d, ok := parseDecimal(s)
	switch {
	case !ok:
		return "", false
	case d.digits == "":
		return "0", true
	case d.negative:
		return "-" + placePoint(d.digits, d.point), true
	}
	return placePoint(d.digits, d.point), true
}

func placePoint(digits string, point int) string {
	const plain = 40 // as many digits as are written without an exponent
	switch {
	case point > plain || point < -plain:
		text := digits[:1]
		if len(digits) > 1 {
			text += "." + digits[1:]
		}
		return text + "e" + strconv.Itoa(point-1)
	case point <= 0:
		return "0." + strings.Repeat("0", -point) + digits
	case point >= len(digits):
		return digits + strings.Repeat("0", point-len(digits))
	default:
		return digits[:point] + "." + digits[point:]
	}
}

// largest stands for every number that is larger.
const largest = int64(1e18)

// WholeNumber is a number in any spelling, leading zeros included, without its fraction,
// which is cut off and never rounded up, as floating point would do. What is beyond
// 10^18 is 10^18.
func WholeNumber(text string) (int64, bool) {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil && text[0] != '+' { // the usual one
		return max(-largest, min(n, largest)), true
	}
	d, ok := parseDecimal(text)
	n := d.whole()
	if d.negative {
		n = -n
	}
	return n, ok
}

func (d decimal) whole() int64 {
	switch {
	case d.digits == "" || d.point <= 0:
		return 0
	case d.point > 18:
		return largest
	}
	text := d.digits + strings.Repeat("0", max(d.point-len(d.digits), 0))
	n, _ := strconv.ParseInt(text[:d.point], 10, 64) // 18 digits fit
	return n
}

// nanoseconds are the first nine digits behind the point.
func (d decimal) nanoseconds() int64 {
	text := d.digits
	switch {
	case d.point >= len(text):
		return 0
	case d.point >= 0:
		text = text[d.point:]
	case d.point > -9:
		text = strings.Repeat("0", -d.point) + text
	default:
		return 0
	}
	n, _ := strconv.ParseInt((text + strings.Repeat("0", 9))[:9], 10, 64)
	return n
}

// lastDate is the end of the year 9999, the last that RFC 3339 can say.
const lastDate = 253402300799

// maxDate bounds the text of a date, in bytes.
const maxDate = 64

// NumericDate reads a NumericDate (RFC 7519 2): seconds since 1970, fractions allowed, as
// a number of the types that a claim may have and nothing else. It is false of what is
// none, is before 1970 or after the year 9999.
func NumericDate(claim any) (time.Time, bool) {
	var text string
	switch v := claim.(type) {
	case int64:
		return time.Unix(v, 0).UTC(), v >= 0 && v <= lastDate
	case int:
		return NumericDate(int64(v))
	case float64:
		text = strconv.FormatFloat(v, 'g', -1, 64)
	case json.Number:
		text = string(v)
	}
	if n, err := strconv.ParseInt(text, 10, 64); err == nil && text[0] != '+' { // the usual one
		return NumericDate(n)
	}
	d, ok := parseDecimal(text)
	seconds := d.whole()
	if !ok || len(text) > maxDate || d.negative && d.digits != "" || seconds > lastDate {
		return time.Time{}, false
	}
	return time.Unix(seconds, d.nanoseconds()).UTC(), true
}
