package tlsapi_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"reflect"
	"testing"

	"github.com/polytls/polytls/tlsapi"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// An option that does not print is a secret too many.
func TestConfigurationsPrintWhatIsSet(t *testing.T) {
	checkPrinted(t, func() *tlsapi.ClientConfig { return new(tlsapi.ClientConfig) })
	checkPrinted(t, func() *tlsapi.ServerConfig { return new(tlsapi.ServerConfig) })
	checkPrinted(t, func() *tlsapi.Settings { return new(tlsapi.Settings) })
}

func checkPrinted[C any](t *testing.T, empty func() *C) {
	assert.Regexp(t, `^(Client|Server)?(Config|Settings)\{\}$`, fmt.Sprint(*empty()))
	for _, name := range fieldNames(reflect.TypeFor[C]()) {
		config := empty()
		setField(t, reflect.ValueOf(config).Elem().FieldByName(name), name)
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			assert.Contains(t, fmt.Sprintf(verb, config), "{"+name+": ", "%s of a pointer", verb)
			assert.Contains(t, fmt.Sprintf(verb, *config), "{"+name+": ", "%s of a value", verb)
		}
		encoded, err := json.Marshal(config)
		require.NoError(t, err)
		var object map[string]any
		require.NoError(t, json.Unmarshal(encoded, &object), "%s", encoded)
		assert.Len(t, object, 1)
		assert.Contains(t, object, name)
		var log bytes.Buffer
		slog.New(slog.NewTextHandler(&log, nil)).Info("", "config", config)
		assert.Contains(t, log.String(), "config."+name+"=")
	}
}

func TestNilConfigurationsPrint(t *testing.T) {
	var client *tlsapi.ClientConfig
	var server *tlsapi.ServerConfig
	assert.Equal(t, "<nil> <nil>", fmt.Sprintf("%v %+v", client, server))
	encoded, err := json.Marshal([]any{client, server})
	require.NoError(t, err)
	assert.Equal(t, "[null,null]", string(encoded))
}
