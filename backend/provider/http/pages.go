package httpapi

import (
	"bytes"
	"errors"
	"net/url"
	"strconv"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
)

// errRepeats is that a list shows the same page again, whatever it is asked for.
var errRepeats = errors.New("a page is as the one before")

// pages are those of one list, one after the other.
type pages struct {
	of      *Find
	base    *wire
	current *wire
	asked   int    // how many there were
	items   int    // in all of them
	last    []byte // the page before, which no other equals
	ends    bool
	err     error
}

func (fd *Find) pages(w *wire) *pages { return &pages{of: fd, base: w, current: w} }

// next prepares the request of the next page; false if there is none, or there is an error.
func (p *pages) next() bool {
	if p.err != nil || p.ends {
		return false
	}
	if p.asked >= maxPages || p.items > maxItems {
		p.err = fault.New(fault.TemporarilyUnavailable, "the system's list does not end, or is longer than what is searched (%d pages, %d items): give its find a query that narrows it", maxPages, maxItems)
		return false
	}
	if page := p.of.Page; page != nil && !page.Next.given {
		p.ask(strconv.Itoa(page.First + p.asked*page.Step))
	}
	p.asked++
	return true
}

// back prepares the request of the page before, once all have been read. What others have
// ended meanwhile has moved what stood behind it onto pages that had been read already;
// whoever reads them from the last to the first meets it.
func (p *pages) back() bool {
	if page := p.of.Page; page == nil || page.Next.given || p.asked < 2 {
		return false
	}
	p.asked--
	p.ask(strconv.Itoa(p.of.Page.First + (p.asked-1)*p.of.Page.Step))
	return true
}

// ask has the request ask for that page.
func (p *pages) ask(page string) {
	w := *p.base
	query := url.Values{p.of.Page.Query: {page}}.Encode()
	if w.Query != "" {
		query = w.Query + "&" + query
	}
	w.Query = query
	p.current = &w
}

// items are those of a page.
func (fd *Find) items(a *answer) ([]any, error) {
	v, err := a.json()
	if err != nil {
		return nil, unread("the list is no JSON: " + err.Error())
	}
	v, found := fd.Items.Find(v)
	items, isList := v.([]any)
	if !isList && (!found || v != nil) {
		return nil, unread("there is no list where the definition says")
	}
	return items, nil
}

// read is the items of a page, and whether there is another one behind it.
func (p *pages) read(a *answer) ([]any, error) {
	items, err := p.of.items(a)
	if err != nil {
		return nil, err
	}
	p.items += len(items)
	switch page := p.of.Page; {
	case page == nil:
		p.ends = true
	case page.Next.given:
		p.follow(a)
	case page.More.given:
		more, _ := a.at(page.More)
		p.ends = more != true
	default:
		p.ends = len(items) == 0
	}
	if !p.ends && p.last != nil && bytes.Equal(p.last, a.body) {
		return nil, unread("its list does not go on: a page is as the one before").Because(errRepeats)
	}
	p.last = a.body
	return items, nil
}

// follow asks for what the page calls the next one.
func (p *pages) follow(a *answer) {
	next, _ := a.at(p.of.Page.Next)
	s, ok := plain(next)
	if !ok || s == "" || next == false {
		p.ends = true
		return
	}
	p.ask(s)
}
