package form

import (
	"bytes"
	"encoding/json"
	"maps"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWhatParsersReadDifferentlyIsRefused(t *testing.T) {
	for raw, want := range map[string]error{
		`{"a":1,"a":1}`: ErrTwice, `{"a":1,"\u0061":2}`: ErrTwice, `[{"x":{"y":1,"y":2}}]`: ErrTwice,
		"{\"a\":\"\xff\"}": ErrNotUTF8, `{"a":1}{}`: ErrNotJSON, `{"a":1`: ErrNotJSON, ``: ErrNotJSON, `{a:1}`: ErrNotJSON,
		`[[[[1]]]]`: ErrTooDeep, `{"a":{"b":{"c":{}}}}`: ErrTooDeep,
	} {
		_, err := Value([]byte(raw), 3)
		require.ErrorIs(t, err, want, raw)
	}
	for _, raw := range []string{`null`, `[]`, `"x"`, `1`, ``} {
		_, err := Object([]byte(raw), 3)
		require.ErrorIs(t, err, ErrNotObject, raw)
		_, _, err = Members([]byte(raw))
		require.ErrorIs(t, err, ErrNotObject, raw)
	}
	v, err := Value([]byte(` {"a":[1.50,null,true,"x"],"A":{}} `), 3)
	require.NoError(t, err)
	require.Equal(t, map[string]any{"a": []any{json.Number("1.50"), nil, true, "x"}, "A": map[string]any{}}, v)
}

func TestMembersTellWhichStandTwice(t *testing.T) {
	members, twice, err := Members([]byte(`{"a":{"x":1,"x":2},"b":1,"a":3,"B":0,"\u0062":null}`))
	require.NoError(t, err)
	require.Equal(t, []string{"a", "b"}, twice)
	require.Equal(t, map[string]json.RawMessage{"a": []byte("3"), "b": []byte("null"), "B": []byte("0")}, members)
	_, err = UniqueMembers([]byte(`{"a":1,"a":1}`))
	require.ErrorIs(t, err, ErrTwice)
}

// FuzzValue: no panic, what is read is what encoding/json reads, and an object is read
// alike in both ways.
func FuzzValue(f *testing.F) {
	for _, s := range []string{`{}`, `{"a":1,"a":2}`, `{"a":[1,"x",{"b":null}]}`, `{"\ud800":1e999}`, `[`, strings.Repeat("[", 20), "{\"\xff\":1}"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		members, twice, err := Members(raw)
		object, strictErr := Object(raw, 8)
		if strictErr == nil && (err != nil || twice != nil || len(members) != len(object)) {
			t.Fatalf("%v, %v, but %v", err, twice, object)
		}
		var last map[string]json.RawMessage
		if isObject := json.Unmarshal(raw, &last) == nil && last != nil; isObject != (err == nil) || isObject && !sameMembers(members, last) {
			t.Fatalf("%s, want %s (%v)", members, last, err)
		}
		v, err := Value(raw, 8)
		if err != nil {
			return
		}
		d := json.NewDecoder(bytes.NewReader(raw))
		d.UseNumber()
		var want any
		if err := d.Decode(&want); err != nil || !reflect.DeepEqual(v, want) {
			t.Fatalf("%v, want %v (%v)", v, want, err)
		}
	})
}

func sameMembers(a, b map[string]json.RawMessage) bool {
	return maps.EqualFunc(a, b, func(x, y json.RawMessage) bool { return bytes.Equal(bytes.TrimSpace(x), bytes.TrimSpace(y)) })
}
