package github

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/httpclient"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
)

// A role's patterns stand for what the installation has when a token is minted. GitHub
// has no search in that, so all of it is listed, and kept for a while; a mint whose
// repositories are named needs no list.
const (
	// listFor is how long a list is good; from renewFrom on the next one is on its way.
	listFor   = 5 * time.Minute
	renewFrom = 4 * time.Minute
	// listBudget bounds a listing, which is a hundred requests for 10,000 repositories.
	listBudget = 2 * time.Minute
	// perPage is as many as GitHub lists at once; atOnce as many pages as are asked for.
	perPage, atOnce = 100, 4
	// maxListed bounds a list.
	maxListed = 100_000
	// maxPerToken is as many as GitHub lets a token have by name or id.
	maxPerToken = 500
	// repositoryBytes is more than GitHub says of one repository.
	repositoryBytes = 20 << 10
)

// listing is what an installation has.
type listing struct {
	ids map[string]json.Number // by full name
	at  time.Time
	// renewed is true once somebody has seen to the next list: one that cannot be made is
	// not tried for each mint.
	renewed atomic.Bool
	// refused is true of one that GitHub has not taken when it was new: another one would
	// be no better.
	refused atomic.Bool
}

// list is what the installation has, and whether that was asked for just now.
func (p *Provider) list(ctx context.Context, in *installation) (l *listing, fresh bool, err error) {
	look := func(ctx context.Context) (*listing, error) { return p.listAll(ctx, in) }
	l, known := p.lists.has(in.id)
	age := p.deps.Now().Sub(orZero(l))
	if !known || age >= listFor || age < 0 {
		l, err = p.lists.look(ctx, in.id, listBudget, look)
		return l, true, err
	}
	if age >= renewFrom && l.renewed.CompareAndSwap(false, true) {
		p.lists.begin(ctx, in.id, listBudget, look) // for those who come later
	}
	return l, false, nil
}

func orZero(l *listing) (at time.Time) {
	if l != nil {
		at = l.at
	}
	return at
}

// errTooMany is for an installation whose repositories are not listed.
var errTooMany = fault.New(fault.InvalidTarget, "the installation has more than %d repositories, so patterns cannot be expanded there: name the repositories that you need", maxListed)

// listAll walks through all pages, with a token of its own that can do nothing else and is
// killed afterwards.
func (p *Provider) listAll(ctx context.Context, in *installation) (*listing, error) {
	began := p.deps.Now()
	token, err := p.mintReader(ctx, in)
	if token != nil {
		defer p.deps.Discard(ctx, token)
	}
	if err != nil {
		return nil, err
	}
	l := &listing{ids: map[string]json.Number{}, at: began}
	total, err := p.page(ctx, in, token, 1, l.add)
	switch {
	case err != nil:
		return nil, err
	case total > maxListed:
		return nil, errTooMany
	}
	var mu sync.Mutex
	rest, ctx := errgroup.WithContext(ctx)
	rest.SetLimit(atOnce)
	for n := 2; n <= (total+perPage-1)/perPage; n++ {
		rest.Go(func() error {
			_, err := p.page(ctx, in, token, n, func(name string, id json.Number) {
				mu.Lock()
				defer mu.Unlock()
				l.add(name, id)
			})
			return err
		})
	}
	if err := rest.Wait(); err != nil {
		return nil, err
	}
	return l, nil
}

func (l *listing) add(name string, id json.Number) { l.ids[name] = id }

// mintReader mints a token that can see which repositories the installation has, and can do
// nothing in them.
func (p *Provider) mintReader(ctx context.Context, in *installation) (*provider.Child, error) {
	resp, err := p.asApp(ctx, http.MethodPost, mintPath(in), []byte(`{"permissions":{"metadata":"read"}}`))
	if err != nil {
		return lostMint(err)
	}
	switch resp.Status {
	case http.StatusCreated:
	case http.StatusNotFound:
		return nil, errNotKnown
	default:
		return p.unmade(resp, in.at)
	}
	child, _, err := p.readToken(resp.Body)
	return child, err
}

// page reads one page of the list, and says how many repositories there are.
func (p *Provider) page(ctx context.Context, in *installation, token *provider.Child, n int, add func(string, json.Number)) (total int, err error) {
	ctx = httpclient.UpTo(ctx, perPage*repositoryBytes)
	resp, err := p.send(ctx, http.MethodGet, fmt.Sprintf("installation/repositories?per_page=%d&page=%d", perPage, n), token.Token(), nil)
	switch {
	case err != nil:
		return 0, unread(err)
	case resp.Status == http.StatusUnauthorized:
		return 0, fault.New(fault.TemporarilyUnavailable, "GitHub refuses the token that it has just made (HTTP 401): try again")
	case resp.Status != http.StatusOK:
		return 0, p.refusal(resp, in.at)
	}
	var members []form.Part
	whole, err := form.ParsePart(resp.Body)
	if err == nil {
		members, err = whole.Members("total_count", "repositories")
	}
	if err != nil {
		return 0, odd200("the installation's repositories", err.Error())
	}
	listed, err := readRepositories(members[1])
	if err == nil && len(listed) > perPage {
		err = errors.New("a page has more of them than were asked for")
	}
	if err != nil {
		return 0, odd200("the installation's repositories", err.Error())
	}
	for name, id := range listed {
		add(name, id)
	}
	count, ok := form.WholeNumber(string(members[0].Raw()))
	if !ok || count < 0 {
		return 0, odd200("the installation's repositories", "it does not say how many there are")
	}
	return int(min(count, maxListed+1)), nil
}

// readRepositories reads a list of repositories, of which only names and ids count.
func readRepositories(list form.Part) (map[string]json.Number, error) {
	each, ok := list.Elements()
	if !ok {
		return nil, errors.New("it has no list of repositories")
	}
	listed := make(map[string]json.Number, len(each))
	for _, one := range each {
		members, err := one.Members("full_name", "id")
		if err != nil {
			return nil, err
		}
		name, _ := members[0].Text()
		id := json.Number(members[1].Raw())
		if !isRepository(name) || !appIDShape.MatchString(id.String()) {
			return nil, errors.New("a repository in it has no name, or no id")
		}
		listed[name] = id
	}
	return listed, nil
}

// matching are the ids of what the installation has of the set.
func (l *listing) matching(set access.Set) ([]json.Number, *fault.Error) {
	var ids []json.Number
	for _, name := range slices.Sorted(maps.Keys(l.ids)) {
		if set.Contains(name) {
			ids = append(ids, l.ids[name])
		}
	}
	patterns := strings.Join(set.Excess(access.Set{}), ", ")
	switch {
	case len(ids) == 0:
		// A token for no repository in particular would be one for all of them.
		return nil, fault.New(fault.InvalidTarget, "none of the installation's %d repositories matches %s, in which case counts: give the installation some, or have the role changed", len(l.ids), short(patterns))
	case len(ids) > maxPerToken:
		return nil, fault.New(fault.InvalidTarget, "%d repositories match %s, and GitHub gives a token at most %d: name those that you need, in resources=", len(ids), short(patterns), maxPerToken)
	}
	return ids, nil
}
