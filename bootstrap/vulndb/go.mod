module github.com/tokenbroker/vault-plugin-secrets-broker/bootstrap/vulndb

go 1.26.0

// The Go vulnerability database as of a day: data/osv is read by govulncheck. Nothing
// imports it, so go mod tidy would take it out. make vulns-latest says what is newer.
require golang.org/x/vulndb v0.0.0-20261105234957-e22db6528018
