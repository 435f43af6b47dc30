package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/image-spec/schema"
	specification "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/content/oci"
)

// checkImages walks each layout as ORAS reads it, holds what it meets against the
// specification's schemas, and wants of each platform's image its binary alone.
func (d *dist) checkImages() (string, error) {
	folders, err := filepath.Glob(filepath.Join(d.path, "*.oci"))
	if err != nil {
		return "", err
	}
	seen := 0
	for _, folder := range folders {
		images, err := d.checkLayout(folder)
		if err != nil {
			return "", fmt.Errorf("%s: %w", filepath.Base(folder), err)
		}
		seen += images
	}
	if seen != len(d.binaries) {
		return "", fmt.Errorf("%d images of %d binaries", seen, len(d.binaries))
	}
	return fmt.Sprintf("%d in %d layouts", seen, len(folders)), nil
}

func (d *dist) checkLayout(folder string) (images int, err error) {
	ctx := context.Background()
	mark, err := os.Open(filepath.Join(folder, specification.ImageLayoutFile))
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, mark.Close()) }()
	if err := schema.ValidatorMediaTypeLayoutHeader.Validate(mark); err != nil {
		return 0, err
	}
	store, err := oci.NewFromFS(ctx, os.DirFS(folder))
	if err != nil {
		return 0, err
	}
	name := strings.TrimSuffix(filepath.Base(folder), ".oci")
	command, version, _ := strings.Cut(name, "_")
	top, err := store.Resolve(ctx, version)
	if err != nil {
		return 0, fmt.Errorf("the tag %s: %w", version, err)
	}
	var index specification.Index
	if err := fetch(ctx, store, top, schema.ValidatorMediaTypeImageIndex, &index); err != nil {
		return 0, err
	}
	for _, one := range index.Manifests {
		if one.Platform == nil {
			return 0, errors.New("an image is for no platform")
		}
		if err := d.checkImage(ctx, store, one, command); err != nil {
			return 0, fmt.Errorf("%s/%s: %w", one.Platform.OS, one.Platform.Architecture, err)
		}
	}
	return len(index.Manifests), nil
}

func (d *dist) checkImage(ctx context.Context, store content.Fetcher, described specification.Descriptor, command string) error {
	var manifest specification.Manifest
	if err := fetch(ctx, store, described, schema.ValidatorMediaTypeManifest, &manifest); err != nil {
		return err
	}
	var config specification.Image
	if err := fetch(ctx, store, manifest.Config, schema.ValidatorMediaTypeImageConfig, &config); err != nil {
		return err
	}
	if config.OS != described.Platform.OS || config.Architecture != described.Platform.Architecture {
		return fmt.Errorf("its configuration says %s/%s", config.OS, config.Architecture)
	}
	if len(manifest.Layers) != 1 {
		return fmt.Errorf("it has %d layers", len(manifest.Layers))
	}
	layer, err := content.FetchAll(ctx, store, manifest.Layers[0])
	if err != nil {
		return err
	}
	sum, err := onlyFile(layer, command)
	if err != nil {
		return err
	}
	for _, b := range d.binaries {
		if b.command == command && b.os == config.OS && b.arch == config.Architecture && b.sha256 == sum {
			return nil
		}
	}
	return errors.New("what is in it is not the binary")
}

// fetch reads what a descriptor points at, with its digest, by the specification's schema.
func fetch(ctx context.Context, store content.Fetcher, from specification.Descriptor, valid schema.Validator, into any) error {
	text, err := content.FetchAll(ctx, store, from)
	if err != nil {
		return err
	}
	if err := valid.Validate(bytes.NewReader(text)); err != nil {
		return fmt.Errorf("%s: %w", from.MediaType, err)
	}
	return json.Unmarshal(text, into)
}

// onlyFile is the sum of the one file of a layer, which is at the root and can be run.
func onlyFile(layer []byte, name string) (string, error) {
	unpacked, err := gzip.NewReader(bytes.NewReader(layer))
	if err != nil {
		return "", err
	}
	files := tar.NewReader(unpacked)
	header, err := files.Next()
	if err != nil {
		return "", err
	}
	if header.Name != name || header.Typeflag != tar.TypeReg || header.Mode != 0o755 {
		return "", fmt.Errorf("it has %s of mode %o", header.Name, header.Mode)
	}
	hash := sha256.New()
	if _, err := io.Copy(hash, files); err != nil {
		return "", err
	}
	if _, err := files.Next(); !errors.Is(err, io.EOF) {
		return "", errors.New("it has more than one file")
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}
