// Package containers stands for plugins that run in a container instead of a process.
package containers

import (
	"os/exec"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin/runner"
	"github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/vault/without"
)

// Config says what to run.
type Config struct {
	Image, Tag, SHA256, Runtime, CgroupParent string
	Entrypoint, Args, Env                     []string
	Labels                                    map[string]string
	GroupAdd                                  int
	NanoCpus, Memory                          int64
	CapIPCLock, Rootless                      bool
}

// NewContainerRunner fails.
func (*Config) NewContainerRunner(hclog.Logger, *exec.Cmd, string) (runner.Runner, error) {
	return nil, without.Error("a plugin in a container")
}
