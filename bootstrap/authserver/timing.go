package authserver

import "net/http"

// Hold does its work, says so on worked, and answers when release is closed, or
// not at all if the caller leaves first. What happens while a request is under
// way can so be arranged without a sleep.
func Hold(worked chan<- struct{}, release <-chan struct{}) Fault {
	return func(w http.ResponseWriter, r *http.Request, act func() reply) {
		answer := act()
		worked <- struct{}{}
		select {
		case <-release:
			answer.send(w)
		case <-r.Context().Done():
		}
	}
}

// Choose asks pick for each request which fault it gets; nil is none.
func Choose(pick func() Fault) Fault {
	return func(w http.ResponseWriter, r *http.Request, act func() reply) {
		if f := pick(); f != nil {
			f(w, r, act)
			return
		}
		act().send(w)
	}
}
