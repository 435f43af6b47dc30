package access

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestTargetsAreFoundInEveryUsualSpelling(t *testing.T) {
	var targets Targets
	targets.Add("https://as.example/tenant", "https://As.example:8443/token?policy=one", "api://AzureADTokenExchange", "urn:example:as", "https://[2001:db8::1]/token", "https://xn--bcher-kva.example/token", "https://10.0.0.1/token", "")
	targets.AddTree("https://vault.example:8200/v1/broker")
	for _, found := range []string{
		"https://as.example/tenant", "https://as.example/tenant/", "https://as.example/tenant//", "HTTPS://AS.EXAMPLE/tenant", "https://as.example:443/tenant",
		"http://as.example/tenant", "http://as.example:80/tenant", "https://as.example./tenant", "https://as.example.:443/tenant", "https://as.example/%74enant",
		"https://as.example/%74%45nant", "https://as.example//tenant", "https://as.example/./tenant", "https://as.example/x/../tenant", "https://as.example/tenant?x=y",
		"https://as.example/tenant#x", "https://user@as.example/tenant", "as.example/tenant", `https:\\as.example\tenant`, "https:/as.example/tenant", "https://as.example:/tenant",
		"https://as.example:8443/token", "https://as.example:8443/token?policy=two",
		"api://azureadtokenexchange", "api://AzureADTokenExchange/", "URN:example:as",
		"//as.example/tenant", "https://as.example:0443/tenant", "https://as.example/tenant;x=y", "https://as.example/tenant%20", "https://as.example/%2574enant", "https://as.example/%74enant?x=%", "https://as.example/tenant%3Fx=y",
		"https://b\u00fccher.example/token", "https://B\u00dcCHER.example/token", "https://b%C3%BCcher.example/token", "https://bu\u0308cher.example/token", "https://xn--bcher-kva\u3002example/token",
		"https://167772161/token", "https://0x0a.0.0.1/token", "https://10.1/token", "https://012.0.0.1/token", "https://[::ffff:10.0.0.1]/token", "https://[2001:db8::1%25eth0]/token",
		"https://[2001:DB8:0:0::1]/token", "https://[2001:db8::1]:443/token",
		"https://vault.example:8200/v1/broker", "https://vault.example:8200/v1/broker/", "https://vault.example:8200/v1/Broker/oauth/revoke", "https://vault.example:8200/v1/broker/anything?at=all",
	} {
		_, ok := targets.Find(found)
		require.True(t, ok, found)
		_, ok = targets.FindIn(Exactly("https://api.example", found))
		require.True(t, ok, found)
	}
	for _, other := range []string{
		"", "/", "https://as.example", "https://as.example/", "https://as.example/tenant2", "https://as.example/tenant/api", "https://as.example:8443", "https://as.example:8444/token",
		"https://as.example.org/tenant", "https://xas.example/tenant", "api://azureadtokenexchange2", "urn:example:as:2", "https://vault.example:8200/v1/brokers", "https://vault.example/v1/broker",
		"https://[2001:db8::2]/token", "https://api.example", "https://bucher.example/token", "https://10.0.0.2/token", "https://10.0.0.1.example/token", "https://as.example/x;y/tenant",
	} {
		target, ok := targets.Find(other)
		require.False(t, ok, "%s is not %s", other, target)
		_, ok = targets.FindIn(Exactly(other))
		require.False(t, ok, other)
	}
	_, ok := Targets{}.Find("")
	require.False(t, ok)
}

func TestPatternsThatCoverATarget(t *testing.T) {
	var targets Targets
	targets.Add("https://AS.example:443/tenant")
	for pattern, covers := range map[string]bool{
		"https://**": true, "https://as.example/*": true, "https://*/tenant": true, "**": true, "https://as.example/tenant/**": true, "https://AS.example:443/*": true,
		"https://*": false, "https://api.example/**": false, "https://as.example/tenant2*": false,
	} {
		set, err := Ceiling("https://api.example", pattern)
		require.NoError(t, err)
		target, found := targets.FindIn(set)
		require.Equal(t, covers, found, pattern)
		if found {
			require.Equal(t, "https://AS.example:443/tenant", target, "as it was written")
		}
	}
	_, found := targets.FindIn(Unbounded())
	require.True(t, found)
}

// Whatever text is a target, that text is found, and with a slash and in capitals, too.
func TestATargetIsFoundAsItIs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.OneOf(rapid.StringMatching(`https?://[a-z.]{1,8}(:[0-9]{1,4})?(/[a-zA-Z0-9%.~]{0,5}){0,3}`), rapid.StringMatching(`[ -.0-9;-~]{1,20}`)).Draw(t, "name")
		var all Targets
		all.Add(name)
		if spelling(name) == "" {
			return
		}
		for _, v := range []string{name, strings.ToUpper(name)} {
			_, ok := all.Find(v)
			require.True(t, ok, v)
		}
		if !strings.ContainsAny(name, "?#") {
			_, ok := all.Find(name + "/")
			require.True(t, ok)
		}
	})
}

// Whatever a server undoes before it compares, in whatever order and how often.
func TestATargetIsFoundHoweverItIsWritten(t *testing.T) {
	var targets Targets
	targets.Add("https://as.example/tenant/token")
	escape := func(t *rapid.T, v string) string {
		i := rapid.IntRange(0, len(v)-1).Draw(t, "at")
		return v[:i] + fmt.Sprintf("%%%02X", v[i]) + v[i+1:]
	}
	edits := map[string]func(t *rapid.T, host, path string) (string, string){
		"case": func(_ *rapid.T, host, path string) (string, string) {
			return strings.ToUpper(host), strings.ToUpper(path)
		},
		"slash": func(_ *rapid.T, host, path string) (string, string) { return host, "/" + path + "/" },
		"dot":   func(_ *rapid.T, host, path string) (string, string) { return host, "/." + path + "/." },
		"up":    func(_ *rapid.T, host, path string) (string, string) { return host, "/x/.." + path },
		"param": func(_ *rapid.T, host, path string) (string, string) { return host, path + ";p=q" },
		"back":  func(_ *rapid.T, host, path string) (string, string) { return host, strings.ReplaceAll(path, "/", `\`) },
		"host":  func(t *rapid.T, host, path string) (string, string) { return escape(t, host), path },
		"path":  func(t *rapid.T, host, path string) (string, string) { return host, escape(t, path) },
	}
	names := slices.Sorted(maps.Keys(edits))
	rapid.Check(t, func(t *rapid.T) {
		host := rapid.SampledFrom([]string{"as.example", "as.example:443", "u:p@as.example.:0443", "u%40v@as.example"}).Draw(t, "host")
		path := "/tenant/token"
		for range rapid.IntRange(1, 8).Draw(t, "edits") {
			host, path = edits[rapid.SampledFrom(names).Draw(t, "edit")](t, host, path)
		}
		v := rapid.SampledFrom([]string{"https://", "HTTP://", "https:", "", "//"}).Draw(t, "scheme") + host + path + rapid.SampledFrom([]string{"", "?a=b", "#c"}).Draw(t, "tail")
		_, ok := targets.Find(v)
		require.True(t, ok, v)
	})
}
