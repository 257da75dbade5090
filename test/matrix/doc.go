// Matrix runs the double failures of docs/quorum.md, cell by cell, on hosts made of namespaces with real PostgreSQL, and writes what it
// saw to docs/double-failure-matrix.md.
package main
