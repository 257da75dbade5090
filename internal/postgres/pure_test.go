package postgres

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestLSN(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want LSN
		ok   bool
	}{
		{"0/3000060", 0x3000060, true},
		{"1/0", 1 << 32, true},
		{"FFFFFFFF/FFFFFFFF", ^LSN(0), true},
		{"0/0", 0, true},
		{"", 0, false},
		{"3000060", 0, false},
		{"0/", 0, false},
		{"/0", 0, false},
		{"0/123456789", 0, false},
		{"0/000000001", 0, false},
		{"-1/0", 0, false},
		{"0/xyz", 0, false},
		{"0/1/2", 0, false},
	} {
		got, err := ParseLSN(tt.in)
		if got != tt.want || (err == nil) != tt.ok {
			t.Errorf("ParseLSN(%q): got %s, %v, want %s, ok %v", tt.in, got, err, tt.want, tt.ok)
		}
		if tt.ok && got.String() != tt.in {
			t.Errorf("String: got %s, want %s", got, tt.in)
		}
	}
}

func TestParseHistory(t *testing.T) {
	for _, tt := range []struct {
		name, in, err string
		want          History
	}{
		{"one parent", "1\t0/3000060\tno recovery target specified\n", "", History{{1, 0x3000060, "no recovery target specified"}}},
		{"three, with blank lines and comments", "# x\n1\t0/3000060\ta b\n\n2\t0/40000A0\tb\n  \n4\t1/0\n", "",
			History{{1, 0x3000060, "a b"}, {2, 0x40000A0, "b"}, {4, 1 << 32, ""}}},
		{"no line end, blanks for tabs", "1 0/28 why", "", History{{1, 0x28, "why"}}},
		{"comments only: reserved", "# reserved\n#\n", "", nil},
		{"empty", "", "", nil},
		{"not ascending", "2\t0/1\n2\t0/2\n", "line 2: timeline 2 does not ascend", nil},
		{"no number", "x\t0/1\n", `line 1: want a timeline number (got "x")`, nil},
		{"zero", "0\t0/1\n", "want a timeline number", nil},
		{"no switch point", "1\n", "want a switch point", nil},
		{"bad switch point", "1\tabc\n", "want a switch point", nil},
		{"very long line", "1\t0/1\t" + strings.Repeat("x", 1<<17), "token too long", nil},
	} {
		got, err := ParseHistory(strings.NewReader(tt.in))
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%s: got %v, want an error with %q", tt.name, err, tt.err)
			}
			continue
		}
		if diff := cmp.Diff(tt.want, got); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", tt.name, err, diff)
		}
	}
}

func TestDiverged(t *testing.T) {
	theirs := History{{1, 0x1000, ""}, {2, 0x2000, ""}}
	for _, tt := range []struct {
		name   string
		mine   Position
		theirs History
		tli    Timeline
		want   bool
	}{
		{"same timeline", Position{3, 0x5000}, theirs, 3, false},
		{"ancestor, before the fork", Position{2, 0x1800}, theirs, 3, false},
		{"ancestor, exactly at the fork", Position{2, 0x2000}, theirs, 3, false},
		{"ancestor, one record past the fork", Position{2, 0x2001}, theirs, 3, true},
		{"grandparent, before its fork", Position{1, 0x0fff}, theirs, 3, false},
		{"grandparent, past its fork, before the next", Position{1, 0x1800}, theirs, 3, true},
		{"later timeline than theirs", Position{4, 0x1}, theirs, 3, true},
		{"timeline that is not in their history", Position{2, 0x1}, History{{1, 0x1000, ""}}, 3, true},
		{"reserved history", Position{1, 0x1}, nil, 2, true},
		{"unknown timeline", Position{0, 0x1}, theirs, 3, true},
		{"unknown position", Position{2, 0}, theirs, 3, true},
	} {
		if got := Diverged(tt.mine, tt.theirs, tt.tli); got != tt.want {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestPositionCompare(t *testing.T) {
	for _, tt := range []struct {
		a, b Position
		want int
	}{
		{Position{1, 5}, Position{1, 5}, 0},
		{Position{1, 9}, Position{2, 5}, -1},
		{Position{2, 6}, Position{2, 5}, 1},
	} {
		if got := tt.a.Compare(tt.b); got != tt.want {
			t.Errorf("%s vs %s: got %d, want %d", tt.a, tt.b, got, tt.want)
		}
	}
}

func TestParseConfLine(t *testing.T) {
	for _, tt := range []struct{ in, name, value, err string }{
		{"port = 5432", "port", "5432", ""},
		{"port 5432 # comment", "port", "5432", ""},
		{"Port=5432", "port", "5432", ""},
		{"\tshared_buffers\t=\t128MB", "shared_buffers", "128MB", ""},
		{"primary_conninfo = 'host=a user=''r''' # c", "primary_conninfo", "host=a user='r'", ""},
		{`x = 'a\'b\\c\n\101'`, "x", "a'b\\c\nA", ""},
		{"x = ''", "x", "", ""},
		{"pg_stat_statements.max = 10000", "pg_stat_statements.max", "10000", ""},
		{"x = 'a'b", "", "", `x: want the end of the line (got "b")`},
		{"x = 'a", "", "", "closing quote"},
		{"x =", "", "", "want a value"},
		{"= 3", "", "", "want a setting's name"},
		{"  # only a comment", "", "", ""},
		{"", "", "", ""},
		{"x = 1 2", "", "", "want the end of the line"},
		{"port = 5432\r", "port", "5432", ""},
	} {
		name, value, err := parseConfLine(tt.in)
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%q: got %v, want an error with %q", tt.in, err, tt.err)
			}
			continue
		}
		if name != tt.name || value != tt.value || err != nil {
			t.Errorf("%q: got %q, %q, %v, want %q, %q", tt.in, name, value, err, tt.name, tt.value)
		}
	}
}

func TestQuoteConfRoundTrip(t *testing.T) {
	for _, v := range []string{"", "a", "it's", `back\slash`, `'`, `\'`, "host='a b' password='\\''", "ü"} {
		q, err := quoteConf(v)
		if err != nil {
			t.Errorf("%q: %v", v, err)
			continue
		}
		_, got, err := parseConfLine("x = " + q)
		if got != v || err != nil {
			t.Errorf("%q quoted %s: got %q, %v", v, q, got, err)
		}
	}
	if _, err := quoteConf("a\nb"); err == nil {
		t.Error("a line break was accepted")
	}
}

// writeAll makes files below a new directory.
func writeAll(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestReadConf(t *testing.T) {
	dir := writeAll(t, map[string]string{
		"postgresql.conf": "port = 1\ninclude 'a.conf'\ninclude_dir = 'conf.d'\ninclude_if_exists 'none.conf'\nwork_mem = 2MB\n",
		"a.conf":          "port = 2\nwork_mem = 1MB\n",
		"conf.d/20.conf":  "port = 4\n", "conf.d/10.conf": "port = 3\n", "conf.d/.30.conf": "port = 5\n", "conf.d/x.txt": "port = 6\n",
	})
	c, err := readConf(filepath.Join(dir, "postgresql.conf"))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"port": "4", "work_mem": "2MB"} {
		if got, ok := c.value(name); got != want || !ok {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	if _, ok := c.includes[filepath.Join(dir, "none.conf")]; !ok {
		t.Error("a file that is included if it exists is not listed")
	}
	for name, tt := range map[string]struct{ content, want string }{
		"missing include": {"include 'x.conf'\n", "x.conf"},
		"loop":            {"include 'postgresql.conf'\n", "nested too deeply"},
		"bad line":        {"port = 1\n\nport = '1\n", "postgresql.conf:3: port"},
	} {
		dir := writeAll(t, map[string]string{"postgresql.conf": tt.content})
		if _, err := readConf(filepath.Join(dir, "postgresql.conf")); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want an error with %q", name, err, tt.want)
		}
	}
}

// fakeServer is a Server of a data directory that no PostgreSQL has ever seen.
func fakeServer(t *testing.T, conf string, more map[string]string) *Server {
	t.Helper()
	files := map[string]string{"PG_VERSION": "15\n", "postgresql.conf": conf, "bin/postgres": "#!/bin/sh\n"}
	for k, v := range more {
		files[k] = v
	}
	dir := writeAll(t, files)
	if err := os.Chmod(filepath.Join(dir, "bin", "postgres"), 0o755); err != nil {
		t.Fatal(err)
	}
	s, err := Open(Config{DataDir: dir, BinDir: filepath.Join(dir, "bin"), Port: 5})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestIncludeError(t *testing.T) {
	s := fakeServer(t, "port = 5432\n", nil)
	var e *IncludeError
	if err := s.IncludeError(); !errors.As(err, &e) || e.Line != "include_if_exists = '"+s.DataDir()+"/pgnotify.conf'" {
		t.Errorf("not included: got %v", err)
	}
	for _, tt := range []struct{ name, conf, want string }{
		{"absolute", "include_if_exists = '%/pgnotify.conf'\n", ""},
		{"relative", "include_if_exists 'pgnotify.conf'\n", ""},
		{"upstream before it", "primary_conninfo = 'host=x'\ninclude_if_exists 'pgnotify.conf'\n", ""},
		{"upstream behind it", "include_if_exists 'pgnotify.conf'\nprimary_conninfo = 'host=x'\n", "postgresql.conf:2 sets primary_conninfo behind the include"},
		{"other setting behind it", "include_if_exists 'pgnotify.conf'\nport = 1\n", ""},
		{"commented", "#include_if_exists 'pgnotify.conf'\n", "does not include"},
		{"of another directory", "include_if_exists '/tmp/pgnotify.conf'\n", "does not include"},
	} {
		s := fakeServer(t, "", nil)
		if err := os.WriteFile(s.ConfigFile(), []byte(strings.ReplaceAll(tt.conf, "%", s.DataDir())), 0o644); err != nil {
			t.Fatal(err)
		}
		err := s.IncludeError()
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
}

func TestAutoOverrides(t *testing.T) {
	const auto = "# Do not edit this file manually!\nprimary_conninfo = 'host=old'\nwork_mem = '4MB'\nrecovery_target_timeline = 'latest'\n"
	s := fakeServer(t, "include_if_exists 'pgnotify.conf'\n", map[string]string{"postgresql.auto.conf": auto})
	err := s.SetUpstream(t.Context(), "host=new password='it''s'")
	var e *OverrideError
	if !errors.As(err, &e) {
		t.Fatalf("got %v, want an OverrideError", err)
	}
	if diff := cmp.Diff(map[string]string{"primary_conninfo": "host=old"}, e.Settings); diff != "" {
		t.Errorf("settings (-want +got):\n%s", diff)
	}
	if !strings.Contains(e.Fix, "ALTER SYSTEM RESET primary_conninfo") || !strings.Contains(err.Error(), e.Fix) {
		t.Errorf("got %q, want the command in it", err)
	}
	m, err := s.Managed()
	if diff := cmp.Diff(map[string]string{"primary_conninfo": "host=new password='it''s'", "recovery_target_timeline": "latest"}, m); diff != "" || err != nil {
		t.Errorf("written: %v (-want +got):\n%s", err, diff)
	}
	if err := s.ResetAuto(t.Context()); !errors.As(err, &e) {
		t.Errorf("reset with the server down: got %v, want an OverrideError", err)
	}
	fi, err := os.Stat(s.includePath())
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode of our file: got %v, %v, want 0600", fi.Mode(), err)
	}
}

func TestSetManagedRefusesOthers(t *testing.T) {
	s := fakeServer(t, "include_if_exists 'pgnotify.conf'\n", nil)
	if err := s.SetManaged(t.Context(), map[string]string{"work_mem": "1"}); err == nil {
		t.Error("a setting that is none of ours was accepted")
	}
	if err := s.SetUpstream(t.Context(), "a\nb"); err == nil {
		t.Error("a line break was accepted")
	}
	if _, err := os.Stat(s.includePath()); err == nil {
		t.Error("a file was written")
	}
}

func TestOpenRefuses(t *testing.T) {
	good := map[string]string{"PG_VERSION": "15\n", "postgresql.conf": "", "bin/postgres": ""}
	for _, tt := range []struct {
		name  string
		files map[string]string
		want  string
	}{
		{"no PG_VERSION", map[string]string{"PG_VERSION": "-"}, "not a PostgreSQL data directory"},
		{"version 12", map[string]string{"PG_VERSION": "12\n"}, `unsupported PostgreSQL version "12", want 13 to 18`},
		{"version 19", map[string]string{"PG_VERSION": "19\n"}, "unsupported PostgreSQL version"},
		{"garbled version", map[string]string{"PG_VERSION": strings.Repeat("x", 1000)}, `"xxxxxxxxxxxxxxxxxxxx"`},
		{"no configuration", map[string]string{"postgresql.conf": "-"}, "no postgresql.conf in it, and none under"},
		{"no programs", map[string]string{"bin/postgres": "-"}, "find programs of PostgreSQL 15"},
	} {
		files := map[string]string{"bin/x": ""}
		for k, v := range good {
			files[k] = v
		}
		for k, v := range tt.files {
			files[k] = v
		}
		for k, v := range files {
			if v == "-" {
				delete(files, k)
			}
		}
		dir := writeAll(t, files)
		if tt.name != "no programs" {
			if err := os.Chmod(filepath.Join(dir, "bin", "postgres"), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		_, err := open(Config{DataDir: dir, BinDir: filepath.Join(dir, "bin")}, layout{debianEtc: filepath.Join(dir, "etc")})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want an error with %q", tt.name, err, tt.want)
		}
	}
	for dir, want := range map[string]string{"relative": "want an absolute path", "/nonexistent/x": "no such file", os.Args[0]: "not a directory"} {
		if dir == os.Args[0] {
			dir, _ = filepath.Abs(dir)
		}
		if _, err := Open(Config{DataDir: dir}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want an error with %q", dir, err, want)
		}
	}
}

func TestOpenDebian(t *testing.T) {
	root := t.TempDir()
	data := filepath.Join(root, "var", "15", "main")
	conf := filepath.Join(root, "etc", "15", "main", "postgresql.conf")
	for path, content := range map[string]string{
		filepath.Join(data, "PG_VERSION"):             "15\n",
		filepath.Join(root, "lib", "15/bin/postgres"): "",
		conf: "data_directory = '" + data + "'\nport = 5499\n",
		filepath.Join(root, "etc/15/a/postgresql.conf"): "data_directory = '/elsewhere'\n",
		filepath.Join(root, "etc/15/b/postgresql.conf"): "data_directory = '\n",
		filepath.Join(root, "log/x"):                    "",
	} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s, err := open(Config{DataDir: data + "/"}, layout{
		debianEtc: filepath.Join(root, "etc"), debianLib: filepath.Join(root, "lib"), debianLog: filepath.Join(root, "log"),
	})
	if err != nil {
		t.Fatal(err)
	}
	if s.ConfigFile() != conf || s.BinDir() != filepath.Join(root, "lib/15/bin") || s.Version() != 15 || s.DataDir() != data || s.cluster != "main" {
		t.Errorf("got %s, %s, %d, %s, %q", s.ConfigFile(), s.BinDir(), s.Version(), s.DataDir(), s.cluster)
	}
	if want := filepath.Join(root, "log/postgresql-15-main.log"); s.cfg.StartLog != want {
		t.Errorf("start log: got %s, want %s", s.cfg.StartLog, want)
	}
	if got, want := s.startCommand(time.Minute).Argv, []string{s.BinDir() + "/pg_ctl", "start", "-D", data, "-s", "-l", s.cfg.StartLog, "-w", "-t", "60",
		"-o", "-c config_file='" + conf + "'"}; !cmp.Equal(got, want) {
		t.Errorf("start command: got %q, want %q", got, want)
	}
	if ci, err := s.conninfo(); err != nil || !strings.Contains(ci, "port='5499'") {
		t.Errorf("conninfo: got %q, %v", ci, err)
	}
}

func TestParsePIDFile(t *testing.T) {
	full := "4711\n/data\n1700000000\n5433\n/tmp\nlocalhost\n  5433001     65538\nready   \n"
	got, err := parsePIDFile([]byte(full))
	if want := (pidFile{4711, "/data", time.Unix(1700000000, 0), 5433, "/tmp", "ready"}); got != want || err != nil {
		t.Errorf("full: got %+v, %v, want %+v", got, err, want)
	}
	if got, err := parsePIDFile([]byte("-12\n")); got.pid != -12 || got.status != "" || err != nil {
		t.Errorf("short: got %+v, %v", got, err)
	}
	for _, in := range []string{"", "\n", "x\n", "0\n"} {
		if _, err := parsePIDFile([]byte(in)); err == nil {
			t.Errorf("%q: want an error", in)
		}
	}
}

func TestStalePID(t *testing.T) {
	self := os.Getpid()
	s := fakeServer(t, "", nil)
	for _, tt := range []struct {
		name, in, err string
	}{
		{"a process that has gone", "4194305\n/x\n1\n", ""},
		{"another program", strings.Join([]string{strconv.Itoa(self), s.DataDir(), "1", ""}, "\n"), ""},
		{"garbled", "garbage\n", "want a process number"},
		{"empty", "", "want a process number"},
	} {
		if err := os.WriteFile(filepath.Join(s.DataDir(), pidFileName), []byte(tt.in), 0o600); err != nil {
			t.Fatal(err)
		}
		pid, running, err := s.Process()
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%s: got %v, want an error with %q", tt.name, err, tt.err)
			}
			continue
		}
		if pid != 0 || running || err != nil {
			t.Errorf("%s: got %d, %v, %v, want not running", tt.name, pid, running, err)
		}
	}
}

func TestProgress(t *testing.T) {
	var got []progressLine
	var lines []string
	w := &progressWriter{report: func(p progressLine) { got = append(got, p) }, line: func(l string) { lines = append(lines, l) }}
	for _, part := range []string{
		"pg_rewind: connected to server\n    0/8", "192 kB (0%) copied\r 8192/8192 kB (100%) copied\n", "waiting for checkpoint\n",
		"23/40 kB (57%), 0/1 tablespace\r40/40 kB (100%), 1/2 tablespaces\n", "pg_basebackup: error: boom",
	} {
		if _, err := w.Write([]byte(part)); err != nil {
			t.Fatal(err)
		}
	}
	w.flush()
	if diff := cmp.Diff([]progressLine{{0, 8192 << 10, 0}, {8192 << 10, 8192 << 10, 0}, {23 << 10, 40 << 10, 1}, {40 << 10, 40 << 10, 2}}, got, cmp.AllowUnexported(progressLine{})); diff != "" {
		t.Errorf("progress (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"pg_rewind: connected to server", "waiting for checkpoint", "pg_basebackup: error: boom"}, lines); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
	if !strings.HasSuffix(w.message(), "pg_basebackup: error: boom") {
		t.Errorf("message: got %q", w.message())
	}
}

func TestLastLine(t *testing.T) {
	w := &lastLineWriter{}
	for _, p := range []string{"one\ntwo", " and more\nthr", "ee\nhalf"} {
		if _, err := w.Write([]byte(p)); err != nil {
			t.Fatal(err)
		}
	}
	if w.line != "three" {
		t.Errorf("got %q, want %q", w.line, "three")
	}
}

func TestWithDefault(t *testing.T) {
	for _, tt := range []struct{ in, key, value, want string }{
		{"host=a", "port", "5", "port='5' host=a"},
		{"", "dbname", "it's", `dbname='it\'s'`},
		{"postgres://u:p@h/db", "dbname", "postgres", "postgres://u:p@h/db"},
		{"postgres://h", "dbname", "postgres", "postgres://h/postgres"},
		{"postgresql://h:1/", "port", "5", "postgresql://h:1/"},
		{"postgresql://h/?dbname=x", "dbname", "postgres", "postgresql://h/?dbname=x"},
		{"postgresql://h/x", "port", "5", "postgresql://h/x?port=5"},
	} {
		if got, err := withDefault(tt.in, tt.key, tt.value); got != tt.want || err != nil {
			t.Errorf("%q %s: got %q, %v, want %q", tt.in, tt.key, got, err, tt.want)
		}
	}
	if _, err := withDefault("postgres://u:secret@h:x/", "port", "5"); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("bad URI: got %v, want an error without the password", err)
	}
}

func TestConnConfig(t *testing.T) {
	cfg, err := connConfig("host=db1 hostaddr=192.0.2.1 port=7 user=r dbname=d keepalives_idle=1 tcp_user_timeout=1500 gssencmode=disable channel_binding=prefer", map[string]string{"a": "b"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"application_name": "pgnotify", "a": "b"}, cfg.RuntimeParams); diff != "" {
		t.Errorf("parameters (-want +got):\n%s", diff)
	}
	if addrs, err := cfg.LookupFunc(t.Context(), "db1"); err != nil || len(addrs) != 1 || addrs[0] != "192.0.2.1" {
		t.Errorf("hostaddr: got %v, %v", addrs, err)
	}
	if cfg.ConnectTimeout != connectTimeout {
		t.Errorf("connect timeout: got %v, want %v", cfg.ConnectTimeout, connectTimeout)
	}
	if cfg, err = connConfig("host=db1 connect_timeout=7", nil); err != nil || cfg.ConnectTimeout != 7*time.Second {
		t.Errorf("connect timeout: got %v, %v, want 7s", cfg.ConnectTimeout, err)
	}
	if _, err = connConfig("host=db1 connect_timeout=abc password=secret", nil); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("bad: got %v, want an error without the password", err)
	}
}

func TestVersionNum(t *testing.T) {
	for in, want := range map[string]int{"15.18 (Debian 15.18-0+deb12u1)": 150018, "13.23": 130023, "18beta1": 180000, "9.6.24": 0, "": 0, "x": 0} {
		if got := versionNum(in); got != want {
			t.Errorf("%q: got %d, want %d", in, got, want)
		}
	}
}

func TestSegmentTimeline(t *testing.T) {
	if got, err := segmentTimeline("0000000A0000000000000003"); got != 10 || err != nil {
		t.Errorf("got %d, %v, want 10", got, err)
	}
	for _, in := range []string{"", "00000002.history", "ZZZZZZZZ0000000000000003", "000000010000000000000003.partial", "00000004.history.partial"} {
		if _, err := segmentTimeline(in); err == nil {
			t.Errorf("%q: want an error", in)
		}
	}
}

func TestEscapes(t *testing.T) {
	if got, want := shellQuote("it's"), `'it'\''s'`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := escapeMapping("/a=b"), `/a\=b`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// A refused connection is told once for each way, in one line.
func TestConnectErrorInOneLine(t *testing.T) {
	_, err := dial(t.Context(), "host=127.0.0.1 port=1 user=x connect_timeout=1", nil)
	var refused syscall.Errno
	if err == nil || strings.Contains(err.Error(), "\n") || strings.Count(err.Error(), "127.0.0.1:1 ") != 1 || !errors.As(err, &refused) || refused != syscall.ECONNREFUSED {
		t.Errorf("got %v", err)
	}
}
