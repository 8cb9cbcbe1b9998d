// Package examples shows pgpooled at work: below sqlx and GORM with transactions
// whose COMMIT lost its answer, which the code above does not notice; RunTx; a
// warm start; passwords that change. They are the package's tests, run against a
// throwaway PostgreSQL behind a network that breaks when it is told to. The
// folder service has a whole program.
package examples
