package main

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/crypto/ocsp"

	"github.com/polytls/polytls/tlsapi"
)

// maxRevocationFile bounds what is read of revocation lists and OCSP responses:
// the largest public lists have some 20 MB.
const maxRevocationFile = 64 << 20

// readRevocationLists reads every list of the files.
func readRevocationLists(files []string) ([]*x509.RevocationList, error) {
	var lists []*x509.RevocationList
	for _, file := range files {
		text, err := readBounded(file)
		if err != nil {
			return nil, err
		}
		blocks := [][]byte{text}
		if bytes.Contains(text, []byte("-----BEGIN ")) {
			if blocks = pemBlocks(text, "X509 CRL"); len(blocks) == 0 {
				return nil, fmt.Errorf("%s: there is no PEM block X509 CRL in it", file)
			}
		}
		for i, der := range blocks {
			list, err := x509.ParseRevocationList(der)
			if err != nil {
				return nil, fmt.Errorf("%s: list %d is no certificate revocation list: %w", file, i+1, err)
			}
			lists = append(lists, list)
		}
	}
	return lists, nil
}

func pemBlocks(text []byte, kind string) [][]byte {
	var blocks [][]byte
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return blocks
		}
		if block.Type == kind {
			blocks = append(blocks, block.Bytes)
		}
	}
}

// readOCSPResponse reads a response to staple; an empty name means none.
func readOCSPResponse(file string) ([]byte, error) {
	if file == "" {
		return nil, nil
	}
	der, err := readBounded(file)
	if err != nil {
		return nil, err
	}
	// Only its form: clients check it against the certificate's issuer.
	if _, err := ocsp.ParseResponse(der, nil); err != nil {
		return nil, fmt.Errorf("%s: is no OCSP response in DER form: %w", file, err)
	}
	return der, nil
}

func readBounded(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxRevocationFile+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxRevocationFile {
		return nil, fmt.Errorf("%s: has more than %d bytes", path, maxRevocationFile)
	}
	return text, nil
}

// ocspReport is the JSON form of a stapled OCSP response.
type ocspReport struct {
	// Status is good, revoked or unknown; empty when the response is malformed.
	Status     string `json:"status"`
	ThisUpdate string `json:"this_update"`
	NextUpdate string `json:"next_update"`
	// Verified reports whether the certificate's issuer has signed the
	// response, and it is about the certificate and in date.
	Verified bool `json:"verified"`
}

// describeOCSP reads the stapled response of a connection; nil without one. It
// tells what the response says: no provider acts on it.
func describeOCSP(conn tlsapi.Conn) *ocspReport {
	state := conn.ConnectionState()
	if len(state.OCSPResponse) == 0 {
		return nil
	}
	report := &ocspReport{}
	response, err := ocsp.ParseResponse(state.OCSPResponse, nil)
	if err != nil {
		return report
	}
	report.Status = map[int]string{ocsp.Good: "good", ocsp.Revoked: "revoked", ocsp.Unknown: "unknown"}[response.Status]
	report.ThisUpdate = response.ThisUpdate.UTC().Format(time.RFC3339)
	if !response.NextUpdate.IsZero() {
		report.NextUpdate = response.NextUpdate.UTC().Format(time.RFC3339)
	}
	if len(state.VerifiedChains) > 0 && len(state.VerifiedChains[0]) > 1 {
		leaf, issuer := state.VerifiedChains[0][0], state.VerifiedChains[0][1]
		_, err := ocsp.ParseResponseForCert(state.OCSPResponse, leaf, issuer)
		now := time.Now()
		report.Verified = err == nil && !now.Before(response.ThisUpdate) &&
			(response.NextUpdate.IsZero() || now.Before(response.NextUpdate))
	}
	return report
}
