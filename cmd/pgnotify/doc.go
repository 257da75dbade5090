// Command pgnotify is the notify hook that promotes, demotes, rejoins and moves PostgreSQL, and the same by hand.
package main
