// Package files replaces files whole, so that a reader, or we after a crash, find the old content or the new one, and makes it durable where that matters.
package files
