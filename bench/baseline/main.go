//go:build cgo && polytls_baseline

// Command baseline measures another Go binding of OpenSSL,
// github.com/spacemonkeygo/openssl, as package internal/measure asks. It is a
// process of its own because it links the system's OpenSSL.
//
// It needs the build tag polytls_baseline, the system's OpenSSL headers, and in
// CGO_CFLAGS the header openssl3.h of this folder; `make bench` does all that.
package main

// #cgo pkg-config: libcrypto
// #include <openssl/crypto.h>
import "C"

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/spacemonkeygo/openssl"

	"github.com/polytls/polytls/internal/measure"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintf(os.Stderr, "usage: %s FOLDER-OF-CERTIFICATES\n", os.Args[0])
		os.Exit(2)
	}
	if err := measure.Serve(os.Stdin, os.Stdout, subject{}, os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// subject is the binding, used as its documentation shows. It has no call for
// the TLS 1.3 suites and groups: OPENSSL_CONF sets them.
type subject struct{}

func (subject) Name() string { return "spacemonkey" }

func (subject) Library() string {
	return "github.com/spacemonkeygo/openssl on " + C.GoString(C.OpenSSL_version(C.OPENSSL_VERSION))
}

func (subject) Prepare(_ measure.Fixtures, s measure.Settings) (*measure.Ends, error) {
	if s.Resume {
		return nil, fmt.Errorf("not measured: sessions of TLS 1.3 come after the handshake, and the binding tells nobody: %w", errors.ErrUnsupported)
	}
	certFile, keyFile, rootFile := measure.CertificateFiles(os.Args[1], s)
	server, err := openssl.NewCtxFromFiles(certFile, keyFile)
	if err != nil {
		return nil, err
	}
	client, err := openssl.NewCtx()
	if err != nil {
		return nil, err
	}
	if err := client.LoadVerifyLocations(rootFile, ""); err != nil {
		return nil, err
	}
	client.SetVerifyMode(openssl.VerifyPeer)
	for _, ctx := range []*openssl.Ctx{client, server} {
		ctx.SetOptions(openssl.NoTicket)
	}
	return &measure.Ends{
		Client: func(transport net.Conn) (measure.Conn, error) {
			c, err := openssl.Client(transport, client)
			if err != nil {
				return nil, err
			}
			return verifying{c}, c.SetTlsExtHostName(measure.ServerName)
		},
		Server: func(transport net.Conn) (measure.Conn, error) {
			c, err := openssl.Server(transport, server)
			if err != nil {
				return nil, err
			}
			return c, nil
		},
		Describe: describe,
	}, nil
}

// verifying is a client: the binding checks the name behind the handshake.
type verifying struct{ *openssl.Conn }

func (c verifying) Handshake() error {
	if err := c.Conn.Handshake(); err != nil {
		return err
	}
	return c.VerifyHostname(measure.ServerName)
}

// describe tells what the binding tells, which is the suite's name: that of a
// TLS 1.3 suite says the version, too.
func describe(c measure.Conn) measure.Negotiated {
	conn, ok := c.(*openssl.Conn)
	if !ok {
		conn = c.(verifying).Conn
	}
	name, err := conn.CurrentCipher()
	if err != nil || !strings.HasPrefix(name, "TLS_AES_128_GCM_SHA256") {
		return measure.Negotiated{}
	}
	return measure.Negotiated{Version: 0x0304, CipherSuite: 0x1301, Resumed: conn.SessionReused()}
}
