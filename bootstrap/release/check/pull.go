package main

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	pull "github.com/google/go-containerregistry/pkg/v1/remote"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/oci"
	push "oras.land/oras-go/v2/registry/remote"
)

// checkPull publishes the layouts in a registry on this machine, and takes each binary out
// of there as OpenBao does: the image for the platform, the file of a name at its root, its
// sum.
func (d *dist) checkPull() (string, error) {
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	published := map[string]bool{}
	for _, b := range d.binaries {
		if !published[b.command] {
			if err := d.publish(host, b); err != nil {
				return "", fmt.Errorf("publishing %s: %w", b.command, err)
			}
			published[b.command] = true
		}
		if err := pulled(host, b); err != nil {
			return "", fmt.Errorf("%s: %w", b.file, err)
		}
	}
	return fmt.Sprintf("%d, each as its platform pulls it", len(d.binaries)), nil
}

func (d *dist) publish(host string, b binary) error {
	ctx := context.Background()
	layout, err := oci.NewFromFS(ctx, os.DirFS(filepath.Join(d.path, b.command+"_"+b.version+".oci")))
	if err != nil {
		return err
	}
	repository, err := push.NewRepository(host + "/" + b.command)
	if err != nil {
		return err
	}
	repository.PlainHTTP = true
	_, err = oras.Copy(ctx, layout, b.version, repository, b.version, oras.DefaultCopyOptions)
	return err
}

func pulled(host string, b binary) (err error) {
	reference, err := name.ParseReference(host+"/"+b.command+":"+b.version, name.Insecure)
	if err != nil {
		return err
	}
	image, err := pull.Image(reference, pull.WithPlatform(v1.Platform{OS: b.os, Architecture: b.arch}))
	if err != nil {
		return err
	}
	root := mutate.Extract(image)
	defer func() { err = errors.Join(err, root.Close()) }()
	files := tar.NewReader(root)
	for {
		header, err := files.Next()
		if err != nil {
			return fmt.Errorf("%s is not at its root: %w", b.command, err)
		}
		if header.Name != b.command || header.Typeflag != tar.TypeReg {
			continue
		}
		hash := sha256.New()
		if _, err := io.Copy(hash, files); err != nil {
			return err
		}
		if sum := hex.EncodeToString(hash.Sum(nil)); sum != b.sha256 {
			return fmt.Errorf("what was pulled has the sum %s", sum)
		}
		return nil
	}
}
