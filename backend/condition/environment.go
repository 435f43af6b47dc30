package condition

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/ext"
)

// environment is what every condition is compiled in.
var environment = sync.OnceValues(func() (*cel.Env, error) {
	registry, err := types.NewRegistry()
	if err != nil {
		return nil, err
	}
	env, err := cel.NewEnv(
		cel.CustomTypeProvider(provider{registry}),
		cel.CustomTypeAdapter(adapter{registry}),
		cel.Variable(varIdentity, types.NewObjectType(typeIdentity)),
		cel.Variable(varRequest, types.NewObjectType(typeRequest)),
		cel.Variable(varSubject, types.NewObjectType(typeSubject)),
		cel.Variable(varNow, cel.TimestampType),
		cel.DefaultUTCTimeZone(true),
		// The variable that a macro itself uses then has a name that no expression can
		// have.
		cel.EnableHiddenAccumulatorName(true),
		cel.ParserExpressionSizeLimit(MaxLength),
		cel.ParserRecursionLimit(maxDepth),
		cel.ExpressionNodeLimit(MaxLength),
		cel.ASTValidators(cel.ValidateDurationLiterals(), cel.ValidateTimestampLiterals(), cel.ValidateRegexLiterals()),
		// Earlier versions do not account for their cost.
		ext.Strings(ext.StringsVersion(5)),
		ext.Sets(),
	)
	if err != nil {
		return nil, err
	}
	return guard(env)
})

// The objects' types, by the names that type errors show.
const (
	typeIdentity = "broker.Identity"
	typeAlias    = "broker.Alias"
	typeRequest  = "broker.Request"
	typeSubject  = "broker.Subject"
)

var (
	stringMap  = types.NewMapType(types.StringType, types.StringType)
	stringList = types.NewListType(types.StringType)
)

// fields are the objects' fields. CEL's reflecting equivalent (ext.NativeTypes)
// allocates for every access.
var fields = map[string]map[string]*types.FieldType{
	typeIdentity: {
		"entity_id": field(types.StringType, func(i *Identity) any { return i.EntityID }),
		"name":      field(types.StringType, func(i *Identity) any { return i.Name }),
		"metadata":  field(stringMap, func(i *Identity) any { return i.Metadata }),
		"groups":    field(stringList, func(i *Identity) any { return i.Groups }),
		"aliases":   field(types.NewListType(types.NewObjectType(typeAlias)), func(i *Identity) any { return i.Aliases }),
	},
	typeAlias: {
		"name":           field(types.StringType, func(a *Alias) any { return a.Name }),
		"mount_accessor": field(types.StringType, func(a *Alias) any { return a.MountAccessor }),
		"mount_type":     field(types.StringType, func(a *Alias) any { return a.MountType }),
		"metadata":       field(stringMap, func(a *Alias) any { return a.Metadata }),
	},
	typeRequest: {
		"scopes":      field(stringList, func(r *Request) any { return r.Scopes }),
		"audiences":   field(stringList, func(r *Request) any { return r.Audiences }),
		"resources":   field(stringList, func(r *Request) any { return r.Resources }),
		"permissions": field(stringMap, func(r *Request) any { return r.Permissions }),
		"ttl":         field(types.DurationType, func(r *Request) any { return r.TTL }),
		"remote_addr": field(types.StringType, func(r *Request) any { return r.RemoteAddr }),
	},
	typeSubject: {
		"claims": field(types.NewMapType(types.StringType, types.DynType), func(s *Subject) any { return s.Claims }),
	},
}

// field describes a field of *T. As in protobuf, has() is false for a zero one.
func field[T any](typ *types.Type, get func(*T) any) *types.FieldType {
	from := func(target any) (any, error) {
		t, ok := target.(*T)
		if !ok {
			return nil, fmt.Errorf("%T is not a %T", target, t)
		}
		return get(t), nil
	}
	return &types.FieldType{
		Type:    typ,
		GetFrom: from,
		IsSet: func(target any) bool {
			v, err := from(target)
			if err != nil {
				return false
			}
			switch v := reflect.ValueOf(v); v.Kind() {
			case reflect.Map, reflect.Slice:
				return v.Len() > 0
			default:
				return !v.IsZero()
			}
		},
	}
}

// provider tells the type checker of the objects' fields.
type provider struct{ types.Provider }

// FindStructType implements types.Provider.
func (p provider) FindStructType(name string) (*types.Type, bool) {
	if _, ok := fields[name]; ok {
		return types.NewTypeTypeWithParam(types.NewObjectType(name)), true
	}
	return p.Provider.FindStructType(name)
}

// FindStructFieldNames implements types.Provider.
func (p provider) FindStructFieldNames(name string) ([]string, bool) {
	if f, ok := fields[name]; ok {
		return slices.Sorted(maps.Keys(f)), true
	}
	return p.Provider.FindStructFieldNames(name)
}

// FindStructFieldType implements types.Provider.
func (p provider) FindStructFieldType(name, fieldName string) (*types.FieldType, bool) {
	if f, ok := fields[name]; ok {
		t, ok := f[fieldName]
		return t, ok
	}
	return p.Provider.FindStructFieldType(name, fieldName)
}

// adapter gives CEL the objects as values of their types.
type adapter struct{ types.Adapter }

// NativeToValue implements types.Adapter.
func (a adapter) NativeToValue(value any) ref.Val {
	switch v := value.(type) {
	case *Identity:
		return object{typeIdentity, v}
	case *Request:
		return object{typeRequest, v}
	case *Subject:
		return object{typeSubject, v}
	case []Alias:
		list := make([]ref.Val, len(v))
		for i := range v {
			list[i] = object{typeAlias, &v[i]}
		}
		return types.NewRefValList(a, list)
	case map[string]string:
		return types.NewStringStringMap(a, v)
	case map[string]any:
		return types.NewStringInterfaceMap(a, v)
	case json.Number:
		return number(v)
	default:
		return a.Adapter.NativeToValue(value)
	}
}

// number is the integer, or else the double, that n is.
func number(n json.Number) ref.Val {
	if i, err := n.Int64(); err == nil {
		return types.Int(i)
	}
	f, err := n.Float64()
	if err != nil {
		return types.NewErr("a number is out of range")
	}
	return types.Double(f)
}

// object is an Identity, Alias, Request or Subject as a CEL value. It has fields
// and an identity, and cannot be converted.
type object struct {
	typeName string
	pointer  any
}

var errConvert = errors.New("an object cannot be converted")

// ConvertToNative implements ref.Val.
func (o object) ConvertToNative(reflect.Type) (any, error) { return nil, errConvert }

// ConvertToType implements ref.Val.
func (o object) ConvertToType(t ref.Type) ref.Val {
	if t == types.TypeType {
		return types.NewObjectType(o.typeName)
	}
	return types.WrapErr(errConvert)
}

// Equal implements ref.Val.
func (o object) Equal(other ref.Val) ref.Val { return types.Bool(other == ref.Val(o)) }

// Type implements ref.Val.
func (o object) Type() ref.Type { return types.NewObjectType(o.typeName) }

// Value implements ref.Val.
func (o object) Value() any { return o.pointer }
