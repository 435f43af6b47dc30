package main

// Vault is built for tests, and quickly: its core, command line, raft, file and
// in-memory storage, and the engines and logins of the minimal build are whole. What
// needs the libraries of clouds and of vendors has something in its place that says
// so (bootstrap/vault/without): two thirds of what a build would compile.

const without = "github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/vault/without/"

// A vaultRelease is what distinguishes one Vault from another: the modules that are not
// built as they were published, and what of Vault itself has to be changed. The tests take
// the newest; the others are for `make compatibility` alone: the last of each minor
// release that can be had as a module. Each has a go.mod of its own (recipe.requires).
type vaultRelease struct {
	vault, sdk, authJWT, discover published
	patches, sdkPatches           []patch
	sdkSQL                        bool // the SDK imports what it knows of databases
}

// published is a module as there is one: path@version, and its sum as in go.sum.
type published struct{ module, sum string }

var (
	vaultNewest = vaultRelease{
		vault:    published{"github.com/hashicorp/vault@v1.21.4", "h1:KHGcdSnJtombvae1gDk+jZ50kiFngJPFDOvcCJRnU0c="},
		sdk:      published{"github.com/hashicorp/vault/sdk@v0.21.0", "h1:3gDqdKLhHY2ekmCEE9EeesoNpgsReq2bo/SpMqvBYdw="},
		authJWT:  published{"github.com/hashicorp/vault-plugin-auth-jwt@v0.25.0", "h1:YdrZ+fGutoaaF/Hiw3+xtmcRalmqGH8sXRKIrkr5dsk="},
		discover: published{"github.com/hashicorp/go-discover@v1.1.1-0.20250922102917-55e5010ad859", "h1:CYvtQfS6WBZdva446zuZEpHxDfI3GTenOM4SCmGWUR8="},
		sdkSQL:   true,
		// Its own go.mod replaces the SDK by the unpublished one that lies next to it.
		// Against the published v0.21.0 three calls do not fit.
		patches: []patch{
			{
				File: "vault/identity_store.go",
				Old:  "ActivationFunc: iStore.activateDeduplication,",
				New: `ActivationFunc: func(ctx context.Context, req *logical.Request, _ string) error {
			return iStore.activateDeduplication(ctx, req)
		},`,
			},
			{
				File: "vault/logical_system_activation_flags.go",
				Old:  "ActivationFunc(ctx, nil)",
				New:  `ActivationFunc(ctx, nil, "")`,
			},
			{
				// The name only goes into an event, so the requested one will do.
				File: "builtin/logical/transit/path_restore.go",
				Old:  "restoredKeyName, err := b.lm.RestorePolicy(",
				New:  "restoredKeyName := keyName\n\terr := b.lm.RestorePolicy(",
			},
			fileStorage,
		},
	}
	vault120 = vaultRelease{
		vault:    published{"github.com/hashicorp/vault@v1.20.4", "h1:kgr05ZotZVub1dvukCcQUbGGyGnNKWdQV+ZaHTTiYMI="},
		sdk:      published{"github.com/hashicorp/vault/sdk@v0.19.0", "h1:cpjxJ5qnEEX7xtVXaFpXpqfiFTs2hzyQiHS7oJRrvMM="},
		authJWT:  published{"github.com/hashicorp/vault-plugin-auth-jwt@v0.24.1", "h1:SsSHcbmoMFz3cZDr+HyVZ1oppPFOjfjSHt+U10gT1p0="},
		discover: vaultNewest.discover,
		sdkSQL:   true,
		// The unpublished SDK beside it lies between v0.18.0, which lacks more, and v0.19.0,
		// which wants a method that this Vault does not have, and lacks one that it calls.
		patches: []patch{
			{
				File: "vault/dynamic_system_view.go",
				Old:  "func (d dynamicSystemView) RegisterRotationJob(",
				New: `func (d dynamicSystemView) GetRotationInformation(context.Context, *rotation.RotationInfoRequest) (*rotation.RotationInfoResponse, error) {
	return nil, logical.ErrUnsupportedOperation
}

func (d dynamicSystemView) RegisterRotationJob(`,
			},
			{
				File: "builtin/logical/transit/backend.go",
				Old:  "p.Type.IsPQC() &&",
				New:  "(p.Type == keysutil.KeyType_ML_DSA || p.Type == keysutil.KeyType_HYBRID || p.Type == keysutil.KeyType_SLH_DSA) &&",
			},
			{
				File: "builtin/logical/transit/path_keys.go",
				Old:  "polReq.KeyType.IsPQC() &&",
				New:  "(polReq.KeyType == keysutil.KeyType_ML_DSA || polReq.KeyType == keysutil.KeyType_HYBRID || polReq.KeyType == keysutil.KeyType_SLH_DSA) &&",
			},
			fileStorage,
		},
	}
	vault119 = vaultRelease{
		vault:    published{"github.com/hashicorp/vault@v1.19.5", "h1:19wLqRe9MagoARp1nqayb0erZ4TAgGG6URMA+WoB8J0="},
		sdk:      published{"github.com/hashicorp/vault/sdk@v0.15.2", "h1:Rp5Yp4lyBhlWgq24ZVb2n/YN47RKOAvmx/jlMfS9ku4="},
		authJWT:  published{"github.com/hashicorp/vault-plugin-auth-jwt@v0.23.2", "h1:5QDHC0u5HsqjE2YJPVUQJIede9UTbPTfV8PPuEY4K7o="},
		discover: published{"github.com/hashicorp/go-discover@v0.0.0-20210818145131-c573d69da192", "h1:eje2KOX8Sf7aYPiAsLnpWdAIrGRMcpFjN/Go/Exb7Zo="},
		patches:  []patch{fileStorage},
		// The unpublished SDK beside it knows who stands behind a plugin; no published one
		// has that without all of v0.17.0, whose protocol is a newer one.
		sdkPatches: []patch{
			{
				File: "helper/consts/plugin_types.go",
				Old:  "type PluginType uint32\n",
				New: `type PluginType uint32

// PluginTier is who stands behind a plugin.
type PluginTier string

// PluginTierOfficial is HashiCorp.
const PluginTierOfficial PluginTier = "official"

// String returns it.
func (p PluginTier) String() string { return string(p) }
`,
			},
			{
				File: "helper/pluginutil/runner.go",
				Old:  "\tTmpdir         string                      `json:\"-\" structs:\"-\"`\n}",
				New:  "\tTmpdir         string                      `json:\"-\" structs:\"-\"`\n\tTier           consts.PluginTier           `json:\"tier\" structs:\"tier\"`\n}",
			},
			{
				File: "helper/pluginutil/runner.go",
				Old:  "// SetPluginInput is only used",
				New: `// ConfigPluginTier is what the tier is called in a backend's configuration.
const ConfigPluginTier = "plugin_tier"

// SetPluginInput is only used`,
			},
		},
	}
)

// fileStorage is what the minimal build leaves out.
var fileStorage = patch{
	File: "command/commands_min.go",
	Old: `import (
	_ "github.com/hashicorp/vault/helper/builtinplugins"
)

func extendAddonHandlers(*vaultHandlers) {
	// No-op
}`,
	New: `import (
	_ "github.com/hashicorp/vault/helper/builtinplugins"
	physFile "github.com/hashicorp/vault/sdk/physical/file"
)

func extendAddonHandlers(handlers *vaultHandlers) {
	handlers.physicalBackends["file"] = physFile.NewFileBackend
}`,
}

func (v vaultRelease) sources() []patchedModule {
	sdkInstead := map[string]string{"github.com/hashicorp/go-secure-stdlib/plugincontainer": without + "containers"}
	if v.sdkSQL {
		sdkInstead["github.com/hashicorp/vault/sdk/database/helper/connutil"] = without + "sqlfields"
	}
	return []patchedModule{
		{
			Module: v.vault.module,
			Sum:    v.vault.sum,
			Dir:    "src",
			Skip:   []string{"changelog", "enos", "ui", "website"},
			Instead: map[string]string{
				"github.com/hashicorp/go-discover/provider/k8s": without + "discovery",

				"github.com/hashicorp/go-kms-wrapping/wrappers/alicloudkms/v2":   without + "seals",
				"github.com/hashicorp/go-kms-wrapping/wrappers/awskms/v2":        without + "seals",
				"github.com/hashicorp/go-kms-wrapping/wrappers/azurekeyvault/v2": without + "seals",
				"github.com/hashicorp/go-kms-wrapping/wrappers/gcpckms/v2":       without + "seals",
				"github.com/hashicorp/go-kms-wrapping/wrappers/ocikms/v2":        without + "seals",

				"github.com/hashicorp/vault/command/agentproxyshared/auth/alicloud": without + "agentauth",
				"github.com/hashicorp/vault/command/agentproxyshared/auth/aws":      without + "agentauth",
				"github.com/hashicorp/vault/command/agentproxyshared/auth/azure":    without + "agentauth",
				"github.com/hashicorp/vault/command/agentproxyshared/auth/cf":       without + "agentauth",
				"github.com/hashicorp/vault/command/agentproxyshared/auth/gcp":      without + "agentauth",
				"github.com/hashicorp/vault/command/agentproxyshared/auth/kerberos": without + "agentauth",
				"github.com/hashicorp/vault/command/agentproxyshared/auth/oci":      without + "agentauth",

				"cloud.google.com/go/monitoring/apiv3":           without + "stackdriver",
				"github.com/google/go-metrics-stackdriver":       without + "stackdriver",
				"github.com/google/go-metrics-stackdriver/vault": without + "stackdriver",
				"google.golang.org/api/option":                   without + "stackdriver",

				"github.com/hashicorp/hcp-sdk-go/resource":          without + "hcp",
				"github.com/hashicorp/vault-hcp-lib":                without + "hcp",
				"github.com/hashicorp/vault/vault/hcp_link":         without + "hcplink",
				"github.com/okta/okta-sdk-golang/v5/okta":           without + "okta",
				"github.com/hashicorp/vault/plugins/database/mysql": without + "mysql",
			},
			Patches: v.patches,
		},
		{
			Module:  v.sdk.module,
			Sum:     v.sdk.sum,
			Dir:     "sdk",
			Instead: sdkInstead,
			Patches: v.sdkPatches,
		},
		{
			Module: v.authJWT.module,
			Sum:    v.authJWT.sum,
			Dir:    "auth-jwt",
			Skip:   []string{"provider_gsuite.go"},
			Patches: []patch{{
				File: "provider_config.go",
				Old:  `		"gsuite":     &GSuiteProvider{},` + "\n",
			}},
		},
		{
			Module: v.discover.module,
			Sum:    v.discover.sum,
			Dir:    "go-discover",
			Instead: map[string]string{
				"github.com/hashicorp/go-discover/provider/aliyun":       without + "discovery",
				"github.com/hashicorp/go-discover/provider/aws":          without + "discovery",
				"github.com/hashicorp/go-discover/provider/azure":        without + "discovery",
				"github.com/hashicorp/go-discover/provider/digitalocean": without + "discovery",
				"github.com/hashicorp/go-discover/provider/gce":          without + "discovery",
				"github.com/hashicorp/go-discover/provider/linode":       without + "discovery",
				"github.com/hashicorp/go-discover/provider/os":           without + "discovery",
				"github.com/hashicorp/go-discover/provider/packet":       without + "discovery",
				"github.com/hashicorp/go-discover/provider/scaleway":     without + "discovery",
				"github.com/hashicorp/go-discover/provider/softlayer":    without + "discovery",
				"github.com/hashicorp/go-discover/provider/tencentcloud": without + "discovery",
				"github.com/hashicorp/go-discover/provider/triton":       without + "discovery",
				"github.com/hashicorp/go-discover/provider/vsphere":      without + "discovery",
			},
		},
	}
}
