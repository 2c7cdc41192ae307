package measure

import (
	"fmt"
	"slices"
	"strings"

	"github.com/polytls/polytls/tlsapi"
)

// Select returns the measures that a comma-separated list names, by their names
// or beginnings of them, in the order of All; all for an empty list.
func Select(list string) ([]Measure, error) {
	all := All()
	if list == "" {
		return all, nil
	}
	chosen := make(map[string]bool)
	for _, entry := range strings.Split(list, ",") {
		known := false
		for _, m := range all {
			if entry != "" && strings.HasPrefix(m.Name, entry) {
				chosen[m.Name], known = true, true
			}
		}
		if !known {
			return nil, fmt.Errorf("there is no measure %q; there are %s", entry, strings.Join(Names(), ", "))
		}
	}
	return slices.DeleteFunc(all, func(m Measure) bool { return !chosen[m.Name] }), nil
}

// SelectProviders returns the providers that a comma-separated list names, in
// the order of available; all that are available for an empty list. std is
// always among them: it is what the others are compared with. skipped says which
// ones are not available, when none was asked for by name.
func SelectProviders(list string, all []tlsapi.Provider) (selected []tlsapi.Provider, skipped []string, err error) {
	var named []string
	if list != "" {
		named = strings.Split(list, ",")
	}
	var names []string
	for _, p := range all {
		names = append(names, p.Name())
	}
	for _, name := range named {
		if !slices.Contains(names, name) {
			return nil, nil, fmt.Errorf("there is no provider %q; there are %s", name, strings.Join(names, ", "))
		}
	}
	for _, p := range all {
		if named != nil && p.Name() != Reference && !slices.Contains(named, p.Name()) {
			continue
		}
		if err := p.Available(); err != nil {
			if slices.Contains(named, p.Name()) {
				return nil, nil, err
			}
			skipped = append(skipped, fmt.Sprintf("left out: %v", err))
			continue
		}
		selected = append(selected, p)
	}
	return selected, skipped, nil
}
