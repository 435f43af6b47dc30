package gitlab

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/kit"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// about is what GitLab says of a token to who holds it
// (https://docs.gitlab.com/api/personal_access_tokens/#self-inform).
type about struct {
	id, user      int64
	name          string
	scopes        []string
	created, ends time.Time // ends is zero if it has none
}

// self is what GitLab says of one of the parent's tokens.
func (p *Provider) self(ctx context.Context, token secret.Text) (about, error) {
	answer, err := p.object(ctx, token, http.MethodGet, "personal_access_tokens/self", nil)
	if err != nil {
		return about{}, whole(err)
	}
	return read(answer), nil
}

func read(answer map[string]any) (a about) {
	a.id, _ = number(answer["id"])
	a.user, _ = number(answer["user_id"])
	a.name, _ = answer["name"].(string)
	a.scopes, _ = texts(answer["scopes"])
	created, _ := answer["created_at"].(string)
	a.created, _ = time.Parse(time.RFC3339, created)
	ends, _ := answer["expires_at"].(string)
	a.ends, _ = time.Parse(time.DateOnly, ends)
	return a
}

// Check implements provider.Checker: GitLab says of each token whose it is, what it is for
// and when it ends. Nothing is made for that.
func (p *Provider) Check(ctx context.Context) (provider.Health, error) {
	current, err := p.self(ctx, p.secret(fieldToken))
	if err != nil {
		return provider.Health{}, err
	}
	if !slices.Contains(current.scopes, "api") && !slices.Contains(current.scopes, "granular") {
		return provider.Health{}, kit.ParentRefused("GitLab knows the parent token, which has not the scope api and so can make no other: write one that has")
	}
	health := provider.Health{
		Detail: fmt.Sprintf("GitLab knows the parent token, of user %d%s", current.user, current.until("; it")),
		Grants: scopesOf(current), Ends: current.ends,
	}
	next := p.secret(fieldTokenNext)
	if next.Empty() {
		return health, nil
	}
	spare, err := p.self(ctx, next)
	switch {
	// Neither is a word of the parent, with which mints go on.
	case status(err) == http.StatusUnauthorized:
		return health, fault.New(fault.InvalidRequest, "GitLab knows the parent token, but refuses token_next, so tokens are made and nothing can be rotated: make another token of the same user, and write that as token_next").Because(err)
	case err != nil:
		return health, err
	case spare.user != current.user:
		return health, fault.New(fault.InvalidRequest, "token_next is another user's than token: make another token of the same user, and write that as token_next")
	}
	health.Detail += spare.until(", token_next")
	if health.Ends.IsZero() || !spare.ends.IsZero() && spare.ends.Before(health.Ends) {
		health.Ends = spare.ends
	}
	return health, nil
}

func (a about) until(what string) string {
	if a.ends.IsZero() {
		return what + " has no end"
	}
	return what + " ends on " + a.ends.Format(time.DateOnly)
}

func scopesOf(a about) []string {
	flat := make([]string, len(a.scopes))
	for i, scope := range a.scopes {
		flat[i] = "scope:" + scope
	}
	return flat
}

// Rotate implements provider.Rotator. GitLab replaces a token by ending it
// (https://docs.gitlab.com/api/personal_access_tokens/#self-rotate): were its answer lost,
// so would be the token, and who tries again ends what came of the first time. So
// token_next is replaced, while token works; it is stored, proven, and then the two change
// places.
func (p *Provider) Rotate(ctx context.Context) (provider.Health, error) {
	current, made, err := p.replaceNext(ctx)
	if err != nil {
		return provider.Health{}, err
	}
	proven, err := p.self(ctx, made)
	if err != nil {
		return provider.Health{}, fault.New(fault.CodeOf(err), "token_next was replaced and stored, but not proven to work, so token stays: %s", fault.Public(err)).Because(err)
	}
	err = p.succession().Change(ctx, fieldToken, func(parent *provider.Parent) error {
		if !parent.Secrets[fieldTokenNext].Equal(made) || !parent.Secrets[fieldToken].Equal(current) {
			return kit.ErrChangedMeanwhile
		}
		parent.Secrets[fieldToken], parent.Secrets[fieldTokenNext] = made, current
		return nil
	})
	if err != nil {
		return provider.Health{}, err
	}
	return provider.Health{Detail: "token_next was replaced by GitLab and is the token now" + proven.until(", which") + "; the former token works on as token_next, until it is replaced in its turn", Grants: scopesOf(proven), Ends: proven.ends}, nil
}

func (p *Provider) succession() kit.Succession {
	return kit.Succession{Field: fieldTokenNext, Deps: p.deps, Adopt: p.adopt}
}

// replaceNext has GitLab replace token_next, in the parent's turn, and stores what came in
// its place. current is the token beside it.
func (p *Provider) replaceNext(ctx context.Context) (current, made secret.Text, err error) {
	s := p.succession()
	release, err := s.Turn(ctx)
	if err != nil {
		return current, made, err
	}
	defer release()
	parent, err := s.Load(ctx)
	if err != nil {
		return current, made, err
	}
	current, spare := parent.Secrets[fieldToken], parent.Secrets[fieldTokenNext]
	life, err := p.mayReplace(ctx, current, spare)
	if err != nil {
		return current, made, err
	}
	ctx, cancel := kit.ToTheEnd(ctx)
	defer cancel()
	body := map[string]any{"expires_at": endDate(p.deps.Now(), life-24*time.Hour).Format(time.DateOnly)}
	answer, err := p.object(ctx, spare, http.MethodPost, "personal_access_tokens/self/rotate", body)
	token, _ := answer["token"].(string)
	switch {
	case errors.Is(err, provider.ErrAnswerLost), err == nil && token == "":
		return current, made, fault.New(fault.TemporarilyUnavailable, "GitLab may have replaced token_next, and its answer was lost, so token stays and works: see check; if it refuses token_next, make another token of the same user and write that").Because(err)
	case status(err) == http.StatusForbidden, status(err) == http.StatusBadRequest, status(err) == http.StatusMethodNotAllowed:
		return current, made, fault.New(fault.InvalidRequest, "GitLab does not replace token_next, so token stays: it must be a personal access token with the scope api or self_rotate, and the instance must allow a life of %d days", int(life.Hours()/24)).Because(err)
	case err != nil:
		return current, made, err
	}
	made = secret.New(token)
	return current, made, s.Save(ctx, spare, kit.With(parent, fieldTokenNext, made))
}

// mayReplace asks for both tokens first: to replace one that is dead would end what
// replaced it. life is how long the next one may live, as long as the one before.
func (p *Provider) mayReplace(ctx context.Context, current, spare secret.Text) (life time.Duration, err error) {
	if spare.Empty() {
		return 0, fault.New(fault.InvalidRequest, "there is nothing to rotate to: GitLab ends a token when it replaces it, so write a second one of the same user as token_next, and rotate then")
	}
	now, err := p.self(ctx, current)
	if err != nil {
		return 0, err
	}
	next, err := p.self(ctx, spare)
	switch {
	case status(err) == http.StatusUnauthorized:
		return 0, kit.ParentRefused("GitLab refuses token_next, so token stays: make another token of the same user, and write that as token_next")
	case err != nil:
		return 0, err
	case next.user != now.user:
		return 0, fault.New(fault.InvalidRequest, "token_next is another user's than token: write one of the same user")
	}
	if missing := slices.DeleteFunc(slices.Clone(now.scopes), func(s string) bool { return slices.Contains(next.scopes, s) }); len(missing) > 0 {
		return 0, fault.New(fault.InvalidRequest, "token_next lacks scopes that token has (%s): write one that has them", strings.Join(missing, ", "))
	}
	if next.ends.IsZero() || next.created.IsZero() {
		return longest, nil
	}
	// Whole days: to the hour, each rotation that comes earlier in the day would take one off.
	return min(max(next.ends.Sub(next.created.UTC().Truncate(24*time.Hour)), 48*time.Hour), longest), nil
}
