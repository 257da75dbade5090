package control_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgvrrp/internal/control"
)

// exposed reads Prometheus's text format as strictly as promtool check metrics does, and gives the samples by name and labels.
func exposed(t *testing.T, text string) map[string]float64 {
	t.Helper()
	var (
		name   = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)
		sample = regexp.MustCompile(`^([a-z][a-z0-9_]*)(\{.*\})? (\S+)$`)
		labels = regexp.MustCompile(`^\{([a-z_]+="(?:[^"\\\n]|\\["\\n])*"(?:,[a-z_]+="(?:[^"\\\n]|\\["\\n])*")*)\}$`)
	)
	all := map[string]float64{}
	helped, typed := map[string]bool{}, map[string]string{}
	family := ""
	if !strings.HasSuffix(text, "\n") {
		t.Error("the last line has no end")
	}
	for line := range strings.SplitSeq(strings.TrimSuffix(text, "\n"), "\n") {
		words := strings.SplitN(line, " ", 4)
		switch {
		case strings.HasPrefix(line, "# HELP "):
			family = words[2]
			if helped[family] || !name.MatchString(family) || len(words) < 4 || !strings.HasSuffix(words[3], ".") {
				t.Errorf("%q: a bad name, no text, or the family again", line)
			}
			helped[family] = true
		case strings.HasPrefix(line, "# TYPE "):
			if words[2] != family || typed[family] != "" {
				t.Errorf("%q: not behind its HELP", line)
			}
			typed[family] = words[3]
			if total := strings.HasSuffix(family, "_total"); total != (words[3] == "counter") {
				t.Errorf("%q: counters alone end in _total", line)
			}
		default:
			m := sample.FindStringSubmatch(line)
			if m == nil || m[1] != family || typed[family] == "" || m[2] != "" && !labels.MatchString(m[2]) {
				t.Errorf("%q: no sample of %s", line, family)
				continue
			}
			v, err := strconv.ParseFloat(m[3], 64)
			if _, again := all[m[1]+m[2]]; err != nil || again {
				t.Errorf("%q: %v, again %t", line, err, again)
			}
			all[m[1]+m[2]] = v
		}
	}
	return all
}

func TestMetrics(t *testing.T) {
	at := time.Unix(1700000000, 500_000_000)
	hook := &control.Hook{State: control.StateMaster, At: at, Duration: 0.25, Code: 3}
	s := control.Status{
		Node: "n1", Version: "1.0", Started: at, ConfigError: "x", Reloads: control.Reloads{Done: 2, Refused: 1, Last: at},
		Announced: control.Announced{ARP: 10, NA: 5, Failed: 1},
		Instances: []control.Instance{{
			Name: "VI_\"1\"\\\n{x}", State: control.StateMaster, Seq: 7, Since: at, Priority: 110, ConfiguredPriority: 100,
			Addresses: []control.Address{{Held: true}, {}},
			Peers:     []control.Peer{{Address: "192.0.2.2", Priority: 90, Heard: at}, {Address: "192.0.2.3"}},
			Trackers:  []control.Tracker{{Kind: "script", Name: "chk", State: "ok"}, {Kind: "script", Name: "chk", State: "ok"}, {Kind: "interface", Name: "eth1", State: "failed"}},
			Troubles: []control.Trouble{{Kind: control.TroubleInterval, Now: true, Count: 4}, {Kind: control.TroubleTTL, Count: 9},
				{Kind: control.TroubleNeverHeard, Now: true, Notice: true}},
			LastHook: hook, Hooks: control.HookCounters{Succeeded: 3, Failed: 2, Superseded: 1, Seconds: 1.5},
			Counters: control.Counters{AdvertsSent: 1 << 60, Rejected: map[string]uint64{"ttl": 9, "interval": 4}, PriorityZeroSent: 1},
		}, {Name: "VI_\xff2", State: control.StateFault}},
		Groups:  []control.Group{{Name: "VG", State: control.StateBackup, LastHook: hook}},
		Scripts: []control.Script{{Name: "chk", State: "ok", Runs: 8, Failures: 1, Code: 0, Duration: 0.01, Longest: 0.5}},
		Links:   []control.Link{{Name: "eth0", Up: true, Rejected: map[string]uint64{"vrid": 12}}},
		Quorum: &control.Quorum{Node: "n1", Leader: "n2", Votes: 5, Needed: 3, Lease: 0.4,
			Voters:    []control.Voter{{ID: "n2", Member: true, Heard: true, Links: []control.VoterLink{{Local: "10.0.0.1", Remote: "10.0.0.2:3741", Up: true, RTT: 0.0001}}}},
			Resources: []control.Resource{{Name: "pg", Epoch: 4, Phase: "active", Holder: "n1", Mine: true, Live: true, Left: 0.3, Renewals: 99}}},
	}
	got := exposed(t, string(s.Metrics()))
	one := `instance="VI_\"1\"\\\n{x}"`
	for sample, want := range map[string]float64{
		`vrrpd_info{node="n1",version="1.0"}`:                                           1,
		`vrrpd_start_time_seconds`:                                                      1700000000.5,
		`vrrpd_config_refused`:                                                          1,
		`vrrpd_reloads_total`:                                                           2,
		`vrrpd_garp_sent_total`:                                                         10,
		`vrrpd_instance_state{` + one + `,state="MASTER"}`:                              1,
		`vrrpd_instance_state{` + one + `,state="BACKUP"}`:                              0,
		"vrrpd_instance_state{instance=\"VI_\uFFFD2\",state=\"FAULT\"}":                 1,
		`vrrpd_instance_addresses{` + one + `}`:                                         2,
		`vrrpd_instance_addresses_held{` + one + `}`:                                    1,
		`vrrpd_transitions_total{` + one + `}`:                                          7,
		`vrrpd_adverts_sent_total{` + one + `}`:                                         1 << 60,
		`vrrpd_priority_zero_sent_total{` + one + `}`:                                   1,
		`vrrpd_packets_rejected_total{` + one + `,reason="ttl"}`:                        9,
		`vrrpd_trouble{` + one + `,kind="advert_interval"}`:                             1,
		`vrrpd_trouble{` + one + `,kind="ttl"}`:                                         0,
		`vrrpd_trouble{` + one + `,kind="never_heard"}`:                                 1,
		`vrrpd_trouble_packets_total{` + one + `,kind="ttl"}`:                           9,
		`vrrpd_peer_heard_timestamp_seconds{` + one + `,peer="192.0.2.3"}`:              0,
		`vrrpd_hook_events_total{of="instance",name="VI_\"1\"\\\n{x}",result="failed"}`: 2,
		`vrrpd_hook_seconds_total{of="instance",name="VI_\"1\"\\\n{x}"}`:                1.5,
		`vrrpd_hook_last_exit_code{of="sync_group",name="VG"}`:                          3,
		`vrrpd_sync_group_state{sync_group="VG",state="BACKUP"}`:                        1,
		`vrrpd_tracker_ok{` + one + `,kind="interface",name="eth1"}`:                    0,
		`vrrpd_script_failures_total{script="chk"}`:                                     1,
		`vrrpd_link_packets_rejected_total{interface="eth0",reason="vrid"}`:             12,
		`vrrpd_quorum_votes_needed`:                                                     3,
		`vrrpd_resource_epoch{resource="pg"}`:                                           4,
		`vrrpd_resource_lease_left_seconds{resource="pg"}`:                              0.3,
		`vrrpd_resource_lease_renewals_total{resource="pg"}`:                            99,
		`vrrpd_resource_phase{resource="pg",phase="active"}`:                            1,
		`vrrpd_resource_holder{resource="pg",node="n1"}`:                                1,
		`vrrpd_voter_link_up{voter="n2",local="10.0.0.1",remote="10.0.0.2:3741"}`:       1,
	} {
		if v, ok := got[sample]; !ok || v != want {
			t.Errorf("%s: got %v, %t, want %v", sample, v, ok, want)
		}
	}
	if _, there := got[`vrrpd_trouble_packets_total{`+one+`,kind="never_heard"}`]; there {
		t.Error("a notice is counted in packets")
	}
	if got := exposed(t, string((&control.Status{}).Metrics())); got["vrrpd_start_time_seconds"] != 0 {
		t.Errorf("empty: got %v", got)
	}
}

func TestMetricsOnTheSocket(t *testing.T) {
	d, _, _ := serve(t)
	d.set(func() { d.status.Node = "n1" })
	h := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", d.path)
	}}}
	r, err := h.Get("http://vrrpd/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil || r.Header.Get("Content-Type") != control.MetricsType {
		t.Fatalf("got %v, %q", err, r.Header)
	}
	if got := exposed(t, string(b)); got[fmt.Sprintf("vrrpd_info{node=%q,version=\"\"}", "n1")] != 1 {
		t.Errorf("got %v", got)
	}
}
