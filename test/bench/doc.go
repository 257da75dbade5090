// Bench measures vrrpd beside keepalived, on the same hosts in the same run, and prints each figure with the machine's load.
package main
