// Package harness starts the real servers that the broker is tried against, each
// on free loopback ports, and ends them with the test that started them: Vault
// (dev mode, file or raft storage, a cluster of three), Ory Hydra, the OpenID
// Provider of zitadel/oidc, oidc-provider, a Kubernetes API server that trusts an
// issuer, Gitea, and Toxiproxy to put between. A test reads like a story:
//
//	vault := harness.StartVault(t, harness.VaultOptions{Storage: harness.File})
//	hydra := harness.StartHydra(t, harness.HydraOptions{})
//	parent := hydra.CreateClient(t, harness.HydraClient{Scopes: []string{"read"}})
//	broker := vault.Enable(t, "")
//	broker.Write(t, "providers/oauth2/hydra", harness.Fields{"issuer": hydra.URL, ...})
//	child := broker.Write(t, "creds/reader", nil)
//	hydra.MustBeActive(t, child.Data["access_token"].(string))
//
// The programs come from bin/, where `make counterparts` puts
// them, or from the paths in VAULT and BROKER_PLUGIN. Everything that waits has an
// end, and a server that dies is reported with the last lines of its log.
package harness

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
)

// TB is what the harness needs of a test. *testing.T has it, and so has what Run
// passes to a program.
type TB interface {
	Helper()
	Logf(format string, args ...any)
	Fatalf(format string, args ...any)
	Failed() bool
	Cleanup(func())
	TempDir() string
}

// Fields are the parameters of a request to Vault.
type Fields = map[string]any

// Run tells a story outside of a test: Logf writes to out, Fatalf ends the story
// and becomes the error, and what was started is ended before Run returns.
func Run(out io.Writer, story func(TB)) error {
	p := &program{out: out}
	done := make(chan struct{})
	// Its own goroutine, so that Fatalf can leave it from any depth.
	go func() {
		defer close(done)
		defer p.cleanup()
		story(p)
	}()
	<-done
	return p.err
}

type program struct {
	out      io.Writer
	err      error
	cleanups []func()
}

func (p *program) Helper()                         {}
func (p *program) Logf(format string, args ...any) { fmt.Fprintf(p.out, format+"\n", args...) }
func (p *program) Failed() bool                    { return p.err != nil }
func (p *program) Cleanup(f func())                { p.cleanups = append(p.cleanups, f) }

func (p *program) Fatalf(format string, args ...any) {
	p.err = errors.Join(p.err, fmt.Errorf(format, args...))
	runtime.Goexit()
}

func (p *program) TempDir() string {
	dir, err := os.MkdirTemp("", "tokenbroker-")
	if err != nil {
		p.Fatalf("temporary directory: %v", err)
	}
	p.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// cleanup runs all that is registered, last first, even if one of them fails.
func (p *program) cleanup() {
	for len(p.cleanups) > 0 {
		last := len(p.cleanups) - 1
		f := p.cleanups[last]
		p.cleanups = slices.Delete(p.cleanups, last, last+1)
		func() {
			defer p.cleanup()
			f()
		}()
	}
}
