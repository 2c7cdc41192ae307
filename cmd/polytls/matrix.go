package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"github.com/polytls/polytls/providers"
	"github.com/polytls/polytls/tlsapi"
)

const matrixHelp = `Connects every provider as client with every provider as server, in this
process, over TCP on 127.0.0.1, with certificates made in memory and full
verification. A pair is right when
  - the handshake succeeds and both ends agree on version, suite, group and ALPN,
  - 1 MiB each way arrives with the right SHA-256 digest, and the close_notify
    after it,
  - both see the other's certificate (mTLS), where both providers can,
  - a pre-shared key and the resumption of a session work, where both can.
What both can is read from the capability matrix ("polytls providers").

A provider that is not available makes the command fail, unless --available
leaves it out.

With --json it prints
  {"ok","pairs":[{"client","server","ok","error","version","cipher_suite",
   "group","alpn","resumed","mtls","psk","psk_kind","bytes","handshake_us"}]}
where "psk_kind" is the first of external, imported and tls12 that both have,
"bytes" were checked in each direction, and "handshake_us" is the time that both
ends of the first handshake took, in microseconds.`

type matrixCommand struct {
	versions  []uint16
	available bool
	timeout   time.Duration
}

// matrixReport is the JSON form of the grid.
type matrixReport struct {
	OK    bool         `json:"ok"`
	Pairs []pairReport `json:"pairs"`
}

// pairReport is one cell of the grid.
type pairReport struct {
	Client          string `json:"client"`
	Server          string `json:"server"`
	OK              bool   `json:"ok"`
	Error           string `json:"error"`
	Version         string `json:"version"`
	CipherSuite     string `json:"cipher_suite"`
	Group           string `json:"group"`
	ALPN            string `json:"alpn"`
	Resumed         bool   `json:"resumed"`
	MutualTLS       bool   `json:"mtls"`
	PSK             bool   `json:"psk"`
	PSKKind         string `json:"psk_kind"`
	Bytes           int    `json:"bytes"`
	HandshakeMicros int64  `json:"handshake_us"`
}

func newMatrixCommand() *cobra.Command {
	m := &matrixCommand{versions: []uint16{versionTLS13}}
	cmd := &cobra.Command{
		Use:   "matrix",
		Short: "Try every provider as client against every provider as server",
		Long:  matrixHelp,
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return m.run(cmd) },
	}
	flags := cmd.Flags()
	parsedVar(flags, &m.versions, "tls-version", "version", "1.3", parseMatrixVersions, "protocol version: 1.2, 1.3 or both")
	complete(cmd, "tls-version", []string{"1.2", "1.3", "both"})
	flags.BoolVar(&m.available, "available", false, "leave out the providers that are not available")
	flags.DurationVar(&m.timeout, "timeout", 20*time.Second, "longest time for a pair")
	return cmd
}

func parseMatrixVersions(s string) ([]uint16, error) {
	if s == "both" {
		return []uint16{versionTLS12, versionTLS13}, nil
	}
	v, err := tlsapi.ParseVersion(s)
	if err != nil {
		return nil, errors.New("unknown version; known are 1.2, 1.3 and both")
	}
	return []uint16{v}, nil
}

func (m *matrixCommand) run(cmd *cobra.Command) error {
	if m.timeout <= 0 {
		return usagef("--timeout: %v is not above zero", m.timeout)
	}
	var tried []tlsapi.Provider
	for _, p := range providers.All() {
		err := p.Available()
		if err == nil || !m.available {
			tried = append(tried, p)
		} else {
			fmt.Fprintf(cmd.ErrOrStderr(), "left out: %s: %v\n", p.Name(), cause(err))
		}
	}
	authority, err := newMatrixAuthority()
	if err != nil {
		return err
	}
	report := matrixReport{OK: true, Pairs: []pairReport{}}
	for _, version := range m.versions {
		// The first handshake of a library pays for its start: untold, so that
		// the times of the pairs compare. What fails here fails again below.
		for _, p := range tried {
			_ = m.tryPair(cmd.Context(), authority, p, p, version)
		}
		for _, client := range tried {
			for _, server := range tried {
				pair := m.tryPair(cmd.Context(), authority, client, server, version)
				report.OK = report.OK && pair.OK
				report.Pairs = append(report.Pairs, pair)
			}
		}
	}
	if cmd.Context().Err() != nil {
		return errors.New("interrupted")
	}

	if wantsJSON(cmd) {
		if err := writeJSON(cmd.OutOrStdout(), report); err != nil {
			return err
		}
	} else {
		size := len(tried) * len(tried)
		for i, version := range m.versions {
			m.writeGrid(cmd.OutOrStdout(), tried, report.Pairs[i*size:(i+1)*size], version)
		}
	}
	if !report.OK {
		failed := 0
		for _, pair := range report.Pairs {
			if !pair.OK {
				failed++
			}
		}
		return fmt.Errorf("%d of %d pairs failed", failed, len(report.Pairs))
	}
	return nil
}

func (m *matrixCommand) tryPair(ctx context.Context, authority *matrixAuthority, client, server tlsapi.Provider, version uint16) pairReport {
	ctx, cancel := context.WithTimeout(ctx, m.timeout)
	defer cancel()
	trial := pairTrial{
		client: client, server: server, version: version, authority: authority,
		report: pairReport{Client: client.Name(), Server: server.Name()},
	}
	if err := trial.run(ctx); err != nil {
		trial.report.Error = strings.ReplaceAll(err.Error(), "\n", "; ")
	} else {
		trial.report.OK = true
	}
	return trial.report
}

func (m *matrixCommand) writeGrid(w io.Writer, tried []tlsapi.Provider, pairs []pairReport, version uint16) {
	right := 0
	grid := newTable(w)
	style := *grid.Style()
	style.Options.SeparateRows = true
	grid.SetStyle(style)
	header := table.Row{"client ╲ server"}
	for _, p := range tried {
		header = append(header, p.Name())
	}
	grid.AppendHeader(header)
	for i, p := range tried {
		row := table.Row{p.Name()}
		for j := range tried {
			pair := pairs[i*len(tried)+j]
			row = append(row, gridCell(pair, available(tried, i*len(tried)+j)))
			if pair.OK {
				right++
			}
		}
		grid.AppendRow(row)
	}
	fmt.Fprintf(w, "%s, every provider as client against every provider as server\n", tlsapi.VersionName(version))
	grid.Render()
	fmt.Fprintf(w, "%d of %d pairs are right: verified handshake (its time), cipher suite, group, ALPN, %s each way;\n", right, len(pairs), byteCount(transferSize))
	fmt.Fprintln(w, "then mTLS, PSK and resumption, \"-\" where not both providers can")
	for _, p := range tried {
		if err := p.Available(); err != nil {
			fmt.Fprintf(w, "NOT AVAILABLE %s: %v\n", p.Name(), cause(err))
		}
	}
	for i, pair := range pairs {
		if !pair.OK && available(tried, i) {
			fmt.Fprintf(w, "FAILED %s to %s: %s\n", pair.Client, pair.Server, pair.Error)
		}
	}
}

// available reports whether both providers of pair i are.
func available(tried []tlsapi.Provider, i int) bool {
	return tried[i/len(tried)].Available() == nil && tried[i%len(tried)].Available() == nil
}

func gridCell(pair pairReport, available bool) string {
	switch {
	case !available:
		return "not available"
	case !pair.OK:
		return "FAILED"
	}
	mark := func(done bool, name string) string {
		if done {
			return name
		}
		return "-"
	}
	psk := "PSK"
	if pair.PSKKind == tlsapi.PSKImported.String() {
		psk = "PSK (imported)"
	}
	suite := strings.TrimPrefix(pair.CipherSuite, "TLS_")
	return strings.Join([]string{
		fmt.Sprintf("ok  %d µs", pair.HandshakeMicros),
		strings.ReplaceAll(suite, "_WITH_", "_WITH\n"),
		pair.Group,
		fmt.Sprintf("%s %s %s %s", mark(pair.ALPN != "", pair.ALPN), mark(pair.MutualTLS, "mTLS"), mark(pair.PSK, psk), mark(pair.Resumed, "resumed")),
	}, "\n")
}

func byteCount(n int) string {
	if n >= 1<<20 && n%(1<<20) == 0 {
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%d bytes", n)
}
