package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"go.yaml.in/yaml/v3"
)

// What Helm calls a chart in a registry.
const (
	chartConfig = types.MediaType("application/vnd.cncf.helm.config.v1+json")
	chartLayer  = types.MediaType("application/vnd.cncf.helm.chart.content.v1.tar+gzip")
)

// chart is what a release needs of a Chart.yaml.
type chart struct {
	Name       string `yaml:"name"`
	AppVersion string `yaml:"appVersion"`
}

func readChart(folder string) (chart, error) {
	text, err := os.ReadFile(filepath.Join(folder, "Chart.yaml"))
	if err != nil {
		return chart{}, err
	}
	var c chart
	if err := yaml.Unmarshal(text, &c); err != nil {
		return chart{}, fmt.Errorf("read %s: %w", folder, err)
	}
	return c, nil
}

// charts packs every chart with the release's version, and pushes them beside the image.
func (o *options) charts(ctx context.Context) ([]string, error) {
	folders, err := filepath.Glob(filepath.Join(o.root, "charts", "*", "Chart.yaml"))
	if err != nil {
		return nil, err
	}
	var made []string
	for _, file := range folders {
		c, err := readChart(filepath.Dir(file))
		if err != nil {
			return nil, err
		}
		packed, meta, err := o.packChart(filepath.Dir(file), c)
		if err != nil {
			return nil, fmt.Errorf("pack chart %s: %w", c.Name, err)
		}
		path := fmt.Sprintf("%s-%s.tgz", c.Name, o.version)
		if err := os.WriteFile(filepath.Join(o.out, path), packed, 0o644); err != nil {
			return nil, err
		}
		made = append(made, path)
		if o.push == "" {
			continue
		}
		if err := o.pushChart(ctx, c, packed, meta); err != nil {
			return nil, fmt.Errorf("push chart %s: %w", c.Name, err)
		}
		fmt.Printf("pushed; install it from oci://%s/charts/%s --version %s\n", o.push, c.Name, o.version)
	}
	return made, nil
}

var (
	versionLine    = regexp.MustCompile(`(?m)^(version|appVersion): .*$`)
	repositoryLine = regexp.MustCompile(`(?m)^  repository: .*$`)
)

// packChart is the chart's archive, and its Chart.yaml as JSON. Where images are pushed to, there the chart finds them.
func (o *options) packChart(folder string, c chart) (packed, meta []byte, err error) {
	var entries []entry
	err = filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		body, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		below, err := filepath.Rel(folder, path)
		if err != nil {
			return err
		}
		switch below {
		case "Chart.yaml":
			body = versionLine.ReplaceAll(body, []byte("$1: "+o.version))
			var tree map[string]any
			if err := yaml.Unmarshal(body, &tree); err != nil {
				return err
			}
			if meta, err = json.Marshal(tree); err != nil {
				return err
			}
		case "values.yaml":
			if o.push != "" {
				body = repositoryLine.ReplaceAll(body, []byte("  repository: "+o.push+"/guardian"))
			}
		}
		packedAs := entry{c.Name + "/" + filepath.ToSlash(below), 0o644, body}
		if below == "Chart.yaml" { // Helm reads it first
			entries = slices.Insert(entries, 0, packedAs)
		} else {
			entries = append(entries, packedAs)
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	packed, err = tarGz(entries)
	return packed, meta, err
}

// pushChart pushes a chart as helm push does.
func (o *options) pushChart(ctx context.Context, c chart, packed, meta []byte) error {
	tag, err := name.NewTag(fmt.Sprintf("%s/charts/%s:%s", o.push, c.Name, o.version), o.nameOptions()...)
	if err != nil {
		return err
	}
	image, err := chartImage(packed, meta)
	if err != nil {
		return err
	}
	return remote.Write(tag, image, remoteOptions(ctx)...)
}

// artifact is an image whose configuration is something else.
type artifact struct {
	v1.Image
	config []byte
}

// RawConfigFile implements v1.Image.
func (a artifact) RawConfigFile() ([]byte, error) { return a.config, nil }

// ConfigName implements v1.Image.
func (a artifact) ConfigName() (v1.Hash, error) {
	hash, _, err := v1.SHA256(bytes.NewReader(a.config))
	return hash, err
}

// Manifest implements v1.Image.
func (a artifact) Manifest() (*v1.Manifest, error) {
	m, err := a.Image.Manifest()
	if err != nil {
		return nil, err
	}
	m = m.DeepCopy()
	m.Config = v1.Descriptor{MediaType: chartConfig, Size: int64(len(a.config))}
	m.Config.Digest, err = a.ConfigName()
	return m, err
}

// RawManifest implements v1.Image.
func (a artifact) RawManifest() ([]byte, error) {
	m, err := a.Manifest()
	if err != nil {
		return nil, err
	}
	return json.Marshal(m)
}

// Digest implements v1.Image.
func (a artifact) Digest() (v1.Hash, error) {
	m, err := a.RawManifest()
	if err != nil {
		return v1.Hash{}, err
	}
	hash, _, err := v1.SHA256(bytes.NewReader(m))
	return hash, err
}

// Size implements v1.Image.
func (a artifact) Size() (int64, error) {
	m, err := a.RawManifest()
	return int64(len(m)), err
}

func chartImage(packed, meta []byte) (v1.Image, error) {
	image, err := mutate.Append(mutate.MediaType(empty.Image, types.OCIManifestSchema1), mutate.Addendum{Layer: static.NewLayer(packed, chartLayer), MediaType: chartLayer})
	if err != nil {
		return nil, err
	}
	return artifact{image, meta}, nil
}
