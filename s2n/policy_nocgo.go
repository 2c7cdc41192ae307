//go:build !cgo

package s2n

// policyTable is empty: there is no library.
func policyTable() []policy { return nil }
