package daemon

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pgvrrp/internal/conf"
	"pgvrrp/internal/control"
)

// planned gives the plan of a change from one text to another as lines.
func planned(t *testing.T, before, after string, states map[string]string) []string {
	t.Helper()
	d := &Daemon{log: slog.New(slog.DiscardHandler)}
	read := func(text string) *conf.Config {
		t.Helper()
		file := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, found := conf.Load(file, conf.Options{ConfigID: "n1"})
		if code := conf.ExitCode(found, false); code == conf.ExitCannot {
			t.Fatalf("%v\n%s", found, text)
		}
		return c
	}
	was, is := read(before), read(after)
	is.KeepVMACNames(was)
	change := differ(was, d.complete(was), is, d.complete(is))
	var lines []string
	for _, s := range change.steps(states) {
		line := strings.Join(strings.Fields(s.Action+" "+s.Kind+" "+s.Name), " ")
		for _, more := range []string{strings.Join(s.Keywords, " "), s.Text} {
			if more != "" {
				line += ": " + more
			}
		}
		lines = append(lines, line)
	}
	if names := change.unchanged(); len(names) > 0 {
		lines = append(lines, "unchanged "+strings.Join(names, " "))
	}
	if _, later := change.globals(); len(later) > 0 {
		lines = append(lines, "restart "+strings.Join(later, " "))
	}
	return lines
}

func vi(n int, vips string, more ...string) string {
	return fmt.Sprintf("vrrp_instance VI_%d {\ninterface eth0\nvirtual_router_id %d\nvirtual_ipaddress {\n%s\n}\n%s\n}\n", n, n, vips, strings.Join(more, "\n"))
}

func TestPlanSteps(t *testing.T) {
	masters := map[string]string{"VI_1": control.StateMaster, "VI_2": control.StateMaster, "VI_3": control.StateBackup}
	one, two := vi(1, "192.0.2.1/24"), vi(2, "192.0.2.2/24")
	six := strings.Replace(vi(6, "fe80::1/64", "use_vmac"), "virtual_router_id 6", "virtual_router_id 1", 1)
	hooks := "notify_deleted \"/bin/gone now\"\nnotify_fault /bin/fault\nnotify /bin/any\nnotify_backup /bin/back"
	const script, other = "vrrp_script %s {\nscript \"/bin/true %s\"\n}\n", "vrrp_script b {\nscript /bin/b\n}\n"
	a := fmt.Sprintf(script, "a", "x")
	for _, tt := range []struct {
		name          string
		before, after string
		want          []string
	}{
		{"nothing", one + two, one + two, []string{"unchanged VI_1 VI_2"}},
		{"order and comments", one + two, "# new\n" + two + one, []string{"unchanged VI_1 VI_2"}},
		{"priority", one + two, vi(1, "192.0.2.1/24", "priority 50") + two,
			[]string{"change instance VI_1: priority: priority 100 to 50: another node may become master, or this one", "unchanged VI_2"}},
		{"an address more", one, vi(1, "192.0.2.1/24\n192.0.2.9/24"),
			[]string{"change instance VI_1: virtual_ipaddress: its addresses are set and announced anew"}},
		{"an address moves", vi(1, "192.0.2.1/24\n192.0.2.9/24") + two, one + vi(2, "192.0.2.2/24\n192.0.2.9/24"), []string{
			"change instance VI_1: virtual_ipaddress: its addresses are set and announced anew",
			"change instance VI_2: virtual_ipaddress: its addresses are set and announced anew",
			"move address 192.0.2.9/24 on eth0: from VI_1 to VI_2 in one step"}},
		{"an address moves from one that goes", vi(1, "192.0.2.1/24\n192.0.2.9/24") + two, vi(2, "192.0.2.2/24\n192.0.2.9/24"), []string{
			"change instance VI_2: virtual_ipaddress: its addresses are set and announced anew",
			"move address 192.0.2.9/24 on eth0: from VI_1 to VI_2 in one step",
			"remove instance VI_1: it gives its addresses away"}},
		{"an address moves to a backup", one + vi(3, "192.0.2.3/24"), vi(1, "192.0.2.9/24") + vi(3, "192.0.2.3/24\n192.0.2.1/24"), []string{
			"change instance VI_1: virtual_ipaddress: its addresses are set and announced anew",
			"change instance VI_3: virtual_ipaddress",
			"move address 192.0.2.1/24 on eth0: from VI_1 to VI_3, which is not MASTER here: it goes off"}},
		{"an address of the same number on another interface is no move", vi(1, "192.0.2.1/24\n192.0.2.9/24") + two, one + vi(2, "192.0.2.2/24\n192.0.2.9/24 dev eth1"), []string{
			"change instance VI_1: virtual_ipaddress: its addresses are set and announced anew",
			"change instance VI_2: virtual_ipaddress: its addresses are set and announced anew"}},
		{"an instance goes and one comes", vi(1, "192.0.2.1/24", hooks), two, []string{
			"remove instance VI_1: it gives its addresses away",
			"run hook VI_1: notify_deleted of instance VI_1: /bin/gone now", "run hook VI_1: notify of instance VI_1: /bin/any",
			"add instance VI_2: virtual_router_id 2 on eth0, priority 100"}},
		{"without notify_deleted an end is a fault", vi(3, "192.0.2.3/24", strings.SplitN(hooks, "\n", 2)[1]), two, []string{
			"remove instance VI_3: it is BACKUP",
			"run hook VI_3: notify_fault of instance VI_3: /bin/fault", "run hook VI_3: notify of instance VI_3: /bin/any",
			"add instance VI_2: virtual_router_id 2 on eth0, priority 100"}},
		{"hooks of the first state", two, two + vi(1, "192.0.2.1/24", hooks), []string{
			"add instance VI_1: virtual_router_id 1 on eth0, priority 100",
			"run hook VI_1: notify_backup of instance VI_1: /bin/back, unless it starts in FAULT",
			"run hook VI_1: notify of instance VI_1: /bin/any, unless it starts in FAULT", "unchanged VI_2"}},
		{"an interface with the virtual MAC address", one, vi(1, "192.0.2.1/24", "use_vmac") + two, []string{
			"add vmac vrrp.1: 00:00:5e:00:01:01 over eth0",
			"remove instance VI_1: it gives its addresses away; under its name comes another virtual router",
			"add instance VI_1: virtual_router_id 1 on eth0, priority 100",
			"add instance VI_2: virtual_router_id 2 on eth0, priority 100"}},
		{"the interface goes with its instance", vi(1, "192.0.2.1/24", "use_vmac") + two, two, []string{
			"remove instance VI_1: it gives its addresses away", "remove vmac vrrp.1", "unchanged VI_2"}},
		{"the other interface of its VRID keeps its name", vi(1, "192.0.2.1/24", "use_vmac") + six, six, []string{
			"remove instance VI_1: it gives its addresses away", "remove vmac vrrp.1", "unchanged VI_6"}},
		{"another virtual router", one, strings.Replace(one, "virtual_router_id 1", "virtual_router_id 9", 1), []string{
			"remove instance VI_1: it gives its addresses away; under its name comes another virtual router",
			"add instance VI_1: virtual_router_id 9 on eth0, priority 100"}},
		{"scripts", a + other + one, fmt.Sprintf(script, "a", "y") + fmt.Sprintf(script, "c", "") + one, []string{
			"stop script b", "change script a: /bin/true y", "start script c: /bin/true", "unchanged VI_1"}},
		{"a script's weight is no change of the script", a + one, strings.Replace(a, "}", "weight 3\n}", 1) + one, []string{"unchanged VI_1"}},
		{"a pipe", one, "global_defs {\nnotify_fifo /run/f\n}\n" + one,
			[]string{"change global_defs: notify_fifo", "start fifo /run/f", "unchanged VI_1"}},
		{"lines on reload", one, "global_defs {\nfifo_write_vrrp_states_on_reload\n}\n" + one, []string{
			"change global_defs: fifo_write_vrrp_states_on_reload",
			"run fifo: a line with the state of each instance and sync group that stays in it (fifo_write_vrrp_states_on_reload)", "unchanged VI_1"}},
		{"what waits for a restart", one, "global_defs {\nvrrp_rt_priority 50\nvrrp_no_swap\nlog_unknown_vrids\n}\n" + one,
			[]string{"change global_defs: log_unknown_vrids", "unchanged VI_1", "restart vrrp_rt_priority vrrp_no_swap"}},
		{"a sync group", one + two, "vrrp_sync_group G {\ngroup {\nVI_1\nVI_2\n}\n}\n" + one + two, []string{
			"remove instance VI_1: it gives its addresses away; under its name comes another virtual router",
			"remove instance VI_2: it gives its addresses away; under its name comes another virtual router",
			"add instance VI_1: virtual_router_id 1 on eth0, priority 100", "add instance VI_2: virtual_router_id 2 on eth0, priority 100",
			"add sync_group G: of VI_1, VI_2"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, planned(t, tt.before, tt.after, masters)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

const quorumText = "quorum {\nvoter n1 10.0.0.1\nvoter n2 10.0.0.2\nwitness w1 10.0.0.3\nresource a plain\nresource b plain\n}\n"

// An instance goes by a grant from its start to its end: with another resource it is another one.
func TestPlanQuorum(t *testing.T) {
	free := vi(1, "192.0.2.1/24")
	a, b := vi(1, "192.0.2.1/24", "quorum a"), vi(1, "192.0.2.1/24", "quorum b")
	anew := []string{
		"remove instance VI_1: it gives its addresses away; under its name comes another virtual router",
		"add instance VI_1: virtual_router_id 1 on eth0, priority 100",
	}
	left := []string{
		"remove instance VI_1: it gives its addresses away; resource a is given back, for all instances that have it, and granted anew; under its name comes another virtual router",
		anew[1],
	}
	for _, tt := range []struct {
		name, before, after string
		want                []string
	}{
		{"nothing", a, a, []string{"unchanged VI_1"}},
		{"a first grant", free, a, anew},
		{"another grant", a, b, left},
		{"no grant any more", a, free, left},
		{"an address more", a, vi(1, "192.0.2.1/24\n192.0.2.9/24", "quorum a"),
			[]string{"change instance VI_1: virtual_ipaddress: its addresses are set and announced anew"}},
		{"all addresses", a, vi(1, "192.0.2.9/24", "quorum a"), []string{"change instance VI_1: virtual_ipaddress: its addresses are set and announced anew; " +
			"none stays that could tell of the lease, so that resource a is given back, and granted anew"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := planned(t, quorumText+tt.before, quorumText+tt.after, map[string]string{"VI_1": control.StateMaster})
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// TestLifetimeGuardBoundsTheAddresses: where it is in force although the file asks for another one, nothing stays longer than the voters wait.
func TestLifetimeGuardBoundsTheAddresses(t *testing.T) {
	for lifetime, want := range map[string]time.Duration{"0": 2 * time.Second, "1": time.Second, "2": 2 * time.Second, "10": 2 * time.Second} {
		file := filepath.Join(t.TempDir(), "f")
		text := quorumText + vi(1, "192.0.2.1/24", "quorum a", "vip_lifetime "+lifetime) + vi(2, "192.0.2.2/24", "vip_lifetime 10")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, found := conf.Load(file, conf.Options{ConfigID: "n1"})
		if conf.ExitCode(found, false) == conf.ExitCannot {
			t.Fatal(found)
		}
		d := &Daemon{grants: &grants{kind: conf.GuardLifetime}}
		if all := d.complete(c); all[0].VIPLifetime != want || all[1].VIPLifetime != 10*time.Second {
			t.Errorf("vip_lifetime %s: got %v, want %v; without a grant %v", lifetime, all[0].VIPLifetime, want, all[1].VIPLifetime)
		}
	}
}
