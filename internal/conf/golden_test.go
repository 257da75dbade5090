package conf

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// corpus gives the files of testdata/.
func corpus(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob("testdata/*.conf")
	if err != nil || len(files) < 90 {
		t.Fatalf("got %d files, %v", len(files), err)
	}
	return files
}

func testdataOptions() Options { return Options{ConfigID: "n1"} }

// golden compares got with the file, or with -update writes it.
func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", file, got, want)
	}
}

func TestGolden(t *testing.T) {
	for _, file := range corpus(t) {
		t.Run(filepath.Base(file), func(t *testing.T) {
			_, diags := Load(file, testdataOptions())
			var b strings.Builder
			fmt.Fprintf(&b, "exit %d, strict %d\n", ExitCode(diags, false), ExitCode(diags, true))
			for _, l := range lines(diags) {
				b.WriteString(l + "\n")
			}
			golden(t, strings.TrimSuffix(file, ".conf")+".want", b.String())
		})
	}
}

func TestJSON(t *testing.T) {
	for _, name := range []string{"v2-pass", "tracking", "extensions", "definitions", "sync-group", "include", "quorum",
		"auth-hmac", "track-process", "track-file-weight", "routes", "vmac-unicast", "fifo", "interfaces", "sync-tracking"} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join("testdata", name)
			c, diags := Load(file+".conf", testdataOptions())
			text, err := json.Marshal(NewReport(c, diags, false))
			if err != nil {
				t.Fatal(err)
			}
			for _, secret := range []string{"s3cret", testSecret, "AAECAwQFBgc"} {
				if bytes.Contains(text, []byte(secret)) {
					t.Errorf("a password shows in %s", text)
				}
			}
			var b bytes.Buffer
			if err := json.Indent(&b, text, "", "  "); err != nil {
				t.Fatal(err)
			}
			b.WriteByte('\n')
			golden(t, file+".json", b.String())
		})
	}
}

func TestSnake(t *testing.T) {
	for name, want := range map[string]string{
		"VRID": "vrid", "IPv6": "ipv6", "VIPAfterNotify": "vip_after_notify", "GNAInterval": "gna_interval", "MinTTL": "min_ttl",
		"LogUnknownVRIDs": "log_unknown_vrids", "NoDAD": "nodad", "HigherPrioSendAdvert": "higher_prio_send_advert", "UnicastTTL": "unicast_ttl",
	} {
		if got := snake(name); got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
}

func TestCompare(t *testing.T) {
	base := func(lines ...string) *Instance {
		c, _ := load(instance(lines...))
		return &c.Instances[0]
	}
	shifted, _ := load("\n\n# other places\n" + instance())
	tests := []struct {
		name        string
		b           *Instance
		same, equal bool
	}{
		{"itself", base(), true, true},
		{"other place in the file", &shifted.Instances[0], true, true},
		{"priority", base("priority 7"), true, false},
		{"address", base("virtual_ipaddress {", "10.0.0.2", "}"), true, false},
		{"address option", base("virtual_ipaddress_excluded {", "10.0.0.2", "}"), true, false},
		{"hook", base("notify /bin/a"), true, false},
		{"tracker", base("track_interface {", "eth1", "}"), true, false},
		{"version", base("version 3"), true, false},
		{"group", base("mcast_dst_ip 224.0.0.99"), true, false},
		{"VRID", base("virtual_router_id 52"), false, false},
		{"interface", base("interface eth1"), false, false},
		{"transport", base("unicast_peer {", "10.0.0.9", "}"), false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := base()
			if got := a.SameVirtualRouter(tt.b); got != tt.same {
				t.Errorf("SameVirtualRouter: got %v, want %v", got, tt.same)
			}
			if got := a.Equal(tt.b); got != tt.equal {
				t.Errorf("Equal: got %v, want %v", got, tt.equal)
			}
		})
	}
	peers := func(n ...string) *Instance {
		return base(append(append([]string{"unicast_peer {"}, n...), "}")...)
	}
	if peers("10.0.0.8").Equal(peers("10.0.0.9")) {
		t.Error("different peers are equal")
	}
	if !peers("10.0.0.8").Equal(peers("10.0.0.8")) {
		t.Error("the same peers are not equal")
	}

	s := Script{Name: "a", Command: Command{Argv: []string{"/bin/a"}}}
	other := s
	other.Pos.Line = 9
	if !s.Equal(&other) {
		t.Error("a script is not equal to itself in another place")
	}
	other.Command.Argv = []string{"/bin/b"}
	if s.Equal(&other) {
		t.Error("scripts with different commands are equal")
	}
}

// Includes on a real file system: what is a directory, executable or not readable.
func TestInclude(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	router := func(s string) string { return "global_defs {\nrouter_id " + s + "\n}\n" }
	write("a.inc", router("a"), 0o644)
	write("b.inc", router("b"), 0o644)
	write("run.sh", router("run"), 0o755)
	write("sub/c.inc", "include d.inc\n", 0o644)
	write("sub/d.inc", router("d ${_PWD}"), 0o644)
	write("sub/.hidden", router("hidden"), 0o644)
	write("loop.inc", "include loop2.inc\n", 0o644)
	write("loop2.inc", "include loop.inc\n", 0o644)
	write("restore.inc", "global_defs {\ninclude_check\n}\n", 0o644)
	write("pwd.inc", "global_defs {\nrouter_id \"${_PWD}\"\n}\n", 0o644)
	for i := range 40 {
		write(fmt.Sprintf("deep/%d.inc", i), fmt.Sprintf("include %d.inc\n", i+1), 0o644)
	}
	tests := []struct {
		name, text, router string
		diags              []string
	}{
		{"plain", "include a.inc\n", "a", nil},
		{"last wins", "include [ab].inc\n", "b", nil},
		{"sorted", "include ?.inc\n", "b", nil},
		{"negated class", "include [\\!b].inc\n", "a", nil},
		{"braces in their order", "include {b,a}.inc\n", "a", nil},
		{"absolute", "include " + dir + "/a.inc\n", "a", nil},
		{"relative to the including file", "include sub/c.inc\n", "d", []string{"lint sub/d.inc:2:13: router_id: surplus word"}},
		{"_PWD", "include pwd.inc\n", dir, nil},
		{"wildcard leaves hidden files", "include sub/*hidden*\n", "", []string{"lint f:1:9: include: no file matches, nothing is included"}},
		{"hidden file by name", "include sub/.hidden\n", "hidden", nil},
		{"executable", "include run.sh\n", "", []string{"lint f:1:9: include: file is executable and skipped, expected a plain file"}},
		{"directory", "include sub\n", "", nil},
		{"directory, strict", "includer sub\n", "", []string{"fatal f:1:10: includer: directory, expected a readable file"}},
		{"missing", "include none\n", "", []string{"lint f:1:9: include: no file matches, nothing is included"}},
		{"missing, readable", "includer none\n", "", []string{"lint f:1:10: includer: no file matches"}},
		{"missing, match", "includem none\n", "", []string{"fatal f:1:10: includem: no file matches, expected at least one"}},
		{"missing, wildcard", "includew none*\n", "", []string{"fatal f:1:10: includew: no file matches"}},
		{"missing without wildcard", "includew none\n", "", []string{"lint f:1:10: includew: no file matches"}},
		{"missing, brace", "includeb {a,none}.inc\n", "a", []string{"fatal f:1:10: includeb: no file matches"}},
		{"missing, all", "includea none\n", "", []string{"fatal f:1:10: includea: no file matches"}},
		{"one brace of two", "include {a,none}.inc\n", "a", []string{"lint f:1:9: include: no file matches"}},
		{"include_check", "global_defs {\ninclude_check match -brace_match +read\n}\ninclude none\n", "", []string{"fatal f:4:9: include: no file matches"}},
		{"include_check of an included file ends with it", "include restore.inc\ninclude none\n", "", []string{"lint f:2:9: include: no file matches"}},
		{"include_check taken back", "global_defs {\ninclude_check\ninclude_check -match -wildcard_match -brace_match -read\n}\ninclude none\n", "", []string{"lint f:5:9: include: no file matches"}},
		{"quoted", "include \"a.inc\"\n", "", []string{"error f:1:9: include: quoted file name, expected it without quotes; nothing is included"}},
		{"alone", "include\n", "", []string{"error f:1:1: unknown keyword at the top of the file"}},
		{"by a definition", "$F=a\ninclude ${F}.inc\n", "a", nil},
		{"conditional, once", "@n1 include a.inc\n@n2 include b.inc\n", "a", nil},
		{"in a sequence", "~LST(i,a,b) include ${i}.inc\n", "b", nil},
		{"cycle", "include loop.inc\n", "", []string{"fatal loop2.inc:1:9: include: file includes itself"}},
		{"itself", "include f\n", "", []string{"fatal f:1:9: include: file includes itself"}},
		{"too deep", "include deep/0.inc\n", "", []string{"fatal deep/30.inc:1:9: include: includes nest too deep"}},
		{"brace not closed", "include {a\n", "", []string{"error f:1:9: include: brace expression too large or not closed"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			write("f", tt.text, 0o644)
			c, diags := Load(filepath.Join(dir, "f"), Options{ConfigID: "n1"})
			if c.Globals.RouterID != tt.router {
				t.Errorf("got router_id %q, want %q", c.Globals.RouterID, tt.router)
			}
			for i := range diags {
				diags[i].File = strings.TrimPrefix(diags[i].File, dir+"/")
			}
			wantDiags(t, diags, tt.diags...)
		})
	}

	t.Run("the file itself is missing", func(t *testing.T) {
		_, diags := Load(filepath.Join(dir, "none"), Options{})
		wantDiags(t, diags, dir+"/none: cannot be read: no such file or directory")
	})
	t.Run("not readable", func(t *testing.T) {
		m := memory{"f": "include a\nincluder a\n"}.options()
		read := m.ReadFile
		m.ReadFile = func(name string) ([]byte, error) {
			if name == "a" {
				return nil, &os.PathError{Op: "open", Path: name, Err: os.ErrPermission}
			}
			return read(name)
		}
		info, err := os.Stat(filepath.Join(dir, "a.inc"))
		if err != nil {
			t.Fatal(err)
		}
		m.Stat = func(string) (os.FileInfo, error) { return info, nil }
		_, diags := Load("f", m)
		wantDiags(t, diags, `error f:1:9: include: cannot be read: permission denied (got "a")`, "fatal f:2:10: includer: cannot be read")
	})
}
