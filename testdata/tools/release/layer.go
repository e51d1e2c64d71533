package main

import (
	"bytes"
	"compress/gzip"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// gzipped is a compressed layer that knows what it is when it is not: a static layer takes its bytes for both.
type gzipped struct {
	v1.Layer
	packed []byte
}

// Uncompressed implements v1.Layer.
func (l gzipped) Uncompressed() (io.ReadCloser, error) {
	return gzip.NewReader(bytes.NewReader(l.packed))
}

// DiffID implements v1.Layer.
func (l gzipped) DiffID() (v1.Hash, error) {
	plain, err := l.Uncompressed()
	if err != nil {
		return v1.Hash{}, err
	}
	defer func() { _ = plain.Close() }()
	hash, _, err := v1.SHA256(plain)
	return hash, err
}
