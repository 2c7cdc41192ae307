// Package records makes and opens the records of one direction of a connection
// with the keys of a key log, for tests: what a peer may send that no TLS library
// would.
package records

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"slices"
	"strings"

	"golang.org/x/crypto/chacha20poly1305"
)

// Content types (RFC 8446 section 5.1, RFC 5246 section 6.2.1).
const (
	Alert           byte = 21
	Handshake       byte = 22
	ApplicationData byte = 23
)

// MessageKeyUpdate is the type of a KeyUpdate (RFC 8446 section 4).
const MessageKeyUpdate = 24

// Keys are the keys of one direction behind the handshake, and how many records
// it has had with them.
type Keys struct {
	version uint16
	suite   uint16
	hash    func() hash.Hash
	secret  []byte // TLS 1.3
	seq     uint64
	aead    cipher.AEAD
	iv      []byte
}

// FromKeyLog takes the keys of what the client or the server sends from the lines
// of a key log of one connection. A connection of TLS 1.2 has sent its Finished
// with them; its server's random value is read from what the server has sent.
func FromKeyLog(version, suite uint16, lines []string, serverSent []byte, client bool) (*Keys, error) {
	k := &Keys{version: version, suite: suite, hash: sha256.New}
	switch suite {
	case tls.TLS_AES_256_GCM_SHA384, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384:
		k.hash = sha512.New384
	}
	label := "CLIENT_RANDOM"
	if version == tls.VersionTLS13 {
		label = "SERVER_TRAFFIC_SECRET_0"
		if client {
			label = "CLIENT_TRAFFIC_SECRET_0"
		}
	}
	random, secret, err := fromLines(lines, label)
	if err != nil {
		return nil, err
	}
	if version == tls.VersionTLS13 {
		k.secret = secret
		return k, k.derive()
	}
	// A record's header, a message's, the version.
	const at = 5 + 4 + 2
	if len(serverSent) < at+32 || serverSent[0] != Handshake || serverSent[5] != 2 {
		return nil, errors.New("records: the server's bytes do not begin with its ServerHello")
	}
	return k, k.derive12(secret, slices.Concat(serverSent[at:at+32], random), client)
}

func fromLines(lines []string, label string) (random, secret []byte, err error) {
	for _, line := range lines {
		rest, ok := strings.CutPrefix(line, label+" ")
		if !ok {
			continue
		}
		one, two, _ := strings.Cut(strings.TrimSpace(rest), " ")
		random, err := hex.DecodeString(one)
		if err != nil {
			return nil, nil, err
		}
		secret, err := hex.DecodeString(two)
		return random, secret, err
	}
	return nil, nil, fmt.Errorf("records: the key log has no %s", label)
}

// Record is one record of the content type. In TLS 1.2 it is this long and its
// type can be seen.
func (k *Keys) Record(kind byte, content []byte) []byte {
	if k.version == tls.VersionTLS12 {
		return k.record12(kind, content)
	}
	inner := append(append([]byte{}, content...), kind)
	header := binary.BigEndian.AppendUint16([]byte{ApplicationData, 3, 3}, uint16(len(inner)+k.aead.Overhead()))
	return k.aead.Seal(header, k.nonce(), inner, header)
}

func (k *Keys) record12(kind byte, content []byte) []byte {
	additional := binary.BigEndian.AppendUint64(nil, k.seq)
	additional = append(additional, kind, 3, 3)
	additional = binary.BigEndian.AppendUint16(additional, uint16(len(content)))
	var explicit []byte
	if len(k.iv) == 4 {
		explicit = binary.BigEndian.AppendUint64(nil, k.seq)
	}
	length := len(explicit) + len(content) + k.aead.Overhead()
	out := append(binary.BigEndian.AppendUint16([]byte{kind, 3, 3}, uint16(length)), explicit...)
	return k.aead.Seal(out, k.nonce(), content, additional)
}

// nonce is that of the next record.
func (k *Keys) nonce() []byte {
	defer func() { k.seq++ }()
	if len(k.iv) == 4 {
		// RFC 5288 section 3, with the sequence number as the explicit part.
		return binary.BigEndian.AppendUint64(slices.Clone(k.iv), k.seq)
	}
	nonce := slices.Clone(k.iv)
	for i := range 8 {
		nonce[4+i] ^= byte(k.seq >> (56 - 8*i))
	}
	return nonce
}

// Open decrypts a record of TLS 1.3.
func (k *Keys) Open(kind byte, payload []byte) (content byte, plain []byte, err error) {
	header := binary.BigEndian.AppendUint16([]byte{kind, 3, 3}, uint16(len(payload)))
	inner, err := k.aead.Open(nil, k.nonce(), payload, header)
	if err != nil {
		return 0, nil, err
	}
	inner = bytes.TrimRight(inner, "\x00")
	if len(inner) == 0 {
		return 0, nil, errors.New("records: a record without a content type")
	}
	return inner[len(inner)-1], inner[:len(inner)-1], nil
}

// KeyUpdate is a KeyUpdate (RFC 8446 section 4.6.3), after which the next keys
// hold; request asks the peer for one.
func (k *Keys) KeyUpdate(request bool) []byte {
	message := []byte{MessageKeyUpdate, 0, 0, 1, 0}
	if request {
		message[4] = 1
	}
	out := k.Record(Handshake, message)
	k.Update()
	return out
}

// Update goes on to the next keys of TLS 1.3.
func (k *Keys) Update() {
	k.secret = k.expand("traffic upd", len(k.secret))
	if err := k.derive(); err != nil {
		panic(fmt.Sprintf("records: %v", err)) // it succeeded before
	}
}

// derive takes the keys of TLS 1.3 from the secret.
func (k *Keys) derive() error {
	size := 32
	if k.suite == tls.TLS_AES_128_GCM_SHA256 {
		size = 16
	}
	k.iv, k.seq = k.expand("iv", 12), 0
	return k.setKey(k.expand("key", size))
}

// derive12 takes the keys of TLS 1.2 from the master secret. The Finished was
// record 0.
func (k *Keys) derive12(master, seed []byte, client bool) error {
	key, iv := 16, 4
	switch k.suite {
	case tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384:
		key = 32
	case tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256:
		key, iv = 32, 12
	case tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256:
	default:
		return fmt.Errorf("records: suite %s is not known", tls.CipherSuiteName(k.suite))
	}
	block := prf(k.hash, master, "key expansion", seed, 2*key+2*iv)
	first := 1
	if client {
		first = 0
	}
	k.iv, k.seq = block[2*key+first*iv:][:iv], 1
	return k.setKey(block[first*key:][:key])
}

func (k *Keys) setKey(key []byte) (err error) {
	switch k.suite {
	case tls.TLS_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256:
		k.aead, err = chacha20poly1305.New(key)
		return err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return err
	}
	k.aead, err = cipher.NewGCM(block)
	return err
}

// expand is HKDF-Expand-Label without a context (RFC 8446 section 7.1).
func (k *Keys) expand(label string, size int) []byte {
	info := binary.BigEndian.AppendUint16(nil, uint16(size))
	label = "tls13 " + label
	info = append(append(append(info, byte(len(label))), label...), 0)
	out, err := hkdf.Expand(k.hash, k.secret, string(info), size)
	if err != nil {
		panic(fmt.Sprintf("records: %v", err)) // no size here is too large
	}
	return out
}

// prf is the function of that name of TLS 1.2 (RFC 5246 section 5).
func prf(h func() hash.Hash, secret []byte, label string, seed []byte, size int) []byte {
	sum := func(data ...[]byte) []byte {
		mac := hmac.New(h, secret)
		for _, d := range data {
			mac.Write(d)
		}
		return mac.Sum(nil)
	}
	seed = append([]byte(label), seed...)
	var out []byte
	for a := sum(seed); len(out) < size; a = sum(a) {
		out = append(out, sum(a, seed)...)
	}
	return out[:size]
}
