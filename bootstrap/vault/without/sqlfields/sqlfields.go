// Package sqlfields stands for the connections of the database engine, which this
// Vault does not have.
package sqlfields

// SQLConnectionProducerFieldNames are the settings of such a connection.
func SQLConnectionProducerFieldNames() map[string]any { return nil }
