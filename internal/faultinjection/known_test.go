//go:build cgo && polytls_faults

package faultinjection

import (
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/polytls/polytls/tlsapi"
)

// libraryFault is a fault of a library, nearly always when memory runs out: it
// crashes or loses memory in code that is not ours, with nothing that its caller
// could do about it. Each is shown by a C program in testdata that uses the
// library alone.
type libraryFault struct {
	provider string
	// crashes tells a crash from a leak.
	crashes bool
	// mended says that Polytls guards the library against it: it must not be
	// met, and explains nothing. The program is linked without the guard.
	mended bool
	// in is the function that crashes, or one that allocated all that is lost;
	// after, unless empty, is one in which the allocation failed.
	in, after string
	program   string
}

// libraryFaults were found with the versions of third_party/native.lock.
var libraryFaults = []libraryFault{
	{provider: "boringssl", crashes: true, in: "CBBFinishArray", after: "x509_name_get_cache", program: "boringssl_name.c"},
	{provider: "s2n", crashes: true, mended: true, program: "s2n_trust_store.c"},
	{provider: "s2n", crashes: true, mended: true, program: "s2n_common_name.c"},
	{provider: "s2n", crashes: true, mended: true, program: "s2n_empty_name.c"},
	{provider: "s2n", in: "s2n_map_new_with_initial_capacity", after: "s2n_config_new", program: "s2n_config.c"},
	{provider: "s2n", in: "s2n_connection_new", after: "s2n_connection_new", program: "s2n_connection.c"},
	{provider: "s2n", in: "s2n_cert_chain_and_key_load", after: "s2n_cert_chain_and_key_load", program: "s2n_certificate.c"},
	{provider: "s2n", in: "s2n_asn1der_to_public_key_and_type", after: "s2n_client_cert_recv", program: "s2n_client_certificate.c"},
	{provider: "s2n", in: "s2n_encrypt_session_ticket", after: "s2n_encrypt_session_ticket", program: "s2n_ticket.c"},
}

// The programs show that the faults are the libraries': they hold nothing of
// ours. A fault that is gone with a new version goes from the list, too.
func TestLibraryFaults(t *testing.T) {
	if testing.Short() {
		t.Skip("compiling and running the programs takes half a minute; make faults does it")
	}
	for _, f := range libraryFaults {
		t.Run(f.program, func(t *testing.T) {
			p := providers[slices.IndexFunc(providers, func(p tlsapi.Provider) bool { return p.Name() == f.provider })]
			if err := p.Available(); err != nil {
				t.Skipf("%s: %v", p.Name(), err)
			}
			flags := func(field string) []string {
				out, err := exec.Command("go", "list", "-f", `{{range .`+field+`}}{{println .}}{{end}}`, "github.com/polytls/polytls/"+f.provider).Output()
				require.NoError(t, err)
				return strings.Fields(string(out))
			}
			program := filepath.Join(t.TempDir(), "program")
			args := append(flags("CgoCFLAGS"), "-o", program, filepath.Join("testdata", f.program))
			args = append(append(args, flags("CgoLDFLAGS")...), "-Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=free")
			out, err := exec.Command("cc", args...).CombinedOutput()
			require.NoError(t, err, "%s", out)
			out, err = exec.Command(program).CombinedOutput()
			t.Logf("%s", out)
			require.NoError(t, err, "the library has lost this fault: take it off the list")
		})
	}
}

// knownCrash names the known fault of the library behind a crash, or returns "".
func knownCrash(provider string, crash, failed []uintptr) string {
	for _, f := range libraryFaults {
		if f.provider == provider && f.crashes && !f.mended && within(crash, f.in) && (f.after == "" || within(failed, f.after)) {
			return f.program
		}
	}
	return ""
}

// knownLeak is knownCrash for the blocks that are left behind: one fault must
// explain all of them. Else it returns a block that none explains.
func knownLeak(provider string, leaks [][]uintptr, failed []uintptr) (program string, other []uintptr) {
	other = leaks[0]
	for _, f := range libraryFaults {
		if f.provider != provider || f.crashes || f.mended || f.after != "" && !within(failed, f.after) {
			continue
		}
		i := slices.IndexFunc(leaks, func(l []uintptr) bool { return !within(l, f.in) })
		if i < 0 {
			return f.program, nil
		}
		other = leaks[i]
	}
	return "", other
}
