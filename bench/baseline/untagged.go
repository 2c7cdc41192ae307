//go:build !cgo || !polytls_baseline

// Command baseline measures another Go binding; it is built with the tag
// polytls_baseline, as `make bench` does.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "this program was built without the tag polytls_baseline: it measures nothing")
	os.Exit(1)
}
