package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/polytls/polytls/providers"
	"github.com/polytls/polytls/tlsapi"
)

// providerReport is one entry of the JSON list.
type providerReport struct {
	Name      string                  `json:"name"`
	Library   string                  `json:"library"`
	Version   string                  `json:"version"`
	Available bool                    `json:"available"`
	Reason    string                  `json:"reason"`
	Features  []tlsapi.FeatureSupport `json:"features"`
}

func newProvidersCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "providers",
		Short: "List the compiled-in providers and what each supports",
		Long: `Lists the providers that are compiled into this program with the versions of
their libraries, and the capability matrix: how each provider has each feature.

  native       the library does it itself
  emulated     Polytls does it around the library, or with the deviation that
               the note tells
  unsupported  ("-") configurations that use it are refused, for the reason
               that the note tells

The notes stand below the table, wrapped to the terminal's width; a terminal
narrower than 96 columns gets N and E for the words.

With --json it prints a list of
  {"name","library","version","available","reason","features":[{"feature","support","note"}]}
where "reason" says why a provider is not available and what to do about it.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			reports := []providerReport{}
			for _, p := range providers.All() {
				reports = append(reports, describeProvider(p))
			}
			if wantsJSON(cmd) {
				return writeJSON(cmd.OutOrStdout(), reports)
			}
			writeProviders(cmd.OutOrStdout(), reports, widthOf(cmd.OutOrStdout()))
			return nil
		},
	}
}

func describeProvider(p tlsapi.Provider) providerReport {
	report := providerReport{
		Name:     p.Name(),
		Library:  p.Library(),
		Version:  p.LibraryVersion(),
		Features: p.Features(),
	}
	err := p.Available()
	report.Available = err == nil
	if err != nil {
		report.Reason = cause(err).Error()
	}
	return report
}

func writeProviders(w io.Writer, reports []providerReport, width int) {
	list := newTable(w)
	list.AppendHeader(table.Row{"provider", "library", "version", "available"})
	for _, r := range reports {
		available := "yes"
		if !r.Available {
			available = "no: " + r.Reason
		}
		list.AppendRow(table.Row{r.Name, r.Library, r.Version, available})
	}
	list.SetColumnConfigs([]table.ColumnConfig{{Name: "available", WidthMax: max(20, width-60)}})
	list.Render()

	notes := footnotes{short: width < tableWidth}
	matrix := newTable(w)
	header := table.Row{"feature"}
	for _, r := range reports {
		header = append(header, r.Name)
	}
	matrix.AppendHeader(header)
	for _, feature := range tlsapi.AllFeatures() {
		if feature == tlsapi.ServerCertificates {
			matrix.AppendSeparator()
		}
		row := table.Row{feature}
		for _, r := range reports {
			row = append(row, notes.cell(r, feature))
		}
		matrix.AppendRow(row)
	}
	fmt.Fprintln(w)
	matrix.Render()
	if notes.short {
		fmt.Fprintln(w, "N native, E emulated, - unsupported")
	}
	for i, note := range notes.list {
		number := fmt.Sprintf("%5s ", fmt.Sprintf("[%d]", i+1))
		for j, line := range strings.Split(text.WrapSoft(note, max(20, width-len(number))), "\n") {
			if j > 0 {
				number = strings.Repeat(" ", len(number))
			}
			fmt.Fprintln(w, strings.TrimRight(number+line, " "))
		}
	}
}

const (
	// tableWidth is what the matrix needs with its words spelled out.
	tableWidth = 96
	// plainWidth is the width of output that goes to no terminal.
	plainWidth = 100
)

// widthOf returns the width of the terminal that w writes to, in columns.
func widthOf(w io.Writer) int {
	if file, ok := w.(*os.File); ok {
		if width, _, err := term.GetSize(int(file.Fd())); err == nil && width > 0 {
			return width
		}
	}
	return plainWidth
}

// footnotes numbers the notes of the capability matrix; equal notes share a
// number.
type footnotes struct {
	list []string
	// short abbreviates the words of the cells.
	short bool
}

func (f *footnotes) cell(r providerReport, feature tlsapi.Feature) string {
	i := slices.IndexFunc(r.Features, func(c tlsapi.FeatureSupport) bool { return c.Feature == feature })
	if i < 0 {
		return "?"
	}
	cell := r.Features[i]
	word := string(cell.Support)
	switch {
	case cell.Support == tlsapi.Unsupported:
		word = "-"
	case f.short:
		word = strings.ToUpper(word[:1])
	}
	if cell.Note == "" {
		return word
	}
	note := slices.Index(f.list, cell.Note)
	if note < 0 {
		f.list = append(f.list, cell.Note)
		note = len(f.list) - 1
	}
	return fmt.Sprintf("%s [%d]", word, note+1)
}

// supports reports whether a provider has all of the features.
func supports(p tlsapi.Provider, features ...tlsapi.Feature) bool {
	cells := p.Features()
	return !slices.ContainsFunc(features, func(feature tlsapi.Feature) bool {
		i := slices.IndexFunc(cells, func(c tlsapi.FeatureSupport) bool { return c.Feature == feature })
		return i < 0 || cells[i].Support == tlsapi.Unsupported
	})
}

func newTable(w io.Writer) table.Writer {
	t := table.NewWriter()
	t.SetOutputMirror(w)
	style := table.StyleLight
	style.Format.Header = text.FormatDefault
	t.SetStyle(style)
	return t
}
