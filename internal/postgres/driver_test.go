package postgres

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestSyncNames(t *testing.T) {
	for _, tt := range []struct {
		name  string
		names []string
		want  string // "" with bad: an error
		bad   string
	}{
		{"none", nil, "", ""},
		{"hold", []string{HoldName}, "FIRST 1 (pgnotify_hold)", ""},
		{"one", []string{"n1"}, `FIRST 1 ("n1")`, ""},
		{"newest first, with the hold", []string{"b", "a", HoldName}, `FIRST 3 ("b", "a", pgnotify_hold)`, ""},
		{"quotes", []string{`a"b`, "x-y.z", "FIRST"}, `FIRST 3 ("a""b", "x-y.z", "FIRST")`, ""},
		{"empty", []string{""}, "", "want 1 to 63"},
		{"everybody", []string{"*"}, "", "not *"},
		{"too long", []string{strings.Repeat("x", 64)}, "", "want 1 to 63"},
		{"not ASCII", []string{"ä"}, "", "printable ASCII"},
		{"line break", []string{"a\nb"}, "", "printable ASCII"},
		{"twice", []string{"a", "b", "A"}, "", "named twice"},
		{"the hold in capitals twice", []string{HoldName, "PGNOTIFY_HOLD"}, "", "named twice"},
	} {
		got, err := SyncNames(tt.names)
		if tt.bad == "" && (got != tt.want || err != nil) || tt.bad != "" && (err == nil || !strings.Contains(err.Error(), tt.bad)) {
			t.Errorf("%s: got %q, %v, want %q or an error with %q", tt.name, got, err, tt.want, tt.bad)
		}
	}
}

func TestSyncState(t *testing.T) {
	sender := func(name string, pid, priority int, state string) Walsender {
		return Walsender{Standby: Standby{Name: name, PID: pid, State: state, SyncPriority: priority, FlushLSN: 1}}
	}
	names := []string{"c", "b"}
	for _, tt := range []struct {
		name      string
		senders   []Walsender
		want      string // a part; "" = all have read the list
		duplicate bool
	}{
		{"nobody", nil, "", false},
		{"all", []Walsender{sender("b", 1, 2, "streaming"), sender("C", 2, 1, "catchup"), sender("d", 3, 0, "streaming")}, "", false},
		{"an old one", []Walsender{sender("b", 1, 1, "streaming"), sender("c", 2, 1, "streaming")}, "walsender 1 of b has priority 1, want 2", false},
		{"one too many", []Walsender{sender("d", 4, 1, "streaming")}, "walsender 4 of d has priority 1, want 0", false},
		{"a backup", []Walsender{sender("b", 1, 0, "backup"), sender("b", 2, 2, "streaming")}, "", false},
		{"two of one name", []Walsender{sender("b", 1, 2, "streaming"), sender("B", 2, 2, "streaming")}, "walsenders 1 and 2 serve B", true},
		{"the hold's name", []Walsender{sender("Pgnotify_Hold", 5, 0, "streaming")}, "calls itself Pgnotify_Hold", true},
	} {
		got, duplicate := syncState(PrimaryView{Walsenders: tt.senders}, names)
		if (tt.want == "") != (got == "") || !strings.Contains(got, tt.want) || duplicate != tt.duplicate {
			t.Errorf("%s: got %q, %v, want %q, %v", tt.name, got, duplicate, tt.want, tt.duplicate)
		}
	}
	// One that has confirmed nothing yet shows no priority, whatever it has read.
	fresh := sender("b", 1, 0, "catchup")
	fresh.FlushLSN = 0
	if got, _ := syncState(PrimaryView{Walsenders: []Walsender{fresh}}, names); got != "" {
		t.Errorf("nothing confirmed: got %q", got)
	}
}

func TestSlotName(t *testing.T) {
	seen := map[string]string{}
	for _, node := range []string{"n1", "n_1", "n-1", "N1", "n.1", strings.Repeat("x", 54), strings.Repeat("x", 55), strings.Repeat("x", 56), strings.Repeat("x", 63), "ä"} {
		got := SlotName(node)
		if !strings.HasPrefix(got, "pgnotify_") || len(got) > 63 || strings.ContainsFunc(got, func(r rune) bool { return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyz0123456789_", r) }) {
			t.Errorf("%s: got %q", node, got)
		}
		if other, ok := seen[got]; ok {
			t.Errorf("%s and %s share %q", node, other, got)
		}
		seen[got] = node
	}
	if got := SlotName("n1"); got != "pgnotify_n1" {
		t.Errorf("got %q", got)
	}
}

func TestTarget(t *testing.T) {
	for _, tt := range []struct {
		name, want, bad string
		to              Target
	}{
		{"least", "host='h' port='5432'", "", Target{Host: "h"}},
		{
			"all", `host='10.0.0.1' port='6432' user='re pl' application_name='it\'s' passfile='/d/p' connect_timeout='1' sslmode='require'`, "",
			Target{Host: "10.0.0.1", Port: 6432, User: "re pl", Application: "it's", Slot: "s", Password: "x", Options: map[string]string{"sslmode": "require", "connect_timeout": "1"}},
		},
		{"no host", "", "want a host", Target{}},
		{"taken option", "", "passfile is not free", Target{Host: "h", Options: map[string]string{"passfile": "/x"}}},
		{"line break", "", "user holds a line break", Target{Host: "h", User: "a\nb"}},
	} {
		pass := ""
		if tt.to.Password != "" {
			pass = "/d/p"
		}
		got, err := tt.to.conninfo(pass)
		if tt.bad == "" && (got != tt.want || err != nil) || tt.bad != "" && (err == nil || !strings.Contains(err.Error(), tt.bad)) {
			t.Errorf("%s: got %q, %v, want %q or an error with %q", tt.name, got, err, tt.want, tt.bad)
		}
	}
	if got, err := (Target{Password: `a:b\c`}).passContent(); string(got) != `*:*:*:*:a\:b\\c`+"\n" || err != nil {
		t.Errorf("password: got %q, %v", got, err)
	}
	if _, err := (Target{Password: "a\nb"}).passContent(); err == nil {
		t.Error("password with a line break: want an error")
	}
	if _, err := (Target{PassFile: "/nowhere/at/all"}).passContent(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing password file: got %v", err)
	}
}

// TestFenceFiles: what a stopped server gets written, and that it is written whole.
func TestFenceFiles(t *testing.T) {
	s := fakeServer(t, "", nil)
	if err := s.WriteFollow(Target{Host: "h", Application: "me", Slot: "pgnotify_me", Password: "x"}); err != nil {
		t.Fatal(err)
	}
	m, err := s.Managed()
	if err != nil || m["primary_conninfo"] != `host='h' port='5432' application_name='me' passfile='`+s.passPath()+`'` || m["primary_slot_name"] != "pgnotify_me" || m["synchronous_standby_names"] != holdNames {
		t.Errorf("follow: got %v, %v", m, err)
	}
	if _, ok := m["restore_command"]; ok {
		t.Error("follow: restore_command is not the user's own")
	}
	for range 2 { // the second with nothing to change
		if err := s.writeFile(s.passPath(), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := s.WriteFence(); err != nil {
			t.Fatal(err)
		}
		m, err = s.Managed()
		if v, ok := m["restore_command"]; err != nil || !ok || v != "" || m["primary_conninfo"] != "" || m["primary_slot_name"] != "" || m["synchronous_standby_names"] != holdNames {
			t.Errorf("fence: got %v, %v", m, err)
		}
		if _, err := os.Stat(s.passPath()); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("fence: password file: got %v", err)
		}
	}
	// A target that can't be written changes nothing.
	if err := s.WriteFollow(Target{Host: "h", PassFile: "/nowhere/at/all"}); err == nil {
		t.Error("want an error")
	}
	if m, err = s.Managed(); err != nil || m["primary_conninfo"] != "" {
		t.Errorf("got %v, %v", m, err)
	}
	left, err := filepath.Glob(filepath.Join(s.DataDir(), ".*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestReserveFiles(t *testing.T) {
	s := fakeServer(t, "", map[string]string{
		"pg_wal/00000002.history": "1\t0/3000000\tno recovery target specified\n", "pg_wal/00000004.history": "# not ours\n", "pg_wal/00000009.history": "nonsense\n",
	})
	made, err := s.Reserve([]Timeline{1, 2, 3, 7, 7}, 6)
	if err != nil || !slices.Equal(made, []Timeline{3, 5, 7}) {
		t.Fatalf("got %v, %v, want 3, 5 and 7", made, err)
	}
	for tli, want := range map[Timeline]historyKind{1: historyNone, 2: historyReal, 3: historyReserved, 4: historyForeign, 5: historyReserved, 6: historyNone, 7: historyReserved} {
		if got, err := s.historyKind(tli); got != want || err != nil {
			t.Errorf("timeline %d: got %d, %v, want %d", tli, got, err, want)
		}
	}
	if h, err := s.History(3); len(h) != 0 || err != nil {
		t.Errorf("the server reads it as comments alone: got %v, %v", h, err)
	}
	if next, err := s.nextTimeline(1); next != 6 || err != nil {
		t.Errorf("next: got %d, %v, want 6", next, err)
	}
	if next, err := s.nextTimeline(7); next != 8 || err != nil {
		t.Errorf("next: got %d, %v, want 8", next, err)
	}
	// The number of a file of ours can be granted after all, that of others not.
	if made, err := s.Reserve(nil, 5); err != nil || len(made) != 0 {
		t.Errorf("ours: got %v, %v", made, err)
	}
	if next, err := s.nextTimeline(1); next != 5 || err != nil {
		t.Errorf("next: got %d, %v, want 5", next, err)
	}
	for _, want := range []Timeline{2, 4} {
		if _, err := s.Reserve(nil, want); !errors.Is(err, ErrWrongTimeline) {
			t.Errorf("timeline %d: got %v, want ErrWrongTimeline", want, err)
		}
	}
	for name, f := range map[string]func() ([]Timeline, error){
		"garbled": func() ([]Timeline, error) { return s.Reserve([]Timeline{9}, 0) },
		"absurd":  func() ([]Timeline, error) { return s.Reserve(nil, 1<<31) },
	} {
		if made, err := f(); err == nil || len(made) > 0 {
			t.Errorf("%s: got %v, %v, want an error", name, made, err)
		}
	}
}

func TestStripAuto(t *testing.T) {
	path := filepath.Join(t.TempDir(), autoName)
	if err := stripAuto(path, os.Geteuid(), os.Getegid()); err != nil {
		t.Errorf("missing: %v", err)
	}
	text := "# Do not edit this file manually!\nwork_mem = '5MB'\nprimary_conninfo = 'host=x'\nSynchronous_Standby_Names = '*'\nx.y = 'it''s'\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := stripAuto(path, os.Geteuid(), os.Getegid()); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if want := "# Do not edit this file manually!\nwork_mem = '5MB'\nx.y = 'it''s'\n"; string(got) != want || err != nil {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}

func TestSleepOf(t *testing.T) {
	if got := sleepOf(os.Getpid()); got.count == 0 {
		t.Errorf("ourselves: got %+v", got)
	}
	if got := sleepOf(0); got != (sleep{}) {
		t.Errorf("nobody: got %+v", got)
	}
}

func TestJudgeSettings(t *testing.T) {
	good := map[string]string{
		"fsync": "on", "full_page_writes": "on", "wal_level": "replica", "hot_standby": "on", "max_wal_senders": "10", "max_replication_slots": "10",
		"synchronous_commit": "on", "recovery_min_apply_delay": "0", "recovery_target": "", "recovery_target_time": "", "wal_sender_timeout": "2000",
		"wal_receiver_timeout": "2000", "wal_receiver_status_interval": "1", "wal_retrieve_retry_interval": "100", "max_standby_streaming_delay": "5000",
		"max_standby_archive_delay": "5000", "hot_standby_feedback": "on", "max_slot_wal_keep_size": "1024", "wal_keep_size": "1024", "restart_after_crash": "off",
		"restore_command": "", "superuser_reserved_connections": "3", "log_statement": "none", "log_min_duration_statement": "-1", "server_version_num": "150018",
	}
	if got := judgeSettings(good, 3); len(got) > 0 {
		t.Errorf("good: got %v", got)
	}
	for _, tt := range []struct {
		name, value string
		want        Severity
		subject     string // if another
	}{
		{"fsync", "off", Fault, ""},
		{"full_page_writes", "off", Fault, ""},
		{"wal_level", "minimal", Fault, ""},
		{"wal_level", "logical", "", ""},
		{"hot_standby", "off", Fault, ""},
		{"max_wal_senders", "4", Fault, ""},
		{"max_wal_senders", "5", "", ""},
		{"max_replication_slots", "2", Fault, ""},
		{"synchronous_commit", "remote_write", Fault, ""},
		{"synchronous_commit", "remote_apply", "", ""},
		{"recovery_min_apply_delay", "1", Fault, ""},
		{"recovery_target_time", "2020-01-01", Fault, ""},
		{"wal_sender_timeout", "0", Fault, ""},
		{"wal_receiver_timeout", "60000", Warning, ""},
		{"wal_receiver_status_interval", "0", Warning, ""},
		{"wal_receiver_status_interval", "10", Note, ""},
		{"wal_retrieve_retry_interval", "5000", Note, ""},
		{"max_standby_streaming_delay", "-1", Warning, ""},
		{"max_standby_archive_delay", "30000", Warning, ""},
		{"hot_standby_feedback", "off", Note, ""},
		{"max_slot_wal_keep_size", "-1", Warning, ""},
		{"wal_keep_size", "0", Note, ""},
		{"restart_after_crash", "on", Warning, ""},
		{"restore_command", "cp x", "", ""}, // 14 and later: by reload
		{"superuser_reserved_connections", "0", Warning, ""},
		{"log_min_duration_statement", "0", Note, "log_statement"},
		{"server_version_num", "120000", Fault, ""},
		{"server_version_num", "190000", Fault, ""},
	} {
		set := map[string]string{}
		for k, v := range good {
			set[k] = v
		}
		set[tt.name] = tt.value
		got := judgeSettings(set, 3)
		if tt.want == "" {
			if len(got) > 0 {
				t.Errorf("%s = %s: got %v, want nothing", tt.name, tt.value, got)
			}
			continue
		}
		subject := tt.name
		if tt.subject != "" {
			subject = tt.subject
		}
		if len(got) != 1 || got[0].Severity != tt.want || got[0].Subject != subject || got[0].Problem == "" || !strings.HasSuffix(got[0].Fix, ".") {
			t.Errorf("%s = %s: got %v, want one %s", tt.name, tt.value, got, tt.want)
		}
	}
	good["server_version_num"], good["restore_command"] = "130020", "cp x"
	if got := judgeSettings(good, 3); len(got) != 1 || got[0].Subject != "restore_command" {
		t.Errorf("restore_command on 13: got %v", got)
	}
}

func TestJudgeDisk(t *testing.T) {
	const gb = 1 << 30
	for _, tt := range []struct {
		name        string
		free, total uint64
		want        Severity
	}{
		{"plenty", 50 * gb, 100 * gb, ""},
		{"a small share of much", 50 * gb, 1000 * gb, ""},
		{"a small share", 5 * gb, 100 * gb, Warning},
		{"little", 1 * gb, 5 * gb, Warning},
		{"nearly none", 1 * gb, 100 * gb, Fault},
		{"none", 0, 100 * gb, Fault},
		{"small, half free", gb / 8, gb / 4, Fault},
	} {
		got := judgeDisk("pg_wal", "/x", tt.free, tt.total)
		if tt.want == "" && len(got) > 0 || tt.want != "" && (len(got) != 1 || got[0].Severity != tt.want || !strings.Contains(got[0].String(), "/x")) {
			t.Errorf("%s: got %v, want %q", tt.name, got, tt.want)
		}
	}
}
