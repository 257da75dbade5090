// Package cli is what both programs share on the command line: declared arguments, exit codes (0 done, 1 failed with a
// reason, 2 usage), loggers, JSON, aligned tables, redrawing and progress, on top of urfave/cli v2.
package cli
