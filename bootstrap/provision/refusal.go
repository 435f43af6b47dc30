package main

import (
	"fmt"
	"net/url"
	"os"
	"regexp"
	"strings"
)

// A refusal is a download that somebody on the way does not allow.
type refusal struct {
	what, from, status, advice string
	cause                      error
}

func (r *refusal) Error() string {
	return fmt.Sprintf("%v\n%s could not be downloaded: %s answered %q.\n"+
		"A proxy or firewall on the way does not let it through, and trying again will not help. %s",
		r.cause, r.what, r.from, r.status, r.advice)
}

func (r *refusal) Unwrap() error { return r.cause }

// What the go command and npm say when a download was refused, rather than not found
// or interrupted.
var (
	moduleRefused  = regexp.MustCompile(`(\S+@v\S+): (?:\S+ )*reading (\S+): ((?:401|403|407|451) [A-Za-z ]+)`)
	packageRefused = regexp.MustCompile(`((?:401|403|407|451) [A-Za-z ]+) - GET (\S+)`)
)

// explained adds to an error what to do, if what a command said tells of a refusal.
func explained(err error, said string) error {
	if found := moduleRefused.FindStringSubmatch(said); found != nil {
		return &refusal{cause: err, what: "the Go module " + found[1], from: host(found[2]), status: found[3], advice: "" +
			"Have it allowed, or set GOPROXY to a module proxy that serves it, such as your organisation's own (now " + setting("GOPROXY") +
			"); in one that lists several, a | instead of a comma lets the next be asked after a refusal too."}
	}
	if found := packageRefused.FindStringSubmatch(said); found != nil {
		return &refusal{cause: err, what: "the npm package " + packageAt(found[2]), from: host(found[2]), status: found[1], advice: "" +
			"Have it allowed, or name a registry that serves it: npm config set registry <URL>."}
	}
	return err
}

func setting(name string) string {
	if value := os.Getenv(name); value != "" {
		return name + "=" + value
	}
	return "unset"
}

func host(address string) string {
	if u, err := url.Parse(address); err == nil && u.Host != "" {
		return u.Host
	}
	return address
}

// packageAt reads a package's name from where npm looked for it: /name, /@scope%2fname
// or /name/-/name-1.0.0.tgz.
func packageAt(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return address
	}
	name, _, _ := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/-/")
	return name
}
