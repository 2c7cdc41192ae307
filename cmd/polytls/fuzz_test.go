package main

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// FuzzOptions gives the parsers of options arguments of all kinds, separated by
// newlines. They must end in a value or an error.
func FuzzOptions(f *testing.F) {
	for _, seed := range []string{
		"--curves\nX25519:P-256", "--ciphers\nTLS_AES_128_GCM_SHA256", "--alpn\nh2,http/1.1", "--psk\na:b:" + strings.Repeat("11", 32) + ":sha384",
		"--psk\n%00:" + strings.Repeat("22", 16), "--servername\na.example", "--alternative-name\n192.0.2.1", "--min-version\n1.2",
		"--signature-schemes\ned25519:ecdsa_secp256r1_sha256", "--second-key-share\nmaybe", "--psk-kind\nimported", "--client-auth\nrequire",
		"--max-blinding-delay\n-1s", "--handshake-timeout\n9999999999h", "--config-cache-size\n-1",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		args := strings.Split(text, "\n")
		var client clientFlags
		cmd := &cobra.Command{Use: "test", SilenceErrors: true, SilenceUsage: true}
		client.register(cmd)
		_ = cmd.ParseFlags(args)
		var server serverFlags
		cmd = &cobra.Command{Use: "test", SilenceErrors: true, SilenceUsage: true}
		server.register(cmd)
		_ = cmd.ParseFlags(args)
	})
}
