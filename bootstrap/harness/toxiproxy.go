package harness

import (
	"net/http"
	"net/url"
	"strconv"
)

// Toxiproxy is a running Toxiproxy: TCP proxies that can be told to misbehave.
type Toxiproxy struct {
	URL string // of its API

	process *server
}

// StartToxiproxy starts a Toxiproxy that ends with the test.
func StartToxiproxy(t TB) *Toxiproxy {
	t.Helper()
	port := freePort(t)
	p := &Toxiproxy{URL: "http://" + address(port)}
	p.process = start(t, "toxiproxy", t.TempDir(), executable(t, "", "toxiproxy", "toxiproxy"), "-host", "127.0.0.1", "-port", strconv.Itoa(port))
	p.process.await(t, "it answers", answersOK(p.URL+"/version"))
	return p
}

// Toxic is one kind of misbehaviour, such as latency or reset_peer, towards the
// server (upstream) or back from it (downstream, the default).
type Toxic struct {
	Type       string
	Upstream   bool
	Attributes Fields
}

// Proxy is one proxied server.
type Proxy struct {
	URL string // reaches the server, as well as the proxy lets it

	name string
	of   *Toxiproxy
}

// Proxy makes a proxy for the server at target, a plain http URL.
func (p *Toxiproxy) Proxy(t TB, name, target string) *Proxy {
	t.Helper()
	server, err := url.Parse(target)
	if err != nil {
		t.Fatalf("%s: %v", target, err)
	}
	listen := address(freePort(t))
	sendJSON(t, http.MethodPost, p.URL+"/proxies", Fields{"name": name, "listen": listen, "upstream": server.Host})
	return &Proxy{URL: "http://" + listen, name: name, of: p}
}

// Add lets the proxy misbehave; connections that are open are not spared.
func (p *Proxy) Add(t TB, toxic Toxic) {
	t.Helper()
	stream := "downstream"
	if toxic.Upstream {
		stream = "upstream"
	}
	sendJSON(t, http.MethodPost, p.api("/toxics"), Fields{
		"name": toxic.Type + "_" + stream, "type": toxic.Type, "stream": stream, "attributes": toxic.Attributes,
	})
}

// Cut refuses connections and breaks those that are open.
func (p *Proxy) Cut(t TB) { p.enable(t, false) }

// Mend ends Cut, and takes every toxic away.
func (p *Proxy) Mend(t TB) {
	t.Helper()
	shown := sendJSON(t, http.MethodGet, p.api(""), nil)
	toxics, _ := shown["toxics"].([]any)
	for _, toxic := range toxics {
		named, _ := toxic.(map[string]any)
		name, _ := named["name"].(string)
		sendJSON(t, http.MethodDelete, p.api("/toxics/"+name), nil)
	}
	p.enable(t, true)
}

func (p *Proxy) enable(t TB, enabled bool) {
	t.Helper()
	sendJSON(t, http.MethodPost, p.api(""), Fields{"enabled": enabled})
}

func (p *Proxy) api(path string) string { return p.of.URL + "/proxies/" + p.name + path }
