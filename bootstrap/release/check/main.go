// Command check reads a release as others will: each kind of file by a reader that has
// no part in making it.
//
//	go run ./check [-key release.pub] ../../dist
package main

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	provenance "github.com/in-toto/attestation/go/predicates/provenance/v1"
	statement "github.com/in-toto/attestation/go/v1"
	"github.com/santhosh-tekuri/jsonschema/v5"
	"google.golang.org/protobuf/encoding/protojson"
)

// dist is a release's folder.
type dist struct {
	path     string
	key      string            // file of the key, or "" to look at no signature
	sums     map[string]string // of the files, as SHA256SUMS has them
	binaries []binary
}

type binary struct {
	file, command, version, os, arch, sha256 string
	info                                     *buildinfo.BuildInfo
}

func main() {
	key := flag.String("key", "", "key (PEM), its public half suffices, that openssl is to check SHA256SUMS.sig with")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "check: say which folder")
		os.Exit(2)
	}
	d := &dist{path: flag.Arg(0), key: *key}
	if err := d.check(); err != nil {
		fmt.Fprintln(os.Stderr, "check:", err)
		os.Exit(1)
	}
}

func (d *dist) check() error {
	for _, step := range []struct {
		what string
		do   func() (found string, err error)
	}{
		{"SHA256SUMS", d.checkSums},
		{"signature", d.checkSignature},
		{"binaries", d.checkBinaries},
		{"SBOMs", d.checkSBOMs},
		{"provenance", d.checkProvenance},
		{"images", d.checkImages},
		{"images from a registry", d.checkPull},
		{"register", d.checkRegister},
	} {
		found, err := step.do()
		if err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
		fmt.Printf("check: %s: %s\n", step.what, found)
	}
	return nil
}

// checkSums wants every file in the list, with its sum.
func (d *dist) checkSums() (string, error) {
	list, err := os.ReadFile(filepath.Join(d.path, "SHA256SUMS"))
	if err != nil {
		return "", err
	}
	d.sums = map[string]string{}
	for line := range strings.Lines(string(list)) {
		sum, name, found := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
		if !found || len(sum) != hex.EncodedLen(sha256.Size) {
			return "", fmt.Errorf("a line is not as sha256sum writes it: %q", line)
		}
		d.sums[name] = sum
	}
	left := len(d.sums)
	err = filepath.WalkDir(d.path, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		name, err := filepath.Rel(d.path, path)
		if name = filepath.ToSlash(name); err != nil || name == "SHA256SUMS" || name == "SHA256SUMS.sig" {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if sum := sha256.Sum256(content); d.sums[name] != hex.EncodeToString(sum[:]) {
			return fmt.Errorf("%s is not what the list says, or not in it", name)
		}
		left--
		return nil
	})
	if err == nil && left != 0 {
		err = fmt.Errorf("%d files of the list are not there", left)
	}
	return fmt.Sprintf("%d files", len(d.sums)), err
}

func (d *dist) checkSignature() (string, error) {
	if d.key == "" {
		return "not looked at, no key is given", nil
	}
	sums := filepath.Join(d.path, "SHA256SUMS")
	args := []string{"pkeyutl", "-verify", "-inkey", d.key, "-rawin", "-in", sums, "-sigfile", sums + ".sig"}
	key, err := os.ReadFile(d.key)
	if err != nil {
		return "", err
	}
	if !bytes.Contains(key, []byte("PRIVATE KEY")) {
		args = append(args, "-pubin")
	}
	said, err := exec.Command("openssl", args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w\n%s", err, said)
	}
	return strings.TrimSpace(string(said)), nil
}

// checkBinaries wants of each what its name says, and nothing of where it was made.
func (d *dist) checkBinaries() (string, error) {
	for name, sum := range d.sums {
		parts := strings.Split(strings.TrimSuffix(name, ".exe"), "_")
		if strings.Contains(name, "/") || len(parts) != 4 || strings.HasSuffix(name, ".json") {
			continue
		}
		b := binary{file: name, command: parts[0], version: parts[1], os: parts[2], arch: parts[3], sha256: sum}
		info, err := buildinfo.ReadFile(filepath.Join(d.path, name))
		if err != nil {
			return "", err
		}
		b.info = info
		settings := map[string]string{}
		for _, s := range info.Settings {
			settings[s.Key] = s.Value
		}
		if settings["GOOS"] != b.os || settings["GOARCH"] != b.arch || settings["CGO_ENABLED"] != "0" || settings["-trimpath"] != "true" {
			return "", fmt.Errorf("%s was built with %v", name, settings)
		}
		if !strings.HasSuffix(info.Path, "/cmd/"+b.command) {
			return "", fmt.Errorf("%s is %s", name, info.Path)
		}
		if err := d.saysItsVersion(b); err != nil {
			return "", err
		}
		d.binaries = append(d.binaries, b)
	}
	if len(d.binaries) == 0 {
		return "", errors.New("there is none")
	}
	slices.SortFunc(d.binaries, func(a, b binary) int { return strings.Compare(a.file, b.file) })
	return fmt.Sprintf("%d, by %s", len(d.binaries), d.binaries[0].info.GoVersion), nil
}

// saysItsVersion runs those that run here.
func (d *dist) saysItsVersion(b binary) error {
	if b.os != runtime.GOOS || b.arch != runtime.GOARCH {
		return nil
	}
	path, err := filepath.Abs(filepath.Join(d.path, b.file))
	if err != nil {
		return err
	}
	said, err := exec.Command(path, "--version").Output()
	if err != nil {
		return fmt.Errorf("%s --version: %w", b.file, err)
	}
	if !slices.Contains(strings.Fields(string(said)), b.version) {
		return fmt.Errorf("%s --version says %q", b.file, said)
	}
	return nil
}

// checkSBOMs holds each against CycloneDX's schema, and against what Go says of the binary.
func (d *dist) checkSBOMs() (string, error) {
	schema, err := cycloneDX()
	if err != nil {
		return "", err
	}
	components := 0
	for _, b := range d.binaries {
		content, err := os.ReadFile(filepath.Join(d.path, b.file+".cdx.json"))
		if err != nil {
			return "", err
		}
		var document any
		if err := json.Unmarshal(content, &document); err != nil {
			return "", err
		}
		if err := schema.Validate(document); err != nil {
			return "", fmt.Errorf("%s.cdx.json: %#v", b.file, err)
		}
		var bom struct {
			Components []component `json:"components"`
		}
		if err := json.Unmarshal(content, &bom); err != nil {
			return "", err
		}
		for _, module := range b.info.Deps {
			if module.Replace != nil {
				module = module.Replace
			}
			if !slices.Contains(bom.Components, component{module.Path, module.Version}) {
				return "", fmt.Errorf("%s.cdx.json does not name %s %s", b.file, module.Path, module.Version)
			}
			components++
		}
	}
	return fmt.Sprintf("%d, valid CycloneDX 1.6, with all %d modules", len(d.binaries), components), nil
}

type component struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

// cycloneDX is the schema that comes with the module of the tool.
func cycloneDX() (*jsonschema.Schema, error) {
	where, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/CycloneDX/cyclonedx-gomod").Output()
	if err != nil {
		return nil, err
	}
	folder := filepath.Join(strings.TrimSpace(string(where)), "internal", "testutil", "schema")
	compiler := jsonschema.NewCompiler()
	for id, name := range map[string]string{
		"http://cyclonedx.org/schema/bom-1.6.schema.json":  "bom-1.6.schema.json",
		"http://cyclonedx.org/schema/jsf-0.82.schema.json": "jsf-0.82.schemax.json",
		"http://cyclonedx.org/schema/spdx.schema.json":     "spdx.schema.json",
	} {
		content, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil {
			return nil, err
		}
		if err := compiler.AddResource(id, bytes.NewReader(content)); err != nil {
			return nil, err
		}
	}
	return compiler.Compile("http://cyclonedx.org/schema/bom-1.6.schema.json")
}

// checkProvenance reads it by in-toto's own types.
func (d *dist) checkProvenance() (string, error) {
	content, err := os.ReadFile(filepath.Join(d.path, "provenance.intoto.json"))
	if err != nil {
		return "", err
	}
	var said statement.Statement
	if err := protojson.Unmarshal(content, &said); err != nil {
		return "", err
	}
	if err := said.Validate(); err != nil {
		return "", err
	}
	predicate, err := protojson.Marshal(said.GetPredicate())
	if err != nil {
		return "", err
	}
	var slsa provenance.Provenance
	if err := protojson.Unmarshal(predicate, &slsa); err != nil {
		return "", err
	}
	if err := slsa.Validate(); err != nil {
		return "", err
	}
	subjects := map[string]string{}
	for _, s := range said.GetSubject() {
		subjects[s.GetName()] = s.GetDigest()["sha256"]
	}
	for _, b := range d.binaries {
		if subjects[b.file] != b.sha256 {
			return "", fmt.Errorf("it does not speak of %s", b.file)
		}
	}
	return fmt.Sprintf("a valid %s of %d subjects", said.GetPredicateType(), len(subjects)), nil
}

// checkRegister wants each binary of the plugin to be registered by its own sum.
func (d *dist) checkRegister() (string, error) {
	found := 0
	for _, b := range d.binaries {
		if b.command != "vault-plugin-secrets-broker" {
			continue
		}
		for _, name := range []string{"vault_" + b.os + "_" + b.arch + ".sh", "openbao_" + b.os + "_" + b.arch + ".hcl"} {
			content, err := os.ReadFile(filepath.Join(d.path, "register", name))
			if err != nil {
				return "", err
			}
			if !bytes.Contains(content, []byte(b.sha256)) || !bytes.Contains(content, []byte(b.version)) {
				return "", fmt.Errorf("%s is not about %s", name, b.file)
			}
			found++
		}
	}
	return fmt.Sprintf("%d files", found), nil
}
