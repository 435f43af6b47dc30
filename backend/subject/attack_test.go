package subject

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"strings"
	"testing"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/fault"
	"github.com/tokenbroker/vault-plugin-secrets-broker/backend/secret"
)

// forgery is a token that must be refused, and a part of the reason: a forgery
// refused for another one proves nothing about the defence that it is for.
type forgery struct {
	raw secret.Text
	why string
}

// TestAttacks is the table of forgeries.
func TestAttacks(t *testing.T) {
	fake := newFakeIssuer(t, goodKeys())
	evil := newFakeIssuer(t, evilKeys())
	issuer := open(t, fake.config())
	text := func(v any) []byte {
		raw, err := json.Marshal(v)
		require.NoError(t, err)
		return raw
	}
	good := text(fake.claims(nil))
	goodToken := fake.sign(jwa.ES256, nil, fake.claims(nil)).Reveal()
	parts := strings.Split(goodToken, ".")
	header := func(members map[string]any) []byte { return text(members) }
	es256 := func(header, payload string) secret.Text {
		return signRaw(jwa.ES256, fake.keys[jwa.ES256], []byte(header), []byte(payload))
	}
	rsaDER, err := x509.MarshalPKIXPublicKey(fake.keys[jwa.RS256].Public())
	require.NoError(t, err)
	rsaPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: rsaDER})
	evilJWK := json.RawMessage(keySetOf(t, evil, jwa.ES256))

	for name, attack := range map[string]forgery{
		"alg none without signature": {secret.New(encode([]byte(`{"alg":"none"}`)) + "." + encode(good) + "."), "not signed"},
		"alg none with the good signature": {secret.New(encode([]byte(`{"alg":"none"}`)) + "." +
			encode(good) + "." + parts[2]), "alg none"},
		"alg nOnE":          {secret.New(encode([]byte(`{"alg":"nOnE"}`)) + "." + encode(good) + "." + parts[2]), "alg none"},
		"alg missing":       {es256(`{"typ":"JWT"}`, string(good)), "names no algorithm"},
		"alg a list":        {es256(`{"alg":["ES256"]}`, string(good)), "names no algorithm"},
		"alg in lower case": {es256(`{"alg":"es256"}`, string(good)), "allowed_algorithms"},
		"HS256 keyed with the RSA public key as DER": {signRaw(jwa.HS256, rsaDER, header(map[string]any{"alg": "HS256", "kid": "RS256"}), good), "allowed_algorithms"},
		"HS256 keyed with the RSA public key as PEM": {signRaw(jwa.HS256, rsaPEM, header(map[string]any{"alg": "HS256", "kid": "RS256"}), good), "allowed_algorithms"},
		"HS256 called RS256":                         {signRaw(jwa.HS256, rsaPEM, header(map[string]any{"alg": "RS256", "kid": "RS256"}), good), "signature"},
		"the kid of another key":                     {signRaw(jwa.ES256, fake.keys[jwa.ES256], header(map[string]any{"alg": "ES256", "kid": "RS256"}), good), "not among those"},
		"a kid that nobody has":                      {signRaw(jwa.ES256, evil.keys[jwa.ES256], header(map[string]any{"alg": "ES256", "kid": "x"}), good), "not among those"},
		"a kid that is a path":                       {signRaw(jwa.ES256, evil.keys[jwa.ES256], header(map[string]any{"alg": "ES256", "kid": "../../dev/null"}), good), "not among those"},
		"RS256 signature called PS256":               {signRaw(jwa.RS256, fake.keys[jwa.RS256], header(map[string]any{"alg": "PS256", "kid": "PS256"}), good), "signature"},
		"another issuer's key under the good iss":    {evil.sign(jwa.ES256, nil, fake.claims(nil)), "signature"},
		"another issuer's key and iss":               {evil.sign(jwa.ES256, nil, evil.claims(nil)), "iss"},
		"an embedded jwk":                            {evil.sign(jwa.ES256, map[string]any{"jwk": evilJWK}, fake.claims(nil)), "signature"},
		"an embedded jwk and no kid":                 {evil.sign(jwa.ES256, map[string]any{"jwk": evilJWK, "kid": nil}, fake.claims(nil)), "signature"},
		"a jku of the attacker":                      {evil.sign(jwa.ES256, map[string]any{"jku": evil.URL + "/keys"}, fake.claims(nil)), "signature"},
		"an x5u of the attacker":                     {evil.sign(jwa.ES256, map[string]any{"x5u": evil.URL + "/keys"}, fake.claims(nil)), "signature"},
		"an x5c of the attacker":                     {evil.sign(jwa.ES256, map[string]any{"x5c": []string{"AAAA"}}, fake.claims(nil)), "signature"},
		"crit":                                       {fake.sign(jwa.ES256, map[string]any{"crit": []string{"exp"}, "exp": 1}, fake.claims(nil)), "holds crit"},
		"crit empty":                                 {fake.sign(jwa.ES256, map[string]any{"crit": []string{}}, fake.claims(nil)), "holds crit"},
		"unencoded payload":                          {fake.sign(jwa.ES256, map[string]any{"b64": false}, fake.claims(nil)), "holds b64"},
		"enc in a JWS":                               {fake.sign(jwa.ES256, map[string]any{"enc": "A128GCM"}, fake.claims(nil)), "holds enc"},
		"compressed":                                 {fake.sign(jwa.ES256, map[string]any{"zip": "DEF"}, fake.claims(nil)), "holds zip"},
		"nested JWT":                                 {fake.sign(jwa.ES256, map[string]any{"cty": "JWT"}, fake.claims(nil)), "cty"},
		"nested JWT as payload":                      {es256(`{"alg":"ES256","kid":"ES256"}`, goodToken), "not a JSON object"},
		"nested JWT as a JSON string":                {es256(`{"alg":"ES256","kid":"ES256"}`, `"`+goodToken+`"`), "not a JSON object"},
		"JWE of five parts":                          {secret.New(encode([]byte(`{"alg":"dir","enc":"A128GCM"}`)) + "..AAAA.AAAA.AAAA"), "encrypted"},
		"JSON serialization":                         {secret.New(`{"payload":"` + parts[1] + `","protected":"` + parts[0] + `","signature":"` + parts[2] + `"}`), "JSON document"},
		"duplicate iss":                              {es256(`{"alg":"ES256","kid":"ES256"}`, `{"iss":"https://evil",`+string(good[1:])), "twice"},
		"duplicate aud at the end":                   {es256(`{"alg":"ES256","kid":"ES256"}`, string(good[:len(good)-1])+`,"aud":"x"}`), "twice"},
		"duplicate by escape":                        {es256(`{"alg":"ES256","kid":"ES256"}`, string(good[:len(good)-1])+`,"\u0061ud":"x"}`), "twice"},
		"duplicate in a nested object":               {es256(`{"alg":"ES256","kid":"ES256"}`, string(good[:len(good)-1])+`,"act":{"sub":"a","sub":"b"}}`), "twice"},
		"duplicate alg":                              {es256(`{"alg":"none","alg":"ES256","kid":"ES256"}`, string(good)), "twice"},
		"duplicate kid":                              {es256(`{"alg":"ES256","kid":"x","kid":"ES256"}`, string(good)), "twice"},
		"claims that are a list":                     {es256(`{"alg":"ES256","kid":"ES256"}`, `[`+string(good)+`]`), "not a JSON object"},
		"claims that are null":                       {es256(`{"alg":"ES256","kid":"ES256"}`, `null`), "not a JSON object"},
		"claims and trailing data":                   {es256(`{"alg":"ES256","kid":"ES256"}`, string(good)+`{}`), "not a JSON object"},
		"claims that are not UTF-8":                  {es256(`{"alg":"ES256","kid":"ES256"}`, string(good[:len(good)-1])+",\"x\":\"\xff\"}"), "UTF-8"},
		"claims that nest without end": {es256(`{"alg":"ES256","kid":"ES256"}`,
			string(good[:len(good)-1])+`,"x":`+strings.Repeat("[", 100)+strings.Repeat("]", 100)+`}`), "too deep"},
		"a header that is no object": {es256(`"ES256"`, string(good)), "not a JSON object"},
		"no payload":                 {secret.New(parts[0] + ".." + parts[2]), "not a JSON object"},
		"a stripped signature":       {secret.New(parts[0] + "." + parts[1] + "."), "not signed"},
		"two parts":                  {secret.New(parts[0] + "." + parts[1]), "three parts"},
		"four parts":                 {secret.New(goodToken + ".AAAA"), "three parts"},
		"another payload":            {secret.New(parts[0] + "." + encode(text(fake.claims(map[string]any{"sub": "root"}))) + "." + parts[2]), "signature"},
		"another header":             {secret.New(encode([]byte(`{"kid":"ES256","alg":"ES256"}`)) + "." + parts[1] + "." + parts[2]), "signature"},
		"padding":                    {secret.New(parts[0] + "." + parts[1] + "." + parts[2] + "=="), "padded"},
		"a line end":                 {secret.New(goodToken + "\n"), "characters other"},
		"a line end within":          {secret.New(parts[0] + "." + parts[1] + "\n." + parts[2]), "characters other"},
		"a space before":             {secret.New(" " + goodToken), "characters other"},
		"bearer":                     {secret.New("Bearer " + goodToken), "without Bearer"},
		"stray bits in the payload":  {secret.New(parts[0] + "." + strayBits(t, parts[1]) + "." + parts[2]), "payload is not base64url"},
		"oversize": {fake.sign(jwa.ES256, nil, fake.claims(map[string]any{
			"pad": strings.Repeat("x", MaxToken)})), "larger"},
		"an opaque token": {secret.New("ghs_16C7e42F292c6912E7710c838347Ae178B4a"), "three parts"},
		"dots":            {secret.New(".."), "not signed"},
		"an all-zero ECDSA signature (CVE-2022-21449)": {secret.New(parts[0] + "." + parts[1] + "." + encode(make([]byte, 64))), "signature"},
		"an empty RSA signature":                       {secret.New(encode([]byte(`{"alg":"RS256"}`)) + "." + encode(good) + ".AA"), "signature"},
	} {
		t.Run(name, func(t *testing.T) {
			issuer := open(t, fake.config()) // whose keys are fetched anew
			_, err := issuer.Verify(t.Context(), attack.raw, noon)
			requireFault(t, err, fault.InvalidGrant, attack.why)
			_, err = pickIssuer(attack.raw, nil)
			requireFault(t, err, fault.InvalidGrant, "")
		})
	}
	assert.Zero(t, evil.fetches.Load(), "a token made us ask the attacker for keys")

	_, err = issuer.Verify(t.Context(), secret.New(goodToken), noon)
	require.NoError(t, err, "the token from which the forgeries were made is good")
	_, err = issuer.Verify(t.Context(), secret.Text{}, noon)
	requireFault(t, err, fault.InvalidRequest, "missing")
}

// TestOneIssuersKeyIsNeverAnothers: a role trusts both issuers; each signs in
// the other's name, and whichever is picked refuses.
func TestOneIssuersKeyIsNeverAnothers(t *testing.T) {
	one, two := newFakeIssuer(t, goodKeys()), newFakeIssuer(t, evilKeys())
	trusted := []*Issuer{open(t, one.config()), open(t, two.config())}
	for _, c := range []struct{ signer, named *fakeIssuer }{{one, two}, {two, one}} {
		raw := c.signer.sign(jwa.ES256, nil, c.named.claims(nil))
		picked, err := pickIssuer(raw, trusted)
		require.NoError(t, err)
		assert.Equal(t, c.named.URL, picked.URL())
		_, err = picked.Verify(t.Context(), raw, noon)
		requireFault(t, err, fault.InvalidGrant, "signature")
		for _, other := range trusted {
			_, err := other.Verify(t.Context(), raw, noon)
			requireFault(t, err, fault.InvalidGrant, "")
		}
	}
}

// TestSharedKey: two issuers that share a key, as copies of a realm do. The key
// fits, the name does not.
func TestSharedKey(t *testing.T) {
	one, copied := newFakeIssuer(t, goodKeys()), newFakeIssuer(t, goodKeys())
	_, err := open(t, one.config()).Verify(t.Context(), copied.sign(jwa.ES256, nil, copied.claims(nil)), noon)
	requireFault(t, err, fault.InvalidGrant, "iss")
}

// TestUnknownKeysAreBounded: a flood of kids costs the issuer one fetch. That it is not
// asked again is our own bound, and calls no token forged.
func TestUnknownKeysAreBounded(t *testing.T) {
	fake := newFakeIssuer(t, goodKeys())
	evil := newFakeIssuer(t, evilKeys())
	issuer := open(t, fake.config())
	for i := range 50 {
		kid := strings.Repeat("k", i+1)
		_, err := issuer.Verify(t.Context(), evil.sign(jwa.ES256, map[string]any{"kid": kid}, fake.claims(nil)), noon)
		if i == 0 {
			requireFault(t, err, fault.InvalidGrant, "key")
			continue
		}
		requireFault(t, err, fault.TemporarilyUnavailable, "try again")
	}
	assert.LessOrEqual(t, fake.fetches.Load(), int32(2))
}

func keySetOf(t *testing.T, f *fakeIssuer, alg jwa.SignatureAlgorithm) []byte {
	t.Helper()
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	require.NoError(t, json.Unmarshal(keySetJSON(f.keys), &set))
	for _, k := range set.Keys {
		if strings.Contains(string(k), `"`+alg.String()+`"`) {
			return k
		}
	}
	t.Fatal("no such key")
	return nil
}

// strayBits is another spelling of the same bytes, which a lax decoder accepts.
func strayBits(t *testing.T, part string) string {
	t.Helper()
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	want, err := base64.RawURLEncoding.DecodeString(part)
	require.NoError(t, err)
	for i := range len(alphabet) {
		other := part[:len(part)-1] + alphabet[i:i+1]
		if got, err := base64.RawURLEncoding.DecodeString(other); err == nil && other != part && string(got) == string(want) {
			return other
		}
	}
	return part + "A" // no stray bits in this length: a wrong length instead
}
