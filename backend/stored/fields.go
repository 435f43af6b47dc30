package stored

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
)

// Field is a field of a T that operators write and read.
type Field[T any] struct {
	Name        string
	Description string
	Default     any   // which Vault's help shows; what nobody has written stays as it is
	Allowed     []any // values, in Vault's help
	// Unset says in a word or two what zero stands for, of a number or duration of which
	// it means that there is none.
	Unset string
	// Secret is a text that nobody reads again: a read shows its fingerprint, as
	// <name>_sha256.
	Secret bool
	// In points to where a T keeps the field, and thereby says of which type it is:
	// *string, *bool, *int, *float64, *time.Duration, *[]string or *map[string]string;
	// or it is a Value.
	In func(*T) any
}

// Value is where a field is kept whose type is not one of Field's.
type Value interface {
	// Type is what the field is to Vault.
	Type() framework.FieldType
	// Set takes what was written, as FieldData.Get has it for the type. Its error is a
	// *fault.Error.
	Set(written any) error
	// Get is what a read shows, nil for an empty field.
	Get() any
}

// Fields are all fields of a T, and the only list of them.
type Fields[T any] []Field[T]

// Schema is what Vault is told of the fields.
func (f Fields[T]) Schema() map[string]*framework.FieldSchema {
	schema := make(map[string]*framework.FieldSchema, len(f))
	for _, field := range f {
		schema[field.Name] = &framework.FieldSchema{
			Type: valueIn(field.In(new(T))).Type(), Description: field.Description, Default: field.Default, AllowedValues: field.Allowed,
		}
		if field.Secret {
			schema[field.Name].DisplayAttrs = &framework.DisplayAttributes{Sensitive: true}
		}
	}
	return schema
}

// Shown is the schema of what Show adds.
func (f Fields[T]) Shown() map[string]*framework.FieldSchema {
	schema := f.Schema()
	for _, field := range f {
		if field.Secret {
			delete(schema, field.Name)
			schema[field.Name+fingerprint] = &framework.FieldSchema{Type: framework.TypeString, Description: "SHA-256 of the stored " + field.Name + ", in hex."}
		}
	}
	return schema
}

// fingerprint is how the names of secrets' fingerprints end.
const fingerprint = "_sha256"

// Merge takes what a request has written, which must fit the schema, and leaves the rest
// as it is. An empty value unsets a field.
func (f Fields[T]) Merge(into *T, written *framework.FieldData) error {
	for _, field := range f {
		value, ok := written.GetOk(field.Name)
		if !ok {
			continue
		}
		if err := valueIn(field.In(into)).Set(value); err != nil {
			return err
		}
	}
	return nil
}

// ShowAll adds the fields to what a read answers, empty ones too, but for secrets.
func (f Fields[T]) ShowAll(from *T, data map[string]any) {
	f.Show(from, data)
	for _, field := range f {
		if _, shown := data[field.Name]; shown || field.Secret {
			continue
		}
		switch valueIn(field.In(from)).Type() {
		case framework.TypeString:
			data[field.Name] = ""
		case framework.TypeCommaStringSlice:
			data[field.Name] = []string{}
		case framework.TypeSlice:
			data[field.Name] = []any{}
		default:
			data[field.Name] = map[string]any{}
		}
	}
}

// ShownAll is the schema of what ShowAll adds.
func (f Fields[T]) ShownAll() map[string]*framework.FieldSchema {
	schema := f.Shown()
	for _, field := range f {
		if shown := schema[field.Name]; shown != nil && len(field.Allowed) > 0 && field.Default == nil {
			shown.AllowedValues = append(slices.Clone(field.Allowed), "")
		}
	}
	return schema
}

// Words are the durations, and the numbers that are unset, as a person says them.
func (f Fields[T]) Words(from *T) map[string]string {
	words := map[string]string{}
	for _, field := range f {
		var unset bool
		switch p := field.In(from).(type) {
		case *time.Duration:
			if unset = *p == 0; !unset {
				words[field.Name] = InWords(*p)
			}
		case *int:
			unset = *p == 0
		case *float64:
			unset = *p == 0
		}
		if unset && field.Unset != "" {
			words[field.Name] = field.Unset
		}
	}
	return words
}

// InWords is a duration as operators write it: 30d, 24h, 10s.
func InWords(d time.Duration) string {
	for _, unit := range []struct {
		name  string
		is    time.Duration
		least int64
	}{{"d", 24 * time.Hour, 2}, {"h", time.Hour, 1}, {"m", time.Minute, 1}} {
		if n := int64(d / unit.is); d%unit.is == 0 && n >= unit.least {
			return fmt.Sprintf("%d%s", n, unit.name)
		}
	}
	return d.String()
}

// Show adds the fields to what a read answers. Empty text, lists and maps are left out.
func (f Fields[T]) Show(from *T, data map[string]any) {
	for _, field := range f {
		value := valueIn(field.In(from)).Get()
		switch {
		case value == nil:
		case field.Secret:
			sum := sha256.Sum256([]byte(value.(string)))
			data[field.Name+fingerprint] = hex.EncodeToString(sum[:])
		default:
			data[field.Name] = value
		}
	}
}

func valueIn(pointer any) Value {
	switch p := pointer.(type) {
	case Value:
		return p
	case *string:
		return text{p}
	case *time.Duration:
		return duration{p}
	case *[]string:
		return list{p}
	case *map[string]string:
		return pairs{p}
	case *bool:
		return plain[bool]{framework.TypeBool, p}
	case *int:
		return plain[int]{framework.TypeInt, p}
	case *float64:
		return plain[float64]{framework.TypeFloat, p}
	}
	panic(fmt.Sprintf("no field can be kept in a %T", pointer)) // by whoever wrote the table, and at the start
}

// plain is a value that is shown whatever it is.
type plain[V any] struct {
	t  framework.FieldType
	in *V
}

func (p plain[V]) Type() framework.FieldType { return p.t }
func (p plain[V]) Set(written any) error     { *p.in = written.(V); return nil }
func (p plain[V]) Get() any                  { return *p.in }

type text struct{ in *string }

func (t text) Type() framework.FieldType { return framework.TypeString }
func (t text) Set(written any) error     { *t.in = written.(string); return nil }
func (t text) Get() any {
	if *t.in == "" {
		return nil
	}
	return *t.in
}

type duration struct{ in *time.Duration }

func (d duration) Type() framework.FieldType { return framework.TypeDurationSecond }
func (d duration) Set(written any) error {
	*d.in = time.Duration(written.(int)) * time.Second
	return nil
}
func (d duration) Get() any { return int64(*d.in / time.Second) }

type list struct{ in *[]string }

func (l list) Type() framework.FieldType { return framework.TypeCommaStringSlice }
func (l list) Set(written any) error {
	if *l.in = written.([]string); len(*l.in) == 0 {
		*l.in = nil
	}
	return nil
}
func (l list) Get() any {
	if *l.in == nil {
		return nil
	}
	return *l.in
}

type pairs struct{ in *map[string]string }

func (p pairs) Type() framework.FieldType { return framework.TypeKVPairs }
func (p pairs) Set(written any) error {
	if *p.in = written.(map[string]string); len(*p.in) == 0 {
		*p.in = nil
	}
	return nil
}
func (p pairs) Get() any {
	if *p.in == nil {
		return nil
	}
	return *p.in
}
