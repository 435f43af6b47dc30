// Package without holds what stands in this Vault for the parts that it leaves out:
// the clouds' libraries, which are most of what its build would compile. Each folder
// has just the names that Vault's sources use, and answers with Error. Which import
// it stands for is said in bootstrap/provision/vault.go.
package without

import "fmt"

// Error says that this Vault cannot do something. The whole one can.
func Error(what string) error {
	return fmt.Errorf("%s is left out of this Vault, which is built for tests; VAULT=/path/to/vault takes an installed one", what)
}
