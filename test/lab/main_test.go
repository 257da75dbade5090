//go:build lab

package lab

import "testing"

func TestMain(m *testing.M) { RunTests(m) }
