// Package conf reads keepalived.conf, as keepalived.conf(5) describes it and keepalived(8) really parses it, into a typed,
// validated Config, with every mistake of the file as a Diagnostic. It reads the file and what it includes, and nothing
// else of the host: whether an interface, a user or a program exists is for others to check.
package conf
