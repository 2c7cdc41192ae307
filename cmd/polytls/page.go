package main

import (
	"cmp"
	_ "embed"
	"html/template"
	"mime"
	"net/http"
	"strconv"
	"strings"

	"github.com/polytls/polytls/tlsapi"
)

// pageReport is the JSON form of the page of "serve --page": the report of a
// connection as the server sees it, with what only the request tells.
type pageReport struct {
	connectionReport
	SignatureScheme string `json:"signature_scheme"`
	Protocol        string `json:"protocol"`
	RemoteAddress   string `json:"remote_address"`
}

//go:embed page.html
var pageText string

var pageTemplate = template.Must(template.New("page").Parse(pageText))

// pageHandler shows clients what they have negotiated: as HTML, as JSON where
// the client prefers it, and as JSON at /json whatever it prefers.
func pageHandler(connection func(*http.Request) tlsapi.Conn) http.Handler {
	serve := func(w http.ResponseWriter, r *http.Request, asJSON bool) {
		report := describePage(connection(r), r)
		header := w.Header()
		header.Set("Cache-Control", "no-store")
		header.Set("Vary", "Accept")
		header.Set("X-Content-Type-Options", "nosniff")
		// A failed write is the end of the connection, which is logged.
		if asJSON {
			header.Set("Content-Type", "application/json")
			_ = writeJSON(w, report)
			return
		}
		header.Set("Content-Type", "text/html; charset=utf-8")
		header.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		_ = pageTemplate.Execute(w, report.view())
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		serve(w, r, prefersJSON(strings.Join(r.Header.Values("Accept"), ",")))
	})
	mux.HandleFunc("GET /json", func(w http.ResponseWriter, r *http.Request) { serve(w, r, true) })
	return mux
}

func describePage(conn tlsapi.Conn, r *http.Request) pageReport {
	report := pageReport{connectionReport: describeConnection(conn), Protocol: r.Proto, RemoteAddress: r.RemoteAddr}
	if scheme := conn.Info().SignatureScheme; scheme != 0 {
		report.SignatureScheme = scheme.String()
	}
	return report
}

// prefersJSON reports whether an Accept header (RFC 9110 section 12.5.1) asks
// for JSON rather than for HTML. Whoever takes anything gets HTML.
func prefersJSON(accept string) bool {
	quality := func(kind string) float64 {
		best, exactness := 0.0, -1
		for entry := range strings.SplitSeq(accept, ",") {
			name, parameters, err := mime.ParseMediaType(entry)
			if err != nil {
				continue
			}
			family, _, _ := strings.Cut(kind, "/")
			exact := map[string]int{kind: 2, family + "/*": 1, "*/*": 0}
			rank, matches := exact[name]
			if !matches || rank < exactness {
				continue
			}
			q := 1.0
			if text, ok := parameters["q"]; ok {
				if q, err = strconv.ParseFloat(text, 64); err != nil {
					continue
				}
			}
			best, exactness = q, rank
		}
		return best
	}
	return quality("application/json") > quality("text/html")
}

// pageSection is a table of the page.
type pageSection struct {
	Title string
	Rows  []pageRow
}

type pageRow struct{ Name, Value string }

type pageView struct {
	Title    string
	Sections []pageSection
}

func (r *pageReport) view() pageView {
	section := func(title string, rows ...pageRow) pageSection {
		var filled []pageRow
		for _, row := range rows {
			// The template escapes HTML; what does not print would be invisible.
			if row.Value = printable(row.Value); row.Value != "" {
				filled = append(filled, row)
			}
		}
		return pageSection{title, filled}
	}
	yes := func(b bool) string {
		if b {
			return "yes"
		}
		return "no"
	}
	view := pageView{
		Title: strings.TrimSpace(r.Version + " by " + r.Provider),
		Sections: []pageSection{
			section("Server", pageRow{"Provider", r.Provider}, pageRow{"Library version", r.LibraryVersion}),
			section("Connection",
				pageRow{"TLS version", r.Version},
				pageRow{"Cipher suite", r.CipherSuite},
				pageRow{"Key exchange group", cmp.Or(r.Group, "none, or not told by the library")},
				pageRow{"Signature of the client", r.SignatureScheme},
				pageRow{"ALPN", cmp.Or(r.ALPN, "none")},
				pageRow{"HTTP", r.Protocol},
				pageRow{"Session resumed", yes(r.Resumed)},
				pageRow{"Pre-shared key", r.PSKIdentity},
				pageRow{"Remote address", r.RemoteAddress},
			),
			section("ClientHello",
				pageRow{"Server name (SNI)", cmp.Or(r.ServerName, "none")},
				pageRow{"Key shares", cmp.Or(keyShareTexts(r.KeyShares), "none")},
				pageRow{"HelloRetryRequest", yes(r.HelloRetryRequest)},
			),
		},
	}
	if r.Peer == nil {
		view.Sections = append(view.Sections, section("Client certificate", pageRow{"Certificate", "none"}))
		return view
	}
	view.Sections = append(view.Sections, section("Client certificate",
		pageRow{"Subject", r.Peer.Subject},
		pageRow{"Organization", r.Peer.Organization},
		pageRow{"Serial", r.Peer.Serial},
		pageRow{"SHA-256", r.Peer.SHA256},
		pageRow{"Valid until", r.Peer.NotAfter},
		pageRow{"DNS names", strings.Join(r.Peer.DNSNames, ", ")},
		pageRow{"IP addresses", strings.Join(r.Peer.IPAddresses, ", ")},
		pageRow{"Verified", yes(r.Verified)},
	))
	return view
}

// keyShareTexts joins names of groups; browsers send one that stands for nothing
// (GREASE, RFC 8701), to keep servers from choking on those to come.
func keyShareTexts(names []string) string {
	var texts []string
	for _, name := range names {
		if digits, ok := strings.CutPrefix(name, "0x"); ok && len(digits) == 4 && digits[1] == 'a' && digits[:2] == digits[2:] {
			name += " (GREASE)"
		}
		texts = append(texts, name)
	}
	return strings.Join(texts, ", ")
}
