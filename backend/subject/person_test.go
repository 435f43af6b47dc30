package subject

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/person"
)

const (
	mount  = "auth_oidc_1a2b3c4d"
	entity = "11111111-aaaa-4aaa-8aaa-111111111111"
)

// claimsOf reads claims as a token's are read.
func claimsOf(t *testing.T, text string) map[string]any {
	t.Helper()
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	var claims map[string]any
	require.NoError(t, dec.Decode(&claims))
	return claims
}

func TestHowASubjectRelatesToAnEntity(t *testing.T) {
	named := func(value string) []person.Tie { return person.AtEach([]string{mount}, value) }
	number := func(value string) []person.Tie {
		return []person.Tie{{Kind: person.KindMetadata, At: "number", Value: value}}
	}
	byName := func(claim string) IssuerConfig {
		return IssuerConfig{EntityAliasMount: []string{mount}, EntityAliasClaim: claim}
	}
	byNumber := IssuerConfig{EntityMetadata: map[string]string{"number": "/hr/number"}}
	for name, c := range map[string]struct {
		issuer IssuerConfig
		claims string
		want   []person.Tie
	}{
		"nothing is mapped":             {IssuerConfig{}, `{"sub":"` + entity + `"}`, nil},
		"an entity's id":                {IssuerConfig{EntityClaim: "oid"}, `{"oid":"` + entity + `"}`, []person.Tie{person.Entity(entity)}},
		"an entity's id by a namespace": {IssuerConfig{EntityClaim: "/vault/id"}, `{"vault":{"id":"` + entity + `.abcde"}}`, []person.Tie{person.Entity(entity + ".abcde")}},
		"no entity's id":                {IssuerConfig{EntityClaim: "sub"}, `{"sub":"alice"}`, nil},
		"sub names the alias":           {byName(""), `{"sub":"alice"}`, named("alice")},
		"another claim does":            {byName("preferred_username"), `{"sub":"1","preferred_username":"alice"}`, named("alice")},
		"which is not there":            {byName("preferred_username"), `{"sub":"1"}`, nil},
		"which is empty":                {byName("preferred_username"), `{"preferred_username":""}`, nil},
		"which is blank":                {byName("preferred_username"), `{"preferred_username":" "}`, nil},
		"which is null":                 {byName("preferred_username"), `{"preferred_username":null}`, nil},
		"which is a list":               {byName("preferred_username"), `{"preferred_username":["alice"]}`, nil},
		"a verified e-mail":             {byName("email"), `{"email":"a@b.test","email_verified":true}`, named("a@b.test")},
		"one that is not":               {byName("email"), `{"email":"a@b.test","email_verified":false}`, nil},
		"one of which nobody says":      {byName("email"), `{"email":"a@b.test"}`, nil},
		"one that is said to be":        {byName("email"), `{"email":"a@b.test","email_verified":"true"}`, nil},
		"a verified one further in":     {byName("/user/email"), `{"user":{"email":"a@b.test","email_verified":true}}`, named("a@b.test")},
		"another's is verified":         {byName("/user/email"), `{"email_verified":true,"user":{"email":"a@b.test"}}`, nil},
		"a number":                      {byNumber, `{"hr":{"number":700}}`, number("700")},
		"a number as text":              {byNumber, `{"hr":{"number":"0700"}}`, number("0700")},
		"a broken number":               {byNumber, `{"hr":{"number":7.5}}`, nil},
		"an empty number":               {byNumber, `{"hr":{"number":""}}`, nil},
		"no number":                     {byNumber, `{"hr":{}}`, nil},
	} {
		require.Equal(t, c.want, c.issuer.Ties(claimsOf(t, c.claims)), name)
	}
}

func TestRelationsThatCannotBe(t *testing.T) {
	for want, c := range map[string]IssuerConfig{
		"accessor":                     {EntityAliasMount: []string{"userpass/"}},
		"sys/auth/":                    {EntityAliasMount: []string{"oidc"}},
		"without entity_alias_mount":   {EntityAliasClaim: "email"},
		"entity_claim: a pointer":      {EntityClaim: "/a~b"},
		"names no claim":               {EntityMetadata: map[string]string{"number": ""}},
		"entity_metadata: \"number\":": {EntityMetadata: map[string]string{"number": "/a~b"}},
		"printable":                    {EntityClaim: "a\nb"},
	} {
		require.ErrorContains(t, c.checkRelation(), want)
	}
	require.NoError(t, IssuerConfig{EntityClaim: "sub", EntityAliasMount: []string{mount}, EntityMetadata: map[string]string{"number": "/hr/number"}}.checkRelation())
}
