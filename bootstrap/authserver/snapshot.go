package authserver

import (
	"crypto/ecdsa"
	"crypto/x509"
	"maps"
	"testing"
)

// Snapshot is what a server remembers, so that another test, of another build even,
// can go on with it. Its faults and its counts are not in it.
type Snapshot struct {
	// URL and CAPEM are the server's own. Those of a server made of the snapshot are
	// others: whoever keeps either must replace it.
	URL, CAPEM string
	Options    Options
	Key        []byte // PKCS #8
	Serial     int
	Clients    map[string]Client
	Tokens     map[string]Token
	Used       map[string]bool
	Subjects   map[string]Bearer
}

// Snapshot is what the server remembers now.
func (s *Server) Snapshot(t testing.TB) Snapshot {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(s.key)
	if err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	taken := Snapshot{
		URL: s.URL, CAPEM: s.CAPEM, Options: s.options, Key: key, Serial: s.serial,
		Clients: map[string]Client{}, Tokens: map[string]Token{}, Used: maps.Clone(s.used), Subjects: maps.Clone(s.subjects),
	}
	for id, c := range s.clients {
		taken.Clients[id] = *c
	}
	for value, token := range s.tokens {
		taken.Tokens[value] = *token
	}
	return taken
}

// Resume starts a server that remembers what the snapshot holds. o has what a
// snapshot cannot hold, the clock.
func Resume(t testing.TB, from Snapshot, o Options) *Server {
	t.Helper()
	options := from.Options
	options.Now = o.Now
	s := New(t, options)
	parsed, err := x509.ParsePKCS8PrivateKey(from.Key)
	if err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.key = parsed.(*ecdsa.PrivateKey)
	s.serial, s.used, s.subjects = from.Serial, maps.Clone(from.Used), maps.Clone(from.Subjects)
	for id, c := range from.Clients {
		s.clients[id] = &c
	}
	for value, token := range from.Tokens {
		s.tokens[value] = &token
	}
	return s
}
