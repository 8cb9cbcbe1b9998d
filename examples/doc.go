// Package examples shows pgpooled below sqlx and GORM: transactions whose COMMIT
// lost its answer, which the code above does not notice, and RunTx. They are the
// package's tests, run against a throwaway PostgreSQL behind a network that
// breaks when it is told to.
package examples
