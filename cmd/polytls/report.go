package main

import (
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/polytls/polytls/tlsapi"
)

// connectionReport is the JSON form of what a handshake came to.
type connectionReport struct {
	Provider          string      `json:"provider"`
	LibraryVersion    string      `json:"library_version"`
	Version           string      `json:"version"`
	CipherSuite       string      `json:"cipher_suite"`
	Group             string      `json:"group"`
	ALPN              string      `json:"alpn"`
	Resumed           bool        `json:"resumed"`
	ServerName        string      `json:"server_name"`
	Verified          bool        `json:"verified"`
	HelloRetryRequest bool        `json:"hello_retry_request"`
	KeyShares         []string    `json:"key_shares"`
	PSKIdentity       string      `json:"psk_identity"`
	OCSP              *ocspReport `json:"ocsp"`
	Peer              *peerReport `json:"peer"`
}

// peerReport describes the peer's leaf certificate.
type peerReport struct {
	Subject      string   `json:"subject"`
	Organization string   `json:"organization"`
	Serial       string   `json:"serial"`
	SHA256       string   `json:"sha256"`
	NotAfter     string   `json:"not_after"`
	DNSNames     []string `json:"dns_names"`
	IPAddresses  []string `json:"ip_addresses"`
}

func describeConnection(conn tlsapi.Conn) connectionReport {
	info, state := conn.Info(), conn.ConnectionState()
	report := connectionReport{
		Provider:          info.Provider,
		LibraryVersion:    info.LibraryVersion,
		Version:           tlsapi.VersionName(info.Version),
		CipherSuite:       tlsapi.CipherSuiteName(info.CipherSuite),
		Group:             tlsapi.CurveName(info.Group),
		ALPN:              info.ALPN,
		Resumed:           info.Resumed,
		ServerName:        info.ServerName,
		Verified:          info.Verified,
		HelloRetryRequest: info.HelloRetryRequest,
		KeyShares:         []string{},
		// The form that --psk takes.
		PSKIdentity: url.PathEscape(string(info.PSKIdentity)),
		OCSP:        describeOCSP(conn),
	}
	for _, group := range info.KeyShares {
		report.KeyShares = append(report.KeyShares, tlsapi.CurveName(group))
	}
	if len(state.PeerCertificates) > 0 {
		leaf := state.PeerCertificates[0]
		report.Peer = &peerReport{
			Subject:      leaf.Subject.String(),
			Organization: info.PeerOrganization,
			Serial:       info.PeerSerial,
			SHA256:       info.PeerSHA256,
			NotAfter:     leaf.NotAfter.UTC().Format(time.RFC3339),
			DNSNames:     append([]string{}, leaf.DNSNames...),
			IPAddresses:  addressTexts(leaf.IPAddresses),
		}
	}
	return report
}

func addressTexts(addresses []net.IP) []string {
	texts := []string{}
	for _, ip := range addresses {
		texts = append(texts, ip.String())
	}
	return texts
}

// writeConnection prints a report for people, with the peer's chain.
func writeConnection(w io.Writer, conn tlsapi.Conn) {
	report, state := describeConnection(conn), conn.ConnectionState()
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(w, "%-15s %s\n", name, value)
		}
	}
	line("provider", strings.TrimSpace(report.Provider+" "+report.LibraryVersion))
	line("version", report.Version)
	line("cipher suite", report.CipherSuite)
	line("group", report.Group)
	line("key shares", strings.Join(report.KeyShares, ", "))
	if report.HelloRetryRequest {
		line("retry request", "yes")
	}
	line("ALPN", report.ALPN)
	line("server name", report.ServerName)
	line("PSK identity", report.PSKIdentity)
	if report.Resumed {
		line("resumed", "yes")
	}

	if o := report.OCSP; o != nil {
		status := o.Status
		if status == "" {
			status = "malformed"
		}
		if !o.Verified {
			status += " (NOT verified)"
		}
		line("stapled OCSP", strings.TrimSpace(status+" "+o.ThisUpdate))
	}

	chain, title := state.PeerCertificates, "chain as sent, NOT verified"
	if report.Verified {
		title = "verified chain"
		if len(state.VerifiedChains) > 0 {
			chain = state.VerifiedChains[0]
		}
	}
	if len(chain) == 0 {
		return
	}
	fmt.Fprintln(w, title)
	for depth, cert := range chain {
		writeCertificate(w, depth, cert)
	}
}

func writeCertificate(w io.Writer, depth int, cert *x509.Certificate) {
	fmt.Fprintf(w, "  %d %s\n", depth, printable(cert.Subject.String()))
	names := append(append([]string{}, cert.DNSNames...), addressTexts(cert.IPAddresses)...)
	if len(names) > 0 {
		fmt.Fprintf(w, "    names %s\n", printable(strings.Join(names, ", ")))
	}
	fmt.Fprintf(w, "    issuer %s\n", printable(cert.Issuer.String()))
	fmt.Fprintf(w, "    serial %x, valid until %s\n", cert.SerialNumber, cert.NotAfter.UTC().Format(time.RFC3339))
}

// printable keeps what a peer chose from steering the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !strconv.IsPrint(r) {
			return '�'
		}
		return r
	}, s)
}
