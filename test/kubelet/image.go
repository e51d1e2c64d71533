package kubelet

import (
	"archive/tar"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
)

// image is an unpacked image.
type image struct {
	folder, digest  string
	entrypoint, cmd []string
	env             []string
	user            int // -1: none said
}

type descriptor struct {
	MediaType string `json:"mediaType"`
	Digest    string `json:"digest"`
	Platform  struct {
		OS           string `json:"os"`
		Architecture string `json:"architecture"`
	} `json:"platform"`
}

type manifest struct {
	Manifests []descriptor `json:"manifests"`
	Config    descriptor   `json:"config"`
	Layers    []descriptor `json:"layers"`
}

// image unpacks an image once.
func (k *Kubelet) image(reference string) (*image, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if i := k.images[reference]; i != nil {
		return i, nil
	}
	layout := k.options.Images[reference]
	if layout == "" {
		return nil, refused("image %q: it has no layout for it", reference)
	}
	to, err := os.MkdirTemp(k.folder, "image-")
	if err == nil {
		err = os.Chmod(to, 0o755)
	}
	if err != nil {
		return nil, err
	}
	i, err := unpack(layout, to)
	if err != nil {
		return nil, fmt.Errorf("image %q in %s: %w", reference, layout, err)
	}
	k.images[reference] = i
	return i, nil
}

// unpack writes the files of a layout's image for this machine's architecture to a folder.
func unpack(layout, to string) (*image, error) {
	var index manifest
	if err := readJSON(filepath.Join(layout, "index.json"), &index); err != nil {
		return nil, err
	}
	found, err := forThisMachine(layout, index)
	if err != nil {
		return nil, err
	}
	var m manifest
	if err := readJSON(blob(layout, found.Digest), &m); err != nil {
		return nil, err
	}
	var config struct {
		Config struct {
			User            string
			Entrypoint, Cmd []string
			Env             []string
		} `json:"config"`
	}
	if err := readJSON(blob(layout, m.Config.Digest), &config); err != nil {
		return nil, err
	}
	i := &image{folder: to, digest: found.Digest, entrypoint: config.Config.Entrypoint, cmd: config.Config.Cmd, env: config.Config.Env, user: -1}
	if uid, _, _ := strings.Cut(config.Config.User, ":"); uid != "" {
		if i.user, err = strconv.Atoi(uid); err != nil {
			return nil, fmt.Errorf("user %q: %w", config.Config.User, err)
		}
	}
	for _, layer := range m.Layers {
		if err := unpackLayer(blob(layout, layer.Digest), to); err != nil {
			return nil, fmt.Errorf("layer %s: %w", layer.Digest, err)
		}
	}
	return i, nil
}

// forThisMachine looks for linux and this architecture, also in an index of an index.
func forThisMachine(layout string, index manifest) (descriptor, error) {
	for _, d := range index.Manifests {
		switch {
		case strings.HasSuffix(d.MediaType, "image.index.v1+json"):
			var inner manifest
			if err := readJSON(blob(layout, d.Digest), &inner); err != nil {
				return descriptor{}, err
			}
			return forThisMachine(layout, inner)
		case d.Platform.OS == "linux" && d.Platform.Architecture == runtime.GOARCH:
			return d, nil
		}
	}
	return descriptor{}, fmt.Errorf("no image for linux/%s", runtime.GOARCH)
}

func blob(layout, digest string) string {
	return filepath.Join(layout, "blobs", filepath.FromSlash(strings.Replace(digest, ":", "/", 1)))
}

func readJSON(file string, into any) error {
	text, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(text, into)
	}
	return err
}

// unpackLayer writes folders and files. Links, and what deletes files of lower layers, are refused.
func unpackLayer(file, to string) error {
	packed, err := os.Open(file)
	if err != nil {
		return err
	}
	defer func() { _ = packed.Close() }()
	plain, err := gzip.NewReader(packed)
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(to)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	for archive := tar.NewReader(plain); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := filepath.Clean(header.Name)
		switch header.Typeflag {
		case tar.TypeDir:
			err = root.MkdirAll(name, fs.FileMode(header.Mode).Perm())
		case tar.TypeReg:
			err = writeFile(root, name, fs.FileMode(header.Mode).Perm(), archive)
		default:
			err = refused("%s is neither a file nor a folder", header.Name)
		}
		if err != nil {
			return err
		}
	}
}

func writeFile(root *os.Root, name string, mode fs.FileMode, from io.Reader) error {
	if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	file, err := root.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, from)
	return errors.Join(err, file.Close())
}

// rootFor gives a container a root folder with the image's files, which it shares with others.
func (i *image) rootFor(folder string) error {
	return filepath.WalkDir(i.folder, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(i.folder, path)
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return os.MkdirAll(filepath.Join(folder, name), 0o755)
		}
		return os.Link(path, filepath.Join(folder, name))
	})
}
