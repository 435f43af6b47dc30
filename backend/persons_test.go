package backend

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/ending"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/person"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/authserver"
)

// The people of these tests beside alice, whose agent is bob.
const (
	alice2  = "11111111-bbbb-4bbb-8bbb-222222222222" // she again
	mallory = "33333333-cccc-4ccc-8ccc-333333333333" // a stranger
	carol   = "44444444-dddd-4ddd-8ddd-444444444444"

	loginMount = "auth_oidc_1a2b3c4d"
	ldapMount  = "auth_ldap_5e6f7a8b"
	otherMount = "auth_userpass_9c0d1e2f"
)

// entityWith is an entity of these aliases, mount and name in turn.
func entityWith(id string, metadata map[string]string, aliases ...string) *logical.Entity {
	e := &logical.Entity{ID: id, Name: "entity-" + id[:8], Metadata: metadata}
	for i := 0; i < len(aliases); i += 2 {
		e.Aliases = append(e.Aliases, &logical.Alias{MountAccessor: aliases[i], Name: aliases[i+1]})
	}
	return e
}

// setEntity is what Vault says of an entity from now on.
func (m *mount) setEntity(e *logical.Entity) {
	m.vault.change(func(v *vaultView) { v.entities[e.ID] = e })
}

// newPeople is a mount whose issuer idp says what ties its subjects. Alice is two entities,
// alice who logs in, and alice2 with the same employee number; the number of mallory, whose
// alias has alice's name at another mount, is empty.
func newPeople(t testing.TB) *mount {
	t.Helper()
	m := newTrustingMount(t)
	m.must(m.write("issuers/idp", map[string]any{
		"entity_claim": "entity", "entity_alias_mount": loginMount, "entity_metadata": map[string]any{"number": "employee"},
	}))
	m.setEntity(entityWith(alice, map[string]string{"number": "7"}, loginMount, "alice"))
	m.setEntity(entityWith(alice2, map[string]string{"number": "7"}, ldapMount, "asmith"))
	m.setEntity(entityWith(bob, nil, otherMount, "agent"))
	m.setEntity(entityWith(mallory, map[string]string{"number": ""}, otherMount, "alice", ldapMount, "mallory"))
	return m
}

// ownOf is a grant of the entity's own.
func (m *mount) ownOf(entity string) *lease {
	m.t.Helper()
	return m.signedTo(entity, "r", map[string]any{"scopes": "read"})
}

var jtis int

// behalf is a token of bob's on a subject's behalf.
func (m *mount) behalf(sub string, claims map[string]any) *lease {
	m.t.Helper()
	l, err := m.tryBehalf(sub, claims)
	require.NoError(m.t, err)
	return l
}

func (m *mount) tryBehalf(sub string, claims map[string]any) (*lease, error) {
	m.t.Helper()
	all := map[string]any{"sub": sub}
	for name, value := range claims {
		all[name] = value
	}
	jtis++
	return m.credsBy(call{path: "creds/s", entity: bob, data: map[string]any{"subject_token": m.subjectToken(fmt.Sprint("p", jtis), all)}})
}

func (m *mount) person(data map[string]any) *logical.Response {
	m.t.Helper()
	return m.must(m.write("revoke/person", data))
}

// identified are the identities of an answer: entities' ids and subjects.
func identified(resp *logical.Response) (names []string) {
	for _, item := range resp.Data["identities"].([]any) {
		i := item.(map[string]any)
		if id, ok := i["entity_id"].(string); ok {
			names = append(names, id)
		} else {
			names = append(names, i["subject"].(string))
		}
	}
	slices.Sort(names)
	return names
}

// requireAlive says which of the leases' tokens live.
func (m *mount) requireAlive(want bool, leases ...*lease) {
	m.t.Helper()
	for i, l := range leases {
		require.Equal(m.t, want, m.server.Active(l.token), "lease %d, %s", i, l.grantID)
	}
}

// TestAPersonIsSeveralIdentities: however she is named, what she holds and what is held in
// her name dies, and a stranger of the same name and one without a number stay.
func TestAPersonIsSeveralIdentities(t *testing.T) {
	for name, criterion := range map[string]map[string]any{
		"an entity":                    {"entity_id": alice},
		"a duplicate":                  {"entity_id": alice2},
		"a subject":                    {"issuer": "idp", "subject": "alice"},
		"an alias":                     {"alias_name": "alice", "alias_mount": loginMount},
		"an alias at a mount unmapped": {"alias_name": "asmith", "alias_mount": ldapMount},
		"metadata":                     {"metadata_key": "number", "metadata_value": "7"},
	} {
		t.Run(name, func(t *testing.T) {
			m := newPeople(t)
			both := m.signedTo(alice, "s", map[string]any{"subject_token": m.subjectToken("both", map[string]any{"sub": "alice"})})
			hers := []*lease{both, m.ownOf(alice), m.ownOf(alice2), m.behalf("alice", nil), m.behalf("alice.by.number", map[string]any{"employee": 7}), m.behalf("by id", map[string]any{"entity": alice2})}
			others := []*lease{m.ownOf(bob), m.ownOf(mallory), m.behalf("bert", nil), m.behalf("no number", map[string]any{"employee": ""}), m.behalf("zero", map[string]any{"employee": 77})}
			want := []string{alice, alice2, "alice", "alice.by.number", "by id"}

			written := 0
			m.storage.on(func(op, key string) error {
				if op == "put" || op == "delete" {
					written++
				}
				return nil
			})
			asked := map[string]any{"dry_run": true, "freeze": true}
			for field, value := range criterion {
				asked[field] = value
			}
			resp := m.person(asked)
			require.Equal(t, want, identified(resp))
			require.Equal(t, 0, resp.Data["revoked"])
			require.Equal(t, false, resp.Data["frozen"])
			require.Zero(t, written, "a dry run writes nothing")
			require.Empty(t, m.keys("frozen", nil))
			m.storage.on(nil)
			m.requireAlive(true, append(slices.Clone(hers), others...)...)

			resp = m.person(criterion)
			require.Equal(t, want, identified(resp))
			require.Equal(t, 6, resp.Data["revoked"], "none counts twice")
			require.Equal(t, false, resp.Data["frozen"])
			require.NotContains(t, resp.Data, "unknown")
			require.Empty(t, resp.Warnings)
			for _, item := range resp.Data["identities"].([]any) {
				require.NotEmpty(t, item.(map[string]any)["why"])
			}
			m.requireAlive(false, hers...)
			m.requireAlive(true, others...)
		})
	}
}

// TestWhyAnIdentityIsTaken for the person's can be read.
func TestWhyAnIdentityIsTaken(t *testing.T) {
	m := newPeople(t)
	m.ownOf(alice)
	m.ownOf(alice2)
	m.behalf("by id", map[string]any{"entity": alice})
	resp := m.person(map[string]any{"entity_id": alice, "dry_run": true})
	require.Equal(t, []any{
		map[string]any{"kind": "entity", "entity_id": alice, "why": "it was asked for"},
		map[string]any{"kind": "subject", "issuer": m.server.URL, "subject": "by id", "why": "its token names the entity " + alice + ", which was asked for"},
		map[string]any{"kind": "entity", "entity_id": alice2, "why": `it shares the metadata number="7" with the entity ` + alice},
	}, resp.Data["identities"])
	require.Equal(t, map[string]any{"entities": 3, "entities_not_asked": 0, "entities_kept": 0, "subjects": 2}, resp.Data["searched"])
}

// TestAFrozenPersonGetsNothing: neither by a duplicate that nobody had heard of, nor by
// somebody who acts in her name, nor after the entity is gone; and who is like her only by
// a name elsewhere does.
func TestAFrozenPersonGetsNothing(t *testing.T) {
	m := newPeople(t)
	first := m.ownOf(alice)
	resp := m.person(map[string]any{"entity_id": alice, "freeze": true})
	require.Equal(t, true, resp.Data["frozen"])
	m.requireAlive(false, first)
	m.start()

	m.setEntity(entityWith(carol, map[string]string{"number": "7"}))
	refused := func() {
		t.Helper()
		for _, entity := range []string{alice, alice2, carol} {
			_, err := m.credsBy(call{entity: entity})
			requireCode(t, err, fault.AccessDenied, "the person is frozen")
		}
		_, err := m.tryBehalf("alice", nil)
		requireCode(t, err, fault.AccessDenied, "the person is frozen")
		_, err = m.tryBehalf("another", map[string]any{"employee": 7})
		requireCode(t, err, fault.AccessDenied, "the person is frozen")
	}
	refused()
	m.ownOf(mallory)
	m.ownOf(bob)
	m.behalf("bert", nil)

	m.vault.change(func(v *vaultView) { delete(v.entities, alice) })
	m.setEntity(entityWith(carol, nil, loginMount, "alice")) // who logs in again is a new entity
	_, err := m.credsBy(call{entity: carol})
	requireCode(t, err, fault.AccessDenied, "the person is frozen")

	explained := m.must(m.write("roles/r/explain", map[string]any{"entity_id": carol})).Data
	require.Equal(t, false, explained["allowed"])

	listed := m.must(m.list("frozen", nil)).Data
	id := "person/" + resp.Data["person"].(string)
	require.Equal(t, []string{id}, listed["keys"])
	info := listed["key_info"].(map[string]any)[id].(map[string]any)
	require.Equal(t, alice, info["entity_id"])
	require.Contains(t, info["ties"], `the metadata number="7"`)

	wrong := m.person(map[string]any{"metadata_key": "number", "metadata_value": "7", "freeze": false})
	require.Equal(t, true, wrong.Data["unknown"])
	require.Contains(t, strings.Join(wrong.Warnings, " "), "freeze=false with entity_id="+alice)
	_, err = m.credsBy(call{entity: alice2})
	requireCode(t, err, fault.AccessDenied, "the person is frozen")

	thawed := m.person(map[string]any{"entity_id": alice, "freeze": false})
	require.Equal(t, false, thawed.Data["frozen"])
	require.NotContains(t, thawed.Data, "unknown")
	m.ownOf(carol)
	m.ownOf(alice2)
	m.behalf("alice", nil)
}

// TestAPersonWhoIsFrozenAgain stays frozen by what tied her the first time.
func TestAPersonWhoIsFrozenAgain(t *testing.T) {
	m := newPeople(t)
	m.setEntity(entityWith(carol, map[string]string{"number": "7"}))
	m.ownOf(alice)
	freeze := map[string]any{"entity_id": alice, "freeze": true}
	m.person(freeze)
	m.setEntity(entityWith(alice, map[string]string{"number": "8"}))
	_, err := m.credsBy(call{entity: alice}) // by which the change is known
	requireCode(t, err, fault.AccessDenied, "the person is frozen")
	m.clock.advance(2 * hadFor)
	m.person(freeze)
	_, err = m.credsBy(call{entity: carol})
	requireCode(t, err, fault.AccessDenied, "the person is frozen")
	m.person(map[string]any{"entity_id": alice, "freeze": false})
	m.person(freeze)
	m.ownOf(carol)
}

// TestAMergedEntityIsWhoItWasMergedInto, with what it holds still.
func TestAMergedEntityIsWhoItWasMergedInto(t *testing.T) {
	for _, disabled := range []bool{false, true} {
		m := newPeople(t)
		m.setEntity(entityWith(alice2, nil))
		l, byID := m.ownOf(alice), m.behalf("by id", map[string]any{"entity": alice})
		m.vault.change(func(v *vaultView) {
			v.entities[carol] = entityWith(carol, nil)
			v.entities[carol].Disabled = disabled
			v.entities[alice] = v.entities[carol]
		})
		if disabled {
			m.periodicAfter(time.Minute)
			m.requireAlive(false, byID)
			continue
		}
		require.ElementsMatch(t, []string{alice, "by id", carol}, identified(m.person(map[string]any{"entity_id": carol})))
		m.requireAlive(false, l, byID)
	}
}

// TestAPersonIsKilledBeforeAllRecordsAreRead, as far as is known, and frozen by all that is.
func TestAPersonIsKilledBeforeAllRecordsAreRead(t *testing.T) {
	m := newPeople(t)
	hers, behalf := m.ownOf(alice), m.behalf("alice", nil)
	m.sweep()
	m.start()
	m.b.persons.wait = time.Millisecond
	release := m.haltScan()
	defer release()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	resp, err := m.do(call{op: logical.UpdateOperation, path: "revoke/person", ctx: ctx, data: map[string]any{"issuer": "idp", "subject": "alice", "freeze": true}})
	require.NoError(t, err)
	require.Equal(t, []string{alice, "alice"}, identified(resp), "she is tied by what is kept")
	require.Contains(t, strings.Join(resp.Warnings, " "), "still being read")
	require.False(t, m.b.ledger.Loaded())
	m.requireAlive(false, hers)
	_, err = m.tryBehalf("alice", nil)
	requireCode(t, err, fault.AccessDenied, "the person is frozen")
	release()
	require.Eventually(t, func() bool { return !m.server.Active(behalf.token) }, promptly, time.Millisecond)
	m.waitForKills()
}

// TestAPersonIsFoundWithoutReadingEverybodysRecords.
func TestAPersonIsFoundWithoutReadingEverybodysRecords(t *testing.T) {
	m := newPeople(t)
	for i := range 200 {
		id := fmt.Sprintf("%08d-cccc-4ccc-8ccc-333333333333", i)
		m.setEntity(entityWith(id, map[string]string{"number": fmt.Sprint("n", i)}))
		m.ownOf(id)
		m.behalf(fmt.Sprint("user", i), nil)
	}
	m.ownOf(alice)
	m.behalf("alice", nil)
	m.sweep()
	var mu sync.Mutex
	read := 0
	m.storage.on(func(op, key string) error {
		mu.Lock()
		defer mu.Unlock()
		if op == "get" && strings.HasPrefix(key, "grant/") {
			read++
		}
		return nil
	})
	require.Equal(t, 2, m.person(map[string]any{"entity_id": alice}).Data["revoked"])
	m.storage.on(nil)
	mu.Lock()
	defer mu.Unlock()
	require.Less(t, read, 20)
}

// TestVaultIsAskedMoreOnlyWhileAPersonIsFrozen, and an issue writes its record and no more
// where issuers say what ties entities.
func TestVaultIsAskedMoreOnlyWhileAPersonIsFrozen(t *testing.T) {
	m := newPeople(t)
	issue := func() { m.ownOf(alice) }
	issue()
	var mu sync.Mutex
	var stored []string
	m.storage.on(func(op, _ string) error {
		mu.Lock()
		defer mu.Unlock()
		stored = append(stored, op)
		return nil
	})
	require.Empty(t, m.vault.whileAsked(issue))
	require.Equal(t, []string{"put"}, stored)
	m.storage.on(nil)
	m.person(map[string]any{"alias_name": "nobody", "alias_mount": otherMount, "freeze": true})
	require.Equal(t, 2, m.vault.whileAsked(issue)["EntityInfo"], "before the mint and after the record")
	m.vault.failWith(fmt.Errorf("no answer"))
	_, err := m.credsBy(call{entity: alice})
	requireCode(t, err, fault.TemporarilyUnavailable)
	m.vault.failWith(nil)
	m.person(map[string]any{"alias_name": "nobody", "alias_mount": otherMount, "freeze": false})
	require.Empty(t, m.vault.whileAsked(issue))
}

// TestARenewalOfAFrozenPersonsGrant, whose kill has failed so far, is refused.
func TestARenewalOfAFrozenPerson(t *testing.T) {
	m := newPeople(t)
	l := m.behalf("alice", nil)
	require.NoError(t, m.b.freezer.FreezePerson(t.Context(), "x", "test", ending.FrozenPerson{Ties: person.AtEach([]string{loginMount}, "alice")}))
	_, err := m.renew(l, time.Minute)
	requireCode(t, err, fault.AccessDenied, "the person is frozen")
	require.NoError(t, m.b.freezer.Thaw(t.Context(), thingOf("person/x")))
	_, err = m.renew(l, time.Minute)
	require.NoError(t, err)
}

// TestAMintInFlightOfAFrozenPerson is not handed out, thawed meanwhile or not.
func TestAMintInFlightOfAFrozenPerson(t *testing.T) {
	for _, thaw := range []bool{false, true} {
		m := newPeople(t)
		m.setEntity(entityWith(carol, map[string]string{"number": "7"}))
		m.server.Break(authserver.EndpointToken, authserver.Once(authserver.Before(func() {
			m.person(map[string]any{"metadata_key": "number", "metadata_value": "7", "freeze": true})
			if thaw {
				m.person(map[string]any{"metadata_key": "number", "metadata_value": "7", "freeze": false})
			}
		})))
		_, err := m.credsBy(call{entity: carol})
		requireCode(t, err, fault.AccessDenied, "the person")
		require.Empty(t, m.server.Live())
	}
}

// TestWhatTooManyShareIsNobodys: the closure is bounded, and loud.
func TestWhatTooManyShareIsNobodys(t *testing.T) {
	m := newPeople(t)
	var all []*lease
	for i := range person.MostIdentities + 2 {
		id := fmt.Sprintf("%08d-cccc-4ccc-8ccc-333333333333", i)
		m.setEntity(entityWith(id, map[string]string{"number": "0"}))
		all = append(all, m.ownOf(id))
	}
	one := m.person(map[string]any{"entity_id": "00000003-cccc-4ccc-8ccc-333333333333"})
	require.Equal(t, 1, one.Data["revoked"])
	require.Contains(t, strings.Join(one.Warnings, " "), `more than 20 identities have the metadata number="0"`)
	_, err := m.write("revoke/person", map[string]any{"metadata_key": "number", "metadata_value": "0", "freeze": true})
	requireCode(t, err, fault.InvalidRequest, "more than 100 identities", "no one person")
	require.Empty(t, m.keys("frozen", nil))
	require.Len(t, m.server.Live(), len(all)-1)
	dry := m.person(map[string]any{"metadata_key": "number", "metadata_value": "0", "dry_run": true})
	require.NotEmpty(t, dry.Warnings)
}

// TestTheDeadHideNobody: subjects that come and go, such as a job's, are neither in the way of
// those that are there nor too many who share something.
func TestTheDeadHideNobody(t *testing.T) {
	for name, test := range map[string]struct {
		claims map[string]any
		many   int
	}{
		"a claim that is the entity's id": {map[string]any{"entity": alice}, person.MostIdentities},
		"metadata":                        {map[string]any{"employee": 7}, person.MostSharing},
	} {
		for _, leaves := range []bool{false, true} {
			t.Run(fmt.Sprint(name, leaves), func(t *testing.T) {
				m := newPeople(t)
				m.ownOf(alice)
				for i := range test.many + 2 {
					require.NoError(t, m.revoke(m.behalf(fmt.Sprint("job", i), test.claims)))
				}
				live := m.behalf("job", test.claims)
				require.NoError(t, m.periodic())
				if leaves {
					m.vault.change(func(v *vaultView) { v.entities[alice].Disabled = true })
					m.periodicAfter(time.Minute)
				} else {
					resp := m.person(map[string]any{"entity_id": alice})
					require.Contains(t, identified(resp), "job")
					require.Empty(t, resp.Warnings)
				}
				m.requireAlive(false, live)
			})
		}
	}
}

// TestAnAliasIsFoundInAnyCase, since Vault tells it by its name in any.
func TestAnAliasIsFoundInAnyCase(t *testing.T) {
	m := newPeople(t)
	m.setEntity(entityWith(alice, nil, loginMount, "Alice.Smith"))
	hers := []*lease{m.ownOf(alice), m.behalf("alice.smith", nil)}
	m.person(map[string]any{"alias_name": "ALICE.smith", "alias_mount": loginMount, "freeze": true})
	m.requireAlive(false, hers...)
	_, err := m.credsBy(call{entity: alice})
	requireCode(t, err, fault.AccessDenied, "the person is frozen")
	_, err = m.tryBehalf("Alice.Smith", nil)
	requireCode(t, err, fault.AccessDenied, "the person is frozen")
	thawed := m.person(map[string]any{"alias_name": "alice.smith", "alias_mount": loginMount, "freeze": false})
	require.NotContains(t, thawed.Data, "unknown")
	m.ownOf(alice)
}

// TestManySubjectsOfOneEntity are that entity's, however many: each token says so itself. They
// die by a hundred at a time, and none is let come again.
func TestManySubjectsOfOneEntity(t *testing.T) {
	m := newPeople(t)
	hers := []*lease{m.ownOf(alice)}
	for i := range person.MostIdentities + 2 {
		hers = append(hers, m.behalf(fmt.Sprint("job", i), map[string]any{"entity": alice}))
	}
	resp := m.person(map[string]any{"entity_id": alice, "freeze": true})
	require.Equal(t, person.MostIdentities, resp.Data["revoked"])
	require.Contains(t, strings.Join(resp.Warnings, " "), "ask again")
	_, err := m.tryBehalf("another job", map[string]any{"entity": alice})
	requireCode(t, err, fault.AccessDenied, "the person is frozen")
	resp = m.person(map[string]any{"entity_id": alice, "freeze": true})
	require.Empty(t, resp.Warnings)
	m.requireAlive(false, hers...)
}

// TestNobodysSubjectIsFrozenAsAPerson: a slip in an issuer's name must not look like a freeze.
func TestNobodysSubjectIsFrozenAsAPerson(t *testing.T) {
	m := newPeople(t)
	slip := map[string]any{"issuer": "ipd", "subject": "alice", "freeze": true}
	_, err := m.write("revoke/person", slip)
	requireCode(t, err, fault.InvalidRequest, "did you mean idp", "nothing was frozen or killed")
	require.Empty(t, m.keys("frozen", nil))
	resp := m.person(map[string]any{"alias_name": "nobody", "alias_mount": otherMount, "freeze": true})
	require.Contains(t, strings.Join(resp.Warnings, " "), "whoever becomes that person is frozen")

	first := map[string]any{"issuer": "idp", "subject": "bert", "freeze": true}
	resp = m.person(first)
	require.Equal(t, true, resp.Data["frozen"], "who has not come yet")
	iss := m.server.URL
	m.must(m.delete("issuers/idp", nil))
	again := m.person(map[string]any{"issuer": iss, "subject": "bert", "freeze": true})
	require.Equal(t, true, again.Data["frozen"], "a kill may be repeated")
}

// TestNobodyIsMeantByHalf: an empty or half a criterion is refused.
func TestNobodyIsMeantByHalf(t *testing.T) {
	m := newPeople(t)
	m.ownOf(alice)
	for want, data := range map[string]map[string]any{
		"in one way":       {},
		"in one way ":      {"metadata_key": "number", "metadata_value": ""},
		"in one way  ":     {"entity_id": alice, "alias_name": "alice"},
		"in one way   ":    {"issuer": "idp"},
		"is blank":         {"metadata_key": "number", "metadata_value": " "},
		"accessor":         {"alias_name": "alice", "alias_mount": "userpass/"},
		"no entity's id":   {"entity_id": "none"},
		"no entity's id: ": {"entity_id": "a/b"},
	} {
		data["freeze"] = true
		_, err := m.write("revoke/person", data)
		requireCode(t, err, fault.InvalidRequest, strings.TrimSpace(want))
	}
	require.Empty(t, m.keys("frozen", nil))
	require.Len(t, m.server.Live(), 1)
	nobody := m.person(map[string]any{"metadata_key": "number", "metadata_value": "unheard"})
	require.Equal(t, true, nobody.Data["unknown"])
	require.Empty(t, nobody.Data["identities"])
}

// periodicAfter lets time pass and the sweep of a minute come.
func (m *mount) periodicAfter(d time.Duration) {
	m.t.Helper()
	m.clock.advance(d)
	require.NoError(m.t, m.periodic())
	m.waitForKills()
}

// TestADisabledEntityTakesItsSubjectsAlong, however they are tied to it, and nobody else.
func TestADisabledEntityTakesItsSubjectsAlong(t *testing.T) {
	for name, gone := range map[string]func(*vaultView){
		"disabled": func(v *vaultView) { v.entities[alice].Disabled = true },
		"deleted":  func(v *vaultView) { delete(v.entities, alice) },
	} {
		for _, restart := range []bool{false, true} {
			t.Run(fmt.Sprint(name, restart), func(t *testing.T) {
				m := newPeople(t)
				m.setEntity(entityWith(alice2, nil)) // no duplicate here
				held := m.ownOf(alice)
				along := []*lease{m.behalf("alice", nil), m.behalf("by number", map[string]any{"employee": "7"}), m.behalf("by id", map[string]any{"entity": alice})}
				others := []*lease{m.ownOf(bob), m.ownOf(mallory), m.behalf("bert", nil), m.behalf("none", map[string]any{"employee": ""}), m.behalf("other", map[string]any{"entity": bob})}
				require.NoError(t, m.periodic())
				require.NoError(t, m.revoke(held), "who was a holder counts too")
				if restart {
					m.start()
				}
				m.vault.change(gone)
				m.periodicAfter(time.Minute)
				m.periodicAfter(time.Minute)
				m.requireAlive(false, along...)
				m.requireAlive(true, others...)
				again := m.behalf("alice", nil)
				m.periodicAfter(time.Minute)
				m.requireAlive(false, again)
				require.Contains(t, m.log.String(), "grant killed")
				require.Contains(t, m.log.String(), "holder_"+map[string]string{"disabled": "disabled", "deleted": "gone"}[name])
			})
		}
	}
}

// TestWhatADisabledEntityHadIsAnothersNow: a number that was corrected a moment ago does not
// have its new owner's subjects killed.
func TestWhatADisabledEntityHadIsAnothersNow(t *testing.T) {
	for moved, alive := range map[bool]bool{true: true, false: false} {
		m := newPeople(t)
		m.setEntity(entityWith(alice2, nil))
		m.ownOf(alice)
		m.ownOf(carolWith(m, nil))
		l := m.behalf("by number", map[string]any{"employee": 7})
		require.NoError(t, m.periodic())
		if moved {
			carolWith(m, map[string]string{"number": "7"})
		}
		m.vault.change(func(v *vaultView) {
			v.entities[alice] = entityWith(alice, map[string]string{"number": "8"})
			v.entities[alice].Disabled = true
		})
		m.periodicAfter(time.Minute)
		m.periodicAfter(time.Minute)
		m.requireAlive(alive, l)
	}
}

// carolWith is carol with this metadata.
func carolWith(m *mount, metadata map[string]string) string {
	m.setEntity(entityWith(carol, metadata))
	return carol
}

// TestWhatIsMadeOfAnEntitysOwnTokenIsInItsName, without a word of an operator's.
func TestWhatIsMadeOfAnEntitysOwnTokenIsInItsName(t *testing.T) {
	m := newPeople(t)
	m.must(m.write("issuers/idp", map[string]any{"entity_claim": "", "entity_alias_mount": "", "entity_metadata": map[string]any{}}))
	m.trustOurselves()
	m.must(m.write("roles/s", map[string]any{"subject_issuers": "self"}))
	hers := m.signedTo(alice, "j", map[string]any{"scopes": "read", "audiences": jwtAPI})
	l := m.signedTo(bob, "s", map[string]any{"subject_token": hers.token})
	require.Equal(t, []string{alice, alice}, identified(m.person(map[string]any{"entity_id": alice, "dry_run": true})))
	require.NoError(t, m.periodic())
	m.vault.change(func(v *vaultView) { v.entities[alice].Disabled = true })
	m.periodicAfter(time.Minute)
	m.requireAlive(false, l)
}

// TestVaultDoesNotAnswerAboutAPerson: what is known counts, and that more may be is said.
func TestVaultDoesNotAnswerAboutAPerson(t *testing.T) {
	m := newPeople(t)
	hers := []*lease{m.ownOf(alice), m.ownOf(alice2), m.behalf("alice", nil)}
	m.vault.failWith(fmt.Errorf("no answer"))
	resp := m.person(map[string]any{"entity_id": alice})
	m.vault.failWith(nil)
	require.Equal(t, 3, resp.Data["revoked"])
	require.Contains(t, strings.Join(resp.Warnings, " "), "Vault could not be asked about 3 entities")
	m.requireAlive(false, hers...)
}

// TestAnEntityThatIsDeletedBeforeTheFirstSweep is told by what Vault said at the issue.
func TestAnEntityThatIsDeletedBeforeTheFirstSweep(t *testing.T) {
	m := newPeople(t)
	m.setEntity(entityWith(alice2, nil))
	m.ownOf(alice)
	l := m.behalf("alice", nil)
	m.vault.change(func(v *vaultView) { delete(v.entities, alice) })
	m.sweep()
	m.waitForKills()
	m.requireAlive(false, l)
}

// TestWhoIsStillThereKeepsWhatSheHas: an entity that was merged into another, a duplicate
// that was tidied away, one that Vault cannot be asked about, and a claim that names no
// entity end nothing.
func TestWhoIsStillThereKeepsWhatSheHas(t *testing.T) {
	for name, change := range map[string]func(*mount){
		"merged": func(m *mount) {
			m.setEntity(entityWith(alice2, map[string]string{"number": "7"}, loginMount, "alice"))
			m.vault.change(func(v *vaultView) { v.entities[alice] = v.entities[alice2] })
		},
		"a duplicate": func(m *mount) { m.vault.change(func(v *vaultView) { delete(v.entities, alice2) }) },
		"no answer":   func(m *mount) { m.vault.failWith(fmt.Errorf("no answer")) },
		"nothing":     func(*mount) {},
	} {
		t.Run(name, func(t *testing.T) {
			m := newPeople(t)
			m.ownOf(alice)
			m.ownOf(alice2)
			hers := []*lease{m.behalf("alice", nil), m.behalf("by number", map[string]any{"employee": "7"}), m.behalf("no entity", map[string]any{"entity": carol})}
			require.NoError(t, m.periodic())
			change(m)
			for range 3 {
				m.clock.advance(time.Minute)
				_ = m.periodic()
				m.waitForKills()
			}
			m.vault.failWith(nil)
			m.requireAlive(true, hers...)
		})
	}
}

// TestManyStrangersAreLookedAtAgain: where Vault has lost sight of its entities, no subject
// loses anything by one look.
func TestManyStrangersAreLookedAtAgain(t *testing.T) {
	m := newPeople(t)
	var along []*lease
	var ids []string
	for i := range fewStrangers + 2 {
		id := fmt.Sprintf("%08d-cccc-4ccc-8ccc-333333333333", i)
		ids = append(ids, id)
		m.setEntity(entityWith(id, nil))
		along = append(along, m.behalf(fmt.Sprint("s", i), map[string]any{"entity": id}))
	}
	require.NoError(t, m.periodic())
	m.vault.change(func(v *vaultView) {
		for _, id := range ids {
			delete(v.entities, id)
		}
	})
	m.periodicAfter(10 * time.Second)
	m.requireAlive(true, along...)
	m.setEntity(entityWith(ids[0], nil))
	m.periodicAfter(10 * time.Second)
	m.requireAlive(true, along...)
	m.periodicAfter(time.Minute)
	m.requireAlive(true, along[0])
	m.requireAlive(false, along[1:]...)
}

// TestWhatWasChangedJustBefore still ties an entity for a day, and then no more.
func TestWhatWasChangedJustBefore(t *testing.T) {
	m := newPeople(t)
	m.ownOf(alice)
	m.ownOf(alice2)
	m.behalf("alice", nil)
	require.NoError(t, m.periodic())
	m.setEntity(entityWith(alice, map[string]string{"number": "8"}, loginMount, "renamed"))
	m.clock.advance(time.Minute)
	require.NoError(t, m.periodic())
	m.start()
	dry := map[string]any{"entity_id": alice2, "dry_run": true}
	found := m.person(dry)
	require.Equal(t, []string{alice, alice2, "alice"}, identified(found))
	require.Contains(t, fmt.Sprint(found.Data["identities"]), "which the entity "+alice+" had until ")
	m.clock.advance(hadFor)
	m.ownOf(alice)
	m.ownOf(alice2)
	m.behalf("alice", nil)
	require.Equal(t, []string{alice2}, identified(m.person(dry)))
}

// TestWhatIsKeptOfEntities is written only when it is another thing, and deleted some time
// after the last grant; nothing is kept where no issuer says what ties entities.
func TestWhatIsKeptOfEntities(t *testing.T) {
	m := newPeople(t)
	kept := func() []string {
		keys, err := m.storage.List(context.Background(), personPrefix)
		require.NoError(t, err)
		return keys
	}
	written := 0
	m.storage.on(func(op, key string) error {
		if strings.HasPrefix(key, personPrefix) && op != "get" && op != "list" {
			written++
		}
		return nil
	})
	l := m.ownOf(alice)
	m.ownOf(bob) // nothing ties him
	require.Empty(t, kept(), "an issue writes nothing more")
	m.must(m.write("roles/r/explain", map[string]any{"entity_id": alice2}))
	require.NoError(t, m.periodic())
	require.Equal(t, []string{alice}, kept(), "who holds nothing is not kept")
	for range 3 {
		m.clock.advance(time.Minute)
		require.NoError(t, m.periodic())
	}
	require.Equal(t, 1, written)
	require.NoError(t, m.revoke(l))
	m.clock.advance(time.Minute)
	require.NoError(t, m.periodic())
	require.Equal(t, 2, written, "since when it holds nothing")
	m.clock.advance(keptFor - time.Minute)
	require.NoError(t, m.periodic())
	require.Equal(t, []string{alice}, kept())
	m.clock.advance(2 * time.Minute)
	require.NoError(t, m.periodic())
	require.Empty(t, kept())

	m.must(m.write("issuers/idp", map[string]any{"entity_claim": "", "entity_alias_mount": "", "entity_metadata": map[string]any{}}))
	m.ownOf(alice)
	require.NoError(t, m.periodic())
	require.Empty(t, kept())
}

// TestAKillOfAPersonSurvivesACrash: it is one order, whatever it is about.
func TestAKillOfAPersonSurvivesACrash(t *testing.T) {
	m := newPeople(t)
	hers := []*lease{m.ownOf(alice), m.behalf("alice", nil)}
	other := m.ownOf(bob)
	order, err := logical.StorageEntryJSON("kill/x", map[string]any{
		"kind": "person", "name": "x", "until": m.clock.Now(),
		"of": []any{map[string]any{"kind": "entity", "name": alice}, map[string]any{"kind": "subject", "name": ending.Subject(m.server.URL, "alice").Name}},
	})
	require.NoError(t, err)
	require.NoError(t, m.storage.Put(context.Background(), order))
	m.start()
	require.NoError(t, m.periodic())
	m.waitForKills()
	m.requireAlive(false, hers...)
	m.requireAlive(true, other)
	require.Contains(t, m.log.String(), "revoke/person")
}
