package promote

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

const least = `[postgres]
data_dir = "/srv/data"
[hook]
vip = "10.0.0.100"
peers = { n1 = ["10.0.0.1"], n2 = ["10.0.0.2"] }
`

func TestSettingsDefaults(t *testing.T) {
	got, err := Parse("f", []byte(least), "n1")
	if err != nil {
		t.Fatal(err)
	}
	want := Settings{
		File: "f", Node: "n1", DataDir: "/srv/data", Port: 5432, Conninfo: "host=/run/postgresql dbname=postgres", User: "replicator",
		VIP:    netip.MustParseAddr("10.0.0.100"),
		Peers:  map[string][]netip.Addr{"n1": {netip.MustParseAddr("10.0.0.1")}, "n2": {netip.MustParseAddr("10.0.0.2")}},
		Settle: 50 * time.Millisecond, OnCrash: "failover", Rewind: true, Reclone: true, KeepOldData: true,
		Timeouts: Timeouts{
			Connect: 150 * time.Millisecond, Probe: 500 * time.Millisecond, Handover: 10 * time.Second, Start: time.Minute, Stop: 30 * time.Second, Promote: time.Minute,
			Lock: time.Minute, Streaming: 30 * time.Second,
		},
	}
	if d := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}), cmpopts.IgnoreFields(Settings{}, "Text")); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
}

func TestSettingsAll(t *testing.T) {
	got, err := Parse("f", []byte(`node = "n2"
[postgres]
data_dir = "/srv/data"
bin_dir = "/opt/pg/bin"
config_file = "/etc/pg.conf"
port = 6432
conninfo = "host=/tmp"
start = ["/usr/bin/systemctl", "start", "pg"]
stop = ["/usr/bin/systemctl", "stop", "pg"]
[replication]
user = "repl"
passfile = "/srv/.pgpass"
conninfo_options = "sslmode=verify-full sslrootcert='/srv/my ca.crt' keepalives_idle=3"
[hook]
vip = "2001:db8::100"
settle = "0s"
[hook.peers]
n1 = ["2001:db8::1", "10.0.0.1"]
n2 = ["2001:db8::2"]
[failover]
on_crash = "failover"
[rejoin]
rewind = false
reclone = false
keep_old_data = false
[log]
file = "/var/log/pgnotify.log"
[timeouts]
probe = "200ms"
handover = "5s"
start = "1m"
stop = "10s"
promote = "30s"
lock = "20s"
streaming = "40s"
`), "whatever")
	if err != nil {
		t.Fatal(err)
	}
	if got.Node != "n2" || len(got.Peers["n1"]) != 2 || got.Rewind || got.Reclone || got.KeepOldData || got.Settle != 0 || got.Timeouts.Lock != 20*time.Second || got.LogFile == "" || len(got.Start) != 3 {
		t.Errorf("got %+v", got)
	}
	for name, pair := range map[string][2]string{
		"upstream": {got.Upstream("h"), "host=h port=6432 user=repl application_name=n2 passfile=/srv/.pgpass connect_timeout=2 keepalives_interval=1 keepalives_count=2 tcp_user_timeout=1500 sslmode=verify-full sslrootcert='/srv/my ca.crt' keepalives_idle=3"},
		"question": {got.Question("h"), "host=h port=6432 user=repl application_name=pgnotify passfile=/srv/.pgpass sslmode=verify-full sslrootcert='/srv/my ca.crt'"},
		"source":   {got.Source("h", "postgres"), "host=h port=6432 user=repl application_name=pgnotify passfile=/srv/.pgpass connect_timeout=5 dbname=postgres keepalives_interval=2 keepalives_count=3 tcp_user_timeout=10000 sslmode=verify-full sslrootcert='/srv/my ca.crt' keepalives_idle=3"},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s:\ngot  %s\nwant %s", name, pair[0], pair[1])
		}
	}
	if host := conninfoHost(got.Upstream("2001:db8::100")); host != "2001:db8::100" {
		t.Errorf("host: got %q", host)
	}
}

func TestSettingsMistakes(t *testing.T) {
	insert := func(line string) string {
		section, key, ok := strings.Cut(line, "/")
		if !ok {
			return line + "\n" + least
		}
		text := least
		if strings.HasPrefix(key, "data_dir") || strings.HasPrefix(key, "vip") || strings.HasPrefix(key, "peers") {
			name, _, _ := strings.Cut(key, " ")
			var kept []string
			for l := range strings.Lines(least) {
				if strings.HasPrefix(l, name+" ") {
					l = key + "\n"
				}
				kept = append(kept, l)
			}
			return strings.Join(kept, "")
		}
		if strings.Contains(text, "["+section+"]\n") {
			return strings.Replace(text, "["+section+"]\n", "["+section+"]\n"+key+"\n", 1)
		}
		return text + "[" + section + "]\n" + key + "\n"
	}
	tests := []struct{ line, want string }{
		{`nonsense = 1`, `f:1: nonsense: unknown key`},
		{`node = 1`, `f:1: node: want a text in quotes (got 1)`},
		{`node = "n 1"`, `f:1: node: want letters, digits, '_', '.' and '-' only (got "n 1")`},
		{`node = "n9"`, `f:6: hook.peers: this node, "n9", is not among them (n1, n2): add it or set node`},
		{`resource = "pg"`, `f:4: hook: belongs to hook mode; with a resource the nodes and their addresses stand in the quorum block`},
		{`resource = "p g"`, `f:1: resource: want the name of a resource in the quorum block of vrrpd.conf; leave it out for hook mode (got "p g")`},
		{`postgres = 1`, `f:2:2: not TOML`},
		{`hook/nonsense = 1`, `f:4: hook.nonsense: unknown key`},
		{`nonsense/a = 1`, `f:6: nonsense: unknown key`},
		{`postgres/data_dir = "data"`, `f:2: postgres.data_dir: want an absolute path (got "data")`},
		{`postgres/data_dir = "/"`, `f:2: postgres.data_dir: want an absolute path (got "/")`},
		{`postgres/bin_dir = ["x"]`, `f:2: postgres.bin_dir: want a text in quotes (got [x])`},
		{`postgres/port = "5432"`, `f:2: postgres.port: want a number from 1 to 65535 (got "5432")`},
		{`postgres/port = 65536`, `f:2: postgres.port: want a number from 1 to 65535 (got 65536)`},
		{`postgres/start = "pg_ctl start"`, `f:2: postgres.start: want a list of words, the first an absolute path, as in ["/usr/bin/x", "start"] (got "pg_ctl start")`},
		{`postgres/stop = ["pg_ctl"]`, `f:2: postgres.stop: want a list of words`},
		{`postgres/stop = []`, `f:2: postgres.stop: want a list of words`},
		{`postgres/config_file = "x"`, `f:2: postgres.config_file: want an absolute path (got "x")`},
		{`postgres/conninfo = "a\nb"`, `f:2: postgres.conninfo: must not have a line break`},
		{`replication/user = ""`, `f:7: replication.user: must not be empty (got "")`},
		{`replication/passfile = "x"`, `f:7: replication.passfile: want an absolute path (got "x")`},
		{`replication/conninfo_options = "sslmode"`, `f:7: replication.conninfo_options: want libpq keyword=value pairs (got "sslmode")`},
		{`replication/conninfo_options = "sslmode='x"`, `f:7: replication.conninfo_options: a quote is not closed`},
		{`replication/conninfo_options = "host=x"`, `f:7: replication.conninfo_options: host is set by pgnotify itself`},
		{`hook/vip = "10.0.0.100/24"`, `f:4: hook.vip: want an IPv4 or IPv6 address without prefix length (got "10.0.0.100/24")`},
		{`hook/vip = "0.0.0.0"`, `f:4: hook.vip: want the address of a host`},
		{`hook/peers = []`, `f:5: hook.peers: want every node with its addresses`},
		{`hook/peers = { n1 = ["10.0.0.1"] }`, `f:5: hook.peers: want every node with its addresses, as in { n1 = ["10.78.0.1"], n2 = ["10.78.0.2"] }, two nodes at least`},
		{`hook/peers = { n1 = ["10.0.0.1"], n2 = ["db2"] }`, `f:5: hook.peers: node "n2": want an IPv4 or IPv6 address`},
		{`hook/peers = { n1 = ["10.0.0.1"], n2 = "10.0.0.2" }`, `f:5: hook.peers: node "n2": want every node`},
		{`hook/peers = { n1 = ["10.0.0.1"], n2 = ["10.0.0.1"] }`, `f:5: hook.peers: node "n2": 10.0.0.1 stands twice`},
		{`hook/settle = 50`, `f:4: hook.settle: want a time with its unit from 0s to 10s, as in "300ms" (got 50)`},
		{`hook/settle = "11s"`, `f:4: hook.settle: want a time with its unit`},
		{`failover/on_crash = "restart"`, `f:7: failover.on_crash: in hook mode nothing of ours runs beside the server: when it dies alone it stays down and the addresses stay there, until pgnotify start --as-is or vrrpd release`},
		{`failover/on_crash = "x"`, `f:7: failover.on_crash: want failover (got "x")`},
		{`rejoin/rewind = "yes"`, `f:7: rejoin.rewind: want true or false (got "yes")`},
		{`http/listen = "x"`, `f:6: http: the HTTP interface is the agent's, which needs a resource`},
		{`timeouts/connect = "0s"`, `f:7: timeouts.connect: want a time with its unit from 1ms`},
		{`timeouts/probe = "0s"`, `f:7: timeouts.probe: want a time with its unit from 1ms`},
		{`timeouts/nonsense = "1s"`, `f:7: timeouts.nonsense: unknown key`},
		{`log/file = "x"`, `f:7: log.file: want an absolute path (got "x")`},
		{`a = [`, `not TOML`},
	}
	for _, tt := range tests {
		t.Run(tt.line, func(t *testing.T) {
			_, err := Parse("f", []byte(insert(tt.line)), "n1")
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got  %v\nwant %s\nin\n%s", err, tt.want, insert(tt.line))
			}
		})
	}
}

const leastQuorum = `resource = "pg"
[postgres]
data_dir = "/srv/data"
`

func TestQuorumSettings(t *testing.T) {
	s, err := Parse("f", []byte(leastQuorum+"[failover]\non_crash = \"restart\"\n[http]\nlisten = \"[::]:8008\"\n"), "n1.example.com")
	if err != nil {
		t.Fatal(err)
	}
	if !s.Quorum() || s.Node != "" || s.OnCrash != "restart" || s.Listen != netip.MustParseAddrPort("[::]:8008") {
		t.Errorf("got %+v", s)
	}
	for name, tt := range map[string]struct{ text, want string }{
		"sync_num":   {"sync_num = 2\n" + leastQuorum, "f:1: sync_num: is kept by the quorum's log: pgnotify set sync_num VALUE changes it on every node"},
		"min_copies": {leastQuorum + "[replication]\nmin_copies = 2\n", "f:5: replication.min_copies: is kept by the quorum's log"},
		"peers":      {"peers = {}\n" + leastQuorum, "f:1: peers: stands in vrrpd.conf, and nowhere else"},
		"listen":     {leastQuorum + "[http]\nlisten = \"8008\"\n", "f:5: http.listen: want an address and a port"},
		"crash":      {leastQuorum + "[failover]\non_crash = \"never\"\n", "f:5: failover.on_crash: want failover or restart"},
		"http":       {leastQuorum + "[http]\nport = 1\n", "f:5: http.port: unknown key"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Parse("f", []byte(tt.text), "n1"); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
}

func TestSettingsTellAllMistakesAtOnce(t *testing.T) {
	_, err := Parse("f", []byte("resource = \"pg\"\n[postgres]\nport = 0\nprot = 1\n[hook]\nvip = \"x\"\n"), "n1")
	want := `f: postgres.data_dir: is missing
f:3: postgres.port: want a number from 1 to 65535 (got 0)
f:4: postgres.prot: unknown key
f:5: hook: belongs to hook mode; with a resource the nodes and their addresses stand in the quorum block of vrrpd.conf, and the agent does the rest`
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

func TestHostNameWithDomain(t *testing.T) {
	s, err := Parse("f", []byte(least), "n1.example.com")
	if err != nil || s.Node != "n1" {
		t.Errorf("got %q, %v, want n1", s.Node, err)
	}
}

// TestSamples: every pgnotify.toml that is shipped is right for each of its nodes.
func TestSamples(t *testing.T) {
	files, err := filepath.Glob("../../etc/*/pgnotify.toml")
	if err != nil || len(files) < 5 {
		t.Fatalf("%d files, want at least 5: %v", len(files), err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, node := range []string{"n1", "n2"} {
			s, err := Parse(file, text, node)
			if err != nil {
				t.Error(err)
			}
			if s.Quorum() != strings.Contains(file, "quorum") {
				t.Errorf("%s: quorum mode %t", file, s.Quorum())
			}
		}
	}
}

func TestLoad(t *testing.T) {
	if _, err := Load(filepath.Join(t.TempDir(), "missing.toml")); err == nil || !strings.HasPrefix(err.Error(), "read settings: open ") {
		t.Errorf("got %v", err)
	}
	file := filepath.Join(t.TempDir(), "a.toml")
	if err := os.WriteFile(file, []byte("node = \"n1\"\n"+least), 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := Load(file); err != nil || s.File != file {
		t.Errorf("got %+v, %v", s, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(least)
	f.Add("node = \"n1\"\n[hook.peers]\nn1 = []\n")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Parse("f", []byte(text), "n1")
		if err == nil && (s.DataDir == "" || !s.Quorum() && (!s.VIP.IsValid() || s.Peers[s.Node] == nil)) {
			t.Errorf("accepted %+v", s)
		}
	})
}

func TestConninfoWhiteSpace(t *testing.T) {
	tests := []struct {
		name, text string
		want       []pair
	}{
		{"tab between", "password=x\tsslmode = require", []pair{{"password", "x"}, {"sslmode", "require"}}},
		{"every kind of it", "\r\n a=1\v\fb=2\n", []pair{{"a", "1"}, {"b", "2"}}},
		{"escaped at the end", `a=b\ `, []pair{{"a", "b "}}},
		{"quoted", "a='\f'", []pair{{"a", "\f"}}},
		{"none to libpq", "a=1\u00a0 b=2", []pair{{"a", "1\u00a0"}, {"b", "2"}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseConninfo(tt.text)
			if d := cmp.Diff(tt.want, got, cmp.AllowUnexported(pair{})); d != "" || err != nil {
				t.Errorf("%q: %v, -want +got\n%s", tt.text, err, d)
			}
		})
	}
}

func FuzzConninfo(f *testing.F) {
	f.Add(`a=b c='d e' f='\''`)
	f.Add("0='\f'")
	f.Fuzz(func(t *testing.T, text string) {
		pairs, err := parseConninfo(text)
		if err != nil {
			return
		}
		again, err := parseConninfo(formatConninfo(pairs))
		if err != nil {
			t.Fatalf("%q: can't read what we wrote, %q: %v", text, formatConninfo(pairs), err)
		}
		if d := cmp.Diff(pairs, again, cmp.AllowUnexported(pair{})); d != "" {
			t.Errorf("%q: -read +read again\n%s", text, d)
		}
	})
}
