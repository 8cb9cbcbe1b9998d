// Package pgpooled is a database/sql driver for PostgreSQL with its own connection pool.
package pgpooled
