package main

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// image is a command's OCI layout: an index of one image per platform, each with one file
// on nothing else (scratch).
type image struct {
	folder string // in dist
	digest string // of the index of platforms, hexadecimal
}

func (r *release) layOut() error {
	for _, command := range r.commands {
		made, err := r.layOutOne(command)
		if err != nil {
			return fmt.Errorf("%s: %w", command, err)
		}
		r.images = append(r.images, made)
	}
	return nil
}

func (r *release) layOutOne(command string) (image, error) {
	platforms := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, a := range r.artifacts {
		if a.command != command {
			continue
		}
		one, err := r.imageOf(a)
		if err != nil {
			return image{}, err
		}
		platforms = mutate.AppendManifests(platforms, mutate.IndexAddendum{
			Add:        one,
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: a.platform.os, Architecture: a.platform.arch}},
		})
	}
	digest, err := platforms.Digest()
	if err != nil {
		return image{}, err
	}
	made := image{folder: fmt.Sprintf("%s_%s.oci", command, r.version), digest: digest.Hex}
	// The name by which tools find it in the layout, and the tag that OpenBao asks for.
	named := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex), mutate.IndexAddendum{
		Add:        platforms,
		Descriptor: v1.Descriptor{Annotations: map[string]string{"org.opencontainers.image.ref.name": r.version}},
	})
	folder := filepath.Join(r.dist, made.folder)
	if _, err := layout.Write(folder, named); err != nil {
		return image{}, err
	}
	return made, readable(folder)
}

// readable lets everybody read it, as a web server may have to.
func readable(folder string) error {
	return filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		return os.Chmod(path, 0o644)
	})
}

func (r *release) imageOf(a artifact) (v1.Image, error) {
	content, err := os.ReadFile(filepath.Join(r.dist, a.file))
	if err != nil {
		return nil, err
	}
	// By one name on all platforms: OpenBao's binary_name is that of a file at the root.
	packed, err := pack(a.command, content, r.time)
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(packed)), nil
	}, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	with, err := mutate.Append(base, mutate.Addendum{
		Layer:   layer,
		History: v1.History{Created: v1.Time{Time: r.time}, CreatedBy: "make release VERSION=" + r.version},
	})
	if err != nil {
		return nil, err
	}
	config, err := with.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.Created = v1.Time{Time: r.time}
	config.OS, config.Architecture = a.platform.os, a.platform.arch
	config.Config = v1.Config{
		Entrypoint: []string{"/" + a.command},
		User:       "65532:65532",
		Labels: map[string]string{
			"org.opencontainers.image.title":    a.command,
			"org.opencontainers.image.version":  r.version,
			"org.opencontainers.image.revision": r.commit,
			"org.opencontainers.image.source":   repositoryURL,
		},
	}
	return mutate.ConfigFile(with, config)
}

// pack is a tar of one program.
func pack(name string, content []byte, at time.Time) ([]byte, error) {
	var packed bytes.Buffer
	writer := tar.NewWriter(&packed)
	header := &tar.Header{Name: name, Mode: 0o755, Size: int64(len(content)), ModTime: at, Typeflag: tar.TypeReg}
	if err := writer.WriteHeader(header); err != nil {
		return nil, err
	}
	if _, err := writer.Write(content); err != nil {
		return nil, err
	}
	err := writer.Close()
	return packed.Bytes(), err
}
