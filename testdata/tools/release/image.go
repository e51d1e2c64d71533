package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// user is nobody's uid: the image has no other.
const user = "65532:65532"

const sbomType = types.MediaType("application/vnd.cyclonedx+json")

// image builds the image of all platforms and their SBOMs, writes them as an OCI layout, and pushes them.
func (o *options) image(ctx context.Context) error {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	var boms []v1.Image
	for _, p := range o.platforms {
		path, err := o.binary(ctx, p)
		if err != nil {
			return err
		}
		image, err := o.platformImage(path, p)
		if err != nil {
			return fmt.Errorf("make image for %s: %w", p, err)
		}
		attached, err := attachedSBOM(image, path, o.version)
		if err != nil {
			return fmt.Errorf("make SBOM for %s: %w", p, err)
		}
		boms = append(boms, attached)
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: p.os, Architecture: p.arch}}}).(v1.ImageIndex)
	}
	index = mutate.Annotations(index, o.annotations()).(v1.ImageIndex)
	digest, err := index.Digest()
	if err != nil {
		return err
	}
	if err := o.writeLayout(index, boms); err != nil {
		return fmt.Errorf("write image: %w", err)
	}
	fmt.Printf("image %s %s in %s\n", o.version, digest, filepath.Join(o.out, "image"))
	if o.push == "" {
		return nil
	}
	repository, err := o.pushImage(ctx, index, boms)
	if err != nil {
		return fmt.Errorf("push image: %w", err)
	}
	fmt.Printf("pushed; install it with --set image.repository=%s --set image.digest=%s\n", repository, digest)
	return nil
}

func (o *options) annotations() map[string]string {
	return map[string]string{
		"org.opencontainers.image.title":    "guardian",
		"org.opencontainers.image.version":  o.version,
		"org.opencontainers.image.source":   "https://github.com/canary-guardian/guardian",
		"org.opencontainers.image.licenses": "Apache-2.0",
	}
}

// platformImage has the program and a name for its user, and nothing else: no shell, no libraries.
func (o *options) platformImage(path string, p platform) (v1.Image, error) {
	program, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	packed, err := tarGz([]entry{
		{"etc/", 0o755, nil},
		{"etc/passwd", 0o644, []byte("guardian:x:65532:65532::/nonexistent:/sbin/nologin\n")},
		{"guardian", 0o755, program},
	})
	if err != nil {
		return nil, err
	}
	layer := static.NewLayer(packed, types.OCILayer)
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	image, err = mutate.Append(image, mutate.Addendum{Layer: gzipped{layer, packed}, MediaType: types.OCILayer,
		History: v1.History{Created: v1.Time{Time: epoch}, CreatedBy: "make image", Comment: "guardian " + o.version}})
	if err != nil {
		return nil, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Created = p.os, p.arch, v1.Time{Time: epoch}
	config.Config = v1.Config{
		User: user, Entrypoint: []string{"/guardian"}, Cmd: []string{"serve"}, WorkingDir: "/", Labels: o.annotations(),
		ExposedPorts: map[string]struct{}{"8080/tcp": {}, "8081/tcp": {}},
	}
	return mutate.ConfigFile(image, config)
}

// attachedSBOM is an SBOM that registries list as referring to the image.
func attachedSBOM(image v1.Image, path, version string) (v1.Image, error) {
	text, err := sbom(path, version)
	if err != nil {
		return nil, err
	}
	subject, err := partial.Descriptor(image)
	if err != nil {
		return nil, err
	}
	bom := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), sbomType)
	bom, err = mutate.Append(bom, mutate.Addendum{Layer: static.NewLayer(text, sbomType), MediaType: sbomType})
	if err != nil {
		return nil, err
	}
	return mutate.Subject(bom, *subject).(v1.Image), nil
}

func (o *options) writeLayout(index v1.ImageIndex, boms []v1.Image) error {
	folder := filepath.Join(o.out, "image")
	if err := os.RemoveAll(folder); err != nil {
		return err
	}
	path, err := layout.Write(folder, empty.Index)
	if err != nil {
		return err
	}
	if err := path.AppendIndex(index, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": o.version})); err != nil {
		return err
	}
	for _, bom := range boms {
		if err := path.AppendImage(bom); err != nil {
			return err
		}
	}
	return nil
}

func (o *options) nameOptions() []name.Option {
	if o.insecure {
		return []name.Option{name.Insecure}
	}
	return nil
}

func remoteOptions(ctx context.Context) []remote.Option {
	return []remote.Option{remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)}
}

// pushImage pushes the image by its version, and the SBOMs by their digests.
func (o *options) pushImage(ctx context.Context, index v1.ImageIndex, boms []v1.Image) (string, error) {
	tag, err := name.NewTag(o.push+"/guardian:"+o.version, o.nameOptions()...)
	if err != nil {
		return "", err
	}
	if err := remote.WriteIndex(tag, index, remoteOptions(ctx)...); err != nil {
		return "", err
	}
	for _, bom := range boms {
		digest, err := bom.Digest()
		if err != nil {
			return "", err
		}
		if err := remote.Write(tag.Digest(digest.String()), bom, remoteOptions(ctx)...); err != nil {
			return "", err
		}
	}
	return tag.Repository.Name(), nil
}
