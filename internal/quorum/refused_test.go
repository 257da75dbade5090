package quorum

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgvrrp/internal/conf"
	"pgvrrp/internal/control"
	"pgvrrp/internal/quorum/store"
	"pgvrrp/internal/quorum/trust"
)

func (c *cluster) status(name string) *control.Quorum {
	return c.nodes[name].node.Status(context.Background())
}

// trouble reports whether the status of a node has a line with all the words.
func (c *cluster) trouble(name string, words ...string) bool {
	return slices.ContainsFunc(c.status(name).Trouble, func(line string) bool {
		return !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) })
	})
}

// startAll starts every voter. Who holds the resource may change at any time: the machine may be too busy for a lease.
func (c *cluster) startAll() {
	c.t.Helper()
	for _, v := range c.file.Voters {
		c.start(v.Name)
	}
	c.await("every data node is in the rule", c.whole)
}

// whole reports whether somebody holds the resource, with every other data node in its rule.
func (c *cluster) whole() bool {
	holder := c.holder("vip")
	return holder != "" && len(c.resource(holder, "vip").Rule.S) == len(dataNodes(c.file))-1
}

// ended waits for a node that ends by itself, with an error that has all the words.
func (c *cluster) ended(name string, words ...string) {
	c.t.Helper()
	select {
	case err := <-c.nodes[name].done:
		delete(c.nodes, name)
		for _, w := range words {
			if err == nil || !strings.Contains(err.Error(), w) {
				c.t.Fatalf("%s ended with %v, want an error with %q", name, err, w)
			}
		}
	case <-time.After(20 * time.Second):
		c.t.Fatalf("%s does not end", name)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (c *cluster) db(name string) string { return filepath.Join(c.dir, name, "quorum.db") }

// TestRefusedInWords: whoever is refused, and whoever refuses, says why in its status, and at the link.
func TestRefusedInWords(t *testing.T) {
	c := newCluster(t, plain, "n1", "n2", "n3", "w1", "w2")
	c.startAll()
	backup := filepath.Join(c.dir, "backup.db")

	// Another key.
	c.stop("n2")
	copyFile(t, c.db("n2"), backup)
	other := filepath.Join(c.dir, "other.key")
	if err := trust.WriteKey(other); err != nil {
		t.Fatal(err)
	}
	c.startWith("n2", func(file *conf.Quorum) { file.KeyFile = other })
	for name, peer := range map[string]string{"n1": "n2", "w1": "n2", "n2": "n1"} {
		c.await(name+" names the key", func() bool { return c.trouble(name, "voter "+peer+" is not heard", "key") })
		for _, v := range c.status(name).Voters {
			for _, l := range v.Links {
				if v.ID == peer && !strings.Contains(l.Error, "key") {
					t.Errorf("%s: link %s - %s to %s: got error %q, want one that names the key", name, l.Local, l.Remote, peer, l.Error)
				}
			}
		}
	}
	c.await("the forged datagrams are counted", func() bool {
		s := c.status("n1")
		return s.Rejected["bad mac"] > 0 && c.trouble("n1", "refused since the start", "bad mac")
	})
	t.Logf("n1: %q", c.status("n1").Trouble)
	t.Logf("n2: %q", c.status("n2").Trouble)
	c.stop("n2")

	// A copy that the directory has outlived.
	copyFile(t, backup, c.db("n2"))
	c.start("n2") // the start after the copy was made
	c.await("n2 is heard, and nothing is said of it", func() bool { return !c.trouble("n1", "voter n2") })
	c.stop("n2")
	copyFile(t, backup, c.db("n2"))
	c.start("n2")
	c.await("n1 names the copy", func() bool {
		return c.trouble("n1", "voter n2 is not heard", "restored from a backup") || c.trouble("n1", "voter n2 is not heard", "it was copied")
	})
	c.ended("n2", "its state directory is an old copy", "refuses this one", "move its quorum.db away")
	t.Logf("n1: %q", c.status("n1").Trouble)
	c.start("n2")
	c.await("n2 itself says so", func() bool { return c.trouble("n2", "takes no part", "refuses this one", "move its quorum.db away") })
	c.await("the log's leader, who asks it, says so", func() bool {
		leader := c.status("n1").Leader
		return leader != "" && c.trouble(leader, "voter n2", "takes no part")
	})
	c.stop("n2")

	// Garbage from an address that nobody has, and a version that nobody speaks from one that w1 has.
	c.stop("w1")
	before := c.status("n1").Rejected
	send := func(from, to string, payload []byte) {
		conn, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(from)), net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(to), uint16(c.file.Port))))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.Write(payload); err != nil {
			t.Fatal(err)
		}
	}
	send("127.1.7.99:0", "127.1.7.1", []byte("garbage"))
	send("127.1.7.4:0", "127.1.7.1", append([]byte("vrqd\xee"), make([]byte, 200)...))
	c.await("both are counted", func() bool {
		s := c.status("n1")
		return s.Rejected["malformed"] > before["malformed"] && s.Rejected["other protocol version"] > before["other protocol version"]
	})
	c.await("n1 names the version", func() bool { return c.trouble("n1", "voter w1", "version") })
	c.await("the resource is held as ever", func() bool { return c.holder("vip") != "" })
}

// TestForeignDirectory: a voter that finds the state of a cluster of its own needs nobody's vote, and must take no part all the same.
func TestForeignDirectory(t *testing.T) {
	c := newCluster(t, plain, "n1", "n2", "n3")
	c.startAll()
	cluster := c.status("n1").Cluster
	c.stop("n1")

	// The same name, key and resource in a file with one voter; it is granted its resource.
	alone := func(file *conf.Quorum) { file.Voters = file.Voters[:1] }
	foreign := *c
	foreign.dir, foreign.nodes = t.TempDir(), map[string]*running{}
	foreign.startWith("n1", alone)
	foreign.await("a cluster of one voter grants", func() bool { return foreign.holder("vip") == "n1" })
	elsewhere := foreign.status("n1").Cluster
	foreign.stop("n1")
	if cluster == elsewhere {
		t.Fatalf("both clusters are called %s", cluster)
	}

	c.await("another node holds the resource", func() bool { return c.holder("vip") != "" })
	copyFile(t, foreign.db("n1"), c.db("n1"))
	c.start("n1")
	c.await("n1 takes no part, and says why", func() bool {
		if c.holder("vip") == "n1" { // fails the test if there are two
			t.Fatal("n1 holds the resource")
		}
		return c.trouble("n1", "takes no part", cluster, elsewhere, "vrrpd quorum reset")
	})
	if s := c.status("n1").Resources[0]; !strings.Contains(s.Missing, elsewhere) || s.Live {
		t.Errorf("n1: got live %t, missing %q", s.Live, s.Missing)
	}
	c.await("n2 names both clusters", func() bool { return c.trouble("n2", "voter n1 is not heard", cluster, elsewhere) })
	t.Logf("n1: %q", c.status("n1").Trouble)
	t.Logf("n2: %q", c.status("n2").Trouble)
	c.stop("n1")

	// Alone at first, it leads itself. The first answer of the others ends it.
	others := []string{"n2", "n3"}
	for _, name := range others {
		c.stop(name)
	}
	r := c.start("n1")
	c.await("alone it can know no better", func() bool { return c.holder("vip") == "n1" })
	for _, name := range others {
		c.start(name)
	}
	err := <-r.done
	delete(c.nodes, "n1")
	if err == nil || !strings.Contains(err.Error(), cluster) || !strings.Contains(err.Error(), elsewhere) {
		t.Errorf("n1 beside the others: got %v, want an end that names both clusters", err)
	}
	t.Log(err)
	c.await("its lease is over", func() bool { return !r.node.Live("vip") })
	c.await("the others go on", func() bool { return c.holder("vip") != "" })
}

func TestLinkTrouble(t *testing.T) {
	links := func(l ...control.VoterLink) []control.VoterLink { return l }
	up, down, lost := control.VoterLink{Remote: "a", Up: true, RTT: 0.001}, control.VoterLink{Remote: "b"}, control.VoterLink{Remote: "c", RTT: 0.001}
	for _, tt := range []struct {
		name      string
		heard     bool
		addresses []string
		own       int
		links     []control.VoterLink
		want      string
	}{
		{"all up", true, []string{"a", "b"}, 2, links(up, up), ""},
		{"never up, and should be", true, []string{"a", "b"}, 2, links(up, down), "b"},
		{"a witness of one address never reaches the other link", true, []string{"a", "b"}, 1, links(up, down), ""},
		{"what it did reach is missed", true, []string{"a", "b"}, 1, links(up, lost), "c"},
		{"a voter that is not heard is told of as a whole", false, []string{"a", "b"}, 2, links(down, lost), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := linkTrouble(control.Voter{ID: "n1", Heard: tt.heard, Addresses: tt.addresses, Links: tt.links}, tt.own)
			if want := "to voter n1 is down"; tt.want == "" && len(got) > 0 || tt.want != "" && (len(got) != 1 || !strings.Contains(got[0], "- "+tt.want+" "+want)) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// TestHotBackup: a directory that was copied while its voter ran has forgotten what the voter said since. It is refused although it was never
// started in between, and however often it is started now.
func TestHotBackup(t *testing.T) {
	c := newCluster(t, plain, "n1", "n2", "n3")
	c.startAll()
	backup := filepath.Join(c.dir, "backup.db")
	store := func(name string) *store.Store { return c.nodes[name].node.members[0].store }
	copyFile(t, c.db("n3"), backup)
	before := store("n3").Words()

	// What it says from now on the copy does not know. No other start comes between.
	if holder := c.holder("vip"); holder != "" {
		c.nodes[holder].node.GiveUp("vip", "by hand", "")
	}
	c.await("n3 has given its word", func() bool { return store("n3").Words() > before })
	c.await("all are in the rule", c.whole)
	c.await("both others know of more words than the copy has", func() bool { return store("n1").Told("n3") > before && store("n2").Told("n3") > before })
	c.stop("n3")
	copyFile(t, backup, c.db("n3"))
	for n := range 3 {
		c.start("n3")
		copied := store("n3")
		for _, name := range []string{"n1", "n2"} {
			c.await(fmt.Sprintf("%s refuses start %d of the copy", name, n+1), func() bool {
				return c.trouble(name, "voter n3 is not heard", "restored from a backup")
			})
		}
		if n == 0 {
			c.ended("n3", "its state directory is an old copy", "restored from a backup")
		} else {
			c.await("n3 itself says so", func() bool { return c.trouble("n3", "takes no part", "restored from a backup") })
		}
		if got, began := copied.Words(), copied.Identity().Words; got != began {
			t.Errorf("start %d of the copy began with %d words, and now it has %d: it would be welcome some day", n+1, began, got)
		}
		c.stop("n3") // if it has not ended
	}
	t.Logf("n1: %q", c.status("n1").Trouble)

	// The others remember it over a restart of their own.
	c.stop("n1")
	c.start("n1")
	c.await("n1 is back", func() bool { return c.holder("vip") != "" && len(heardMembers(c.status("n1"))) == 2 })
	c.start("n3")
	c.await("n1 refuses the copy after its own restart", func() bool { return c.trouble("n1", "voter n3 is not heard", "restored from a backup") })
	c.stop("n3")

	// As a new voter it is welcome.
	if _, err := Reset(&conf.Quorum{StateDir: filepath.Join(c.dir, "n3")}, conf.Voter{Name: "n3", Votes: 1}, false); err != nil {
		t.Fatal(err)
	}
	c.start("n3")
	c.await("n3 is in the rule again", c.whole)
}

// TestHotBackupHalfKnown: one voter has heard what the copy lacks, the other was away meanwhile and would talk to the copy. The word of the
// first counts, and goes on to count when that voter is gone: the copy and the other never make a majority.
func TestHotBackupHalfKnown(t *testing.T) {
	c := newCluster(t, plain, "n1", "n2", "n3")
	c.startAll()
	store := func(name string) *store.Store { return c.nodes[name].node.members[0].store }
	c.stop("n2")
	c.await("one of the two others holds the resource", func() bool { return c.holder("vip") != "" })
	backup := filepath.Join(c.dir, "backup.db")
	copyFile(t, c.db("n3"), backup)
	before := store("n3").Words()
	c.await("n1 knows of more words than the copy has", func() bool {
		if holder := c.holder("vip"); holder != "" {
			c.nodes[holder].node.GiveUp("vip", "by hand", "")
		}
		return store("n1").Told("n3") > before
	})
	c.stop("n3")
	c.start("n2")
	c.await("n1 and n2 go on", func() bool { return c.holder("vip") != "" })
	if got := store("n2").Told("n3"); got > before {
		t.Fatalf("n2 knows of %d words of n3, the copy has %d: nothing is shown", got, before)
	}

	copyFile(t, backup, c.db("n3"))
	c.start("n3")
	c.ended("n3", "its state directory is an old copy", "restored from a backup")
	c.stop("n1")
	c.start("n3")
	c.await("n3 says that it takes no part", func() bool { return c.trouble("n3", "takes no part", "voter n1 refuses this one") })
	c.await("no lease is left of the time with n1", func() bool { return c.holder("vip") == "" })
	c.await("n2 is told", func() bool { return c.trouble("n2", "voter n3", "takes no part") })
	began, words := time.Now(), store("n3").Words()
	c.await("two seconds have passed", func() bool {
		if holder := c.holder("vip"); holder != "" {
			t.Fatalf("%s holds the resource by the word of a copy", holder)
		}
		return time.Since(began) > 2*time.Second
	})
	if got := store("n3").Words(); got != words {
		t.Errorf("the copy has given %d words", got-words)
	}
	c.start("n1")
	c.await("n1 and n2 hold the resource again", func() bool { return c.holder("vip") != "" })
}
