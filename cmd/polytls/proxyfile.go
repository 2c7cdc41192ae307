package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"github.com/polytls/polytls/cmd/polytls/internal/proxy"
)

// maxConfigFile bounds what is read: a wrong file name should not fill the
// memory.
const maxConfigFile = 4 << 20

// fileError is a mistake in a configuration file.
type fileError struct {
	File  string
	Line  int    // zero when it is about the file
	Field string // such as listeners[0].curves; empty when it is about the text
	Err   error
}

func (e *fileError) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d", e.Line)
	}
	if e.Field != "" {
		b.WriteString(": " + e.Field)
	}
	// In the file options have no dashes in front.
	b.WriteString(": " + flagNames.ReplaceAllString(e.Err.Error(), "$1$2"))
	return b.String()
}

func (e *fileError) Unwrap() error { return e.Err }

var flagNames = regexp.MustCompile(`(^|[\s(])--([a-z])`)

// proxyFile is a configuration file that has been read.
type proxyFile struct {
	config *proxy.Config
	// paths are the files that it depends on, itself included, as far as it
	// could be read.
	paths []string

	name      string
	folder    string
	files     *openFiles
	top       *section
	options   proxyOptions
	listeners []*listenerInFile
}

type listenerInFile struct {
	section  *section
	options  listenerOptions
	backends []*backendInFile
}

type backendInFile struct {
	section *section
	options backendOptions
}

// readProxyFile reads a configuration file and every file that it names. Errors
// are *fileError. The result is not nil then: it has the paths.
func readProxyFile(name string, files *openFiles, stderr io.Writer) (*proxyFile, error) {
	p := &proxyFile{name: name, folder: filepath.Dir(name), files: files, paths: []string{name}}
	root, err := parseYAML(name)
	if err != nil {
		return p, err
	}
	if err := p.decode(root, stderr); err != nil {
		return p, err
	}
	if p.config, err = p.resolve(stderr); err != nil {
		return p, err
	}
	if err := p.config.Check(); err != nil {
		p.discard()
		return p, p.locate(err)
	}
	return p, nil
}

// discard closes what nobody will use.
func (p *proxyFile) discard() {
	if p.config != nil && p.config.AccessLog != nil {
		_ = p.config.AccessLog.Close()
	}
}

func parseYAML(name string) (*yaml.Node, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, &fileError{File: name, Err: errors.Unwrap(err)}
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxConfigFile+1))
	switch {
	case err != nil:
		return nil, &fileError{File: name, Err: err}
	case len(text) > maxConfigFile:
		return nil, &fileError{File: name, Err: fmt.Errorf("it has more than %d bytes", maxConfigFile)}
	}
	decoder := yaml.NewDecoder(strings.NewReader(string(text)))
	var document, second yaml.Node
	if err := decoder.Decode(&document); err != nil {
		if err == io.EOF {
			return nil, &fileError{File: name, Err: errors.New("it is empty")}
		}
		return nil, yamlError(name, err)
	}
	if err := decoder.Decode(&second); err != io.EOF {
		if err != nil {
			return nil, yamlError(name, err)
		}
		return nil, &fileError{File: name, Line: second.Line, Err: errors.New("a second document begins; one is allowed")}
	}
	return document.Content[0], nil
}

var yamlLine = regexp.MustCompile(`^yaml: line (\d+): `)

// yamlError takes the line out of the parser's text.
func yamlError(name string, err error) error {
	e := &fileError{File: name}
	text := err.Error()
	if found := yamlLine.FindStringSubmatch(text); found != nil {
		_, _ = fmt.Sscan(found[1], &e.Line)
		text = text[len(found[0]):]
	}
	e.Err = errors.New(strings.TrimPrefix(text, "yaml: "))
	return e
}

func (p *proxyFile) decode(root *yaml.Node, stderr io.Writer) error {
	var listeners *yaml.Node
	cmd := p.command(stderr)
	p.options.register(cmd)
	p.top = &section{file: p, flags: cmd.Flags()}
	err := p.top.decode(root, map[string]func(*yaml.Node) error{
		"listeners": func(n *yaml.Node) error { listeners = n; return nil },
	})
	if err != nil || listeners == nil {
		return err // A file without listeners is refused by Check.
	}
	return p.top.each("listeners", listeners, func(path string, n *yaml.Node) error {
		l := &listenerInFile{}
		p.listeners = append(p.listeners, l)
		return l.decode(p, path, n, stderr)
	})
}

// command has nothing but flags.
func (p *proxyFile) command(stderr io.Writer) *cobra.Command {
	cmd := &cobra.Command{}
	cmd.SetErr(stderr)
	return cmd
}

func (l *listenerInFile) decode(p *proxyFile, path string, n *yaml.Node, stderr io.Writer) error {
	cmd := p.command(stderr)
	l.options.register(cmd)
	cmd.Flags().StringVar(&l.options.listener.Address, "address", "", "")
	l.section = &section{file: p, path: path, flags: cmd.Flags(), without: []string{"cert", "key", "ocsp"}}
	var certificates, backends *yaml.Node
	err := l.section.decode(n, map[string]func(*yaml.Node) error{
		"certificates": func(n *yaml.Node) error { certificates = n; return nil },
		"backends":     func(n *yaml.Node) error { backends = n; return nil },
	})
	if err != nil {
		return err
	}
	if certificates != nil {
		if err := l.decodeCertificates(p, certificates); err != nil {
			return err
		}
	}
	if backends == nil {
		return nil
	}
	return l.section.each("backends", backends, func(path string, n *yaml.Node) error {
		b := &backendInFile{}
		l.backends = append(l.backends, b)
		cmd := p.command(stderr)
		b.options.register(cmd)
		cmd.Flags().StringVar(&b.options.backend.Address, "address", "", "")
		b.section = &section{file: p, path: path, flags: cmd.Flags()}
		return b.section.decode(n, nil)
	})
}

// decodeCertificates reads what flags say with --cert, --key and --ocsp in
// parallel.
func (l *listenerInFile) decodeCertificates(p *proxyFile, n *yaml.Node) error {
	return l.section.each("certificates", n, func(path string, n *yaml.Node) error {
		var cert, key, ocsp string
		cmd := &cobra.Command{}
		flags := cmd.Flags()
		flags.StringVar(&cert, "cert", "", "")
		flags.StringVar(&key, "key", "", "")
		flags.StringVar(&ocsp, "ocsp", "", "")
		markFiles(cmd, "cert", "key", "ocsp")
		s := &section{file: p, path: path, flags: flags}
		l.section.pairs = append(l.section.pairs, s)
		if err := s.decode(n, nil); err != nil {
			return err
		}
		if cert == "" {
			return s.fail("cert", errors.New("it is missing"))
		}
		if key == "" {
			key = cert
		}
		o := &l.options
		o.certFiles, o.keyFiles, o.ocspFiles = append(o.certFiles, cert), append(o.keyFiles, key), append(o.ocspFiles, ocsp)
		return nil
	})
}

// resolve reads the files that the options name.
func (p *proxyFile) resolve(stderr io.Writer) (*proxy.Config, error) {
	config := &proxy.Config{Admin: p.options.admin, DrainTimeout: p.options.drainTimeout}
	for _, l := range p.listeners {
		var backends []*proxy.Backend
		for _, b := range l.backends {
			if b.options.backend.Address == "" {
				return nil, b.section.fail("address", errors.New("it is missing"))
			}
			backend, err := p.files.resolveBackend(&b.options)
			if err != nil {
				return nil, b.section.locate(err)
			}
			backends = append(backends, backend)
		}
		o := &l.options
		switch {
		case o.listener.Address == "":
			return nil, l.section.fail("address", errors.New("it is missing"))
		case len(o.certFiles) == 0 && len(o.psks) == 0 && len(o.pskFiles) == 0:
			return nil, l.section.fail("certificates", errors.New("there is none: a server needs a certificate, or pre-shared keys"))
		}
		listener, err := p.files.resolveListener(o, backends)
		if err != nil {
			return nil, l.section.locate(err)
		}
		config.Listeners = append(config.Listeners, listener)
	}
	var err error
	if config.AccessLog, err = p.options.openAccessLog(stderr); err != nil {
		return nil, p.top.locate(err)
	}
	return config, nil
}

// locate finds the place of an error of the engine.
func (p *proxyFile) locate(err error) error {
	var e *proxy.ConfigError
	if !errors.As(err, &e) {
		return err
	}
	section := p.top
	if e.Listener >= 0 {
		section = p.listeners[e.Listener].section
		if e.Backend >= 0 {
			section = p.listeners[e.Listener].backends[e.Backend].section
		}
	}
	return section.locate(err)
}

// section is a mapping of the file whose keys are flags.
type section struct {
	file    *proxyFile
	path    string // such as listeners[0]; empty for the top
	flags   *pflag.FlagSet
	without []string   // flags that are written in another way here
	pairs   []*section // where those are: one for each certificate

	line  int            // where it begins
	lines map[string]int // of its keys
}

// decode sets the flags that the mapping names. special are keys that are not
// flags.
func (s *section) decode(n *yaml.Node, special map[string]func(*yaml.Node) error) error {
	n = resolveAlias(n)
	s.line, s.lines = n.Line, make(map[string]int)
	if n.Kind != yaml.MappingNode {
		return s.fail("", errors.New("options are expected, as KEY: VALUE"))
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], resolveAlias(n.Content[i+1])
		name := key.Value
		if _, twice := s.lines[name]; twice {
			s.lines[name] = key.Line
			return s.fail(name, errors.New("it is set twice"))
		}
		s.lines[name] = key.Line
		if decode := special[name]; decode != nil {
			if err := decode(value); err != nil {
				return err
			}
			continue
		}
		flag := s.flags.Lookup(name)
		if flag == nil || contains(s.without, name) {
			return s.fail(name, fmt.Errorf("there is no such option%s", s.suggestion(name, special)))
		}
		if err := s.set(flag, value); err != nil {
			return s.fail(name, cause(err))
		}
	}
	return nil
}

func resolveAlias(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}

func (s *section) suggestion(name string, special map[string]func(*yaml.Node) error) string {
	probe := &cobra.Command{SuggestionsMinimumDistance: 2}
	add := func(name string) {
		probe.AddCommand(&cobra.Command{Use: name, Run: func(*cobra.Command, []string) {}})
	}
	for key := range special {
		add(key)
	}
	s.flags.VisitAll(func(f *pflag.Flag) {
		if !contains(s.without, f.Name) {
			add(f.Name)
		}
	})
	near := probe.SuggestionsFor(name)
	if len(near) == 0 {
		return ""
	}
	return "; did you mean " + strings.Join(near, " or ") + "?"
}

func contains(list []string, text string) bool {
	for _, s := range list {
		if s == text {
			return true
		}
	}
	return false
}

// set gives a flag its value. A list becomes a flag that is repeated, or the
// flag's own form of a list.
func (s *section) set(flag *pflag.Flag, n *yaml.Node) error {
	var values []string
	switch n.Kind {
	case yaml.ScalarNode:
		if n.Tag == "!!null" {
			return errors.New("it has no value")
		}
		values = []string{n.Value}
	case yaml.SequenceNode:
		for i, entry := range n.Content {
			entry = resolveAlias(entry)
			if entry.Kind != yaml.ScalarNode || entry.Tag == "!!null" {
				return fmt.Errorf("entry %d is no text", i+1)
			}
			values = append(values, entry.Value)
		}
		switch flag.Value.Type() {
		case "stringArray":
		case "list":
			// An empty one is an error of the flag.
			values = []string{strings.Join(values, ",")}
		default:
			return errors.New("it takes one value, not a list")
		}
	default:
		return errors.New("it takes a value, not options of its own")
	}
	for _, value := range values {
		if isFile(flag) && value != "" && !(flag.Name == "access-log" && value == "stderr") {
			if !filepath.IsAbs(value) {
				value = filepath.Join(s.file.folder, value)
			}
			if !isOutput(flag.Name) {
				s.file.paths = append(s.file.paths, value)
			}
		}
		if flag.Name == "address" || flag.Name == "admin" {
			value = proxy.RelativeTo(s.file.folder, value)
		}
		if err := s.flags.Set(flag.Name, value); err != nil {
			// pflag's frame around it names the flag.
			if inner := errors.Unwrap(err); inner != nil {
				err = inner
			}
			return inWords(err)
		}
	}
	return nil
}

// inWords says what package strconv says in the terms of Go.
func inWords(err error) error {
	var wrong *strconv.NumError
	switch {
	case !errors.As(err, &wrong):
		return err
	case wrong.Func == "ParseBool":
		return fmt.Errorf("%q is neither true nor false", wrong.Num)
	case errors.Is(err, strconv.ErrRange):
		return fmt.Errorf("%q is out of range", wrong.Num)
	}
	return fmt.Errorf("%q is no number", wrong.Num)
}

// each walks through a list.
func (s *section) each(name string, n *yaml.Node, decode func(path string, n *yaml.Node) error) error {
	n = resolveAlias(n)
	if n.Kind != yaml.SequenceNode {
		return s.fail(name, errors.New("a list is expected, each entry after a dash"))
	}
	for i, entry := range n.Content {
		if err := decode(fmt.Sprintf("%s[%d]", s.fieldPath(name), i), entry); err != nil {
			return err
		}
	}
	return nil
}

func (s *section) fieldPath(field string) string {
	switch {
	case field == "":
		return s.path
	case s.path == "":
		return field
	}
	return s.path + "." + field
}

// fail is an error at the line of a key, or at that of the mapping when it does
// not have the key.
func (s *section) fail(field string, err error) error {
	line, ok := s.lines[field]
	if !ok {
		line = s.line
	}
	return &fileError{File: s.file.name, Line: line, Field: s.fieldPath(field), Err: err}
}

// locate finds the place of an option's error.
func (s *section) locate(err error) error {
	var located *fileError
	if errors.As(err, &located) {
		return err
	}
	option, inner := optionOf(err)
	if contains(s.without, option) {
		var entry *entryError
		if errors.As(err, &entry) && entry.index < len(s.pairs) {
			return s.pairs[entry.index].fail(option, inner)
		}
		option = "certificates"
	}
	return s.fail(option, inner)
}
