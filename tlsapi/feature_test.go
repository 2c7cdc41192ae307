package tlsapi_test

import (
	"errors"
	"io"
	"net"
	"reflect"
	"testing"

	"github.com/polytls/polytls/tlsapi"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// setField gives a configuration's field some value that is not zero.
func setField(t *testing.T, field reflect.Value, name string) {
	t.Helper()
	switch field.Kind() {
	case reflect.Bool:
		field.SetBool(true)
	case reflect.String:
		field.SetString("x")
	case reflect.Int, reflect.Int64:
		field.SetInt(1)
	case reflect.Uint8, reflect.Uint16:
		field.SetUint(1)
	case reflect.Slice:
		field.Set(reflect.MakeSlice(field.Type(), 1, 1))
	case reflect.Pointer:
		field.Set(reflect.New(field.Type().Elem()))
	case reflect.Func:
		field.Set(reflect.MakeFunc(field.Type(), func([]reflect.Value) []reflect.Value { panic("not called") }))
	case reflect.Interface:
		switch {
		case reflect.TypeFor[tlsapi.SessionCache]() == field.Type():
			field.Set(reflect.ValueOf(cache{}))
		case reflect.TypeFor[io.Writer]() == field.Type():
			field.Set(reflect.ValueOf(io.Discard))
		default:
			require.Fail(t, "no value", "field %s has type %v", name, field.Type())
		}
	default:
		require.Fail(t, "no value", "field %s has type %v", name, field.Type())
	}
}

type cache struct{}

func (cache) Get(string) []byte  { return nil }
func (cache) Put(string, []byte) {}

// Every option that is set must appear among the features, or a provider could
// not refuse it.
func TestEveryOptionIsAFeature(t *testing.T) {
	known := make(map[tlsapi.Feature]bool)
	for _, f := range tlsapi.AllFeatures() {
		assert.False(t, known[f], "%s is there twice", f)
		known[f] = true
	}
	for _, side := range []struct {
		config   any
		features func(any) []tlsapi.FeatureUse
	}{
		{tlsapi.ClientConfig{}, func(c any) []tlsapi.FeatureUse { return c.(*tlsapi.ClientConfig).Features() }},
		{tlsapi.ServerConfig{}, func(c any) []tlsapi.FeatureUse { return c.(*tlsapi.ServerConfig).Features() }},
	} {
		kind := reflect.TypeOf(side.config)
		assert.Empty(t, side.features(reflect.New(kind).Interface()), "the zero value uses nothing")
		for _, field := range reflect.VisibleFields(kind) {
			if field.Anonymous {
				continue
			}
			t.Run(kind.Name()+"."+field.Name, func(t *testing.T) {
				config := reflect.New(kind)
				setField(t, config.Elem().FieldByIndex(field.Index), field.Name)
				uses := side.features(config.Interface())
				require.NotEmpty(t, uses, "the option is set, but uses no feature")
				for _, use := range uses {
					assert.Equal(t, field.Name, use.Option)
					assert.True(t, known[use.Feature], "%s is not in the matrix", use.Feature)
				}
			})
		}
	}
	for _, kind := range []tlsapi.PSKKind{tlsapi.PSKExternal, tlsapi.PSKImported, tlsapi.PSKTLS12} {
		settings := tlsapi.Settings{PSKs: []tlsapi.PSK{{Kind: kind}}}
		for _, use := range append((&tlsapi.ClientConfig{Settings: settings}).Features(), (&tlsapi.ServerConfig{Settings: settings}).Features()...) {
			assert.True(t, known[use.Feature], "%s is not in the matrix", use.Feature)
		}
	}
}

func TestAllFeaturesIsACopy(t *testing.T) {
	tlsapi.AllFeatures()[0] = "changed"
	assert.NotEqual(t, tlsapi.Feature("changed"), tlsapi.AllFeatures()[0])
}

// matrixOnly is a provider with nothing but a matrix.
type matrixOnly []tlsapi.FeatureSupport

func (m matrixOnly) Name() string                      { return "matrix" }
func (m matrixOnly) Library() string                   { return "" }
func (m matrixOnly) LibraryVersion() string            { return "" }
func (m matrixOnly) Available() error                  { return nil }
func (m matrixOnly) Features() []tlsapi.FeatureSupport { return m }
func (m matrixOnly) Client(net.Conn, *tlsapi.ClientConfig) (tlsapi.Conn, error) {
	return nil, errors.ErrUnsupported
}
func (m matrixOnly) Server(net.Conn, *tlsapi.ServerConfig) (tlsapi.Conn, error) {
	return nil, errors.ErrUnsupported
}

func TestCheckFeatures(t *testing.T) {
	provider := matrixOnly{
		{Feature: tlsapi.ClientALPN, Support: tlsapi.Native},
		{Feature: tlsapi.ClientCurves, Support: tlsapi.Emulated, Note: "in its own order"},
		{Feature: tlsapi.ClientKeyLog, Support: tlsapi.Unsupported, Note: "the library has no such call"},
	}
	use := func(f ...tlsapi.Feature) (uses []tlsapi.FeatureUse) {
		for _, feature := range f {
			uses = append(uses, tlsapi.FeatureUse{Feature: feature, Option: "Option of " + string(feature)})
		}
		return uses
	}
	require.NoError(t, tlsapi.CheckFeatures(provider, nil))
	require.NoError(t, tlsapi.CheckFeatures(provider, use(tlsapi.ClientALPN, tlsapi.ClientCurves)))
	for _, f := range []tlsapi.Feature{tlsapi.ClientKeyLog, tlsapi.ClientRequirePSK} {
		err := tlsapi.CheckFeatures(provider, use(tlsapi.ClientALPN, f))
		require.ErrorIs(t, err, errors.ErrUnsupported)
		var e *tlsapi.Error
		require.ErrorAs(t, err, &e)
		assert.Equal(t, "matrix", e.Provider)
		assert.Equal(t, "Option of "+string(f), e.Option)
	}
	assert.ErrorContains(t, tlsapi.CheckFeatures(provider, use(tlsapi.ClientKeyLog)), "the library has no such call")
}
