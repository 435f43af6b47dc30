// Command op runs the example OpenID Provider of github.com/zitadel/oidc on one
// loopback port. Theirs: the protocol, the storage, the users and the service
// user sid1. Ours: the listening address, the registered clients, and the
// corrections that `store` and `users` carry.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/zitadel/oidc/v3/example/server/exampleop"
	"github.com/zitadel/oidc/v3/example/server/storage"
	"github.com/zitadel/oidc/v3/pkg/oidc"
)

const (
	serviceID     = "sid1"
	serviceSecret = "verysecret"
	jwtID         = "jwt"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "loopback address to listen on")
	redirect := flag.String("redirect-uri", "http://127.0.0.1/callback", "redirect URI of the clients web and native")
	verbose := flag.Bool("verbose", false, "log every request")
	foreign := trusted{}
	flag.Var(foreign, "trust", "issuer=jwks-url of tokens that may be exchanged; repeatable")
	flag.Parse()
	if err := run(*listen, *redirect, *verbose, foreign); err != nil {
		fmt.Fprintln(os.Stderr, "op:", err)
		os.Exit(1)
	}
}

func run(listen, redirect string, verbose bool, foreign trusted) error {
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	if addr := listener.Addr().(*net.TCPAddr); !addr.IP.IsLoopback() {
		return fmt.Errorf("%s is not a loopback address, and this server's secrets are public", addr)
	}

	storage.RegisterClients(
		storage.NativeClient("native", redirect),
		storage.WebClient("web", "secret", redirect),
		storage.WebClient("api", "secret", redirect),
		storage.WebClient(jwtID, "secret", redirect),
		storage.DeviceClient("device", "secret"),
		// The service user is known to the token endpoint alone. Only a registered
		// client may revoke and introspect.
		storage.WebClient(serviceID, serviceSecret, redirect),
	)
	level := slog.LevelWarn
	if verbose {
		level = slog.LevelDebug
	}
	issuer := "http://" + listener.Addr().String()
	// The users' names end in the issuer's host; the documented ones are at localhost.
	people := users{storage.NewUserStore("http://localhost:")}
	handler := exampleop.SetupServer(
		issuer,
		&store{Storage: storage.NewStorage(people), users: people, trusted: foreign},
		slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})),
		false,
	)
	fmt.Println("ready", issuer)
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	return server.Serve(listener)
}

// store keeps the example's storage, corrects some answers, and adds what exchange.go
// says.
type store struct {
	*storage.Storage
	users   users
	trusted trusted
}

// RevokeToken: a client-credentials token is stored without the client it was
// issued to, so the stock comparison refuses its only rightful owner.
func (s *store) RevokeToken(ctx context.Context, token, userID, clientID string) *oidc.Error {
	if userID == clientID {
		clientID = ""
	}
	return s.Storage.RevokeToken(ctx, token, userID, clientID)
}

// SetIntrospectionFromToken: for the same reason the stock answer names no client.
func (s *store) SetIntrospectionFromToken(ctx context.Context, response *oidc.IntrospectionResponse, tokenID, subject, clientID string) error {
	if err := s.Storage.SetIntrospectionFromToken(ctx, response, tokenID, subject, clientID); err != nil {
		return err
	}
	if subject == clientID {
		response.ClientID, response.Subject = clientID, subject
	}
	return nil
}

// users adds the service user: without a profile, introspection of its tokens
// ends in "user not found", which the caller sees as inactive.
type users struct{ storage.UserStore }

func (u users) GetUserByID(id string) *storage.User {
	if id == serviceID {
		return &storage.User{ID: id}
	}
	return u.UserStore.GetUserByID(id)
}
