// Package instance runs one event loop per vrrp_instance: it feeds the pure router of package vrrp with packets, link and
// tracker news and time, and carries out its actions. Everything slow (hooks, checks) runs elsewhere and reports back.
// A gated instance is master only under a grant: Grants says whether its lease still runs before addresses are touched.
package instance
