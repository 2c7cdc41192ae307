//go:build !cgo

package native

import (
	"crypto"
	"errors"
	"unsafe"

	"github.com/polytls/polytls/internal/engine"
)

var errNoCgo = errors.New("not built in: the program was built with CGO_ENABLED=0; build it with cgo")

// library without cgo is never available.
type library struct{}

// New completes the description of a provider.
func New(p *Provider, _ unsafe.Pointer) *Provider {
	return p.complete(&library{}, AllAbilities)
}

func (*library) init() error     { return errNoCgo }
func (*library) version() string { return "" }

type context struct {
	provider string
	probe    offerProbe
}

func (*contextBuilder) build() (*context, error) { return nil, errNoCgo }

func (*context) hold() bool { return false }
func (*context) release()   {}

// conn is never made.
type conn struct {
	engine.Engine
	signer  crypto.Signer
	chooser *certificateChooser
}

func (*context) newConn(connOptions) (*conn, error) { return nil, errNoCgo }
