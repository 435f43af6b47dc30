module github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/conformance

go 1.26.0
