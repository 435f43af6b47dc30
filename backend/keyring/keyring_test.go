package keyring

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/stretchr/testify/require"
)

var (
	epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	usual = Terms{Algorithm: "ES256", LongestLife: 24 * time.Hour, Period: 30 * 24 * time.Hour}
)

func advance(t testing.TB, r *Ring, now time.Time, terms Terms) *Ring {
	t.Helper()
	next, _, err := r.Advance(now, terms)
	require.NoError(t, err)
	return next
}

func rotate(t testing.TB, r *Ring, now time.Time, emergency bool) *Ring {
	t.Helper()
	next, err := r.Rotate(now, usual, emergency)
	require.NoError(t, err)
	return next
}

func claimsUntil(end time.Time) map[string]any {
	return map[string]any{"sub": "somebody", "exp": end.Unix()}
}

func sign(t testing.TB, r *Ring, p Purpose, now time.Time, life time.Duration) string {
	t.Helper()
	token, err := r.Sign(p, now, claimsUntil(now.Add(life)))
	require.NoError(t, err)
	return token
}

// kids are the ids of a purpose's published keys, the oldest first.
func kids(r *Ring, p Purpose, now time.Time) (ids []string) {
	for _, k := range r.Published(now) {
		if k.Purpose == p {
			ids = append(ids, k.ID)
		}
	}
	return ids
}

// header is a token's protected header as go-jose reads it.
func header(t testing.TB, token string) jose.Header {
	t.Helper()
	parsed, err := jose.ParseSigned(token, []jose.SignatureAlgorithm{jose.ES256, jose.RS256, jose.EdDSA})
	require.NoError(t, err)
	return parsed.Signatures[0].Protected
}

// TestAnIndependentLibraryAgrees: go-jose finds the key in the published set by its
// kid, computes the same thumbprint, and takes the signature.
func TestAnIndependentLibraryAgrees(t *testing.T) {
	for _, alg := range Algorithms() {
		t.Run(alg, func(t *testing.T) {
			r := advance(t, &Ring{}, epoch, Terms{Algorithm: alg, LongestLife: time.Hour, Period: 100 * time.Hour})
			require.Equal(t, []string{alg}, r.ActiveAlgorithms(epoch))
			var set jose.JSONWebKeySet
			require.NoError(t, json.Unmarshal(r.JWKS(epoch), &set))
			require.Len(t, set.Keys, len(Purposes()))
			for _, k := range set.Keys {
				thumbprint, err := k.Thumbprint(5) // crypto.SHA256
				require.NoError(t, err)
				require.Equal(t, fmt.Sprintf("%x", decode64(t, k.KeyID)), fmt.Sprintf("%x", thumbprint))
				require.True(t, k.IsPublic() && k.Valid() && k.Use == "sig" && k.Algorithm == alg)
			}
			for _, p := range Purposes() {
				token := sign(t, r, p, epoch, time.Hour)
				parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.SignatureAlgorithm(alg)})
				require.NoError(t, err)
				require.Equal(t, p.Type(), parsed.Headers[0].ExtraHeaders["typ"])
				var claims jwt.Claims
				require.NoError(t, parsed.Claims(set.Key(parsed.Headers[0].KeyID)[0].Key, &claims))
				require.Equal(t, "somebody", claims.Subject)
				require.Equal(t, epoch.Add(time.Hour), claims.Expiry.Time().UTC())
			}
		})
	}
}

// TestAPurposeIsAlone: neither key nor typ of one purpose passes for another.
func TestAPurposeIsAlone(t *testing.T) {
	r := advance(t, &Ring{}, epoch, usual)
	ids, typs := map[string]bool{}, map[any]bool{}
	for _, p := range Purposes() {
		token := sign(t, r, p, epoch, time.Hour)
		h := header(t, token)
		ids[h.KeyID], typs[h.ExtraHeaders["typ"]] = true, true
		for _, other := range Purposes() {
			payload, err := r.Verify(other, token, epoch)
			if other == p {
				require.NoError(t, err)
				require.JSONEq(t, fmt.Sprintf(`{"sub":"somebody","exp":%d}`, epoch.Add(time.Hour).Unix()), string(payload))
			} else {
				require.ErrorIs(t, err, ErrInvalid)
			}
		}
	}
	require.Len(t, ids, len(Purposes()))
	require.Len(t, typs, len(Purposes()))
}

// TestTypIsChecked: the right key is not enough.
func TestARingKnowsWhatItsKeysAreNamedIn(t *testing.T) {
	r, other := advance(t, &Ring{}, epoch, usual), advance(t, &Ring{}, epoch, usual)
	for _, p := range Purposes() {
		require.True(t, r.Names(sign(t, r, p, epoch, time.Hour)))
		require.False(t, r.Names(sign(t, other, p, epoch, time.Hour)))
	}
	for _, token := range []string{"", ".", "e30.e30.", "eyJraWQiOjd9.e30.", "!.e30."} { // {}, {"kid":7}
		require.False(t, r.Names(token))
	}
}

func TestTypIsChecked(t *testing.T) {
	r := advance(t, &Ring{}, epoch, usual)
	k := *r.active(Child, epoch)
	k.purpose = Assertion
	forged, err := newKey(k)
	require.NoError(t, err)
	token, err := forged.sign([]byte(`{}`))
	require.NoError(t, err)
	_, err = r.Verify(Child, token, epoch)
	require.ErrorIs(t, err, ErrInvalid)
	require.ErrorContains(t, err, "typ")
}

func TestTheLifeOfAKey(t *testing.T) {
	r := advance(t, &Ring{}, epoch, usual)
	first := kids(r, Child, epoch)
	token := sign(t, r, Child, epoch, time.Hour)
	require.Equal(t, first[0], header(t, token).KeyID, "the first key signs at once")
	same, changed, err := r.Advance(epoch.Add(usual.Period-Lead-time.Second), usual)
	require.NoError(t, err)
	require.False(t, changed)
	require.Same(t, r, same)

	due := epoch.Add(usual.Period - Lead)
	r = advance(t, r, due, usual)
	both := kids(r, Child, due)
	require.Len(t, both, 2)
	require.Equal(t, first[0], both[0])
	handover := epoch.Add(usual.Period)
	require.Equal(t, both[0], header(t, sign(t, r, Child, handover.Add(-time.Second), time.Hour)).KeyID)
	require.Equal(t, both[1], header(t, sign(t, r, Child, handover, time.Hour)).KeyID)

	retired := handover.Add(usual.LongestLife + Grace)
	require.Equal(t, both, kids(r, Child, retired))
	require.Equal(t, both[1:], kids(r, Child, retired.Add(time.Second)), "it leaves the set by itself")
	_, err = r.Verify(Child, token, retired)
	require.NoError(t, err)
	_, err = r.Verify(Child, token, retired.Add(time.Second))
	require.ErrorIs(t, err, ErrInvalid)
	r, changed, err = r.Advance(retired.Add(time.Second), usual)
	require.NoError(t, err)
	require.True(t, changed)
	require.Len(t, r.keys[Child], 1, "and is forgotten")
}

func TestALongerLifeHoldsForKeysThatStillSign(t *testing.T) {
	r := rotate(t, advance(t, &Ring{}, epoch, usual), epoch, false)
	now := epoch.Add(Lead)
	long, short := usual, usual
	long.LongestLife, short.LongestLife = 2*usual.LongestLife, time.Minute
	_, err := r.Sign(Child, now, claimsUntil(now.Add(long.LongestLife)))
	require.ErrorIs(t, err, ErrClaims)
	r = advance(t, r, now, long)
	require.Equal(t, usual.LongestLife, r.keys[Child][0].longestLife, "it signs no more")
	sign(t, r, Child, now, long.LongestLife)
	r = advance(t, r, now, short)
	require.Equal(t, long.LongestLife, r.keys[Child][1].longestLife)
}

func TestAnotherAlgorithmRotates(t *testing.T) {
	r := advance(t, &Ring{}, epoch, usual)
	ed := usual
	ed.Algorithm = "EdDSA"
	r = advance(t, r, epoch, ed)
	require.Equal(t, []string{"ES256", "EdDSA"}, r.ActiveAlgorithms(epoch))
	require.Equal(t, "ES256", header(t, sign(t, r, Child, epoch, time.Hour)).Algorithm)
	require.Equal(t, "EdDSA", header(t, sign(t, r, Child, epoch.Add(Lead), time.Hour)).Algorithm)
	r = advance(t, r, epoch.Add(time.Minute), usual)
	require.Equal(t, []string{"ES256"}, r.ActiveAlgorithms(epoch), "what never signed goes at once")
}

func TestRotations(t *testing.T) {
	r := rotate(t, advance(t, &Ring{}, epoch, usual), epoch, false)
	newest, _ := r.Newest(Child)
	require.Equal(t, epoch.Add(Lead), newest.ActiveFrom)
	_, err := r.Rotate(epoch.Add(Lead-time.Second), usual, false)
	require.ErrorIs(t, err, ErrRefused)
	require.ErrorContains(t, err, "2026-03-01T13:00:00Z")

	now := epoch
	for range MaxKeys - 2 {
		now = now.Add(Lead)
		r = rotate(t, r, now, false)
	}
	now = now.Add(Lead)
	_, err = r.Rotate(now, usual, false)
	require.ErrorIs(t, err, ErrRefused)
	require.ErrorContains(t, err, "2026-03-02T14:00:00Z") // the first handed over at 13:00

	ed := usual
	ed.Algorithm = "EdDSA"
	require.Len(t, advance(t, r, now, ed).keys[Child], MaxKeys, "a full ring waits")

	before := sign(t, r, Child, now, time.Hour)
	_, err = r.Verify(Child, before, now)
	require.NoError(t, err)
	r = rotate(t, r, now, true)
	require.Len(t, r.Published(now), len(Purposes()))
	_, err = r.Verify(Child, before, now)
	require.ErrorIs(t, err, ErrInvalid, "what a stolen key may have signed is worth nothing")
	sign(t, r, Child, now, time.Hour)
}

func TestStopAndResume(t *testing.T) {
	r := rotate(t, advance(t, &Ring{}, epoch, usual), epoch, false)
	token := sign(t, r, Child, epoch, usual.LongestLife)
	r, changed, err := r.Stop(epoch)
	require.NoError(t, err)
	require.True(t, changed)
	_, err = r.Sign(Child, epoch, claimsUntil(epoch.Add(time.Hour)))
	require.ErrorIs(t, err, ErrNoKey)
	end := epoch.Add(usual.LongestLife)
	_, err = r.Verify(Child, token, end)
	require.NoError(t, err)
	require.Len(t, r.Published(epoch), len(Purposes()), "a pending key is dropped")
	same, changed, err := r.Stop(end)
	require.NoError(t, err)
	require.False(t, changed)
	require.Same(t, r, same)

	resumed := advance(t, r, end, usual)
	require.Equal(t, header(t, token).KeyID, header(t, sign(t, resumed, Child, end, time.Hour)).KeyID)

	after := end.Add(Grace + time.Second)
	require.Empty(t, r.Published(after))
	require.JSONEq(t, `{"keys":[]}`, string(r.JWKS(after)))
	anew := advance(t, r, after, usual)
	require.NotEqual(t, header(t, token).KeyID, header(t, sign(t, anew, Child, after, time.Hour)).KeyID)
	r, changed, err = r.Stop(after)
	require.NoError(t, err)
	require.True(t, changed)
	require.Empty(t, r.keys[Child])
	_, changed, err = r.Stop(after)
	require.NoError(t, err)
	require.False(t, changed)
}

func TestClaimsThatCannotBeSigned(t *testing.T) {
	r := advance(t, &Ring{}, epoch, usual)
	for name, claims := range map[string]map[string]any{
		"no end":         {},
		"an end as text": {"exp": "1772366400"},
		"too late":       claimsUntil(epoch.Add(usual.LongestLife + time.Second)),
		"never":          {"exp": 1e300},
		"no JSON":        {"exp": epoch.Unix(), "f": func() {}},
		"too long":       {"exp": epoch.Unix(), "x": strings.Repeat("x", 16<<10)},
	} {
		_, err := r.Sign(Child, epoch, claims)
		require.ErrorIs(t, err, ErrClaims, name)
	}
	for _, exp := range []any{epoch.Unix(), int(epoch.Unix()), float64(epoch.Unix()), json.Number(fmt.Sprint(epoch.Unix()))} {
		_, err := r.Sign(Child, epoch, map[string]any{"exp": exp})
		require.NoError(t, err, "%T", exp)
	}
	_, err := (&Ring{}).Sign(Child, epoch, claimsUntil(epoch))
	require.ErrorIs(t, err, ErrNoKey)
	_, err = (&Ring{}).Verify(Child, "a.b.c", epoch)
	require.ErrorIs(t, err, ErrInvalid)
}

func TestTermsAreChecked(t *testing.T) {
	for name, change := range map[string]func(*Terms){
		"none":     func(t *Terms) { t.Algorithm = "none" },
		"HMAC":     func(t *Terms) { t.Algorithm = "HS256" },
		"no life":  func(t *Terms) { t.LongestLife = 0 },
		"for ever": func(t *Terms) { t.LongestLife = MaxLife + 1 },
		"restless": func(t *Terms) { t.Period = Lead },
	} {
		terms := usual
		change(&terms)
		_, _, err := (&Ring{}).Advance(epoch, terms)
		require.Error(t, err, name)
		_, err = (&Ring{}).Rotate(epoch, terms, true)
		require.Error(t, err, name)
	}
}

// TestAClockThatGoesBack: the next leader's clock may be behind the last one's.
func TestAClockThatGoesBack(t *testing.T) {
	r := advance(t, &Ring{}, epoch, usual)
	earlier := epoch.Add(-time.Minute)
	sign(t, r, Child, earlier, time.Hour)
	_, changed, err := r.Advance(earlier, usual)
	require.NoError(t, err)
	require.False(t, changed)
}

func TestARingPrintsNoKeys(t *testing.T) {
	r := advance(t, &Ring{}, epoch, usual)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		require.Equal(t, "[3 keys]", fmt.Sprintf(verb, r))
	}
	raw, err := json.Marshal(map[string]any{"ring": r})
	require.NoError(t, err)
	require.Equal(t, `{"ring":{}}`, string(raw))
}
