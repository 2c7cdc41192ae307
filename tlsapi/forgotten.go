package tlsapi

import "github.com/polytls/polytls/internal/forgotten"

// ForgottenConnections returns how many connections of the process, of all
// native providers together, were found by the garbage collector without having
// been closed. It never falls; zero is what a correct program has. Their native
// memory is freed then, but at a time that nobody chooses, and their peers get
// no close_notify. Connections of std have no native memory and are not counted.
// It may be called at any time from any goroutine.
func ForgottenConnections() uint64 { return forgotten.Count() }
