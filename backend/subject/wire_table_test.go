package subject

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/form"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// wireRow is one row of testdata/wire/subject/subject_tokens.yaml.
type wireRow struct {
	Name, Why, Issuer string
	Before, After     string
	Header, Claims    map[string]any
	Bounds            map[string][]string
	RequiredACR       []string `yaml:"required_acr"`
	RequiredAMR       []string `yaml:"required_amr"`
	MaxAuthAge        int      `yaml:"max_auth_age"` // seconds
	SingleUse         bool     `yaml:"single_use"`
	Want              struct {
		Code     string
		Words    []string
		NotWords []string `yaml:"not_words"`
		Fails    []string
		LeftOut  []string `yaml:"left_out"`
	}
}

// TestSubjectTokenTable runs every row; an unknown key fails.
func TestSubjectTokenTable(t *testing.T) {
	raw, err := os.ReadFile("../../testdata/wire/subject/subject_tokens.yaml")
	require.NoError(t, err)
	var rows []wireRow
	dec := yaml.NewDecoder(strings.NewReader(string(raw)))
	dec.KnownFields(true)
	require.NoError(t, dec.Decode(&rows))
	require.NotEmpty(t, rows)
	seen := map[string]bool{}
	for _, row := range rows {
		require.False(t, row.Name == "" || row.Why == "" || seen[row.Name], "%q needs a name of its own and a reason", row.Name)
		seen[row.Name] = true
		t.Run(row.Name, row.run)
	}
}

func (row wireRow) run(t *testing.T) {
	fake := newFakeIssuer(t, goodKeys())
	iss := row.Issuer
	if iss == "" {
		iss = fake.URL
	}
	issuer := open(t, IssuerConfig{Name: "fake", JWKSURL: fake.URL + "/keys", BoundIssuer: iss, BoundAudiences: []string{audience}, ClockSkew: DefaultClockSkew})
	claims := overlay(fake.claims(map[string]any{"iss": iss}), row.Claims)
	signed := secret.New(form.FromFile(row.Before + fake.sign(jwa.ES256, row.Header, claims).Reveal() + row.After))
	token, err := VerifyFrom(t.Context(), signed, []*Issuer{issuer}, noon)
	if err == nil {
		if weak := (StepUp{RequiredACR: row.RequiredACR, RequiredAMR: row.RequiredAMR, MaxAuthAge: time.Duration(row.MaxAuthAge) * time.Second}).Check(token, noon); weak != nil {
			err = weak
		}
	}
	if err == nil && row.SingleUse {
		_, _, err = token.ReplayKey()
	}
	if row.Want.Code != "" {
		requireFault(t, err, fault.Code(row.Want.Code), "")
		for _, w := range row.Want.Words {
			require.Contains(t, err.Error(), w)
		}
		for _, w := range row.Want.NotWords {
			require.NotContains(t, err.Error(), w)
		}
		return
	}
	require.NoError(t, err)
	bounds, err := CompileClaims(row.Bounds)
	require.NoError(t, err)
	failed := bounds.Check(token.Claims)
	require.Equal(t, row.Want.Fails, failed)
	require.Equal(t, row.Want.LeftOut, bounds.LeftOut(token.Claims, failed))
}
