package form

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPart(t *testing.T) {
	whole, err := ParsePart([]byte(` {"a":[1, {"b":"x\u0041"} ,[]],"c":null,"d":{},"x":1,"x":2,"e":"]}"} `))
	require.NoError(t, err)
	found, err := whole.Members("c", "a", "nothing", "e", "d")
	require.NoError(t, err)
	require.Equal(t, "null", string(found[0].Raw()))
	require.True(t, found[2].Absent())
	require.False(t, found[0].Absent(), "null is there")
	text, ok := found[3].Text()
	require.True(t, ok)
	require.Equal(t, "]}", text)
	elements, ok := found[1].Elements()
	require.True(t, ok)
	require.Len(t, elements, 3)
	inner, err := elements[1].Members("b")
	require.NoError(t, err)
	text, _ = inner[0].Text()
	require.Equal(t, "xA", text)
	empty, ok := elements[2].Elements()
	require.True(t, ok)
	require.Empty(t, empty)

	_, err = whole.Members("x")
	require.ErrorIs(t, err, ErrTwice)
	_, err = found[1].Members("a")
	require.ErrorIs(t, err, ErrNotObject)
	for _, none := range []Part{{}, found[0], found[4]} {
		_, ok = none.Elements()
		require.False(t, ok)
		_, ok = none.Text()
		require.False(t, ok)
	}
	_, err = Part{}.Members("a")
	require.ErrorIs(t, err, ErrNotObject)
	for _, broken := range []string{"", "{", `{"a":1}}`, "nul", `{"a":"`} {
		_, err = ParsePart([]byte(broken))
		require.ErrorIs(t, err, ErrNotJSON)
	}
}

// FuzzPart: what is read of a document is what encoding/json reads there, and nothing
// panics.
func FuzzPart(f *testing.F) {
	for _, seed := range []string{`{"a":[1,{"b":"x"}],"c":null}`, `[]`, `"x"`, `{"a":"\ud800"}`, ` { "a" : { } } `} {
		f.Add([]byte(seed), "a")
	}
	f.Fuzz(func(t *testing.T, raw []byte, name string) {
		p, err := ParsePart(raw)
		if err != nil {
			return
		}
		if elements, ok := p.Elements(); ok {
			var want []json.RawMessage
			require.NoError(t, json.Unmarshal(raw, &want))
			require.Len(t, elements, len(want))
			for i := range want {
				require.Equal(t, string(want[i]), string(elements[i].Raw()))
			}
		}
		if text, ok := p.Text(); ok {
			var want string
			require.NoError(t, json.Unmarshal(raw, &want))
			require.Equal(t, want, text)
		}
		found, err := p.Members(name)
		if err != nil {
			return
		}
		var want map[string]json.RawMessage
		require.NoError(t, json.Unmarshal(raw, &want))
		value, there := want[name]
		require.Equal(t, there, !found[0].Absent())
		require.Equal(t, string(value), string(found[0].Raw()))
	})
}
