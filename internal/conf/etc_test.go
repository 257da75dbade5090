package conf

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func samples(t *testing.T, pattern string, least int) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("../../etc", pattern))
	if err != nil || len(files) < least {
		t.Fatalf("%d files fit etc/%s, want at least %d: %v", len(files), pattern, least, err)
	}
	return files
}

// TestSamples: every configuration that is shipped in etc/ is clean on every node that it is for.
func TestSamples(t *testing.T) {
	for _, file := range append(samples(t, "vrrpd.conf.example", 1), samples(t, "*/vrrpd.conf", 10)...) {
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

// TestQuorumSamples: the witness of a sample has the same block as its data nodes, and every host finds its line.
func TestQuorumSamples(t *testing.T) {
	for _, file := range samples(t, "quorum-*/vrrpd.conf", 4) {
		dir := filepath.Dir(file)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			data, _ := Load(file, Options{ConfigID: "n1"})
			witness, found := Load(filepath.Join(dir, "witness.conf"), Options{ConfigID: "w1"})
			for _, d := range found {
				t.Errorf("on w1: %s", d)
			}
			if data.Quorum == nil || !data.Quorum.Equal(witness.Quorum) {
				t.Fatalf("the data nodes have %+v, the witness %+v", data.Quorum, witness.Quorum)
			}
			if len(witness.Instances) > 0 {
				t.Errorf("the witness has %d instances", len(witness.Instances))
			}
			for _, v := range data.Quorum.Voters {
				c := data
				if v.Witness {
					c = witness
				}
				if self, err := c.Node(v.Name + ".example.org"); err != nil || self.Name != v.Name || c.Witness(v.Name) != v.Witness {
					t.Errorf("%s: got %+v, %v", v.Name, self, err)
				}
			}
			for _, i := range data.Instances {
				if i.Quorum == "" {
					t.Errorf("%s asks for no grant", i.Name)
				}
			}
		})
	}
}

// TestExampleBlock: the quorum block that stands in the example as a comment is right once it is none.
func TestExampleBlock(t *testing.T) {
	text, err := os.ReadFile("../../etc/vrrpd.conf.example")
	if err != nil {
		t.Fatal(err)
	}
	before, block, found := strings.Cut(string(text), "! quorum {\n")
	if !found {
		t.Fatal("there is no such block")
	}
	before = strings.Replace(before, "# quorum web ", "quorum web ", 1)
	c, diags := load(before + "quorum {\n" + strings.ReplaceAll(block, "! ", ""))
	wantDiags(t, diags)
	if c.Quorum == nil || len(c.Quorum.Voters) != 3 || c.Instances[0].Quorum != "web" {
		t.Errorf("got %+v, %+v", c.Quorum, c.Instances[0])
	}
}
