package daemon

import (
	"log/slog"
	"os"
	"testing"
)

// A reload makes nothing worse: an error that what runs does not have refuses it, and plan says the same.
func TestReloadOfAFileWithErrors(t *testing.T) {
	const (
		start   = "vrrp_instance VI_1 {\ninterface nosuch9\nvirtual_router_id 1\nvirtual_ipaddress {\n10.0.0.1/24\n"
		good    = start + "}\n}\n"
		badVIP  = start + "10.0.0.300/24\n}\n}\n"
		strict  = "global_defs {\nreload_check_config\n}\n"
		vip     = `virtual_ipaddress: malformed address, expected ADDRESS[/PREFIX]; the address is dropped (got "10.0.0.300/24")`
		news    = "; what runs does not have this error"
		gone    = "vrrp_instance VI_2 {\ninterface nosuch0\nvirtual_router_id 2\nvirtual_ipaddress {\n10.0.0.2/24\n}\n}\n"
		twice   = start + "10.0.0.1/24\n}\n}\n"
		secured = "vrrp_script s {\nscript /bin/true\n}\n" // check's exit code says 6 of this, and hides the 5
		tracks  = "track_script {\ns\n}\n}\n"
	)
	for _, tt := range []struct{ name, before, after, want string }{
		{"good", good, good, ""},
		{"an address", good, badVIP, "6:1: " + vip + news},
		{"an address, and insecure scripts", good, secured + start + "10.0.0.300/24\n}\n" + tracks, "9:1: " + vip + news},
		{"half written", good, start, "1:1: vrrp_instance: block is not closed, expected } before the end of the file" + news},
		{"a priority", good, start + "}\npriority 1500\n}\n",
			`7:10: priority: out of range, expected a whole number from 1 to 255; using 100 (got "1500")` + news},
		{"mended", badVIP, good, ""},
		{"no better", badVIP, "# moved\n" + badVIP, ""},
		{"no better, with the place of another line", twice, "# moved\n" + twice, ""},
		{"another one more", badVIP, badVIP + gone, `9:1: interface: no such interface on this host; FAULT until it appears (got "nosuch0")` + news},
		{"no error may stay", strict + badVIP, strict + badVIP, "9:1: " + vip + "; reload_check_config wants none"},
		{"no error may stay from now on", badVIP, strict + badVIP, "9:1: " + vip + "; reload_check_config wants none"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := &Daemon{log: slog.New(slog.DiscardHandler)}
			d.config, d.found, d.opt.File = load(t, tt.before)
			if err := os.WriteFile(d.opt.File, []byte(tt.after), 0o644); err != nil {
				t.Fatal(err)
			}
			want := tt.want
			if want != "" {
				want = d.opt.File + ":" + want
			}
			if got := d.refusal(d.consider(d.opt.File)); got != want {
				t.Errorf("reload: got %q, want %q", got, want)
			}
			if p, err := d.Plan(t.Context(), d.opt.File); err != nil || p.Refused != want {
				t.Errorf("plan: got %q, %v, want %q", p.Refused, err, want)
			}
		})
	}
}

// An interface or a program that this host has lost since the start refuses nothing: what runs lacks it as well.
func TestReloadOnAHostThatLacksSomething(t *testing.T) {
	d := &Daemon{log: slog.New(slog.DiscardHandler)}
	d.config, _, d.opt.File = load(t, vi(1, "192.0.2.1/24", "notify /nonexistent/hook")+vi(2, "192.0.2.2/24 dev nosuch0"))
	if got := d.refusal(d.consider(d.opt.File)); got != "" {
		t.Errorf("got %q", got)
	}
}
