package subject

import (
	"strconv"
	"strings"
)

// canonicalNumber is the one text for the value of a JSON number: 1, 1.0, 10e-1
// and 1E0 are all "1". It works on the text, so that no digit of a large
// identifier is lost to floating point. Values of moderate size are written
// plainly, others with an exponent. ok is false if s is not a JSON number, or
// has an exponent that no sensible number has.
func canonicalNumber(s string) (text string, ok bool) {
	negative, whole, fraction, exponent, ok := splitNumber(s)
	if !ok {
		return "", false
	}
	// The value is 0.digits x 10^point.
	digits, point := whole+fraction, len(whole)+exponent
	trimmed := strings.TrimLeft(digits, "0")
	point -= len(digits) - len(trimmed)
	digits = strings.TrimRight(trimmed, "0")
	if digits == "" {
		return "0", true
	}
	text = placePoint(digits, point)
	if negative {
		text = "-" + text
	}
	return text, true
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

// splitNumber takes a number of RFC 8259 6's grammar apart.
func splitNumber(s string) (negative bool, whole, fraction string, exponent int, ok bool) {
	rest, negative := strings.CutPrefix(s, "-")
	whole, rest = leadingDigits(rest)
	if whole == "" || len(whole) > 1 && whole[0] == '0' {
		return false, "", "", 0, false
	}
	if after, found := strings.CutPrefix(rest, "."); found {
		if fraction, rest = leadingDigits(after); fraction == "" {
			return false, "", "", 0, false
		}
	}
	if rest != "" {
		if rest[0] != 'e' && rest[0] != 'E' {
			return false, "", "", 0, false
		}
		if exponent, ok = parseExponent(rest[1:]); !ok {
			return false, "", "", 0, false
		}
	}
	return negative, whole, fraction, exponent, true
}

func leadingDigits(s string) (digits, rest string) {
	i := 0
	for i < len(s) && '0' <= s[i] && s[i] <= '9' {
		i++
	}
	return s[:i], s[i:]
}

func parseExponent(s string) (int, bool) {
	sign := 1
	if s != "" && (s[0] == '+' || s[0] == '-') {
		if s[0] == '-' {
			sign = -1
		}
		s = s[1:]
	}
	digits, rest := leadingDigits(s)
	if digits == "" || rest != "" || len(digits) > 6 {
		return 0, false
	}
	n, err := strconv.Atoi(digits)
	return sign * n, err == nil
}
