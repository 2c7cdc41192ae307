//go:build !race && !asan

package tlstest

import "time"

// atOnce is how long an operation may take that returns at once.
const atOnce = time.Second
