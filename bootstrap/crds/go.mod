// The definitions that operators of Kubernetes bring, for the recipes: nothing here is compiled.
module github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/crds

go 1.26.0

require (
	github.com/external-secrets/external-secrets v1.3.2
	github.com/hashicorp/vault-secrets-operator v0.10.0
)
