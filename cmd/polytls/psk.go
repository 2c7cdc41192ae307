package main

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"

	"github.com/polytls/polytls/tlsapi"
)

// maxSecretFile bounds what is read from files of keys: they are small, and a
// wrong file name should not fill the memory.
const maxSecretFile = 1 << 20

// readPSKs returns the keys of --psk, then those of the files. Errors tell the
// place and never quote the text: a misplaced colon would show the secret.
func readPSKs(specs, files []string, kind tlsapi.PSKKind) ([]tlsapi.PSK, error) {
	var psks []tlsapi.PSK
	for i, spec := range specs {
		psk, err := parsePSK(spec, kind)
		if err != nil {
			return nil, &usageError{optionErrorf("psk", "entry %d: %w", i+1, err)}
		}
		psks = append(psks, psk)
	}
	for _, file := range files {
		before := len(psks)
		err := eachSecretLine(file, func(line string) error {
			psk, err := parsePSK(line, kind)
			psks = append(psks, psk)
			return err
		})
		if err != nil {
			return nil, &optionError{"psk-file", err}
		}
		if len(psks) == before {
			return nil, optionErrorf("psk-file", "%s: there is no pre-shared key in it", file)
		}
	}
	return psks, nil
}

// parsePSK parses ID:HEX[:sha256|sha384]. It splits from the right: a
// percent-encoded identity may hold colons as they are.
func parsePSK(spec string, kind tlsapi.PSKKind) (tlsapi.PSK, error) {
	psk := tlsapi.PSK{Kind: kind}
	rest, last, ok := cutLast(spec)
	if !ok {
		return psk, errors.New("there is no colon; the form is ID:HEX[:sha256|sha384]")
	}
	hash := strings.ToLower(last)
	if hash == "sha256" || hash == "sha384" {
		if kind == tlsapi.PSKTLS12 {
			return psk, errors.New("a hash has no meaning for a key of kind tls12; leave it out")
		}
		if hash == "sha384" {
			psk.Hash = tlsapi.PSKSHA384
		}
		if rest, last, ok = cutLast(rest); !ok {
			return psk, errors.New("the secret is missing; the form is ID:HEX[:sha256|sha384]")
		}
	}
	secret, err := hex.DecodeString(last)
	if err != nil {
		return psk, errors.New("the text after the last colon is neither a secret in hexadecimal nor one of sha256, sha384")
	}
	if len(secret) < 16 {
		return psk, fmt.Errorf("the secret has %d bytes; the least is 16", len(secret))
	}
	identity, err := url.PathUnescape(rest)
	if err != nil {
		return psk, errors.New("the identity has a percent sign that two hexadecimal digits do not follow; write %25 for the sign itself")
	}
	if identity == "" {
		return psk, errors.New("the identity is empty")
	}
	psk.Identity, psk.Secret = []byte(identity), secret
	return psk, nil
}

func cutLast(s string) (before, after string, found bool) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

// readTicketKeys returns the secrets of a file, one of 64 hexadecimal digits
// per line.
func readTicketKeys(path string) ([][32]byte, error) {
	var keys [][32]byte
	err := eachSecretLine(path, func(line string) error {
		secret, err := hex.DecodeString(line)
		if err != nil || len(secret) != 32 {
			return errors.New("it is not a key of 64 hexadecimal digits (openssl rand -hex 32 makes one)")
		}
		key := [32]byte(secret)
		for i := range keys {
			if keys[i] == key {
				return fmt.Errorf("the key is the same as key %d", i+1)
			}
		}
		keys = append(keys, key)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("%s: there is no key in it", path)
	}
	return keys, nil
}

// eachSecretLine calls parse with the lines of a file that are neither empty
// nor a comment. Errors name file and line.
func eachSecretLine(path string, parse func(line string) error) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	// The size is not asked for: a pipe (a shell's <(…)) has none.
	text, err := io.ReadAll(io.LimitReader(file, maxSecretFile+1))
	if err != nil {
		return err
	}
	if len(text) > maxSecretFile {
		return fmt.Errorf("%s: has more than %d bytes", path, maxSecretFile)
	}
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, maxSecretFile+1)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if err := parse(line); err != nil {
			return fmt.Errorf("%s, line %d: %w", path, n, err)
		}
	}
	return lines.Err()
}
