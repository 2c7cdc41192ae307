// Package tickets derives the keys of session tickets.
package tickets

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"sync"
	"time"
)

// Key encrypts and authenticates tickets.
type Key struct {
	// Name tells in a ticket which key it needs.
	Name       [16]byte
	Encryption [32]byte
	MAC        [32]byte
}

// Keys returns the keys for a binding (tlsapi.ServerConfig.TicketBinding), the
// first to encrypt with: those derived from secrets, or from the process's own
// where there are none. Equal secrets and bindings give equal keys in every
// process and with every provider that uses purpose.
func Keys(secrets [][32]byte, purpose string, binding [32]byte) ([]Key, error) {
	if len(secrets) == 0 {
		secrets, _ = process.current(time.Now())
	}
	keys := make([]Key, 0, len(secrets))
	for _, secret := range secrets {
		material, err := hkdf.Key(sha256.New, secret[:], binding[:], "polytls ticket key 1 "+purpose, 80)
		if err != nil {
			return nil, err
		}
		var k Key
		copy(k.Name[:], material)
		copy(k.Encryption[:], material[16:])
		copy(k.MAC[:], material[48:])
		clear(material)
		keys = append(keys, k)
	}
	return keys, nil
}

// Generation identifies the secrets that Keys takes now: those, or the process's
// own where there are none. It does not tell what they are.
func Generation(secrets [][32]byte) [32]byte {
	if len(secrets) == 0 {
		_, generation := process.current(time.Now())
		return generation
	}
	return digest(secrets)
}

func digest(secrets [][32]byte) [32]byte {
	h := sha256.New()
	for i := range secrets {
		h.Write(secrets[i][:])
	}
	return [32]byte(h.Sum(nil))
}

const (
	// period and lifetime are those of crypto/tls: a new secret every day, a
	// week until it is forgotten, which is the longest that a ticket may live
	// (RFC 8446 section 4.6.1).
	period   = 24 * time.Hour
	lifetime = 7 * 24 * time.Hour
)

// process are the secrets of configurations without secrets of their own.
var process rotation

// rotation is a list of random secrets, newest first. Its zero value is ready.
type rotation struct {
	mu      sync.Mutex
	secrets [][32]byte
	made    []time.Time
	// generation is the digest of secrets.
	generation [32]byte
}

func (r *rotation) current(now time.Time) (secrets [][32]byte, generation [32]byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.made) > 0 && now.Sub(r.made[0]) < period {
		return r.secrets, r.generation
	}
	var secret [32]byte
	rand.Read(secret[:])
	secrets = [][32]byte{secret}
	made := []time.Time{now}
	for i, t := range r.made {
		if now.Sub(t) < lifetime {
			secrets, made = append(secrets, r.secrets[i]), append(made, t)
		}
	}
	// The slices in use elsewhere stay as they are.
	r.secrets, r.made, r.generation = secrets, made, digest(secrets)
	return r.secrets, r.generation
}
