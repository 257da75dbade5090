// Demo shows the main job on three hosts made of namespaces, with real PostgreSQL: the primary dies, and the application
// hardly notices.
package main
