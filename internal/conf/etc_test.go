package conf

import (
	"path/filepath"
	"testing"
)

// TestSamples: every configuration that is shipped in etc/ is clean on every node that it is for.
func TestSamples(t *testing.T) {
	var files []string
	for _, pattern := range []string{"vrrpd.conf.example", "*/vrrpd.conf"} {
		found, err := filepath.Glob(filepath.Join("../../etc", pattern))
		if err != nil || len(found) == 0 {
			t.Fatalf("no file fits etc/%s: %v", pattern, err)
		}
		files = append(files, found...)
	}
	if len(files) < 7 {
		t.Errorf("%d samples, want the example and six directories", len(files))
	}
	for _, file := range files {
		for _, node := range []string{"n1", "n2", "n3"} {
			c, found := Load(file, Options{ConfigID: node})
			for _, d := range found {
				t.Errorf("on %s: %s", node, d)
			}
			if len(c.Instances) == 0 {
				t.Errorf("%s has no vrrp_instance on %s", file, node)
			}
		}
	}
}
