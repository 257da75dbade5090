//go:build netns

package system

import (
	"testing"

	"pgvrrp/internal/system/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }
