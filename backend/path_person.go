package backend

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/ending"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/grant"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/kills"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/person"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/subject"
)

const personHelp = `
Kills the live grants of a person, who may be several entities and subjects. It is named
by entity_id, by issuer and subject, by alias_name and alias_mount, or by metadata_key and
metadata_value. Identities are one person's if they share an alias's name at mounts, or a
value of metadata, that an issuer names (entity_alias_mount, entity_metadata), or if a
token names the entity (entity_claim). identities says what was taken for the person and
why, searched where it was looked: Vault gives a plugin no search, so an entity is found
if it holds a grant, or held one within a week and some issuer names what ties entities.
dry_run=true says it all and writes nothing. With freeze=true whoever is or becomes that
person gets nothing new, and freeze=false of the same person thaws.

  vault write broker/revoke/person entity_id=<entity_id> dry_run=true
`

// The fields that name a person.
const (
	fieldEntityID      = "entity_id"
	fieldIssuer        = "issuer"
	fieldSubjectID     = "subject"
	fieldAliasName     = "alias_name"
	fieldAliasMount    = "alias_mount"
	fieldMetadataKey   = "metadata_key"
	fieldMetadataValue = "metadata_value"
	fieldDryRun        = "dry_run"
)

func (b *broker) pathPerson() []*framework.Path {
	text := func(description string) *framework.FieldSchema {
		return &framework.FieldSchema{Type: framework.TypeString, Description: description}
	}
	path := revokePath("revoke/person$", ending.KindPerson, "all grants of a person", map[string]*framework.FieldSchema{
		fieldEntityID:      text("An entity of the person's."),
		fieldIssuer:        text("With subject: the issuer's name in issuers, or its iss."),
		fieldSubjectID:     text("With issuer: the person's sub there."),
		fieldAliasName:     text("With alias_mount: the name of the person's alias there."),
		fieldAliasMount:    {Type: framework.TypeCommaStringSlice, Description: "With alias_name: the auth mount's accessor, or several at which the name is the same person's."},
		fieldMetadataKey:   text("With metadata_value: a key of entity metadata of which a value is one person's."),
		fieldMetadataValue: text("With metadata_key: the person's value."),
		fieldDryRun:        {Type: framework.TypeBool, Description: "true: say what would be taken for the person, and write nothing."},
		"freeze":           {Type: framework.TypeBool, Description: "true: also stop new grants of whoever is that person, now and later. false: allow them again, and kill nothing."},
	}, b.revokePerson)
	path.HelpDescription = strings.TrimSpace(personHelp)
	fields := killResponses()[http.StatusOK][0].Fields
	fields["person"] = text("The person's name among what is frozen.")
	fields["identities"] = &framework.FieldSchema{Type: framework.TypeSlice, Description: "What was taken for the person: kind, entity_id, or issuer and subject, and why."}
	fields["searched"] = &framework.FieldSchema{Type: framework.TypeMap, Description: "Among how many it was looked: entities that Vault was asked about now, those it could not be asked about, those that are kept since they held a grant, and subjects that are tied to somebody."}
	for _, operation := range path.Operations {
		operation.(*framework.PathOperation).Responses = map[int][]framework.Response{http.StatusOK: {{Description: "Who it is, and what the kill did.", Fields: fields}}}
	}
	return []*framework.Path{path}
}

// criterion is whom an operator has named.
type criterion struct {
	// asked are the fields as they were written.
	asked map[string]string
	ties  []person.Tie
	// mounts and keys are what the criterion itself names.
	mounts, keys []string
}

// id is the name of the person's freeze: the same for the same criterion.
func (c *criterion) id() string {
	text, _ := json.Marshal(c.ties) // of strings
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:12])
}

// criterionOf reads whom the request names.
func (b *broker) criterionOf(ctx context.Context, d *framework.FieldData) (*criterion, error) {
	c := &criterion{asked: map[string]string{}}
	for _, field := range []string{fieldEntityID, fieldIssuer, fieldSubjectID, fieldAliasName, fieldMetadataKey, fieldMetadataValue} {
		if v := d.Get(field).(string); v != "" {
			c.asked[field] = v
		}
	}
	mounts := slices.Compact(slices.Sorted(slices.Values(d.Get(fieldAliasMount).([]string))))
	if len(mounts) > 0 {
		c.asked[fieldAliasMount] = strings.Join(mounts, ",")
	}
	var err error
	switch named := strings.Join(slices.Sorted(maps.Keys(c.asked)), " "); named {
	case fieldEntityID:
		if !grant.IsHolder(c.asked[fieldEntityID]) || !isEntity(c.asked[fieldEntityID]) {
			return nil, fault.New(fault.InvalidRequest, "this is no entity's id: it is the entity_id of a grant")
		}
		c.ties = []person.Tie{person.Entity(c.asked[fieldEntityID])}
	case fieldIssuer + " " + fieldSubjectID:
		var what ending.Thing
		if what, err = b.subjectThing(ctx, c.asked[fieldIssuer], c.asked[fieldSubjectID]); err == nil {
			issuer, sub, _ := what.Subject()
			c.ties = []person.Tie{person.Subject(issuer, sub)}
		}
	case fieldAliasMount + " " + fieldAliasName:
		for _, mount := range mounts {
			if err := subject.CheckMount(fieldAliasMount, mount); err != nil {
				return nil, err
			}
		}
		c.mounts, c.ties = mounts, person.AtEach(mounts, c.asked[fieldAliasName])
	case fieldMetadataKey + " " + fieldMetadataValue:
		c.keys = []string{c.asked[fieldMetadataKey]}
		c.ties = []person.Tie{{Kind: person.KindMetadata, At: c.keys[0], Value: c.asked[fieldMetadataValue]}}
	default:
		return nil, fault.New(fault.InvalidRequest, "name the person in one way, and with no field empty: entity_id; or issuer and subject; or alias_name and alias_mount; or metadata_key and metadata_value")
	}
	if err == nil && slices.ContainsFunc(c.ties, func(t person.Tie) bool { return !t.Ties() }) {
		err = fault.New(fault.InvalidRequest, "a value that is blank, longer than %d bytes or holds a control character is nobody's: many may have it", person.MaxValue)
	}
	return c, err
}

// findingOf begins to look for a person.
func (b *broker) findingOf(ctx context.Context, c *criterion) (*finding, error) {
	mapping, err := b.issuers.relates(ctx)
	if err != nil {
		return nil, err
	}
	return &finding{
		b: b, ctx: ctx, mapping: mapping.With(c.mounts, c.keys),
		asked: map[string]bool{}, ties: map[string][]person.Tie{}, by: map[person.Tie][]string{},
	}, nil
}

func (b *broker) revokePerson(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	c, err := b.criterionOf(ctx, d)
	if err != nil {
		return nil, err
	}
	dry := d.Get(fieldDryRun).(bool)
	freeze, given := d.GetOk("freeze")
	if given && !freeze.(bool) && !dry {
		return b.thawPerson(ctx, req, c)
	}
	froze := given && freeze.(bool) && !dry
	if froze {
		if err := b.mayFreezePerson(ctx, req, c); err != nil {
			return nil, err
		}
	}
	finding, err := b.findingOf(ctx, c)
	if err != nil {
		return nil, err
	}
	finding.soon = true
	who, err := finding.look(c.ties)
	if err != nil {
		return nil, err
	}
	for _, tie := range c.ties {
		if slices.Contains(who.Common, tie) && !dry {
			return nil, fault.New(fault.InvalidRequest, "more than %d identities have %s, which is no one person: nothing was killed or frozen; name the person in another way, or kill by revoke/entity and revoke/subject", person.MostIdentities, tie)
		}
	}
	if dry {
		resp := &logical.Response{Data: tallyData(ending.Tally{})}
		return resp, b.tellPerson(ctx, resp, c, who)
	}
	if froze {
		if who, err = b.freezePerson(ctx, by(req), c, finding, who); err != nil {
			return nil, err
		}
	}
	var things []ending.Thing
	for _, i := range who.Identities {
		things = append(things, thingOfTie(i.Tie))
	}
	run, err := b.killPerson(ctx, c.id(), things, kills.Asked{By: by(req), Froze: froze, Always: true, Note: c.String()})
	if err != nil {
		return nil, err
	}
	resp, nothing, err := b.awaitKill(ctx, run)
	if err != nil {
		return nil, err
	}
	if err := b.tellPerson(ctx, resp, c, who); err != nil {
		b.Logger().Warn("what is frozen could not be read", "error", err)
	}
	if nothing && !b.knowsAny(ctx, things) {
		tellNobody(req, resp, c)
	}
	return resp, nil
}

// tellNobody says that nobody was found who is meant.
func tellNobody(req *logical.Request, resp *logical.Response, c *criterion) {
	resp.Data["unknown"] = true
	text := "nobody is known by " + c.String() + ", and nothing was killed: what can be found is who holds a grant, or held one of late (vault list -detailed " + req.MountPoint + "grants shows those that live)"
	if frozen, _ := resp.Data["frozen"].(bool); frozen {
		text += "; but whoever becomes that person is frozen: freeze=false thaws it"
	}
	resp.AddWarning(text)
}

// mayFreezePerson is mayFreeze for a subject: whoever has an alias or a value of metadata may
// come for the first time, but not the subject of an issuer that is not there.
func (b *broker) mayFreezePerson(ctx context.Context, req *logical.Request, c *criterion) error {
	what := thingOfTie(c.ties[0])
	if what.Kind != ending.KindSubject {
		return nil
	}
	if frozen, err := b.freezer.Frozen(ctx, ending.Thing{Kind: ending.KindPerson, Name: c.id()}); err != nil || frozen {
		return err
	}
	return b.mayFreeze(ctx, req, what)
}

// freezePerson freezes whoever has what ties the person, and looks again: who has got a
// grant in between is found by this, and who gets one later finds the freeze.
func (b *broker) freezePerson(ctx context.Context, by string, c *criterion, finding *finding, who *found) (*found, error) {
	for {
		ties := person.Clean(append(slices.Clone(c.ties), who.Ties...))
		if err := b.freezer.FreezePerson(ctx, c.id(), by, ending.FrozenPerson{Asked: c.asked, Ties: ties}); err != nil {
			return nil, err
		}
		again, err := finding.look(c.ties)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(again.Ties, func(t person.Tie) bool { return !slices.Contains(ties, t) }) {
			b.Logger().Info("frozen", "what", ending.KindPerson+"/"+c.id(), "person", c.String(), "by", by)
			return again, nil
		}
		who = again // there are only so many
	}
}

// String says in words whom the criterion names.
func (c *criterion) String() string {
	var said []string
	for _, field := range slices.Sorted(maps.Keys(c.asked)) {
		said = append(said, field+"="+short(c.asked[field]))
	}
	return strings.Join(said, " ")
}

// tellPerson adds to an answer who was taken for the person.
func (b *broker) tellPerson(ctx context.Context, resp *logical.Response, c *criterion, who *found) error {
	identities := make([]any, 0, len(who.Identities))
	for _, i := range who.Identities {
		shown := map[string]any{"kind": i.Tie.Kind, "why": b.why(i)}
		if i.Tie.Kind == person.KindSubject {
			shown["issuer"], shown["subject"] = i.Tie.At, i.Tie.Value
		} else {
			shown["entity_id"] = i.Tie.Value
		}
		identities = append(identities, shown)
	}
	resp.Data["person"], resp.Data["identities"], resp.Data["searched"] = c.id(), identities, who.searched
	for _, tie := range who.Common {
		resp.AddWarning(fmt.Sprintf("more than %d identities have %s, which is no one person's: it was not followed. Kill those who are meant by revoke/entity and revoke/subject", person.MostSharing, tie))
	}
	if who.Cut {
		resp.AddWarning(fmt.Sprintf("more than %d identities are tied together, and only the nearest were taken for the person's: see why, and ask again once these are dead, or kill the others who are meant by revoke/entity and revoke/subject", person.MostIdentities))
	}
	if who.early {
		resp.AddWarning("the records of grants are still being read after a start: identities are those that are known by now; ask again for the others")
	}
	if n := who.searched["entities_not_asked"].(int); n > 0 {
		resp.AddWarning(fmt.Sprintf("Vault could not be asked about %d entities that hold grants: of these what was known before counts; ask again", n))
	}
	frozen, err := b.freezer.Persons(ctx)
	resp.Data["frozen"] = false
	for _, item := range frozen {
		if item.Name == (ending.Thing{Kind: ending.KindPerson, Name: c.id()}).String() {
			resp.Data["frozen"] = true
		} else if slices.ContainsFunc(who.Ties, func(t person.Tie) bool { return slices.Contains(item.Person.Ties, t) }) {
			resp.AddWarning("the person is frozen as " + item.Name + " too, by " + (&criterion{asked: item.Person.Asked}).String())
		}
	}
	return err
}

// thawPerson thaws by the criterion of the freeze, as it is understood now or was written
// then: the issuer that it names may have another name or iss since.
func (b *broker) thawPerson(ctx context.Context, req *logical.Request, c *criterion) (*logical.Response, error) {
	frozen, err := b.freezer.Persons(ctx)
	if err != nil {
		return nil, err
	}
	names := []string{ending.KindPerson + "/" + c.id()}
	resp := &logical.Response{Data: tallyData(ending.Tally{})}
	was := false
	for _, item := range frozen {
		switch same := maps.Equal(item.Person.Asked, c.asked); {
		case item.Name == names[0]:
			was = true
		case same:
			was, names = true, append(names, item.Name)
		case slices.ContainsFunc(c.ties, func(t person.Tie) bool { return slices.Contains(item.Person.Ties, t) }):
			other := criterion{asked: item.Person.Asked}
			resp.AddWarning("the person is frozen as " + item.Name + " too: freeze=false with " + other.String() + " thaws that")
		}
	}
	for _, name := range names {
		_, id, _ := strings.Cut(name, "/")
		if err := b.freezer.Thaw(ctx, ending.Thing{Kind: ending.KindPerson, Name: id}); err != nil {
			return nil, err
		}
	}
	b.Logger().Info("thawed", "what", names[0], "person", c.String(), "by", by(req))
	resp.Data["frozen"], resp.Data["person"] = false, c.id()
	if !was {
		resp.Data["unknown"] = true
		resp.AddWarning("no person is frozen by " + c.String() + ": vault list -detailed " + req.MountPoint + "frozen shows by what each was")
	}
	return resp, nil
}

// knowsAny reports whether one of the things is there.
func (b *broker) knowsAny(ctx context.Context, things []ending.Thing) bool {
	return slices.ContainsFunc(things, func(what ending.Thing) bool {
		_, kept := b.persons.of(what.Name, person.Mapping{})
		return what.Kind == ending.KindEntity && kept || b.isThere(ctx, what)
	})
}

// tiesInWords are ties as a person reads them.
func tiesInWords(ties []person.Tie) []string {
	words := make([]string, 0, len(ties))
	for _, tie := range ties {
		words = append(words, tie.String())
	}
	return words
}
