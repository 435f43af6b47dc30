package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// What oidc-provider runs on, as its package.json says.
const nodeMajor, nodeMinor = 20, 20

var errNoNode = fmt.Errorf("there is no Node.js %d.%d or later with npm here; Debian and Ubuntu have it in the packages nodejs and npm:"+
	" apt-get install nodejs npm", nodeMajor, nodeMinor)

func lookForNode() error {
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("%w (%w)", errNoNode, err)
		}
	}
	printed, err := exec.Command("node", "--version").Output()
	if err != nil {
		return fmt.Errorf("%w (node --version: %w)", errNoNode, err)
	}
	if version := strings.TrimSpace(string(printed)); !newEnough(version) {
		return fmt.Errorf("%w (this is %s)", errNoNode, version)
	}
	return nil
}

// newEnough judges what node --version prints, such as v20.20.2.
func newEnough(version string) bool {
	parts := strings.Split(strings.TrimPrefix(version, "v"), ".")
	if len(parts) < 2 {
		return false
	}
	major, err := strconv.Atoi(parts[0])
	minor, err2 := strconv.Atoi(parts[1])
	return errors.Join(err, err2) == nil && (major > nodeMajor || major == nodeMajor && minor >= nodeMinor)
}

// install makes dir a copy of the package with exactly the dependencies of its lock
// file, which npm checks by their hashes. Which registry serves them is the user's
// own npm configuration.
func (r recipe) install(module, dir string, report *progress) error {
	files, err := r.files(module)
	if err != nil {
		return err
	}
	for _, name := range files {
		if err := copyFile(filepath.Join(module, name), filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	if err := os.Chmod(filepath.Join(dir, r.script), 0o755); err != nil {
		return err
	}
	cmd := exec.Command("npm", "ci", "--loglevel=http")
	cmd.Dir = dir
	return execute(cmd, report)
}
