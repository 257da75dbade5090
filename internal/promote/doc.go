// Package promote decides what to do with one PostgreSQL server when a virtual router changes state, and does it: hook
// delivery, the pure Decide, and the steps that carry a plan out. It knows nothing of VRRP packets. PostgreSQL facts are
// from its manual, chapters 26 and 27, and from pg_rewind's reference page.
package promote
