//go:build race || asan

package tlstest

import "time"

// atOnce leaves room for what the detectors cost; a close that waits for its
// peer takes 5 s.
const atOnce = 3 * time.Second
