package form

import "strings"

// FromFile is a text as its file holds it, without what is there for the file's sake: the
// byte order mark that editors put before it, and the one line end that echo, jq -r and
// editors put behind it. A second line end stays, as does what else ends the text.
func FromFile(text string) string {
	text = strings.TrimPrefix(text, "\uFEFF")
	line, ended := strings.CutSuffix(text, "\n")
	if !ended {
		return text
	}
	return strings.TrimSuffix(line, "\r")
}
