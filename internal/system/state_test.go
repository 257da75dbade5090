package system

import (
	"bytes"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pgvrrp/internal/conf"
)

func vip(iface, prefix string) conf.Address {
	return conf.Address{Interface: iface, Prefix: netip.MustParsePrefix(prefix), PreferredLft: -2}
}

func TestStateFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vrrpd", "addresses.json")
	s, err := openStateFile(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	one := Set{Owner: "VI_1", Addresses: []conf.Address{vip("eth0", "192.0.2.100/24"), vip("eth1", "2001:db8::1/128")}}
	two := Set{Owner: "VI_2", Addresses: []conf.Address{vip("eth0", "192.0.2.101/32")}}
	at := map[string]int{"eth0": 7}
	if s.covers([]Set{one}, nil) {
		t.Error("got an address listed in an empty file")
	}
	if err := s.declare([]Set{one, two}, at, func(a conf.Address) bool { return a.Interface == "eth1" }); err != nil {
		t.Fatal(err)
	}
	if !s.covers([]Set{one, two}, at) {
		t.Error("got an address not listed after declare")
	}
	if s.covers([]Set{one}, map[string]int{"eth0": 8}) {
		t.Error("got an address listed for an interface that was made anew")
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := `{
	"version": 1,
	"addresses": [
		{
			"owner": "VI_1",
			"interface": "eth0",
			"index": 7,
			"address": "192.0.2.100/24"
		},
		{
			"owner": "VI_1",
			"interface": "eth1",
			"address": "2001:db8::1/128",
			"existed": true
		},
		{
			"owner": "VI_2",
			"interface": "eth0",
			"index": 7,
			"address": "192.0.2.101/32"
		}
	]
}
`
	if diff := cmp.Diff(string(got), want); diff != "" {
		t.Errorf("got - want +\n%s", diff)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got mode %v and error %v, want 0600", info.Mode(), err)
	}

	// The next run, after a SIGKILL.
	s, err = openStateFile(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if s.covers([]Set{two}, at) {
		t.Error("got an address of a former run as if declared in this one")
	}
	wantAdded := map[addressID]bool{idOf(one.Addresses[0]): true, idOf(two.Addresses[0]): true}
	if diff := cmp.Diff(s.added(), wantAdded, cmp.AllowUnexported(addressID{}), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("got - want +\n%s", diff)
	}
	// What a former run added is ours, though it stands there before this one.
	if err := s.declare([]Set{two}, at, func(conf.Address) bool { return true }); err != nil {
		t.Fatal(err)
	}
	if !s.added()[idOf(two.Addresses[0])] {
		t.Error("got an address of a former run as somebody else's")
	}
	if err := s.forgetFormer(); err != nil {
		t.Fatal(err)
	}
	if len(s.entries) != 1 || s.entries[0].Owner != "VI_2" {
		t.Errorf("got %v, want VI_2 alone", s.entries)
	}
	if err := s.forget([]string{"VI_2"}); err != nil {
		t.Fatal(err)
	}
	if err := s.removeIfEmpty(); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) != 0 {
		t.Errorf("got %v left behind, want nothing", left)
	}
}

func TestStateFileErrors(t *testing.T) {
	dir := t.TempDir()
	tests := []struct{ name, content, want string }{
		{"garbage", "{", "unexpected end of JSON input"},
		{"another version", `{"version": 2}`, "version 2, want 1"},
		{"bad address", `{"version": 1, "addresses": [{"address": "x"}]}`, "netip"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(dir, "addresses.json")
			if err := os.WriteFile(path, []byte(tt.content), 0o600); err != nil {
				t.Fatal(err)
			}
			var log bytes.Buffer
			s, err := openStateFile(path, slog.New(slog.NewTextHandler(&log, nil)))
			if err != nil {
				t.Fatal(err)
			}
			if got := log.String(); !strings.Contains(got, tt.want) || !strings.Contains(got, path) {
				t.Errorf("got log %q, want %q and the path", got, tt.want)
			}
			if all, complete := s.listed(nil); len(all) != 0 || complete {
				t.Errorf("got %v, complete %t, want nothing and incomplete", all, complete)
			}
			if kept, err := os.ReadFile(path + ".bad"); err != nil || string(kept) != tt.content {
				t.Errorf("put aside: %q, %v", kept, err)
			}
		})
	}
	t.Run("not writable", func(t *testing.T) {
		file := filepath.Join(dir, "file")
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		s := &stateFile{path: filepath.Join(file, "addresses.json"), former: map[string]bool{}}
		set := Set{Owner: "VI_1", Addresses: []conf.Address{vip("eth0", "192.0.2.100/24")}}
		if err := s.declare([]Set{set}, nil, func(conf.Address) bool { return false }); err == nil {
			t.Error("got no error")
		}
		if s.covers([]Set{set}, nil) {
			t.Error("got an address as listed that was not written")
		}
	})
}
