// Package notify runs the notify programs of an instance or a sync group with keepalived's arguments (keepalived.conf(5),
// "notify scripts"), but one at a time, in order, and only the newest state: a state that has been overtaken is never run late.
package notify
