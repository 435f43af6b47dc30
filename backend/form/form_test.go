package form

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

type thing struct {
	Name  string         `json:"name,omitempty"`
	Inner map[string]any `json:"inner,omitempty"`
}

func TestTheFirstFormIsAsItEverWas(t *testing.T) {
	raw, err := Kind{Name: "thing"}.Encode(thing{Name: "x"})
	require.NoError(t, err)
	require.Equal(t, `{"name":"x"}`, string(raw))
}

func TestANewerFormIsRefusedAndAnOlderOneRead(t *testing.T) {
	forms := []Kind{{Name: "thing"}, {Name: "thing", Since: []string{"v0.2.0"}}, {Name: "thing", Since: []string{"v0.2.0", "v0.7.0"}}}
	for written, writer := range forms {
		for _, v := range []thing{{}, {Name: "x", Inner: map[string]any{"form": "y"}}} {
			raw, err := writer.Encode(v)
			require.NoError(t, err)
			require.True(t, json.Valid(raw), string(raw))
			for read, reader := range forms {
				var got thing
				err := reader.Decode(raw, &got)
				if read >= written {
					require.NoError(t, err)
					require.Equal(t, v, got)
					continue
				}
				require.ErrorIs(t, err, ErrNewer)
				require.Contains(t, Explain(err), writer.Since[written-1])
				require.Zero(t, got)
			}
		}
	}
}

// TestWhatAnOlderVersionUnderstandsStaysReadable although others of the kind do not.
func TestWhatAnOlderVersionUnderstandsStaysReadable(t *testing.T) {
	older, newer := Kind{Name: "thing"}, Kind{Name: "thing", Since: []string{"v0.2.0"}}
	for number, readable := range map[int]bool{1: true, 2: false} {
		raw, err := newer.EncodeIn(number, thing{Name: "x"})
		require.NoError(t, err)
		require.NoError(t, newer.Decode(raw, &thing{}))
		err = older.Decode(raw, &thing{})
		require.Equal(t, readable, err == nil, err)
		require.Equal(t, !readable, errors.Is(err, ErrNewer))
	}
}

func TestWhatOnlyLooksLikeAMark(t *testing.T) {
	k := Kind{Name: "thing"}
	for _, raw := range []string{
		`{"name":"\"form\":9"}`, `{"inner":{"form":9}}`, `{"form":1}`, `{"form":"nine"}`, `{"form":null}`, `{"inner":{"a":["form", 9]}}`,
	} {
		require.NoError(t, k.Decode([]byte(raw), &thing{}), raw)
	}
	require.ErrorIs(t, k.Decode([]byte(`{"name":5,"form":9}`), &thing{}), ErrNewer, "whatever else it says")
	require.NotErrorIs(t, k.Decode([]byte(`{"form":9`), &thing{}), ErrNewer)
	require.Error(t, k.Decode([]byte(`{"form":9`), &thing{}))
	require.Empty(t, Explain(k.Decode([]byte(`{`), &thing{})))
}

// The reader of a million records pays for it.
func BenchmarkCheck(b *testing.B) {
	raw, err := json.Marshal(thing{Name: strings.Repeat("x", 1000)})
	require.NoError(b, err)
	for b.Loop() {
		_ = Kind{}.Check(raw)
	}
}
