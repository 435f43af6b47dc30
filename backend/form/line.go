package form

import "strings"

// WithoutLineEnd is a line as a file holds it, without the one line end that echo, jq -r
// and editors put behind it. A second one stays, as does what else ends the text.
func WithoutLineEnd(text string) string {
	line, ended := strings.CutSuffix(text, "\n")
	if !ended {
		return text
	}
	return strings.TrimSuffix(line, "\r")
}
