package proxy

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
)

// unixPrefix begins addresses that are the path of a Unix socket.
const unixPrefix = "unix:"

// networkOf splits an address into what net.Listen and net.Dial take.
func networkOf(address string) (network, rest string) {
	if path, ok := strings.CutPrefix(address, unixPrefix); ok {
		return "unix", path
	}
	return "tcp", address
}

// RelativeTo returns an address whose path, if it is that of a Unix socket, begins
// in a folder. One that begins with @ is no path.
func RelativeTo(folder, address string) string {
	network, path := networkOf(address)
	if network != "unix" || path == "" || filepath.IsAbs(path) || strings.HasPrefix(path, "@") {
		return address
	}
	return unixPrefix + filepath.Join(folder, path)
}

// AddressOf is where a listener listens, in the form of a configuration.
func AddressOf(a net.Addr) string {
	if a.Network() == "unix" {
		return unixPrefix + a.String()
	}
	return a.String()
}

func checkAddress(address string) error {
	network, rest := networkOf(address)
	if network == "unix" {
		if rest == "" {
			return errors.New("the path after unix: is missing")
		}
		return nil
	}
	_, port, err := net.SplitHostPort(rest)
	if err != nil {
		return fmt.Errorf("%q is neither HOST:PORT nor unix:PATH; an IPv6 address goes into brackets: [::1]:443", address)
	}
	if _, err := net.LookupPort("tcp", port); err != nil || port == "" {
		return fmt.Errorf("%q: %q is no port", address, port)
	}
	return nil
}

// ephemeral reports whether the system chooses the port.
func ephemeral(address string) bool {
	network, rest := networkOf(address)
	_, port, err := net.SplitHostPort(rest)
	return network == "tcp" && err == nil && port == "0"
}

// HostOf is the name that a certificate at an address should hold; empty for a
// Unix socket.
func HostOf(address string) string {
	network, rest := networkOf(address)
	host, _, err := net.SplitHostPort(rest)
	if network != "tcp" || err != nil {
		return ""
	}
	host, _, _ = strings.Cut(host, "%")
	return strings.TrimSuffix(host, ".")
}
