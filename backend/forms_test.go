package backend

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/downstream"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/ending"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
)

// newerVersion is what a later build would say that it takes to read its forms.
const newerVersion = "v9.9.9"

// renewForms makes what lies below prefix look as if a later build had stored it, and
// returns it by key.
func (s *oldScene) renewForms(prefix string) map[string]string {
	s.t.Helper()
	renewed := map[string]string{}
	for _, key := range s.allKeysBelow(prefix) {
		entry, err := s.storage.Get(s.t.Context(), key)
		require.NoError(s.t, err)
		// What it says of the rest is not to be believed.
		renewed[key] = fmt.Sprintf(`{"form":99,"form_plugin":%q,"id":[7],%s`, newerVersion, strings.TrimPrefix(string(entry.Value), "{"))
		require.NoError(s.t, s.storage.Put(s.t.Context(), &logical.StorageEntry{Key: key, Value: []byte(renewed[key])}))
	}
	require.NotEmpty(s.t, renewed)
	s.start()
	return renewed
}

// putBack makes it look as before.
func (s *oldScene) putBack(renewed map[string]string) {
	s.t.Helper()
	for key, value := range renewed {
		value = strings.Replace(value, fmt.Sprintf(`"form":99,"form_plugin":%q,"id":[7],`, newerVersion), "", 1)
		require.NoError(s.t, s.storage.Put(s.t.Context(), &logical.StorageEntry{Key: key, Value: []byte(value)}))
	}
	s.start()
}

// useAll does whatever one can do with a mount, and returns what was refused.
func (s *oldScene) useAll() (refusals []string) {
	s.t.Helper()
	note := func(err error) {
		if err != nil {
			refusals = append(refusals, err.Error())
		}
	}
	for _, a := range append(slices.Clone(s.old.Asks), s.old.Refused...) {
		_, err := s.ask(a)
		note(err)
	}
	for path := range s.old.Reads {
		_, err := s.read(path)
		note(err)
		if !strings.HasPrefix(path, "grants/") {
			_, err = s.write(path, map[string]any{})
			note(err)
		}
	}
	for _, l := range s.old.Leases {
		_, err := s.renew(l.lease(), 0)
		note(err)
		note(s.revoke(l.lease()))
	}
	for _, path := range []string{
		"sweep", "issuer/rotate", "revoke/entity/" + alice, "revoke/role/plain", "revoke/provider/oauth2/p", "revoke/provider/jwt/live",
	} {
		_, err := s.write(path, nil)
		note(err)
	}
	_, err := s.list("frozen", nil)
	note(err)
	s.must(s.read("metrics"))
	for range 2 {
		require.NoError(s.t, s.periodic(), "what a sweep cannot do is the log's")
		s.waitForKills()
	}
	return refusals
}

// What bypasses package form could be misread by an older build one day.
func TestEverythingStoredHasAForm(t *testing.T) {
	read := 0
	require.NoError(t, filepath.WalkDir(".", func(file string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
			return err
		}
		source, err := os.ReadFile(file)
		require.NoError(t, err)
		for _, bypass := range []string{"StorageEntryJSON(", ".DecodeJSON("} {
			require.NotContains(t, string(source), bypass, "%s: use package stored", file)
		}
		read++
		return nil
	}))
	require.Greater(t, read, 50)
}

// An older build must neither misread what a newer one has stored, nor overwrite it,
// nor take it for gone.
func TestWhatANewerBuildStoredIsLeftAlone(t *testing.T) {
	for _, prefix := range []string{
		downstream.StoragePrefix, rolePrefix, issuerPrefix, configKey, signingKeysKey, ending.OldFrozenKey, ending.FrozenPrefix, usedPrefix, ending.OrderPrefix, grant.StoragePrefix,
	} {
		t.Run(strings.Trim(prefix, "/"), func(t *testing.T) {
			s := openOldMount(t, filepath.Join(mountsDir, "v0.1.0-2843258.json"))
			if prefix == ending.FrozenPrefix {
				require.NoError(t, s.periodic()) // makes them of the one that was
			}
			renewed := s.renewForms(prefix)
			refusals := s.useAll()
			for key, value := range renewed {
				entry, err := s.storage.Get(t.Context(), key)
				require.NoError(t, err)
				require.NotNil(t, entry, key)
				require.Equal(t, value, string(entry.Value))
			}
			told := slices.ContainsFunc(refusals, func(text string) bool { return strings.Contains(text, newerVersion) })
			if prefix != usedPrefix && prefix != ending.OrderPrefix { // that it is there says enough; the sweep's to log
				require.True(t, told, strings.Join(refusals, "\n"))
			} else {
				require.Contains(t, s.log.String(), newerVersion)
			}
			s.putBack(renewed)
			s.sweep()
		})
	}
}

// A record of a newer form is of a token that lives: nothing succeeds that would have to
// have killed it.
func TestAGrantOfANewerFormIsNotGone(t *testing.T) {
	s := openOldMount(t, filepath.Join(mountsDir, "v0.1.0-2843258.json"))
	renewed := s.renewForms(grant.StoragePrefix)
	for path, data := range map[string]map[string]any{
		"revoke/entity/" + alice: nil, "revoke/role/plain": nil, "revoke/provider/oauth2/p": nil, "providers/oauth2/p": {"client_id": "another", "client_secret": parentSecret},
	} {
		_, err := s.write(path, data)
		requireCode(t, err, fault.TemporarilyUnavailable, newerVersion)
	}
	_, err := s.delete("providers/oauth2/p", map[string]any{"force": true})
	requireCode(t, err, fault.TemporarilyUnavailable, newerVersion)
	for _, l := range s.old.Leases {
		requireCode(t, s.revoke(l.lease()), fault.TemporarilyUnavailable, newerVersion)
		_, err := s.renew(l.lease(), 0)
		requireCode(t, err, fault.TemporarilyUnavailable, newerVersion)
		_, err = s.write("revoke/grant/"+l.lease().grantID, nil)
		requireCode(t, err, fault.TemporarilyUnavailable, newerVersion)
	}
	_, err = s.ask(oldAsk{Role: "limited", Entity: alice})
	requireCode(t, err, fault.TemporarilyUnavailable, newerVersion)
	s.vault.change(func(v *vaultView) { v.tainted = true })
	require.ErrorContains(t, s.periodic(), newerVersion, "the mount is not disabled over it")
	s.vault.change(func(v *vaultView) { v.tainted = false })
	for _, l := range s.old.Leases {
		if _, ofServer := s.server.Lookup(l.Token); ofServer {
			require.True(t, s.server.Active(l.Token), l.Name)
		}
	}
	// The newer build comes back and goes on.
	s.putBack(renewed)
	s.sweep()
	s.isKilledByGrant()
}

// storeNewer puts what a newer build has stored there.
func (m *mount) storeNewer(key string) string {
	value := `{"form":99,"form_plugin":"` + newerVersion + `"}`
	require.NoError(m.t, m.storage.Put(m.t.Context(), &logical.StorageEntry{Key: key, Value: []byte(value)}))
	return value
}

// What only helps must not keep those who are gone from losing their tokens.
func TestNewerFirstLooksEndNoOffboarding(t *testing.T) {
	m := newCrowdedMount(t)
	entities, _ := m.crowd(1)
	newer := m.storeNewer(ending.FirstLooksKey)
	m.start()
	m.vanish(entities...)
	m.clock.advance(10 * time.Minute)
	require.NoError(t, m.periodic())
	m.waitForKills()
	m.must(m.write("sweep", nil))
	m.waitForKills()
	require.Empty(t, m.server.Live())
	entry, err := m.storage.Get(t.Context(), ending.FirstLooksKey)
	require.NoError(t, err)
	require.NotNil(t, entry)
	require.Equal(t, newer, string(entry.Value))
}

func TestWhatANewerBuildHasFrozenCanBeKilled(t *testing.T) {
	m := newMount(t, setup{})
	l, err := m.credsBy(call{entity: alice})
	require.NoError(t, err)
	newer := m.storeNewer(freezeKey("entity/" + alice))
	m.start()
	m.must(m.write("revoke/entity/"+alice, map[string]any{"freeze": true}))
	m.waitForKills()
	require.False(t, m.server.Active(l.token))
	_, err = m.credsBy(call{entity: alice})
	require.Error(t, err, "it is frozen")
	entry, err := m.storage.Get(t.Context(), freezeKey("entity/"+alice))
	require.NoError(t, err)
	require.NotNil(t, entry)
	require.Equal(t, newer, string(entry.Value))
}

func TestABrokenUsedTokenKeepsNoOtherOnRecord(t *testing.T) {
	m := withSubject(t)
	require.NoError(t, m.storage.Put(t.Context(), &logical.StorageEntry{Key: usedPrefix + "!", Value: []byte("{")}))
	_, err := m.creds(map[string]any{"subject_token": m.subjectToken("one", nil)})
	require.NoError(t, err)
	m.clock.advance(48 * time.Hour)
	require.NoError(t, m.periodic())
	keys, err := m.storage.List(t.Context(), usedPrefix)
	require.NoError(t, err)
	require.Equal(t, []string{"!"}, keys)
	require.NoError(t, m.storage.Delete(t.Context(), usedPrefix+"!")) // the mount ends without complaint
}

func TestANewerUsedTokenKeepsNoOtherOnRecord(t *testing.T) {
	m := withSubject(t)
	m.storeNewer(usedPrefix + "!")
	_, err := m.creds(map[string]any{"subject_token": m.subjectToken("one", nil)})
	require.NoError(t, err)
	m.clock.advance(48 * time.Hour)
	require.NoError(t, m.periodic())
	keys, err := m.storage.List(t.Context(), usedPrefix)
	require.NoError(t, err)
	require.Equal(t, []string{"!"}, keys)
	_, err = m.write("sweep", nil)
	require.ErrorContains(t, err, newerVersion)
	require.NoError(t, m.storage.Delete(t.Context(), usedPrefix+"!")) // the mount ends without complaint
}
