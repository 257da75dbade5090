// Package daemon is vrrpd put together: it loads the file, opens sockets and netlink, runs one task per instance, hook queue
// and socket, answers the control socket, reloads on SIGHUP (signal(7)) and talks to systemd (sd_notify(3)).
package daemon
