package conf

import (
	"reflect"
	"testing"
)

// TestProgramsLeavesNoHookOut fills every Command of Hooks, so that a new hook cannot be forgotten.
func TestProgramsLeavesNoHookOut(t *testing.T) {
	var h Hooks
	v, want := reflect.ValueOf(&h).Elem(), 0
	for i := range v.NumField() {
		if c, ok := v.Field(i).Addr().Interface().(*Command); ok {
			c.Argv = []string{"/bin/true"}
			want++
		}
	}
	c := &Config{Instances: []Instance{{Hooks: h}, {}}, SyncGroups: []SyncGroup{{Hooks: h}}, Scripts: []Script{{Command: h.Notify}, {}},
		Quorum: &Quorum{RebootCommand: h.Notify}}
	if got, want := len(c.Programs()), 2*want+2; got != want {
		t.Errorf("%d programs, want %d", got, want)
	}
	c.Programs()[0].User.Name = "nobody"
	if got := c.Scripts[0].Command.User.Name; got != "nobody" {
		t.Errorf("user %q after a change through the pointer, want nobody", got)
	}

	witness := &Config{Quorum: c.Quorum}
	if got := witness.Programs(); len(got) != 0 {
		t.Errorf("%v on a host without instances, want nothing: it never reboots itself", got)
	}
}

// A FIFO belongs to who runs its reader, wherever script_user stands.
func TestUserOfAFIFO(t *testing.T) {
	c, _ := load("global_defs {\nnotify_fifo /run/a\nnotify_fifo_script /bin/reader\nvrrp_notify_fifo /run/b own\nscript_user pg grp\n}\n" + instance(""))
	g := &c.Globals
	if want := (User{"pg", "grp"}); g.NotifyFIFO.User != want || g.NotifyFIFO.Script.User != want {
		t.Errorf("got the FIFO of %v and its reader as %v, want %v", g.NotifyFIFO.User, g.NotifyFIFO.Script.User, want)
	}
	if want := (User{Name: "own"}); g.VRRPNotifyFIFO.User != want {
		t.Errorf("got the other FIFO of %v, want %v", g.VRRPNotifyFIFO.User, want)
	}
	c, _ = load(instance(""))
	if c.DefaultUser(User{Name: "pg"}); c.Globals.NotifyFIFO.User != (User{}) {
		t.Errorf("a FIFO that is not there has the user %v", c.Globals.NotifyFIFO.User)
	}
}
