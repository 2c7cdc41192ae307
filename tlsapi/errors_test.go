package tlsapi_test

import (
	"errors"
	"fmt"
	"regexp"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/polytls/polytls/tlsapi"
)

func TestKindNames(t *testing.T) {
	seen := map[string]tlsapi.Kind{}
	word := regexp.MustCompile(`^[a-z0-9]+(_[a-z0-9]+)*$`)
	for k := tlsapi.KindInternal; k <= tlsapi.KindInvalidCertificate; k++ {
		name := k.Name()
		assert.Regexp(t, word, name)
		assert.NotEqual(t, "other", name, "%v has no name", k)
		assert.NotContains(t, seen, name)
		seen[name] = k
	}
	assert.Equal(t, "other", tlsapi.Kind(0).Name())
	assert.Equal(t, "other", (tlsapi.KindInvalidCertificate + 1).Name())
}

func TestKindOf(t *testing.T) {
	e := &tlsapi.Error{Kind: tlsapi.KindRejected, Err: &tlsapi.Error{Kind: tlsapi.KindConfig}}
	assert.Equal(t, tlsapi.KindRejected, tlsapi.KindOf(e))
	assert.Equal(t, tlsapi.KindRejected, tlsapi.KindOf(fmt.Errorf("accept: %w", e)))
	assert.Equal(t, tlsapi.KindExpired, tlsapi.KindOf(fmt.Errorf("accept: %w", tlsapi.KindExpired)))
	assert.Zero(t, tlsapi.KindOf(errors.New("other")))
	assert.Zero(t, tlsapi.KindOf(nil))
}
