// Package track runs vrrp_script checks (keepalived.conf(5)) and combines what they and the links say into a priority or a fault.
// It fails closed: a check that cannot be run, or does not end, has not succeeded, whichever way round its weight counts.
package track
