package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

// sboms has cyclonedx-gomod read from each binary what is in it.
func (r *release) sboms() error {
	for _, a := range r.artifacts {
		if err := r.sbom(filepath.Join(r.dist, a.file)); err != nil {
			return fmt.Errorf("%s: %w", a.file, err)
		}
	}
	return nil
}

func (r *release) sbom(binary string) error {
	tool := exec.Command("go", "tool", "cyclonedx-gomod", "bin",
		"-json", "-std", "-noserial", "-notimestamp", "-output-version", "1.6", "-version", r.version, binary)
	tool.Dir = filepath.Join(r.root, "bootstrap", "release")
	var said bytes.Buffer
	tool.Stderr = &said
	text, err := tool.Output()
	if err != nil {
		return fmt.Errorf("cyclonedx-gomod: %w\n%s", err, said.Bytes())
	}
	var bom cdx.BOM
	if err := cdx.NewBOMDecoder(bytes.NewReader(text), cdx.BOMFileFormatJSON).Decode(&bom); err != nil {
		return err
	}
	// It names its own sums, and is another program on each machine that builds it.
	if tools := bom.Metadata.Tools; tools != nil && tools.Tools != nil {
		for i := range *tools.Tools {
			(*tools.Tools)[i].Hashes = nil
		}
	}
	var written bytes.Buffer
	encoder := cdx.NewBOMEncoder(&written, cdx.BOMFileFormatJSON).SetPretty(true).SetEscapeHTML(false)
	if err := encoder.EncodeVersion(&bom, cdx.SpecVersion1_6); err != nil {
		return err
	}
	return os.WriteFile(binary+".cdx.json", written.Bytes(), 0o644)
}
