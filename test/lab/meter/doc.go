// Package meter is a client that measures a PostgreSQL service from outside: it commits numbered rows all the time, says
// when that was not possible, and checks at the end that each acknowledged row is there (the set test of Jepsen).
// It knows nothing of labs, VRRP or hooks; it uses the frontend/backend protocol by pgconn.
package meter
