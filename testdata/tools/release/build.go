package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
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
	path := filepath.Join(o.out, "bin", fmt.Sprintf("guardian-%s-%s", p.os, p.arch))
	cmd := exec.CommandContext(ctx, "go", "build", "-mod=readonly", "-trimpath", "-ldflags", "-s -w -buildid= -X main.version=v"+o.version, "-o", path, "./cmd/guardian")
	cmd.Dir = o.root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off", "GOOS="+p.os, "GOARCH="+p.arch)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build guardian for %s: %w\n%s", p, err, out)
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

// archive packs the program for a platform, and writes its SBOM beside it.
func (o *options) archive(ctx context.Context, p platform) ([]string, error) {
	path, err := o.binary(ctx, p)
	if err != nil {
		return nil, err
	}
	base := fmt.Sprintf("guardian_%s_%s_%s", o.version, p.os, p.arch)
	program, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	entries := []entry{{base + "/guardian", 0o755, program}}
	for _, name := range []string{"LICENSE", "README.md"} {
		text, err := os.ReadFile(filepath.Join(o.root, name))
		if err != nil {
			return nil, err
		}
		entries = append(entries, entry{base + "/" + name, 0o644, text})
	}
	packed, err := tarGz(entries)
	if err != nil {
		return nil, err
	}
	bom, err := sbom(path, o.version)
	if err != nil {
		return nil, err
	}
	files := []string{base + ".tar.gz", base + ".cdx.json"}
	for i, content := range [][]byte{packed, bom} {
		if err := os.WriteFile(filepath.Join(o.out, files[i]), content, 0o644); err != nil {
			return nil, err
		}
	}
	return files, nil
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
