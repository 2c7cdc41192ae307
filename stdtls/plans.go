package stdtls

import (
	"bytes"
	"unsafe"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/polytls/polytls/tlsapi"
)

// planCacheSize is the most plans of each role that are kept.
const planCacheSize = 64

// plans keeps what configurations (or certificates of hooks) were converted to, by
// their address: checking
// and converting one costs several times as much as making the connection. A
// plan refers to its configuration, so the address cannot come to belong to
// another one.
type plans[Config, Plan any] struct {
	known *lru.Cache[*Config, planEntry[Plan]]
}

type planEntry[Plan any] struct {
	plan Plan
	// fields are those of the configuration when the plan was made.
	fields []byte
}

func newPlans[Config, Plan any]() plans[Config, Plan] {
	// The size is a positive constant: the constructor cannot fail.
	known, _ := lru.New[*Config, planEntry[Plan]](planCacheSize)
	return plans[Config, Plan]{known}
}

var (
	clientPlans = newPlans[tlsapi.ClientConfig, *clientPlan]()
	serverPlans = newPlans[tlsapi.ServerConfig, *serverPlan]()
)

// of returns the plan of a configuration. One with a field that was set since is
// checked and converted again: the rule is broken then, but no mistake shall
// slip through.
func (p plans[Config, Plan]) of(config *Config, make func(*Config) (Plan, error)) (Plan, error) {
	fields := unsafe.Slice((*byte)(unsafe.Pointer(config)), unsafe.Sizeof(*config))
	if entry, ok := p.known.Get(config); ok && bytes.Equal(entry.fields, fields) {
		return entry.plan, nil
	}
	before := bytes.Clone(fields)
	plan, err := make(config)
	if err != nil {
		return plan, err
	}
	p.known.Add(config, planEntry[Plan]{plan, before})
	return plan, nil
}

// A negative ConfigCacheSize keeps no plan.

func clientPlanOf(c *tlsapi.ClientConfig) (*clientPlan, error) {
	if c == nil || c.ConfigCacheSize < 0 {
		return newClientPlan(c)
	}
	return clientPlans.of(c, newClientPlan)
}

func serverPlanOf(c *tlsapi.ServerConfig) (*serverPlan, error) {
	if c == nil || c.ConfigCacheSize < 0 {
		return newServerPlan(c)
	}
	return serverPlans.of(c, newServerPlan)
}
