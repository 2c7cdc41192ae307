package main

import (
	"errors"
	"fmt"
	"go/ast"
	"go/build"
	"go/doc"
	"go/doc/comment"
	"go/parser"
	"go/printer"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// source is what the repository's Go files say.
type source struct {
	files *token.FileSet
	pkg   *doc.Package
	// flags are the command line's, by option.
	flags map[string]string
}

// field is an option.
type field struct {
	name, typ, side, text string
}

func readSource(root string) (*source, error) {
	s := &source{files: token.NewFileSet()}
	folder := filepath.Join(root, "tlsapi")
	list, err := build.ImportDir(folder, 0)
	if err != nil {
		return nil, err
	}
	var parsed []*ast.File
	for _, name := range list.GoFiles {
		file, err := parser.ParseFile(s.files, filepath.Join(folder, name), nil, parser.ParseComments)
		if err != nil {
			return nil, err
		}
		parsed = append(parsed, file)
	}
	if s.pkg, err = doc.NewFromFiles(s.files, parsed, "github.com/polytls/polytls/tlsapi"); err != nil {
		return nil, err
	}
	s.flags, err = s.commandLine(filepath.Join(root, "cmd", "polytls", "flags.go"))
	return s, err
}

// sides are the types that hold options.
var sides = []struct{ typ, side string }{
	{"Settings", "client and server"},
	{"ClientConfig", "client"},
	{"ServerConfig", "server"},
}

// option returns an option that one or both ends have.
func (s *source) option(name string) (field, error) {
	var found []field
	for _, side := range sides {
		fields, err := s.structure(side.typ)
		if err != nil {
			return field{}, err
		}
		for _, f := range fields {
			if f.name == name {
				f.side = side.side
				found = append(found, f)
			}
		}
	}
	switch {
	case len(found) == 0:
		return field{}, fmt.Errorf("no configuration has an option %s", name)
	case len(found) == 1:
		return found[0], nil
	}
	// One of the client and one of the server: each has its own words.
	both := field{name: name, typ: found[0].typ, side: "client and server"}
	for i, f := range found {
		if i == 0 || f.text != found[0].text {
			both.text += strings.ToUpper(f.side[:1]) + f.side[1:] + ": " + f.text
			if i < len(found)-1 {
				both.text += "\n"
			}
		}
	}
	return both, nil
}

// structure returns the fields of a struct type with their documentation.
func (s *source) structure(name string) ([]field, error) {
	i := slices.IndexFunc(s.pkg.Types, func(t *doc.Type) bool { return t.Name == name })
	if i < 0 {
		return nil, fmt.Errorf("package tlsapi has no type %s", name)
	}
	spec, ok := s.pkg.Types[i].Decl.Specs[0].(*ast.TypeSpec)
	if !ok {
		return nil, fmt.Errorf("%s is no type", name)
	}
	structure, ok := spec.Type.(*ast.StructType)
	if !ok {
		return nil, fmt.Errorf("%s is no struct", name)
	}
	var fields []field
	for _, f := range structure.Fields.List {
		var typ strings.Builder
		if err := printer.Fprint(&typ, s.files, f.Type); err != nil {
			return nil, err
		}
		for _, n := range f.Names {
			text := f.Doc.Text()
			if text == "" {
				text = s.typeText(typ.String())
			}
			fields = append(fields, field{name: n.Name, typ: typ.String(), text: s.markdown(text)})
		}
	}
	return fields, nil
}

// typeText is the documentation of a type of the package, for fields that have
// none of their own.
func (s *source) typeText(name string) string {
	for _, t := range s.pkg.Types {
		if t.Name == name {
			return t.Doc
		}
	}
	return ""
}

// constants returns the documentation of the declaration that holds a constant.
func (s *source) constants(name string) (string, error) {
	for _, c := range s.pkg.Consts {
		if slices.Contains(c.Names, name) {
			return s.markdown(c.Doc), nil
		}
	}
	return "", fmt.Errorf("package tlsapi has no constant %s", name)
}

// markdown renders a doc comment; names of the package stay plain words.
func (s *source) markdown(text string) string {
	p := s.pkg.Printer()
	p.DocLinkURL = func(*comment.DocLink) string { return "" }
	return string(p.Markdown(s.pkg.Parser().Parse(text)))
}

// commandLine reads the map of options and flags of the polytls command, which
// is another module's package main and cannot be imported.
func (s *source) commandLine(path string) (map[string]string, error) {
	file, err := parser.ParseFile(s.files, path, nil, 0)
	if err != nil {
		return nil, err
	}
	object := file.Scope.Lookup("optionFlags")
	if object == nil {
		return nil, errors.New(path + ": there is no optionFlags")
	}
	literal, ok := object.Decl.(*ast.ValueSpec).Values[0].(*ast.CompositeLit)
	if !ok {
		return nil, errors.New(path + ": optionFlags is no literal")
	}
	flags := make(map[string]string)
	for _, e := range literal.Elts {
		pair, ok := e.(*ast.KeyValueExpr)
		if !ok {
			return nil, errors.New(path + ": optionFlags is no map")
		}
		key, keyErr := text(pair.Key)
		value, valueErr := text(pair.Value)
		if err := errors.Join(keyErr, valueErr); err != nil {
			return nil, fmt.Errorf("%s: optionFlags: %w", path, err)
		}
		flags[key] = value
	}
	return flags, nil
}

func text(e ast.Expr) (string, error) {
	literal, ok := e.(*ast.BasicLit)
	if !ok {
		return "", errors.New("an entry is no literal")
	}
	return strconv.Unquote(literal.Value)
}
