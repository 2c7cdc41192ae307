// Package peers holds no code but tests: Polytls against programs of other
// TLS implementations, against scanners, under load and in a browser. It is a
// module of its own, so that what these tests need stays out of users' builds.
//
// `go test` runs the part that takes seconds. POLYTLS_PEERS=all runs everything;
// `make interop`, `make scan`, `make load` and `make browser` run one part of it
// in full, and the first and the last write their results into docs/.
package peers
