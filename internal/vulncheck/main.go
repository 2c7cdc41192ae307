// Command vulncheck compares the versions of the native libraries that
// third_party/native.lock pins with the advisories that are known
// (third_party/advisories.txt), and runs govulncheck over the modules that are
// named as arguments.
//
// Exit status: 0 nothing was found, 1 a pinned version has an advisory without
// a reason why it may, or govulncheck has found something.
package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

const (
	lockFile       = "third_party/native.lock"
	advisoriesFile = "third_party/advisories.txt"
	govulncheck    = "golang.org/x/vuln/cmd/govulncheck@v1.1.4"
	// stale is how old a review may get before the command says so.
	stale = 90 * 24 * time.Hour
)

func main() {
	failed := false
	found, err := checkNative(os.Stdout, time.Now())
	if err != nil {
		fmt.Fprintln(os.Stderr, "vulncheck:", err)
		failed = true
	}
	failed = failed || found
	for _, module := range os.Args[1:] {
		if err := checkModule(os.Stdout, module); err != nil {
			fmt.Fprintf(os.Stderr, "vulncheck: module %s: %v\n", module, err)
			failed = true
		}
	}
	if failed {
		os.Exit(1)
	}
}

// checkNative says what is known of the pinned versions, and whether one of
// them must not be.
func checkNative(w io.Writer, now time.Time) (found bool, err error) {
	lock, err := os.ReadFile(lockFile)
	if err != nil {
		return false, err
	}
	text, err := os.ReadFile(advisoriesFile)
	if err != nil {
		return false, err
	}
	list, err := parseAdvisories(string(text))
	if err != nil {
		return false, err
	}
	for _, pin := range pins(string(lock)) {
		found = list.check(w, pin) || found
	}
	for library, date := range list.reviewed {
		if now.Sub(date) > stale {
			fmt.Fprintf(w, "%s: its advisories were looked through until %s; later ones are not known here\n", library, date.Format(time.DateOnly))
		}
	}
	return found, nil
}

// pin is a version of a library in the lock file.
type pin struct{ library, version string }

// pins returns the versions in the lock file, each once. A version that is the
// package's tells nothing of the library's own.
func pins(lock string) []pin {
	var list []pin
	seen := make(map[pin]bool)
	for line := range strings.Lines(lock) {
		words := strings.Fields(line)
		if len(words) < 3 || words[0] != "archive" && words[0] != "git" {
			continue
		}
		p := pin{words[1], words[2]}
		if !seen[p] {
			seen[p] = true
			list = append(list, p)
		}
	}
	return list
}

type advisory struct{ library, id, first, fixed, status, text string }

type advisories struct {
	all      []advisory
	reviewed map[string]time.Time
}

func parseAdvisories(text string) (*advisories, error) {
	list := &advisories{reviewed: make(map[string]time.Time)}
	number := 0
	for line := range strings.Lines(text) {
		number++
		words := strings.Fields(line)
		switch {
		case len(words) == 0 || strings.HasPrefix(words[0], "#"):
		case words[0] == "reviewed" && len(words) == 3:
			date, err := time.Parse(time.DateOnly, words[2])
			if err != nil {
				return nil, fmt.Errorf("%s:%d: %w", advisoriesFile, number, err)
			}
			list.reviewed[words[1]] = date
		case words[0] == "advisory" && len(words) > 6:
			a := advisory{words[1], words[2], words[3], words[4], words[5], strings.Join(words[6:], " ")}
			_, firstErr := compareVersions(a.first, a.first)
			_, fixedErr := compareVersions(a.fixed, a.fixed)
			if err := errors.Join(firstErr, fixedErr); err != nil {
				return nil, fmt.Errorf("%s:%d: %w", advisoriesFile, number, err)
			}
			switch a.status {
			case "open", "mended", "unused", "unclear":
			default:
				return nil, fmt.Errorf("%s:%d: the status %q is none of open, mended, unused, unclear", advisoriesFile, number, a.status)
			}
			list.all = append(list.all, a)
		default:
			return nil, fmt.Errorf("%s:%d: neither a review nor an advisory: %s", advisoriesFile, number, strings.TrimSpace(line))
		}
	}
	return list, nil
}

// check says what is known of one version, and whether it must not be pinned.
func (list *advisories) check(w io.Writer, p pin) (found bool) {
	if _, ok := list.reviewed[p.library]; !ok {
		fmt.Fprintf(w, "%s %s: nobody has looked for advisories\n", p.library, p.version)
		return false
	}
	if _, err := compareVersions(p.version, p.version); err != nil {
		fmt.Fprintf(w, "%s %s: this names a package, not a version of the library: compare what the build reports with %s\n", p.library, p.version, advisoriesFile)
		return false
	}
	clean := true
	for _, a := range list.all {
		if a.library != p.library {
			continue
		}
		since, _ := compareVersions(p.version, a.first)
		before, _ := compareVersions(p.version, a.fixed)
		if since < 0 || before >= 0 {
			continue
		}
		clean = false
		fmt.Fprintf(w, "%s %s: %s, fixed in %s, %s: %s\n", p.library, p.version, a.id, a.fixed, a.status, a.text)
		found = found || a.status == "open"
	}
	if clean {
		fmt.Fprintf(w, "%s %s: no advisory known\n", p.library, p.version)
	}
	return found
}

// compareVersions compares versions that are numbers with dots between them.
func compareVersions(a, b string) (int, error) {
	one, two := strings.Split(a, "."), strings.Split(b, ".")
	for i := range max(len(one), len(two)) {
		var numbers [2]int
		for j, parts := range [][]string{one, two} {
			if i < len(parts) {
				n, err := strconv.Atoi(parts[i])
				if err != nil {
					return 0, fmt.Errorf("%q is no version", strings.Join(parts, "."))
				}
				numbers[j] = n
			}
		}
		if c := cmp.Compare(numbers[0], numbers[1]); c != 0 {
			return c, nil
		}
	}
	return 0, nil
}

// checkModule runs govulncheck. Where its database cannot be reached there is
// nothing to report, which the command says.
func checkModule(w io.Writer, folder string) error {
	cmd := exec.Command("go", "run", govulncheck, "./...")
	cmd.Dir = folder
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if err != nil && unreachable(out.String()) {
		fmt.Fprintf(w, "module %s: NOT CHECKED: govulncheck cannot reach its database: %s\n", folder, lastLine(out.String()))
		return nil
	}
	fmt.Fprintf(w, "module %s:\n%s", folder, out.String())
	return err
}

// unreachable reports whether govulncheck has failed for want of a network.
func unreachable(output string) bool {
	for _, sign := range []string{"no such host", "connection refused", "i/o timeout", "network is unreachable", "TLS handshake timeout",
		"Forbidden", "connection reset", "proxyconnect", "server misbehaving", "fetching vulnerabilities"} {
		if strings.Contains(output, sign) {
			return true
		}
	}
	return false
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	for _, l := range lines {
		if strings.Contains(l, "govulncheck:") || strings.Contains(l, "dial") {
			return l
		}
	}
	return lines[len(lines)-1]
}
