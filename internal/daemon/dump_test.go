package daemon

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pgvrrp/internal/conf"
	"pgvrrp/internal/control"
)

// dumped is a daemon's view as the files tell it, of a file and what became of its instances.
func dumped(t *testing.T, text string, states map[string]control.Instance) *dumpView {
	t.Helper()
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, found := conf.Load(file, conf.Options{ConfigID: "n1"})
	if conf.ExitCode(found, false) == conf.ExitCannot {
		t.Fatal(found)
	}
	v := &dumpView{config: c, router: "n1", scripts: []control.Script{{Name: "chk", State: "ok"}, {Name: "bad", State: "failed"}}}
	d := &Daemon{}
	for _, i := range d.complete(c) {
		v.instances = append(v.instances, viewed{i, states[i.Name]})
	}
	return v
}

const dumpConf = `global_defs {
  json_version 1
}
vrrp_script chk {
  script "/bin/ok.sh a b"
  interval 2
  timeout 1
  weight 2
}
vrrp_script bad {
  script /bin/bad.sh
  weight -5 reverse
}
vrrp_instance VI_1 {
  state BACKUP
  interface eth0
  virtual_router_id 51
  nopreempt
  authentication {
    auth_type PASS
    auth_pass secret
  }
  virtual_ipaddress {
    10.70.0.100/24 label eth0:v
    10.70.0.101 dev eth1 scope link
  }
  track_script {
    chk
    bad
  }
  notify_master "/bin/true x"
}
vrrp_instance VI_2 {
  interface eth0
  virtual_router_id 52
  version 3
  advert_int 0.5
  virtual_ipaddress {
    fe80::1
    2001:db8::1/64
  }
}
`

func dumpStatesOf(at time.Time) map[string]control.Instance {
	return map[string]control.Instance{
		"VI_1": {State: control.StateMaster, Priority: 107, Since: at, Source: "10.70.0.1",
			Addresses: []control.Address{{Address: "10.70.0.100/24", Interface: "eth0", Held: true}, {Address: "10.70.0.101/32", Interface: "eth1", Held: true}},
			Counters: control.Counters{AdvertsSent: 4, AdvertsReceived: 9, BecameMaster: 1, AddressMismatches: 3, PriorityZeroReceived: 2, PriorityZeroSent: 1,
				Rejected: map[string]uint64{"too_short": 1, "length": 2, "ttl": 4, "auth": 5, "auth_type": 6, "interval": 7, "type": 8}}},
		"VI_2": {State: control.StateBackup, Priority: 100, Since: at, Master: "fe80::2", Peers: []control.Peer{{Address: "fe80::2", Priority: 200, Interval: 0.25}},
			Addresses: []control.Address{{Address: "fe80::1/128", Interface: "eth0"}, {Address: "2001:db8::1/64", Interface: "eth0"}}},
	}
}

// The forms are those of keepalived 2.2.7's files; the e2e test holds them against its own.
func TestDumpStats(t *testing.T) {
	v := dumped(t, dumpConf, dumpStatesOf(time.Now()))
	want := `VRRP Instance: VI_1
  Advertisements:
    Received: 9
    Sent: 4
  Became master: 1
  Released master: 0
  Packet Errors:
    Length: 3
    TTL: 4
    Invalid Type: 8
    Advertisement Interval: 7
    Address List: 3
  Authentication Errors:
    Invalid Type: 0
    Type Mismatch: 6
    Failure: 5
  Priority Zero:
    Received: 2
    Sent: 1
`
	got := string(v.stats(nil))
	if diff := cmp.Diff(want, strings.SplitAfter(got, "VRRP Instance: VI_2")[0][:len(want)]); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	cleared := map[string]dumpStats{"VI_1": statsOf(&v.instances[0].status), "VI_2": {AdvertSent: 7}}
	v.instances[0].status.Counters.AdvertsSent += 3
	v.instances[1].status.Counters.AdvertsSent = 2 // a new instance of that name
	got = string(v.stats(cleared))
	if want := "Received: 0\n    Sent: 3\n"; !strings.Contains(got, want) || !strings.Contains(got, "Sent: 2\n") || strings.Count(got, ": 0\n") != 26 {
		t.Errorf("after the clearing: got %s", got)
	}
}

func TestDumpData(t *testing.T) {
	at := time.Date(2026, 11, 22, 3, 57, 22, 335911000, time.Local)
	got := string(dumped(t, dumpConf, dumpStatesOf(at)).data())
	for _, want := range []string{
		"------< VRRP Topology >------\n VRRP Instance = VI_1\n   VRRP Version = 2\n   State = MASTER\n   Wantstate = MASTER\n",
		".335911 (Sun Nov 22 03:57:22.335911 2026)\n   Interface = eth0\n",
		"   Gratuitous ARP delay = 5\n", "   Virtual Router ID = 51\n   Priority = 100\n   Effective priority = 107\n",
		"   Advert interval = 1 sec\n", "   Advert interval = 500 milli-sec\n", "   Preempt = disabled\n",
		"   Virtual IP (2):\n     10.70.0.100/24 dev eth0 scope global label eth0:v set\n     10.70.0.101 dev eth1 scope link set\n",
		"     fe80::1 dev eth0 scope global deprecated\n     2001:db8::1/64 dev eth0 scope global preferred_lft forever\n",
		"   Tracked scripts :\n     chk weight 2\n     bad weight -5 reverse\n",
		"   Master state transition script = '/bin/true' 'x', uid:gid ", "   Password = ********\n",
		" VRRP Script = chk\n   Command = '/bin/ok.sh' 'a' 'b'\n   Interval = 2 sec\n   Timeout = 1 sec\n   Weight = 2\n",
		"   Status = GOOD\n   Tracking instances :\n     VI_1, weight 2\n   State = idle\n", "   Status = BAD\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q", want)
		}
	}
	if strings.Contains(got, "secret") {
		t.Error("it tells the password")
	}
	if t.Failed() {
		t.Log(got)
	}
}

func TestDumpJSON(t *testing.T) {
	at := time.Unix(1795319842, 335911000)
	v := dumped(t, dumpConf, dumpStatesOf(at))
	text, err := v.json(nil)
	if err != nil || strings.Contains(string(text), "secret") {
		t.Fatalf("got %v, %s", err, text)
	}
	var all []struct{ Data, Stats map[string]any }
	if err := json.Unmarshal(text, &all); err != nil || len(all) != 2 {
		t.Fatalf("got %v, %s", err, text)
	}
	for key, want := range map[string]any{"iname": "VI_1", "ifp_ifname": "eth0", "state": 2., "wantstate": 2., "vrid": 51., "garp_delay": 5., "nopreempt": true,
		"last_transition": 1795319842.335911, "vipset": true, "auth_type": 1., "script_master": "'/bin/true' 'x'", "accept": 1., "adver_int": 1., "effective_priority": 107.} {
		if got := all[0].Data[key]; got != want {
			t.Errorf("%s: got %v, want %v", key, got, want)
		}
	}
	if got := all[1].Data; got["state"] != 1. || got["master_priority"] != 200. || got["adver_int"] != .5 || got["master_adver_int"] != .25 || got["vipset"] != false {
		t.Errorf("got %v", got)
	}
	if got := all[0].Stats["ip_ttl_err"]; got != 4. {
		t.Errorf("got %v", got)
	}

	v = dumped(t, strings.Replace(dumpConf, "json_version 1", "json_version 2\n}\nvrrp_track_process p {\nprocess \"pg a b\"\nparam_match partial\nquorum_max 3\nweight 4 reverse", 1), dumpStatesOf(at))
	if text, err = v.json(nil); err != nil {
		t.Fatal(err)
	}
	var two struct {
		VRRP         []any            `json:"vrrp"`
		TrackProcess []map[string]any `json:"track_process"`
	}
	if err := json.Unmarshal(text, &two); err != nil || len(two.VRRP) != 2 || len(two.TrackProcess) != 1 || two.TrackProcess[0]["max_processes"] != 3. ||
		two.TrackProcess[0]["weight"] != -4. || two.TrackProcess[0]["param_match"] != "partial" {
		t.Errorf("got %v, %s", err, text)
	}
}

func TestDumpFile(t *testing.T) {
	for _, tt := range []struct{ name, keyword, suffix, want string }{
		{"default", "", "", "/run/vrrpd/keepalived.data"},
		{"keepalived's", "/tmp/keepalived.data", "", "/tmp/keepalived.data"},
		{"a directory", "/dev/shm/", "", "/dev/shm/keepalived.data"},
		{"relative", "x/state", "", "/run/vrrpd/x/state"},
		{"of an instance", "", "red_blue", "/run/vrrpd/keepalived.red_blue.data"},
		{"of an instance, without an extension", "/a.b/state", "blue", "/a.b/state.blue"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := dumpFile("/run/vrrpd", tt.keyword, "keepalived.data", tt.suffix); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
	g := conf.Globals{NetNamespace: "red", InstanceName: "blue"}
	if got := dumpSuffix(&g); got != "" {
		t.Errorf("without data_use_instance: got %q", got)
	}
	g.DataUseInstance = true
	if got := dumpSuffix(&g); got != "red_blue" {
		t.Errorf("got %q", got)
	}
}
