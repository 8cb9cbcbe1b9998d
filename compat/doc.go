// Package compat runs the same application code on the driver "postgres", which
// is lib/pq's, and on "pgpooled", and compares what it saw: values, column
// types, errors with their SQLSTATE. docs/compat.md has the list of libraries.
package compat
