package tlsapi

import "github.com/polytls/polytls/internal/blinding"

// DefaultBlindedConnectionLimit is the limit of SetBlindedConnectionLimit when
// none was set.
const DefaultBlindedConnectionLimit = blinding.DefaultLimit

// SetBlindedConnectionLimit sets how many failed connections of the whole
// process, of all providers together, may wait for the end of their blinding
// delay (Settings.MaxBlindingDelay), and returns the former limit. Each costs
// its transport, mostly a file descriptor, and under a kilobyte of memory, but
// no goroutine and no thread. Past the limit the oldest is closed at once,
// without its alert. Zero sets DefaultBlindedConnectionLimit; with a negative
// limit none may wait: failed connections are closed at once, whatever their
// configuration says.
func SetBlindedConnectionLimit(n int) (former int) { return blinding.SetLimit(n) }

// BlindedConnections returns how many failed connections of the process wait
// for the end of their blinding delay.
func BlindedConnections() int { return blinding.Waiting() }
