// Vrrpd is a VRRP daemon that reads keepalived.conf. Each command stands in a file of its own.
package main
