//go:build cgo && polytls_faults

package faultinjection

import (
	"debug/elf"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// functions are the symbols of this program, by address. A test binary that
// `go test` runs at once has none: build it with -c for names.
var functions = sync.OnceValue(func() []elf.Symbol {
	exe, err := os.Executable()
	if err != nil {
		return nil
	}
	f, err := elf.Open(exe)
	if err != nil {
		return nil
	}
	defer f.Close()
	all, _ := f.Symbols()
	all = slices.DeleteFunc(all, func(s elf.Symbol) bool { return elf.ST_TYPE(s.Info) != elf.STT_FUNC || s.Value == 0 })
	slices.SortFunc(all, func(a, b elf.Symbol) int {
		if a.Value < b.Value {
			return -1
		}
		return 1
	})
	return all
})

// function returns the name of the function around an address, or "".
func function(address uintptr) string {
	all := functions()
	i, found := slices.BinarySearchFunc(all, uint64(address), func(s elf.Symbol, at uint64) int {
		switch {
		case s.Value < at:
			return -1
		case s.Value > at:
			return 1
		}
		return 0
	})
	if !found {
		i--
	}
	if i < 0 || i >= len(all) || uint64(address) > all[i].Value+max(all[i].Size, 1) {
		return ""
	}
	return all[i].Name
}

// symbols returns a stack with names, a line each.
func symbols(stack []uintptr) string {
	var text strings.Builder
	for _, p := range stack {
		name := function(p)
		fmt.Fprintf(&text, "    %#x %s\n", p, name)
	}
	return text.String()
}

// keptByThread reports whether a block belongs to a thread: the libraries keep
// the errors of each thread, with their texts, until others take their place,
// and its generators of random numbers.
func keptByThread(stack []uintptr) bool {
	return within(stack, "ERR_set_debug", "ERR_vset_error", "ERR_set_error", "ERR_new", "ossl_err_get_state_int", "ossl_init_thread_start",
		"ERR_put_error", "ERR_add_error_vdata", "ERR_set_mark", "rand_new_drbg", "s2n_ensure_initialized_drbgs")
}

// within reports whether one of the functions is on a stack.
func within(stack []uintptr, names ...string) bool {
	return slices.ContainsFunc(stack, func(p uintptr) bool {
		name := function(p)
		return slices.ContainsFunc(names, func(n string) bool {
			// The libraries' symbols may have a prefix in this program, and those
			// of C++ have their types behind them.
			_, mangled, _ := strings.Cut(name, strconv.Itoa(len(n))+n)
			return name == n || strings.HasSuffix(name, "_"+n) || mangled != ""
		})
	})
}
