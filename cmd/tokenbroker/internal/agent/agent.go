package agent

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/cmd/tokenbroker/internal/fail"
)

const (
	// socketName changes with the protocol, so that another version's process is not asked.
	socketName = "agent-1.sock"
	// linger is how long a process waits that keeps nothing any more.
	linger = time.Minute
	// exchangeTimeout bounds what passes over the socket, a creds request included.
	exchangeTimeout = callTimeout + 15*time.Second
	// startTimeout is how long a process may take until it can be asked.
	startTimeout = 10 * time.Second
	// maxMessage bounds what is read of a socket.
	maxMessage = 4 << 20
	// longestSocket is the most that all systems take for a socket's path.
	longestSocket = 100
)

type request struct {
	Do     string `json:"do"`
	Wanted Wanted `json:"wanted,omitzero"`
	Secret string `json:"secret,omitempty"`
}

type response struct {
	Lent   *Lent                `json:"lent,omitempty"`
	Status map[string]time.Time `json:"status,omitempty"`
	Error  *fail.Error          `json:"error,omitempty"`
}

// ErrNone says that no process keeps tokens here.
var ErrNone = errors.New("no process keeps tokens")

// Dir is where the socket is: below XDG_RUNTIME_DIR, or in the folder for temporary
// files, by the user's id. It is made if it is not there, and refused if it is not the
// user's alone.
func Dir(environ []string) (string, error) {
	if !Supported {
		return "", errors.New("not on this system")
	}
	base := ""
	for _, entry := range environ {
		if value, ok := strings.CutPrefix(entry, "XDG_RUNTIME_DIR="); ok {
			base = value
		}
	}
	dir := filepath.Join(base, "tokenbroker")
	if info, err := os.Stat(base); base == "" || err != nil || !info.IsDir() || len(dir)+len(socketName) > longestSocket {
		dir = filepath.Join(os.TempDir(), "tokenbroker-"+userID())
	}
	if len(dir)+len(socketName) > longestSocket {
		dir = "/tmp/tokenbroker-" + userID()
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return "", err
	}
	return dir, ofUserAlone(dir)
}

// Get asks the process, which is started if there is none, for a child.
func Get(environ []string, w Wanted) (*Lent, error) {
	dir, err := Dir(environ)
	if err != nil {
		return nil, errors.Join(ErrNone, err)
	}
	r, err := ask(dir, request{Do: "get", Wanted: w})
	if errors.Is(err, ErrNone) || err != nil && err.Error() == errClosed.Text {
		if err := launch(dir, environ); err != nil {
			return nil, errors.Join(ErrNone, err)
		}
		r, err = ask(dir, request{Do: "get", Wanted: w})
	}
	if err != nil {
		return nil, err
	}
	if r.Lent == nil || r.Lent.Child == nil {
		return nil, fail.New(fail.Internal, "the process that keeps tokens has said nothing")
	}
	return r.Lent, nil
}

// Forget tells the process, if there is one, that a part of a child does not work.
func Forget(environ []string, w Wanted, secret string) error {
	_, err := tell(environ, request{Do: "forget", Wanted: w, Secret: secret})
	if errors.Is(err, ErrNone) {
		return nil
	}
	return err
}

// Status are the roles whose children are kept.
func Status(environ []string) (map[string]time.Time, error) {
	r, err := tell(environ, request{Do: "status"})
	return r.Status, err
}

// Stop ends the process, and returns when all that it kept is revoked.
func Stop(environ []string) error {
	_, err := tell(environ, request{Do: "stop"})
	return err
}

func tell(environ []string, r request) (response, error) {
	dir, err := Dir(environ)
	if err != nil {
		return response{}, errors.Join(ErrNone, err)
	}
	return ask(dir, r)
}

func ask(dir string, r request) (response, error) {
	conn, err := (&net.Dialer{}).DialContext(context.Background(), "unix", filepath.Join(dir, socketName))
	if err != nil {
		return response{}, errors.Join(ErrNone, err)
	}
	defer conn.Close()
	if err := isUser(conn); err != nil {
		return response{}, fail.New(fail.Config, "the socket in %s is somebody else's: %s", dir, err)
	}
	var answer response
	err = conn.SetDeadline(time.Now().Add(exchangeTimeout))
	if err == nil {
		err = json.NewEncoder(conn).Encode(r) //nolint:gosec // what the socket is for
	}
	if err == nil {
		err = json.NewDecoder(io.LimitReader(conn, maxMessage)).Decode(&answer)
	}
	if err != nil {
		return response{}, fail.New(fail.Unavailable, "the process that keeps tokens does not answer: try again")
	}
	if answer.Error != nil {
		return answer, answer.Error
	}
	return answer, nil
}

// launch starts the process, apart from ours, and waits until it can be asked. It gets of
// the environment what it needs to find its way, and no login.
func launch(dir string, environ []string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	command := exec.Command(self, "agent", "run", "--dir", dir) //nolint:gosec,noctx // it is ourselves, and outlives us
	command.Dir = dir
	for _, entry := range environ {
		name, _, _ := strings.Cut(entry, "=")
		switch name {
		case "HOME", "PATH", "TMPDIR", "XDG_RUNTIME_DIR", "SSL_CERT_FILE", "SSL_CERT_DIR", "TOKENBROKER_TEST":
			command.Env = append(command.Env, entry)
		}
	}
	apart(command)
	if err := command.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- command.Wait() }()
	deadline := time.After(startTimeout)
	for {
		if conn, err := (&net.Dialer{}).DialContext(context.Background(), "unix", filepath.Join(dir, socketName)); err == nil {
			return conn.Close()
		}
		select {
		case err := <-ended:
			if err != nil {
				return err
			}
			ended = nil // another one was there first
		case <-deadline:
			return errors.New("it does not start")
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Run is the process. It ends when stop does, when it is told to, or when it keeps
// nothing and nobody has asked for a while; what it keeps is revoked then.
func Run(dir string, k *Keeper, stop <-chan os.Signal) error {
	if err := ofUserAlone(dir); err != nil {
		return fail.New(fail.Config, "%s", err)
	}
	unlock, err := soleOne(dir)
	if err != nil || unlock == nil {
		return err
	}
	defer unlock()
	protect()
	path := filepath.Join(dir, socketName)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fail.New(fail.Output, "%s cannot be removed: %s", path, err)
	}
	listener, err := (&net.ListenConfig{}).Listen(context.Background(), "unix", path)
	if err != nil {
		return fail.New(fail.Output, "%s: %s", path, err)
	}
	told := make(chan struct{}, 1)
	var talks sync.WaitGroup
	go serve(listener, k, told, &talks)
	check := time.NewTicker(linger / 4)
	defer check.Stop()
	for over := false; !over; {
		select {
		case <-stop:
			over = true
		case <-told:
			over = true
		case <-check.C:
			over = k.Idle() > linger
		}
	}
	_ = listener.Close() // which removes the socket
	unlock()             // who comes now starts another process
	k.Close()
	last := make(chan struct{})
	go func() { talks.Wait(); close(last) }()
	select {
	case <-last:
	case <-time.After(partingTimeout):
	}
	return nil
}

// partingTimeout is how long a process that ends waits for those who have asked.
const partingTimeout = 2 * time.Second

// soleOne is nil if another process is there and answers. One that is just ending is
// waited for.
func soleOne(dir string) (unlock func(), err error) {
	for deadline := time.Now().Add(startTimeout); ; {
		unlock, err := lock(filepath.Join(dir, "lock"))
		if err != nil {
			return nil, fail.New(fail.Output, "%s cannot be locked: %s", dir, err)
		}
		if unlock != nil {
			return unlock, nil
		}
		conn, err := (&net.Dialer{}).DialContext(context.Background(), "unix", filepath.Join(dir, socketName))
		if err == nil {
			return nil, conn.Close()
		}
		if time.Now().After(deadline) {
			return nil, fail.New(fail.Unavailable, "another process is there and does not answer")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func serve(listener net.Listener, k *Keeper, told chan<- struct{}, talks *sync.WaitGroup) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		talks.Go(func() {
			defer conn.Close()
			if isUser(conn) != nil || conn.SetDeadline(time.Now().Add(exchangeTimeout)) != nil {
				return
			}
			var r request
			if json.NewDecoder(io.LimitReader(conn, maxMessage)).Decode(&r) != nil {
				return
			}
			answer := respond(k, r, told)
			_ = json.NewEncoder(conn).Encode(answer)
		})
	}
}

func respond(k *Keeper, r request, told chan<- struct{}) response {
	switch r.Do {
	case "get":
		ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
		defer cancel()
		lent, err := k.Get(ctx, r.Wanted)
		if err != nil {
			return response{Error: fail.New(fail.KindOf(err), "%s", err)}
		}
		return response{Lent: lent}
	case "forget":
		k.Forget(r.Wanted, r.Secret)
	case "status":
		return response{Status: k.Status()}
	case "stop":
		select {
		case told <- struct{}{}:
		default: // somebody else has said so
		}
		k.Close()
	default:
		return response{Error: fail.New(fail.Internal, "the process that keeps tokens does not know %q", r.Do)}
	}
	return response{}
}
