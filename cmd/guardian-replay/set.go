package main

import (
	"cmp"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/canary-guardian/guardian/cmd/guardian/config"
)

// loadConfig reads the configuration with what --set changes, which wins over the
// file and the environment.
func loadConfig(file string, sets []string) (config.Config, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return config.Config{}, fmt.Errorf("read configuration: %w", err)
	}
	if err := config.RequireGuards(text); err != nil {
		return config.Config{}, fmt.Errorf("configuration %s:\n%w", file, err)
	}
	if len(sets) > 0 {
		if text, err = withSets(text, sets); err != nil {
			return config.Config{}, err
		}
	}
	c, err := config.Parse(text)
	if err != nil {
		return config.Config{}, fmt.Errorf("configuration %s:\n%w", file, err)
	}
	return c, nil
}

// withSets changes keys of a configuration's text.
func withSets(text []byte, sets []string) ([]byte, error) {
	var root yaml.Node
	if err := yaml.Unmarshal(text, &root); err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	if len(root.Content) == 0 {
		root = yaml.Node{Kind: yaml.DocumentNode, Content: []*yaml.Node{{Kind: yaml.MappingNode}}}
	}
	for _, set := range sets {
		path, value, ok := strings.Cut(set, "=")
		if !ok || path == "" {
			return nil, fmt.Errorf("--set %q: want KEY=VALUE, such as guards[0].signals.latency.max=300ms", shown(set))
		}
		var node yaml.Node
		if err := yaml.Unmarshal([]byte(value), &node); err != nil || len(node.Content) == 0 {
			_, value, _ = strings.Cut(shown(set), "=")
			return nil, fmt.Errorf("--set %q: value %q: want YAML", shown(set), value)
		}
		if err := put(root.Content[0], path, node.Content[0]); err != nil {
			return nil, fmt.Errorf("--set %q: %w", shown(set), err)
		}
		if err := os.Unsetenv(config.EnvName(path)); err != nil {
			return nil, fmt.Errorf("--set %q: %w", shown(set), err)
		}
	}
	return yaml.Marshal(&root)
}

// secretRoots are the keys below which there are credentials.
var secretRoots = []string{"prometheus", "alertmanager", "webhook", "web"}

// keyText is the text of a key at the beginning of a --set.
var keyText = regexp.MustCompile(`^[a-zA-Z0-9_.\[\]-]*`)

// shown is a --set as it may be printed: what may be a credential is left out.
func shown(set string) string {
	key := keyText.FindString(strings.TrimLeft(set, " \t\"'"))
	root := key
	if i := strings.IndexAny(key, ".["); i >= 0 {
		root = key[:i]
	}
	if !slices.Contains(secretRoots, strings.ToLower(root)) {
		return set
	}
	return key + "=…"
}

// keyPart is a key of a path, with or without an index.
var keyPart = regexp.MustCompile(`^([a-zA-Z][a-zA-Z0-9_]*)(?:\[([^\]]+)\])?$`)

// put sets a key by its path, as guards[0].signals.latency.max or, by the name of an
// entry, guards[orders-service].signals.latency.max.
func put(at *yaml.Node, path string, value *yaml.Node) error {
	parts := strings.Split(path, ".")
	for i, part := range parts {
		m := keyPart.FindStringSubmatch(part)
		if m == nil {
			return fmt.Errorf("key %q: want a name, or name[0]", part)
		}
		if at.Kind != yaml.MappingNode {
			return fmt.Errorf("key %q: %s has no keys", part, cmp.Or(strings.Join(parts[:i], "."), "the configuration"))
		}
		next := child(at, m[1])
		if m[2] != "" {
			var err error
			if next, err = entry(next, m[1], m[2]); err != nil {
				return err
			}
		}
		if i == len(parts)-1 {
			*next = *value
			return nil
		}
		if next.Kind == 0 || next.Kind == yaml.ScalarNode && next.Tag == "!!null" {
			*next = yaml.Node{Kind: yaml.MappingNode}
		}
		at = next
	}
	return nil
}

// child finds or makes the value of a key.
func child(at *yaml.Node, key string) *yaml.Node {
	for i := 0; i+1 < len(at.Content); i += 2 {
		if at.Content[i].Value == key {
			return at.Content[i+1]
		}
	}
	value := &yaml.Node{}
	at.Content = append(at.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: key}, value)
	return value
}

// entry is one of a list, by its index or its name.
func entry(list *yaml.Node, key, which string) (*yaml.Node, error) {
	if list.Kind != yaml.SequenceNode {
		return nil, fmt.Errorf("key %q: no list in the configuration", key)
	}
	if i, err := strconv.Atoi(which); err == nil {
		if i < 0 || i >= len(list.Content) {
			return nil, fmt.Errorf("%s[%d]: want 0 to %d", key, i, len(list.Content)-1)
		}
		return list.Content[i], nil
	}
	var names []string
	for _, one := range list.Content {
		name := ""
		if one.Kind == yaml.MappingNode {
			name = child(one, "name").Value
		}
		if name == which {
			return one, nil
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return nil, fmt.Errorf("%s[%s]: want one of %s", key, which, strings.Join(names, ", "))
}
