package main

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const (
	sumsFile      = "SHA256SUMS"
	signatureFile = sumsFile + ".sig"
)

func sumOf(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// sums names every file, the binaries themselves and no archive of them: it is a binary's
// sum that Vault and OpenBao ask for.
func (r *release) sums() error {
	var lines []string
	err := filepath.WalkDir(r.dist, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(r.dist, path)
		lines = append(lines, fmt.Sprintf("%s  %s\n", sumOf(content), filepath.ToSlash(name)))
		return err
	})
	if err != nil {
		return err
	}
	byName := func(a, b string) int { return strings.Compare(a[64:], b[64:]) }
	slices.SortFunc(lines, byName)
	return os.WriteFile(filepath.Join(r.dist, sumsFile), []byte(strings.Join(lines, "")), 0o644)
}

// sign signs the sums, and by them everything. It is plain Ed25519, which openssl checks:
// whoever installs this has that already. Ed25519 signs the same thing the same way always.
func (r *release) sign() error {
	if r.key == "" {
		fmt.Println("release: not signed: KEY= names no key")
		return nil
	}
	text, err := os.ReadFile(r.key)
	if err != nil {
		return err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return fmt.Errorf("%s is not PEM: make a key with openssl genpkey -algorithm ed25519", r.key)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return fmt.Errorf("%s: %w", r.key, err)
	}
	key, is := parsed.(ed25519.PrivateKey)
	if !is {
		return fmt.Errorf("%s is not an Ed25519 key: make one with openssl genpkey -algorithm ed25519", r.key)
	}
	sums, err := os.ReadFile(filepath.Join(r.dist, sumsFile))
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(r.dist, signatureFile), ed25519.Sign(key, sums), 0o644)
}
