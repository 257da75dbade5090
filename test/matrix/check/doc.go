// Package check judges what clients of a PostgreSQL service saw: acknowledged rows (the set test of Jepsen), registers that only grow
// (linearizability, by porcupine), and who acknowledged writes when. It looks at histories alone.
package check
