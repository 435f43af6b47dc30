package kit_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/kit"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/providertest"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// heir is a Succession on a store of its own, whose secret in the field key is replaced.
type heir struct {
	kit.Succession
	store   *providertest.ParentStore
	adopted provider.Parent
}

func newHeir(t *testing.T, key string) *heir {
	t.Helper()
	h := &heir{store: providertest.NewParentStore(provider.Parent{Secrets: providertest.Secrets(map[string]string{"key": key, "other": "o"})})}
	h.Succession = kit.Succession{
		Field: "key",
		Deps: provider.Deps{
			Logger: hclog.NewNullLogger(), LoadParent: h.store.Load, SaveParent: h.store.Save, Turn: h.store.Turn,
		},
		Adopt: func(p provider.Parent) { h.adopted = p },
	}
	return h
}

func (h *heir) stored() map[string]string {
	values := map[string]string{}
	for name, s := range h.store.Parent().Secrets {
		values[name] = s.Reveal()
	}
	return values
}

func TestWhatCannotBeStoredIsKeptUntilItCan(t *testing.T) {
	h := newHeir(t, "kept-1")
	used := secret.New("kept-1")
	parent, err := h.Load(t.Context())
	require.NoError(t, err)
	h.store.FailSaves(errors.New("storage is away"))
	require.ErrorContains(t, h.Save(t.Context(), used, kit.With(parent, "key", secret.New("kept-2"))), "could not be stored")
	require.True(t, h.Waiting(used))
	require.Equal(t, "kept-1", h.stored()["key"])
	_, err = h.Load(t.Context())
	require.ErrorContains(t, err, "could not be stored", "nothing is asked meanwhile")

	// Another Provider is opened on the same parent, and an operator has changed what else there is.
	again := kit.Succession{Field: "key", Deps: h.Deps}
	h.store.FailSaves(nil)
	h.store.Write(map[string]string{"key": "kept-1", "other": "changed"})
	parent, err = again.Load(t.Context())
	require.NoError(t, err)
	require.Equal(t, "kept-2", parent.Secrets["key"].Reveal())
	require.Equal(t, map[string]string{"key": "kept-2", "other": "changed"}, h.stored())
	require.False(t, h.Waiting(used))
}

func TestASaveMeetsAnOperatorsWrite(t *testing.T) {
	for name, c := range map[string]struct{ written, want map[string]string }{
		"of the same secret": {map[string]string{"key": "mine", "other": "o"}, map[string]string{"key": "mine", "other": "o"}},
		"of another secret":  {map[string]string{"key": "met-1", "other": "mine"}, map[string]string{"key": "met-2", "other": "mine"}},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHeir(t, "met-1")
			parent, err := h.Load(t.Context())
			require.NoError(t, err)
			h.store.Write(c.written)
			require.NoError(t, h.Save(t.Context(), secret.New("met-1"), kit.With(parent, "key", secret.New("met-2"))))
			require.Equal(t, c.want, h.stored())
			require.False(t, h.Waiting(secret.New("met-1")))
		})
	}
}

func TestAChangeIsAllOrNothing(t *testing.T) {
	h := newHeir(t, "whole-1")
	beside := func(p *provider.Parent) error { p.Secrets["key_next"] = secret.New("whole-2"); return nil }
	h.store.FailSaves(errors.New("storage is away"))
	require.ErrorContains(t, h.Change(t.Context(), "key", beside), "key stays")
	require.Equal(t, map[string]string{"key": "whole-1", "other": "o"}, h.stored())
	require.Equal(t, "whole-1", h.adopted.Secrets["key"].Reveal())
	require.NotContains(t, h.adopted.Secrets, "key_next")
	h.store.FailSaves(nil)
	require.ErrorIs(t, h.Change(t.Context(), "key", func(*provider.Parent) error { return kit.ErrChangedMeanwhile }), kit.ErrChangedMeanwhile)
	require.ErrorIs(t, h.Change(t.Context(), "key", func(*provider.Parent) error {
		h.store.Write(map[string]string{"key": "whole-1", "other": "mine"})
		return nil
	}), kit.ErrChangedMeanwhile)

	require.NoError(t, h.Change(t.Context(), "key", beside))
	require.Equal(t, map[string]string{"key": "whole-1", "key_next": "whole-2", "other": "mine"}, h.stored(), "both are on record")
	require.NoError(t, h.Change(t.Context(), "key", func(p *provider.Parent) error {
		kit.Promote(p, []string{"key", "other"}, []string{"key_next", "other_next"})
		return nil
	}))
	require.Equal(t, map[string]string{"key": "whole-2"}, h.stored())
	require.Equal(t, "whole-2", h.adopted.Secrets["key"].Reveal())
}

func TestAUseGoesToTheEnd(t *testing.T) {
	given, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	use, done := kit.ToTheEnd(given)
	defer done()
	cancel()
	require.NoError(t, use.Err())
	deadline, ok := use.Deadline()
	require.True(t, ok)
	require.Greater(t, time.Until(deadline), 10*time.Second)
	use, done = kit.ToTheEnd(t.Context())
	defer done()
	_, ok = use.Deadline()
	require.False(t, ok, "the client's timeout bounds it")
}

func TestAJWTIsReusedUntilShortlyBeforeItsEnd(t *testing.T) {
	var r kit.Reused
	now, made := time.Unix(1_700_000_000, 0), 0
	get := func(after time.Duration) string {
		at := now.Add(after)
		token, err := r.Get(at, func() (secret.Text, time.Time, error) {
			made++
			return secret.New(at.String()), at.Add(10 * time.Minute), nil
		})
		require.NoError(t, err)
		return token.Reveal()
	}
	first := get(0)
	require.Equal(t, first, get(7*time.Minute+59*time.Second))
	require.Equal(t, 1, made)
	require.NotEqual(t, first, get(8*time.Minute))
	require.Equal(t, 2, made)
	r.Forget()
	get(8 * time.Minute)
	require.Equal(t, 3, made)
	_, err := (&kit.Reused{}).Get(now, func() (secret.Text, time.Time, error) { return secret.Text{}, now, errors.New("no key") })
	require.Error(t, err)
}
