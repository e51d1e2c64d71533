package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// epoch is the time of everything in a release: a build has none of its own.
var epoch = time.Unix(0, 0).UTC()

// binary builds guardian for a platform and returns its path.
func (o *options) binary(ctx context.Context, p platform) (string, error) {
	if o.program != "" {
		return o.program, nil
	}
	return o.build(ctx, p, "guardian")
}

// build builds one of the programs in cmd.
func (o *options) build(ctx context.Context, p platform, program string) (string, error) {
	path := filepath.Join(o.out, "bin", fmt.Sprintf("%s-%s-%s", program, p.os, p.arch))
	cmd := exec.CommandContext(ctx, "go", "build", "-mod=readonly", "-trimpath", "-ldflags", "-s -w -buildid= -X main.version=v"+o.version, "-o", path, "./cmd/"+program)
	cmd.Dir = o.root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off", "GOOS="+p.os, "GOARCH="+p.arch)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s for %s: %w\n%s", program, p, err, out)
	}
	return path, nil
}

// entry is a file of an archive.
type entry struct {
	name string
	mode int64
	body []byte
}

// tarOf writes entries with nothing of this machine in it.
func tarOf(entries []entry) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: e.name, Mode: e.mode, Size: int64(len(e.body)), ModTime: epoch, Format: tar.FormatUSTAR}
		if strings.HasSuffix(e.name, "/") {
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(e.body); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func tarGz(entries []entry) ([]byte, error) {
	plain, err := tarOf(entries)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(plain); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// archive packs the programs for a platform, and writes the SBOM of each beside it. What
// guardian-replay is for needs no cluster, so it is not in the image.
func (o *options) archive(ctx context.Context, p platform) ([]string, error) {
	base := fmt.Sprintf("guardian_%s_%s_%s", o.version, p.os, p.arch)
	var entries []entry
	made := map[string][]byte{}
	for _, program := range []string{"guardian", "guardian-replay"} {
		path, err := o.build(ctx, p, program)
		if err != nil {
			return nil, err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		entries = append(entries, entry{base + "/" + program, 0o755, content})
		bom := fmt.Sprintf("%s_%s_%s_%s.cdx.json", program, o.version, p.os, p.arch)
		if made[bom], err = sbom(path, o.version); err != nil {
			return nil, err
		}
	}
	for _, name := range []string{"LICENSE", "README.md"} {
		text, err := os.ReadFile(filepath.Join(o.root, name))
		if err != nil {
			return nil, err
		}
		entries = append(entries, entry{base + "/" + name, 0o644, text})
	}
	var err error
	if made[base+".tar.gz"], err = tarGz(entries); err != nil {
		return nil, err
	}
	for name, content := range made {
		if err := os.WriteFile(filepath.Join(o.out, name), content, 0o644); err != nil {
			return nil, err
		}
	}
	return slices.Sorted(maps.Keys(made)), nil
}

// checksums writes SHA256SUMS of files in the folder, in the form that sha256sum -c reads.
func (o *options) checksums(files []string) error {
	slices.Sort(files)
	var b strings.Builder
	for _, name := range files {
		content, err := os.ReadFile(filepath.Join(o.out, name))
		if err != nil {
			return err
		}
		sum := sha256.Sum256(content)
		fmt.Fprintf(&b, "%s  %s\n", hex.EncodeToString(sum[:]), name)
	}
	return os.WriteFile(filepath.Join(o.out, "SHA256SUMS"), []byte(b.String()), 0o644)
}
