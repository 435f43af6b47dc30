package access

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// RFC 6749 3.3: scope-token = 1*( %x21 / %x23-5B / %x5D-7E ), byte by byte.
func TestCheckScopeAlphabet(t *testing.T) {
	for c := range 256 {
		want := c == 0x21 || 0x23 <= c && c <= 0x5b || 0x5d <= c && c <= 0x7e
		for _, v := range []string{string([]byte{byte(c)}), "a" + string([]byte{byte(c)}), string([]byte{byte(c)}) + "a"} {
			require.Equal(t, want, CheckScope(v) == nil, "%q", v)
		}
	}
	require.Error(t, CheckScope(""))
	require.NoError(t, CheckScope(strings.Repeat("a", MaxScope)))
	require.Error(t, CheckScope(strings.Repeat("a", MaxScope+1)))
	require.NoError(t, CheckScope("https://www.googleapis.com/auth/drive.readonly"))
}

func TestCheckTarget(t *testing.T) {
	for _, v := range []string{"api", "https://api.example/v1?x=y#z", "urn:x:y", "日本", "a|b", strings.Repeat("a", MaxTarget)} {
		require.NoError(t, CheckTarget(v), v)
	}
	for _, v := range []string{"", " ", "a b", "a\tb", "a\n", "\x00", "a\u00a0b", "a\u200b", "\ufeffa", "a\xff", strings.Repeat("a", MaxTarget+1)} {
		require.Error(t, CheckTarget(v), "%q", v)
	}
}

// RFC 8707 2: an absolute URI (RFC 3986 4.3), which has no fragment.
func TestCheckResource(t *testing.T) {
	for _, v := range []string{
		"https://api.example", "https://api.example/", "https://api.example:8443/v1?x=y&z=%20", "http://[2001:db8::1]:80/a",
		"urn:example:api", "api://1234-abcd", "com.example.app:/x", "spiffe://example.org/ns/a", "https://api.example/a;b=c,d'(e)*!$@~",
	} {
		require.NoError(t, CheckResource(v), v)
	}
	for _, v := range []string{
		"", "api", "/v1", "//api.example/v1", "api.example/v1", "https:", "https://", "https:///path", "https://:443/", "http:opaque",
		"https://api.example/#", "https://api.example/#x", "https://user@api.example/", "https://user:pw@api.example/",
		"https://api.example/a b", "https://api.example/\n", "https://api.example/\x00", "https://api.example/\\x", "https://api.example/é",
		"https://api.example/<x>", "https://api.example/\"", "https://api.example/{x}", "https://api.example/a|b", "https://api.example/`",
		"https://api.example/%", "https://api.example/%2", "https://api.example/%zz", "https://api.example/?x=%zz", "https://api.example:x/",
		"1https://api.example", ":x", "https://[::1", "https://" + strings.Repeat("a", MaxTarget),
	} {
		require.Error(t, CheckResource(v), "%q", v)
	}
}

// What is refused is not repeated: it may be a token pasted into the wrong field.
func TestErrorsDoNotRepeatValues(t *testing.T) {
	const v = "hunter2"
	for _, err := range []error{
		CheckScope(v + " "), CheckTarget(v + " "), CheckResource(v), CheckResource("https://" + v + "@x"), CheckResource("https://" + v + ":x"),
		CheckScope(strings.Repeat(v, 100)),
	} {
		require.Error(t, err)
		require.NotContains(t, err.Error(), v)
	}
}
