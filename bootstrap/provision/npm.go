package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

var errNoNode = errors.New("there is no Node.js here")

func lookForNode() error {
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("%w (%w)", errNoNode, err)
		}
	}
	return nil
}

// install makes dir a copy of the package with exactly the dependencies of its lock
// file, which npm checks by their hashes. Which registry serves them is the user's
// own npm configuration.
func (r recipe) install(module, dir string) error {
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
	return withProgress(r.name, cmd)
}
