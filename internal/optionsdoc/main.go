// Command optionsdoc writes docs/OPTIONS.md: every option with its
// documentation, and how each provider has it. The text comes from the doc
// comments of package tlsapi and from the providers' capability matrices.
//
// With -check it writes nothing and fails when the file is not up to date.
// It runs in the top folder of the repository, as `make docs` does.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"

	"github.com/polytls/polytls/providers"
	"github.com/polytls/polytls/tlsapi"
)

const target = "docs/OPTIONS.md"

func main() {
	check := flag.Bool("check", false, "fail when "+target+" is not up to date, and leave it as it is")
	flag.Parse()
	if err := run(*check); err != nil {
		fmt.Fprintln(os.Stderr, "optionsdoc:", err)
		os.Exit(1)
	}
}

func run(check bool) error {
	columns, err := availableProviders()
	if err != nil {
		return err
	}
	text, err := render(".", columns)
	if err != nil {
		return err
	}
	if !check {
		return os.WriteFile(target, text, 0o644)
	}
	old, err := os.ReadFile(target)
	if err != nil {
		return err
	}
	if !bytes.Equal(old, text) {
		return errors.New(target + " is not up to date: " + firstDifference(string(old), string(text)) + "; run `make docs` and commit it")
	}
	return nil
}

// availableProviders returns the document's columns. A library that is missing
// would be described without having been asked.
func availableProviders() ([]tlsapi.Provider, error) {
	columns := providers.All()
	for _, p := range columns {
		if err := p.Available(); err != nil {
			return nil, err
		}
	}
	if len(columns) != 4 {
		return nil, fmt.Errorf("the document needs all providers, this build has %s", strings.Join(providers.Names(), ", "))
	}
	return columns, nil
}

func firstDifference(old, text string) string {
	oldLines, lines := strings.Split(old, "\n"), strings.Split(text, "\n")
	for i, line := range lines {
		if i >= len(oldLines) || oldLines[i] != line {
			return fmt.Sprintf("line %d would be %q", i+1, line)
		}
	}
	return fmt.Sprintf("%d lines are too many", len(oldLines)-len(lines))
}
