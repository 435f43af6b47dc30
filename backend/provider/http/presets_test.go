package httpapi_test

import (
	"cmp"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/access"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider"
	httpapi "github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/http"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/providertest"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/provider/providertest/systems"
)

// Every definition that the plugin ships is held against what its system is known to
// answer: testdata/http/<preset>/system.yaml.

// presets are all that there are; kubernetes is an operator's.
func presets(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("presets/*.json")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	var names []string
	for _, file := range files {
		names = append(names, strings.TrimSuffix(filepath.Base(file), ".json"))
	}
	return names
}

// field is a preset, opened on its system.
type field struct {
	provider.Provider
	*systems.System
	store *providertest.ParentStore
	now   time.Time
}

const fixtures = "../../../testdata/http"

func read(t *testing.T, preset string) systems.Script {
	t.Helper()
	return systems.Read(t, filepath.Join(fixtures, preset))
}

var today = time.Date(2026, 11, 28, 10, 30, 0, 0, time.UTC)

func newField(t *testing.T, preset string) *field {
	t.Helper()
	f := &field{now: today}
	f.System = systems.Start(t, read(t, preset), func() time.Time { return f.now })
	fields := map[string]any{"base_url": f.URL, "preset": preset}
	for name, value := range f.Script.Provider {
		fields[name] = value
	}
	f.Provider, f.store = providertest.Setup{
		Type: httpapi.Type{}, Fields: fields, Secrets: f.Secrets, Now: func() time.Time { return f.now },
		Signer: &providertest.Signer{URL: "https://broker.test", Token: f.Signed},
	}.Open(t)
	return f
}

const grantID = "7a3c1b52-90de-4f61-8a55-0123456789ab.WxYz1.n00112233445566778899aabbccddeeff"

// asks is what the script's request asks for.
func (f *field) asks(t *testing.T) provider.Request {
	t.Helper()
	r := f.Request
	permissions, err := access.NewPermissions(f.Traits().Levels, r.Permissions)
	require.NoError(t, err)
	return provider.Request{
		Access: access.Access{
			Scopes: access.Exactly(r.Scopes...), Audiences: access.Exactly(r.Audiences...), Resources: access.Exactly(r.Resources...),
			Permissions: permissions,
		},
		TTL: f.Traits().Life.Within(50 * time.Minute), Parameters: r.Parameters, GrantID: grantID,
	}
}

func TestPresetsConform(t *testing.T) {
	for _, preset := range presets(t) {
		t.Run(preset, func(t *testing.T) {
			providertest.Run(t, func(t *testing.T) providertest.Subject {
				f := newField(t, preset)
				return providertest.Subject{
					Provider: f.Provider, Type: httpapi.Type{}, Request: f.asks(t), Store: f.store,
					Alive: func(c *provider.Child) bool {
						for _, part := range c.Secrets {
							if !f.Alive(part.Reveal()) {
								return false
							}
						}
						return true
					},
					Minted: f.Minted,
					Echo:   f.Echo,
					Stall:  f.Stall,
				}
			})
		})
	}
}

// Every request of a grant's life, byte for byte. UPDATE_GOLDEN=1 rewrites the files.
func TestPresetsWire(t *testing.T) {
	for _, preset := range presets(t) {
		t.Run(preset, func(t *testing.T) {
			f := newField(t, preset)
			var all strings.Builder
			chapter := func(name string) { all.WriteString("# " + name + "\n\n" + f.Asked()) }
			if f.Provider.(provider.Trusted).Unprovable() == "" {
				_, err := f.Provider.(provider.Checker).Check(t.Context())
				require.NoError(t, err)
				chapter("check")
			}
			child, err := f.Mint(t.Context(), f.asks(t))
			require.NoError(t, err)
			chapter("mint")
			if f.Traits().Class == provider.ClassToken {
				if finder, ok := f.Provider.(provider.Finder); ok {
					found, err := finder.Find(t.Context(), provider.Trace{GrantID: grantID})
					require.NoError(t, err)
					require.Len(t, found, 1)
					chapter("find")
				}
				revoker := f.Provider.(provider.Revoker)
				require.NoError(t, revoker.Revoke(t.Context(), child.Handle))
				chapter("revoke")
				require.NoError(t, revoker.Revoke(t.Context(), child.Handle))
				require.Zero(t, f.Left())
			}
			golden(t, filepath.Join(fixtures, preset, "requests.txt"), all.String())
		})
	}
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if os.Getenv("UPDATE_GOLDEN") != "" {
		require.NoError(t, os.WriteFile(file, []byte(got), 0o644))
		return
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(want), got)
}

// What a product is known to refuse becomes what the caller shall know.
func TestPresetsRefusals(t *testing.T) {
	for _, preset := range presets(t) {
		script := read(t, preset)
		require.NotEmpty(t, script.Refusals)
		for _, r := range script.Refusals {
			t.Run(preset+" "+r.Code, func(t *testing.T) {
				f := newField(t, preset)
				child, err := f.Mint(t.Context(), f.asks(t))
				require.NoError(t, err)
				f.Instead(r.Call, systems.Answer{Status: r.Status, Body: r.Body})
				if makes := slices.ContainsFunc(script.Routes, func(one systems.Route) bool { return one.Call == r.Call && one.Makes != "" }); makes {
					child, err = f.Mint(t.Context(), f.asks(t))
					require.Nil(t, child)
				} else {
					err = f.Provider.(provider.Revoker).Revoke(t.Context(), child.Handle)
				}
				require.Equal(t, r.Code, string(fault.CodeOf(err)), "%v", err)
			})
		}
	}
}

// Another parent than the system knows is said to be refused, not to be out of order.
func TestPresetsTellARefusedParent(t *testing.T) {
	for _, preset := range presets(t) {
		f := newField(t, preset)
		if len(f.Known) == 0 {
			continue
		}
		f.Forget()
		_, err := f.Provider.(provider.Checker).Check(t.Context())
		require.Equal(t, fault.ParentRefused, fault.CodeOf(err), "%s: %v", preset, err)
	}
}

// Whichever answer is lost on its way, what the mint has left is found by its name and ended.
func TestPresetsFindWhatALostAnswerHasLeft(t *testing.T) {
	for _, preset := range presets(t) {
		if _, finds := newField(t, preset).Provider.(provider.Finder); !finds {
			continue
		}
		for _, r := range read(t, preset).Routes {
			if r.Makes == "" {
				continue
			}
			t.Run(preset+" "+r.Makes, func(t *testing.T) {
				f := newField(t, preset)
				others := f.asks(t)
				for range 2 * systems.MostItems { // on pages before
					others.GrantID += "0"
					_, err := f.Mint(t.Context(), others)
					require.NoError(t, err)
				}
				before := f.Left()
				f.HangUp(r.Call)
				child, err := f.Mint(t.Context(), f.asks(t))
				require.Error(t, err)
				f.HangUp("")
				finder := f.Provider.(provider.Finder)
				if child != nil {
					require.NoError(t, finder.Revoke(t.Context(), child.Handle))
				} else {
					require.ErrorIs(t, err, provider.ErrAnswerLost)
				}
				found, err := finder.Find(t.Context(), provider.Trace{GrantID: grantID})
				require.NoError(t, err)
				for _, one := range found {
					require.NoError(t, finder.Revoke(t.Context(), one.Handle))
				}
				require.Equal(t, before, f.Left())
			})
		}
	}
}

// A preset says where its answers are known from and what it was tried at, and docs/http.md
// says the same.
func TestPresetsSayWhatTheyWereTriedAt(t *testing.T) {
	tried := map[string]string{"gitea": "Gitea 1.26.0", "vault": "Vault 1.21.4", "vault_jwt": "Vault 1.21.4"}
	page, err := os.ReadFile("../../../docs/http.md")
	require.NoError(t, err)
	rows := map[string]string{} // what the last column says
	for line := range strings.Lines(string(page)) {
		if cells := strings.Split(line, "|"); len(cells) == 7 {
			rows[strings.Trim(cells[1], " `")] = strings.TrimSpace(cells[5])
		}
	}
	for _, preset := range presets(t) {
		raw, err := os.ReadFile(filepath.Join("presets", preset+".json"))
		require.NoError(t, err)
		var d struct{ About, Source, Tried string }
		require.NoError(t, json.Unmarshal(raw, &d))
		require.NotEmpty(t, d.About, preset)
		require.NotEmpty(t, d.Source, preset)
		require.Equal(t, tried[preset], d.Tried, preset)
		require.Equal(t, cmp.Or(d.Tried, "untried"), rows[preset], "docs/http.md has no row of %s, or another one", preset)
	}
}

// JFrog reads one scope as several groups or roles, or as all of them: none such is sent.
func TestArtifactoryTakesScopesOfOneThingEach(t *testing.T) {
	f := newField(t, "artifactory")
	r := f.asks(t)
	for scope, ok := range map[string]bool{
		"applied-permissions/user": true, "applied-permissions/admin": true, "applied-permissions/groups:readers": true,
		"applied-permissions/roles:tools:Developer": true, "system:metrics:r": true, "system:livelogs:r": true,
		"applied-permissions/groups:readers,admins": false, "applied-permissions/groups:*": false, `applied-permissions/groups:"a","b"`: false,
		"applied-permissions/groups:": false, "applied-permissions/groups:a:b": false, "applied-permissions/roles:tools:Developer,Owner": false,
		"applied-permissions/roles:tools": false, "applied-permissions/roles:*:Owner": false, "applied-permissions/admin/x": false,
		"applied-permissions/user applied-permissions/admin": false, "applied-permissions/user\napplied-permissions/admin": false,
		"member-of-groups:admins": false, "*": false, "applied-permissions/*": false, "": false,
	} {
		f.Asked()
		r.Access.Scopes = access.Exactly(scope)
		child, err := f.Mint(t.Context(), r)
		if ok {
			require.NoError(t, err, scope)
			require.Contains(t, child.Granted.Flat(), "scope:"+scope)
			continue
		}
		require.Equal(t, fault.InvalidScope, fault.CodeOf(err), "%q: %v", scope, err)
		require.Empty(t, f.Asked(), "%q was sent", scope)
	}
}

// A token of JFrog's below its threshold cannot be ended without force_revocable, and one
// that expires in 0 seconds never does.
func TestArtifactorysTokensCanBeEndedAndEnd(t *testing.T) {
	f := newField(t, "artifactory")
	r := f.asks(t)
	for _, ttl := range []time.Duration{1, time.Second, time.Minute, 5 * time.Hour, 2000 * time.Hour} {
		f.Asked()
		r.TTL = ttl
		child, err := f.Mint(t.Context(), r)
		require.NoError(t, err)
		_, body, _ := strings.Cut(f.Asked(), "\n\n")
		var sent struct {
			Forced  bool  `json:"force_revocable"`
			Expires int64 `json:"expires_in"`
		}
		require.NoError(t, json.Unmarshal([]byte(body), &sent))
		require.True(t, sent.Forced)
		require.Equal(t, max(1, int64(ttl.Seconds())), sent.Expires)
		require.False(t, child.ExpiresAt.IsZero())
	}
	// What the platform gives without an end is not handed out, and ended.
	for _, r := range f.Routes {
		if r.Makes != "" {
			body := r.Answer.Body.(map[string]any)
			body["token_id"], body["expires_in"] = "7e0eec2b", 0
			f.Instead(r.Call, systems.Answer{Status: r.Answer.Status, Body: body})
		}
	}
	child, err := f.Mint(t.Context(), r)
	require.Equal(t, fault.ProviderViolation, fault.CodeOf(err), "%v", err)
	f.Asked()
	require.NoError(t, f.Provider.(provider.Revoker).Revoke(t.Context(), child.Handle))
	require.Contains(t, f.Asked(), "DELETE /access/api/v1/tokens/7e0eec2b\n")
}
