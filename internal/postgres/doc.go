// Package postgres sees and drives one PostgreSQL server, versions 13 to 18: control and timeline history files, postmaster.pid, start and stop,
// SQL, promotion, upstream, pg_rewind and pg_basebackup. Driver does over open sessions what a failover needs, and proves it: fence, hold, timelines.
// Facts are from the PostgreSQL manual, parts III (server administration) and VII (internals), and from the layouts that
// src/include/catalog/pg_control.h declares.
package postgres
